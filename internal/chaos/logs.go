package chaos

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/internal/chaos/checker"
)

// Reader reads what one cluster holds: records of some partitions, and what a
// group has committed. Each call reads on where the last one ended.
type Reader struct {
	name   starferry.ClusterName
	client *kgo.Client
	lanes  []starferry.TopicPartition
	logs   map[starferry.TopicPartition]checker.Log
	next   map[starferry.TopicPartition]int64 // first offset not read yet
}

// OpenReader connects to a cluster.
func OpenReader(name starferry.ClusterName, address string, lanes []starferry.TopicPartition) (*Reader, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.FetchMaxWait(200*time.Millisecond), kgo.ClientID("chaos-reader"))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return &Reader{name: name, client: client, lanes: lanes,
		logs: map[starferry.TopicPartition]checker.Log{}, next: map[starferry.TopicPartition]int64{}}, nil
}

// Close disconnects.
func (r *Reader) Close() { r.client.Close() }

// Logs reads all partitions to their ends as of now.
func (r *Reader) Logs(ctx context.Context) (map[starferry.TopicPartition]checker.Log, error) {
	end, err := r.ends(ctx)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", r.name, err)
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
	defer r.stop(want)
	for {
		open := 0
		for tp, e := range end {
			if r.next[tp] < e {
				open++
			}
		}
		if open == 0 {
			return r.logs, nil
		}
		fetches := r.client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("read %s: %w", r.name, err)
		}
		var bad error
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			tp := starferry.TopicPartition{Topic: starferry.Topic(p.Topic), Partition: starferry.Partition(p.Partition)}
			for _, rec := range p.Records {
				if err := r.take(tp, rec); err != nil {
					bad = err
				}
			}
		})
		if bad != nil {
			return nil, bad
		}
	}
}

// take notes one record. Markers are fetched too, so that a partition that ends
// in one is known to be read to its end.
func (r *Reader) take(tp starferry.TopicPartition, rec *kgo.Record) error {
	r.next[tp] = rec.Offset + 1
	if rec.Attrs.IsControl() {
		return nil
	}
	id, err := strconv.ParseInt(string(rec.Value), 10, 64)
	if err != nil {
		return fmt.Errorf("read %s: %s@%d: the value %q is no record number", r.name, tp, rec.Offset, rec.Value)
	}
	r.logs[tp] = append(r.logs[tp], checker.Stored{ID: checker.ID(id), Offset: starferry.Offset(rec.Offset), Sum: digest(rec)})
	return nil
}

// digest covers all that a consumer can see of a record but its offset.
func digest(r *kgo.Record) uint64 {
	h := fnv.New64a()
	part := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	part(r.Key)
	part(r.Value)
	for _, x := range r.Headers {
		part([]byte(x.Key))
		part(x.Value)
	}
	part(strconv.AppendInt(nil, r.Timestamp.UnixMilli(), 10))
	return h.Sum64()
}

func (r *Reader) stop(parts map[string]map[int32]kgo.Offset) {
	gone := map[string][]int32{}
	for t, ps := range parts {
		for p := range ps {
			gone[t] = append(gone[t], p)
		}
	}
	r.client.RemoveConsumePartitions(gone)
}

// Committed is what the group has committed.
func (r *Reader) Committed(ctx context.Context, group starferry.Group) (map[starferry.TopicPartition]starferry.Offset, error) {
	found := map[starferry.TopicPartition]starferry.Offset{}
	err := r.commits(ctx, group, func(tp starferry.TopicPartition, o starferry.Offset, _ string) { found[tp] = o })
	return found, err
}

// Marks is what the metadata of the group's commits say.
func (r *Reader) Marks(ctx context.Context, group starferry.Group) ([]control.Mark, error) {
	var found []control.Mark
	err := r.commits(ctx, group, func(_ starferry.TopicPartition, _ starferry.Offset, metadata string) {
		if m, err := control.ParseMark(metadata); err == nil {
			found = append(found, m)
		}
	})
	return found, err
}

func (r *Reader) commits(ctx context.Context, group starferry.Group, each func(starferry.TopicPartition, starferry.Offset, string)) error {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group = string(group)
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = string(group)
	req.Groups = append(req.Groups, g)
	answer, err := req.RequestWith(ctx, r.client)
	if err != nil {
		return fmt.Errorf("read commits on %s: %w", r.name, err)
	}
	add := func(topic string, p int32, o int64, metadata *string) {
		if o >= 0 {
			text := ""
			if metadata != nil {
				text = *metadata
			}
			each(starferry.TopicPartition{Topic: starferry.Topic(topic), Partition: starferry.Partition(p)}, starferry.Offset(o), text)
		}
	}
	for _, t := range answer.Topics {
		for _, p := range t.Partitions {
			add(t.Topic, p.Partition, p.Offset, p.Metadata)
		}
	}
	for _, g := range answer.Groups {
		// Whether an unknown group is an error depends on the broker.
		if err := kerr.ErrorForCode(g.ErrorCode); err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
			return fmt.Errorf("read commits on %s: %w", r.name, err)
		}
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				add(t.Topic, p.Partition, p.Offset, p.Metadata)
			}
		}
	}
	return nil
}

// ends is the end offset of each partition; a topic that does not exist yet has
// none.
func (r *Reader) ends(ctx context.Context) (map[starferry.TopicPartition]int64, error) {
	found := map[starferry.TopicPartition]int64{}
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	byTopic := map[starferry.Topic]int{}
	for _, tp := range r.lanes {
		i, ok := byTopic[tp.Topic]
		if !ok {
			i = len(req.Topics)
			byTopic[tp.Topic] = i
			t := kmsg.NewListOffsetsRequestTopic()
			t.Topic = string(tp.Topic)
			req.Topics = append(req.Topics, t)
		}
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp = int32(tp.Partition), -1
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, p)
	}
	for _, shard := range r.client.RequestSharded(ctx, req) {
		if shard.Err != nil {
			continue // the topic does not exist yet, or it has no leader just now
		}
		for _, t := range shard.Resp.(*kmsg.ListOffsetsResponse).Topics {
			for _, p := range t.Partitions {
				if p.ErrorCode == 0 {
					found[starferry.TopicPartition{Topic: starferry.Topic(t.Topic), Partition: starferry.Partition(p.Partition)}] = p.Offset
				}
			}
		}
	}
	return found, ctx.Err()
}
