package wire

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
)

// Producer is a producer id with its epoch. The zero value is nobody's; a new
// owner asks with {-1, -1}.
type Producer struct {
	ID    int64
	Epoch int16
}

// InitProducer takes over a transactional id, or continues as its owner: with
// own {-1, -1} the epoch grows and earlier owners are fenced; with a Producer
// it grows only if that is still the owner (KIP-360), else the error is
// kafka.ProducerFenced or kafka.InvalidProducerEpoch. Timeout is after how long
// the broker aborts a transaction of this producer. An empty txid asks for an
// idempotent producer without transactions.
//
// If the answer did not come, the error wraps ErrNoAnswer and the epoch may
// have grown; asking again is safe for a new owner.
func (c *Cluster) InitProducer(ctx context.Context, txid string, timeout time.Duration, own Producer) (Producer, error) {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionTimeoutMillis = int32(min(timeout.Milliseconds(), 1<<31-1))
	req.ProducerID, req.ProducerEpoch = own.ID, own.Epoch
	var r kmsg.Response
	var err error
	if txid == "" {
		r, err = c.Do(ctx, req)
	} else {
		req.TransactionalID = &txid
		r, err = c.DoTxn(ctx, txid, req)
	}
	if err != nil {
		return Producer{}, fmt.Errorf("init producer %s: %w", txid, err)
	}
	resp := r.(*kmsg.InitProducerIDResponse)
	if err := c.Code(kmsg.InitProducerID, resp.ErrorCode, On{TxID: txid}); err != nil {
		return Producer{}, fmt.Errorf("init producer %s on cluster %q: %w", txid, c.conf.Name, err)
	}
	if own.ID >= 0 && resp.Version < 3 {
		return Producer{}, fmt.Errorf("init producer %s on cluster %q: the broker speaks InitProducerID v%d, which cannot tell owners apart: use Kafka 2.5 or newer", txid, c.conf.Name, resp.Version)
	}
	return Producer{resp.ProducerID, resp.ProducerEpoch}, nil
}

// AddPartitionsToTxn adds partitions to the producer's transaction, beginning
// it if there is none.
func (c *Cluster) AddPartitionsToTxn(ctx context.Context, txid string, p Producer, tps []starferry.TopicPartition) error {
	req := kmsg.NewPtrAddPartitionsToTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch = txid, p.ID, p.Epoch
	for topic, parts := range byTopic(tps) {
		t := kmsg.NewAddPartitionsToTxnRequestTopic()
		t.Topic = string(topic)
		for _, part := range parts {
			t.Partitions = append(t.Partitions, int32(part))
		}
		req.Topics = append(req.Topics, t)
	}
	r, err := c.DoTxn(ctx, txid, req)
	if err != nil {
		return fmt.Errorf("add partitions to transaction %s: %w", txid, err)
	}
	var failed []*PartitionError
	for _, t := range r.(*kmsg.AddPartitionsToTxnResponse).Topics {
		for _, rp := range t.Partitions {
			tp := starferry.TopicPartition{Topic: starferry.Topic(t.Topic), Partition: starferry.Partition(rp.Partition)}
			if err := c.Code(kmsg.AddPartitionsToTxn, rp.ErrorCode, On{Topic: tp.Topic, TxID: txid}); err != nil {
				failed = append(failed, &PartitionError{tp, err})
			}
		}
	}
	if err := joinPartitions(failed, len(tps)); err != nil {
		return fmt.Errorf("add partitions to transaction %s on cluster %q: %w", txid, c.conf.Name, err)
	}
	return nil
}

// EndTxn commits or aborts the producer's transaction. The coordinator has
// decided when it returns; the markers reach the partitions soon after, and
// certainly before the next AddPartitionsToTxn or InitProducer succeeds.
func (c *Cluster) EndTxn(ctx context.Context, txid string, p Producer, commit bool) error {
	req := kmsg.NewPtrEndTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = txid, p.ID, p.Epoch, commit
	r, err := c.DoTxn(ctx, txid, req)
	if err != nil {
		return fmt.Errorf("end transaction %s: %w", txid, err)
	}
	if err := Code(r.(*kmsg.EndTxnResponse).ErrorCode); err != nil {
		return fmt.Errorf("end transaction %s on cluster %q: %w", txid, c.conf.Name, err)
	}
	return nil
}
