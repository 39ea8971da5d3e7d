package wire

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/starferry/starferry"
)

// At says which offset of a partition is meant.
type At int64

// The named places of a partition.
const (
	Earliest     At = -2            // the first offset still there
	Latest       At = -1            // the high watermark
	LatestStable At = math.MinInt64 // the end of what read-committed consumers see
)

// Time means the first record with at least this timestamp, in Unix
// milliseconds. If there is none, the answer is starferry.NoOffset.
func Time(ms int64) At { return At(max(ms, 0)) }

// offsetsWithin bounds how long Offsets looks for leaders that move.
const offsetsWithin = 10 * time.Second

// Offsets asks the leaders of partitions for an offset each. What failed is
// told by a *PartitionError for each, joined; the map holds what is known.
func (c *Cluster) Offsets(ctx context.Context, tps []starferry.TopicPartition, at At) (map[starferry.TopicPartition]starferry.Offset, error) {
	found := make(map[starferry.TopicPartition]starferry.Offset, len(tps))
	wait := c.newBackoff(offsetsWithin)
	left := tps
	for {
		failed := c.offsetsOnce(ctx, left, at, found)
		var again []starferry.TopicPartition
		var final []*PartitionError
		for _, f := range failed {
			if leaderMoved(f.Err) {
				again = append(again, f.TopicPartition)
				c.Forget(f.Topic)
			} else {
				final = append(final, f)
			}
		}
		if len(failed) == 0 {
			return found, nil
		}
		if len(final) > 0 || !wait.next(ctx, failed[0]) {
			return found, fmt.Errorf("read offsets on cluster %q: %w", c.conf.Name, joinPartitions(failed, len(tps)))
		}
		left = again
	}
}

// leaderMoved reports whether a partition should be asked for again, of whoever
// leads it then.
func leaderMoved(err error) bool {
	for _, e := range []kafka.Error{
		kafka.NotLeaderForPartition, kafka.LeaderNotAvailable, kafka.ReplicaNotAvailable, kafka.FencedLeaderEpoch,
		kafka.UnknownLeaderEpoch, kafka.OffsetNotAvailable, kafka.KafkaStorageError,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return (errors.Is(err, ErrNotSent) || errors.Is(err, ErrNoAnswer)) && retriable(err)
}

// offsetsOnce asks every leader once, at the same time.
func (c *Cluster) offsetsOnce(ctx context.Context, tps []starferry.TopicPartition, at At, found map[starferry.TopicPartition]starferry.Offset) (failed []*PartitionError) {
	byLeader := map[int32][]starferry.TopicPartition{}
	for _, tp := range tps {
		broker, _, err := c.Leader(ctx, tp)
		if err != nil {
			failed = append(failed, &PartitionError{tp, err})
			continue
		}
		byLeader[broker] = append(byLeader[broker], tp)
	}
	type part struct {
		tps  []starferry.TopicPartition
		resp *kmsg.ListOffsetsResponse
		err  error
	}
	var asked []*part
	var g errgroup.Group
	for broker, list := range byLeader {
		p := &part{tps: list}
		asked = append(asked, p)
		g.Go(func() error {
			r, err := c.DoOn(ctx, broker, listOffsets(list, at))
			p.resp, _ = r.(*kmsg.ListOffsetsResponse)
			p.err = err
			return nil
		})
	}
	g.Wait()
	for _, p := range asked {
		failed = append(failed, c.readOffsets(p.tps, p.resp, p.err, found)...)
	}
	return failed
}

func listOffsets(tps []starferry.TopicPartition, at At) *kmsg.ListOffsetsRequest {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	if at == LatestStable {
		at, req.IsolationLevel = Latest, 1
	}
	for topic, parts := range byTopic(tps) {
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic = string(topic)
		for _, p := range parts {
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Partition, rp.Timestamp = int32(p), int64(at)
			t.Partitions = append(t.Partitions, rp)
		}
		req.Topics = append(req.Topics, t)
	}
	return req
}

func (c *Cluster) readOffsets(tps []starferry.TopicPartition, resp *kmsg.ListOffsetsResponse, err error, found map[starferry.TopicPartition]starferry.Offset) (failed []*PartitionError) {
	got := map[starferry.TopicPartition]error{}
	if err == nil {
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				tp := starferry.TopicPartition{Topic: starferry.Topic(t.Topic), Partition: starferry.Partition(p.Partition)}
				got[tp] = c.Code(kmsg.ListOffsets, p.ErrorCode, On{Topic: tp.Topic})
				if p.ErrorCode == 0 {
					found[tp] = starferry.Offset(p.Offset)
				}
			}
		}
	}
	for _, tp := range tps {
		perr, ok := got[tp]
		switch {
		case err != nil:
			failed = append(failed, &PartitionError{tp, err})
		case !ok:
			failed = append(failed, &PartitionError{tp, fmt.Errorf("%w: the answer leaves the partition out", ErrFrame)})
		case perr != nil:
			failed = append(failed, &PartitionError{tp, perr})
		}
	}
	return failed
}

// byTopic groups partitions as requests want them.
func byTopic(tps []starferry.TopicPartition) map[starferry.Topic][]starferry.Partition {
	m := map[starferry.Topic][]starferry.Partition{}
	for _, tp := range tps {
		m[tp.Topic] = append(m[tp.Topic], tp.Partition)
	}
	return m
}
