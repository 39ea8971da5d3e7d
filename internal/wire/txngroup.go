package wire

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
)

// AddOffsetsToTxn makes the commits of a group part of the producer's
// transaction, beginning it if there is none.
func (c *Cluster) AddOffsetsToTxn(ctx context.Context, txid string, p Producer, g starferry.Group) error {
	req := kmsg.NewPtrAddOffsetsToTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Group = txid, p.ID, p.Epoch, string(g)
	r, err := c.DoTxn(ctx, txid, req)
	if err != nil {
		return fmt.Errorf("add offsets of %s to transaction %s: %w", g, txid, err)
	}
	if err := Code(r.(*kmsg.AddOffsetsToTxnResponse).ErrorCode); err != nil {
		return fmt.Errorf("add offsets of %s to transaction %s on cluster %q: %w", g, txid, c.conf.Name, err)
	}
	return nil
}

// TxnCommit commits offsets of a group within the producer's transaction: they
// stand if and when it is committed. They are fenced by member and generation
// as those of Commit are (KIP-447). AddOffsetsToTxn comes before.
func (c *Cluster) TxnCommit(ctx context.Context, txid string, p Producer, com Commit) error {
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch = txid, string(com.Group), p.ID, p.Epoch
	req.MemberID, req.Generation = com.Member, int32(com.Generation)
	if com.Instance != "" {
		req.InstanceID = &com.Instance
	}
	tps := slices.SortedFunc(maps.Keys(com.Offsets), starferry.TopicPartition.Compare)
	for _, tp := range tps {
		if n := len(req.Topics); n == 0 || req.Topics[n-1].Topic != string(tp.Topic) {
			t := kmsg.NewTxnOffsetCommitRequestTopic()
			t.Topic = string(tp.Topic)
			req.Topics = append(req.Topics, t)
		}
		t := &req.Topics[len(req.Topics)-1]
		rp := kmsg.NewTxnOffsetCommitRequestTopicPartition()
		o := com.Offsets[tp]
		rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata = int32(tp.Partition), int64(o.Offset), o.LeaderEpoch, &o.Metadata
		t.Partitions = append(t.Partitions, rp)
	}
	r, err := c.DoGroup(ctx, com.Group, req)
	if err != nil {
		return fmt.Errorf("commit group %s in transaction %s: %w", com.Group, txid, err)
	}
	codes := map[starferry.TopicPartition]int16{}
	for _, t := range r.(*kmsg.TxnOffsetCommitResponse).Topics {
		for _, rp := range t.Partitions {
			codes[starferry.TopicPartition{Topic: starferry.Topic(t.Topic), Partition: starferry.Partition(rp.Partition)}] = rp.ErrorCode
		}
	}
	if err := c.allTaken(kmsg.TxnOffsetCommit, tps, codes); err != nil {
		return fmt.Errorf("commit group %s in transaction %s on cluster %q as member %q in generation %d: %w", com.Group, txid, c.conf.Name, com.Member, com.Generation, err)
	}
	return nil
}

// Behind counts the offsets of a topic that a group has not committed yet, up
// to the end of the log: what open transactions have written counts as well, and
// so do their markers. A topic that is not there is an error.
func (c *Cluster) Behind(ctx context.Context, g starferry.Group, t starferry.Topic) (int64, error) {
	fail := func(err error) (int64, error) {
		return 0, fmt.Errorf("count what group %s has left of topic %s: %w", g, t, err)
	}
	md, err := c.Metadata(ctx, t)
	if err != nil {
		return fail(err)
	}
	tps := md.Topics[t].all(t)
	if err := md.Topics[t].Err; err != nil || len(tps) == 0 {
		return fail(fmt.Errorf("it is not on cluster %q: %w", c.conf.Name, cmp.Or(err, error(kafka.UnknownTopicOrPartition))))
	}
	// The ends first: what is committed by then cannot grow behind them.
	ends, err := c.Offsets(ctx, tps, Latest)
	if err != nil {
		return fail(err)
	}
	begins, err := c.Offsets(ctx, tps, Earliest)
	if err != nil {
		return fail(err)
	}
	done, err := c.Committed(ctx, g, tps)
	if err != nil {
		return fail(err)
	}
	var left int64
	for _, tp := range tps {
		at := begins[tp]
		if com, ok := done[tp]; ok {
			at = max(at, com.Offset)
		}
		left += max(0, int64(ends[tp]-at))
	}
	return left, nil
}
