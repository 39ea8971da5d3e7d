package wire

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
)

// Committed is what a group has committed for one partition.
type Committed struct {
	Offset      starferry.Offset
	LeaderEpoch int32 // −1 if the committer did not know it
	Metadata    string
}

// Commit is one commit of a group member.
type Commit struct {
	Group starferry.Group
	// Member and Generation fence the commit: the coordinator refuses it if the
	// member has gone or the group has rebalanced. A commit of no member, with
	// an empty Member and Generation −1, is taken only by a group without
	// members.
	Member     string
	Instance   string // group.instance.id of a static member, or empty
	Generation starferry.Generation
	Offsets    map[starferry.TopicPartition]Committed
}

// Committed reads what a group has committed; nil partitions mean all of them.
// Partitions without a commit are absent from the map. Where the broker can
// (Kafka 2.5), commits of open transactions are waited for (KIP-447).
func (c *Cluster) Committed(ctx context.Context, g starferry.Group, tps []starferry.TopicPartition) (map[starferry.TopicPartition]Committed, error) {
	found := map[starferry.TopicPartition]Committed{}
	if tps != nil && len(tps) == 0 {
		return found, nil
	}
	wait := c.newBackoff(retryWithin)
	for {
		r, err := c.DoGroup(ctx, g, offsetFetch(g, tps))
		if err != nil {
			return nil, fmt.Errorf("read commits of group %s: %w", g, err)
		}
		failed := c.readCommitted(r.(*kmsg.OffsetFetchResponse), found)
		if failed == nil {
			return found, nil
		}
		if !errors.Is(failed, kafka.UnstableOffsetCommit) || !wait.next(ctx, failed) {
			return nil, fmt.Errorf("read commits of group %s on cluster %q: %w", g, c.conf.Name, failed)
		}
		clear(found)
	}
}

func offsetFetch(g starferry.Group, tps []starferry.TopicPartition) *kmsg.OffsetFetchRequest {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group, req.RequireStable = string(g), true
	for topic, parts := range byTopic(tps) {
		t := kmsg.NewOffsetFetchRequestTopic()
		t.Topic = string(topic)
		for _, p := range parts {
			t.Partitions = append(t.Partitions, int32(p))
		}
		req.Topics = append(req.Topics, t)
	}
	return req
}

func (c *Cluster) readCommitted(resp *kmsg.OffsetFetchResponse, found map[starferry.TopicPartition]Committed) error {
	switch err := Code(resp.ErrorCode); err {
	case nil:
	case kafka.GroupIdNotFound:
		return nil // some brokers say so of a group that never was, others that it has no commits
	default:
		return err
	}
	var failed []*PartitionError
	asked := 0
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			asked++
			tp := starferry.TopicPartition{Topic: starferry.Topic(t.Topic), Partition: starferry.Partition(p.Partition)}
			switch {
			case p.ErrorCode != 0:
				failed = append(failed, &PartitionError{tp, c.Code(kmsg.OffsetFetch, p.ErrorCode, On{Topic: tp.Topic})})
			case p.Offset >= 0:
				com := Committed{Offset: starferry.Offset(p.Offset), LeaderEpoch: p.LeaderEpoch}
				if p.Metadata != nil {
					com.Metadata = *p.Metadata
				}
				found[tp] = com
			}
		}
	}
	return joinPartitions(failed, asked)
}

// Commit commits offsets as a member of a group. It is fenced by member and
// generation: errors.Is holds for kafka.IllegalGeneration, kafka.UnknownMemberId,
// kafka.RebalanceInProgress and kafka.FencedInstanceID. If the answer did not
// come, the error wraps ErrNoAnswer and the commit may or may not stand; it is
// never sent twice.
func (c *Cluster) Commit(ctx context.Context, com Commit) error {
	if len(com.Offsets) == 0 {
		return fmt.Errorf("%w: commit group %s: no partitions: a commit of nothing proves nothing", ErrNotSent, com.Group)
	}
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.MemberID, req.Generation = string(com.Group), com.Member, int32(com.Generation)
	if com.Instance != "" {
		req.InstanceID = &com.Instance
	}
	tps := slices.SortedFunc(maps.Keys(com.Offsets), starferry.TopicPartition.Compare)
	for _, tp := range tps {
		if n := len(req.Topics); n == 0 || req.Topics[n-1].Topic != string(tp.Topic) {
			t := kmsg.NewOffsetCommitRequestTopic()
			t.Topic = string(tp.Topic)
			req.Topics = append(req.Topics, t)
		}
		t := &req.Topics[len(req.Topics)-1]
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		o := com.Offsets[tp]
		p.Partition, p.Offset, p.LeaderEpoch, p.Metadata = int32(tp.Partition), int64(o.Offset), o.LeaderEpoch, &o.Metadata
		t.Partitions = append(t.Partitions, p)
	}
	r, err := c.DoGroup(ctx, com.Group, req)
	if err != nil {
		return fmt.Errorf("commit group %s: %w", com.Group, err)
	}
	if err := c.committed(r.(*kmsg.OffsetCommitResponse), tps); err != nil {
		return fmt.Errorf("commit group %s on cluster %q as member %q in generation %d: %w", com.Group, c.conf.Name, com.Member, com.Generation, err)
	}
	return nil
}

// committed checks that every partition was taken.
func (c *Cluster) committed(resp *kmsg.OffsetCommitResponse, tps []starferry.TopicPartition) error {
	codes := map[starferry.TopicPartition]int16{}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			codes[starferry.TopicPartition{Topic: starferry.Topic(t.Topic), Partition: starferry.Partition(p.Partition)}] = p.ErrorCode
		}
	}
	return c.allTaken(kmsg.OffsetCommit, tps, codes)
}

// allTaken judges an answer by its error codes: one for each partition asked, 0
// if it was taken.
func (c *Cluster) allTaken(request kmsg.Key, tps []starferry.TopicPartition, codes map[starferry.TopicPartition]int16) error {
	var failed []*PartitionError
	for _, tp := range tps {
		if code, answered := codes[tp]; !answered {
			failed = append(failed, &PartitionError{tp, fmt.Errorf("%w: the answer leaves the partition out", ErrNoAnswer)})
		} else if err := c.Code(request, code, On{Topic: tp.Topic}); err != nil {
			failed = append(failed, &PartitionError{tp, err})
		}
	}
	return joinPartitions(failed, len(tps))
}
