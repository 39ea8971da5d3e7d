package wire

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
)

// ErrNoEpoch says that a leader has nothing to tell of an epoch.
var ErrNoEpoch = errors.New("the leader does not know the epoch")

// EpochEnd asks a partition's leader where its log left the leader epoch: the
// first offset that was written under a later one, or the end of the log
// (KIP-101, KIP-320). An offset read under that epoch and above the answer has
// been truncated. Brokers that do not remember the epoch answer for the last one
// before it. Broker and current are what Leader returned.
func (c *Cluster) EpochEnd(ctx context.Context, tp starferry.TopicPartition, broker, current, epoch int32) (starferry.Offset, error) {
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.ReplicaID = -1
	t := kmsg.NewOffsetForLeaderEpochRequestTopic()
	t.Topic = string(tp.Topic)
	p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	p.Partition, p.CurrentLeaderEpoch, p.LeaderEpoch = int32(tp.Partition), current, epoch
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	r, err := c.DoOn(ctx, broker, req)
	if err != nil {
		return starferry.NoOffset, fmt.Errorf("ask where epoch %d of %s ends: %w", epoch, tp, err)
	}
	resp := r.(*kmsg.OffsetForLeaderEpochResponse)
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return starferry.NoOffset, fmt.Errorf("ask where epoch %d of %s ends: %w", epoch, tp, ErrFrame)
	}
	got := resp.Topics[0].Partitions[0]
	if err := c.Code(kmsg.OffsetForLeaderEpoch, got.ErrorCode, On{Topic: tp.Topic}); err != nil {
		if leaderMoved(err) {
			c.Forget(tp.Topic)
		}
		return starferry.NoOffset, fmt.Errorf("ask where epoch %d of %s ends: %w", epoch, tp, err)
	}
	if got.EndOffset < 0 {
		return starferry.NoOffset, fmt.Errorf("ask where epoch %d of %s ends: %w", epoch, tp, ErrNoEpoch)
	}
	return starferry.Offset(got.EndOffset), nil
}
