package crossing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/chaos/checker"
)

// reader reads the partitions of one cluster to their ends, and later on from
// there.
type reader struct {
	client *kgo.Client
	lanes  []starferry.TopicPartition
	next   map[starferry.TopicPartition]int64
	logs   map[starferry.TopicPartition][]checker.Entry
}

// openReader reads with all that the logs hold, or only what is committed.
func openReader(address string, lanes []starferry.TopicPartition, committed bool) (*reader, error) {
	level := kgo.ReadUncommitted()
	if committed {
		level = kgo.ReadCommitted()
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.FetchIsolationLevel(level), kgo.KeepControlRecords(),
		kgo.FetchMaxWait(100*time.Millisecond), kgo.ClientID("chaos-reader"))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", address, err)
	}
	return &reader{client: client, lanes: lanes, next: map[starferry.TopicPartition]int64{}, logs: map[starferry.TopicPartition][]checker.Entry{}}, nil
}

// read reads on to the ends as of now.
func (r *reader) read(ctx context.Context) error {
	end, err := r.ends(ctx)
	if err != nil {
		return err
	}
	want := map[string]map[int32]kgo.Offset{}
	for tp, e := range end {
		if r.next[tp] < e {
			if want[string(tp.Topic)] == nil {
				want[string(tp.Topic)] = map[int32]kgo.Offset{}
			}
			want[string(tp.Topic)][int32(tp.Partition)] = kgo.NewOffset().At(r.next[tp])
		}
	}
	r.client.AddConsumePartitions(want)
	defer func() {
		gone := map[string][]int32{}
		for t, ps := range want {
			for p := range ps {
				gone[t] = append(gone[t], p)
			}
		}
		r.client.RemoveConsumePartitions(gone)
	}()
	for r.short(end) {
		fetches := r.client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("read to the ends: %w", err)
		}
		var bad error
		fetches.EachRecord(func(rec *kgo.Record) { bad = errors.Join(bad, r.take(rec)) })
		if bad != nil {
			return bad
		}
	}
	return nil
}

func (r *reader) short(end map[starferry.TopicPartition]int64) bool {
	for tp, e := range end {
		if r.next[tp] < e {
			return true
		}
	}
	return false
}

func (r *reader) take(rec *kgo.Record) error {
	tp := starferry.TopicPartition{Topic: starferry.Topic(rec.Topic), Partition: starferry.Partition(rec.Partition)}
	if rec.Offset < r.next[tp] {
		return nil
	}
	r.next[tp] = rec.Offset + 1
	if rec.Attrs.IsControl() {
		r.logs[tp] = append(r.logs[tp], checker.Entry{Offset: starferry.Offset(rec.Offset), Kind: checker.Marker})
		return nil
	}
	e, err := entryOf(rec)
	if err == nil {
		r.logs[tp] = append(r.logs[tp], e)
	}
	return err
}

// ends is where each partition ends, open transactions included.
func (r *reader) ends(ctx context.Context) (map[starferry.TopicPartition]int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	for _, tp := range r.lanes {
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic = string(tp.Topic)
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp = int32(tp.Partition), -1
		t.Partitions = append(t.Partitions, p)
		req.Topics = append(req.Topics, t)
	}
	found := map[starferry.TopicPartition]int64{}
	for _, shard := range r.client.RequestSharded(ctx, req) {
		if shard.Err != nil {
			return nil, fmt.Errorf("find the ends: %w", shard.Err)
		}
		for _, t := range shard.Resp.(*kmsg.ListOffsetsResponse).Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return nil, fmt.Errorf("find the end of %s/%d: %w", t.Topic, p.Partition, err)
				}
				found[starferry.TopicPartition{Topic: starferry.Topic(t.Topic), Partition: starferry.Partition(p.Partition)}] = p.Offset
			}
		}
	}
	return found, nil
}

// markAborted tells aborted records from committed ones: those that a reader of
// committed records was not given.
func markAborted(all, committed []checker.Entry) {
	there := make(map[starferry.Offset]bool, len(committed))
	for _, e := range committed {
		there[e.Offset] = true
	}
	for i := range all {
		if all[i].Kind == checker.Data && !there[all[i].Offset] {
			all[i].Kind = checker.Aborted
		}
	}
}
