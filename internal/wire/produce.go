package wire

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
)

// Produce writes one record set to a partition's leader, with acks=all, and
// returns the offset of its first record. It is tried once: whoever repeats it
// may write it twice, unless the set bears a producer id.
func (c *Cluster) Produce(ctx context.Context, tp starferry.TopicPartition, set []byte) (starferry.Offset, error) {
	return c.produce(ctx, tp, set, nil)
}

// ProduceTxn is Produce within the transaction of a transactional id, whose
// producer id and epoch the set bears.
func (c *Cluster) ProduceTxn(ctx context.Context, txid string, tp starferry.TopicPartition, set []byte) (starferry.Offset, error) {
	return c.produce(ctx, tp, set, &txid)
}

func (c *Cluster) produce(ctx context.Context, tp starferry.TopicPartition, set []byte, txid *string) (starferry.Offset, error) {
	fail := func(err error) (starferry.Offset, error) {
		return starferry.NoOffset, fmt.Errorf("produce to %s on %s: %w", tp, c.Name(), err)
	}
	broker, _, err := c.Leader(ctx, tp)
	if err != nil {
		return fail(err)
	}
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis, req.TransactionID = -1, 30_000, txid
	t, p := kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = int32(tp.Partition), set
	t.Topic, t.Partitions = string(tp.Topic), append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	resp, err := c.DoOn(ctx, broker, req)
	if err != nil {
		return fail(err)
	}
	r, ok := resp.(*kmsg.ProduceResponse)
	if !ok || len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
		return fail(ErrFrame)
	}
	if err := c.Code(kmsg.Produce, r.Topics[0].Partitions[0].ErrorCode, On{Topic: tp.Topic}); err != nil {
		return fail(err)
	}
	return starferry.Offset(r.Topics[0].Partitions[0].BaseOffset), nil
}
