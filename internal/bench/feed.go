package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/batch"
)

// feedWindow is how many requests a feed has under way.
const feedWindow = 16

// feed writes batches as they are over one connection, in order.
type feed struct {
	conn  *wire.Conn
	slots chan struct{}

	mu  sync.Mutex
	err error // the first
}

func newFeed(ctx context.Context, c *wire.Cluster) (*feed, error) {
	conn, err := dialOnly(ctx, c)
	if err != nil {
		return nil, err
	}
	return &feed{conn: conn, slots: make(chan struct{}, feedWindow)}, nil
}

// dialOnly connects to a cluster's only broker.
func dialOnly(ctx context.Context, c *wire.Cluster) (*wire.Conn, error) {
	m, err := c.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	if len(m.Brokers) != 1 {
		return nil, fmt.Errorf("connect to %s: %d brokers, want one", c.Name(), len(m.Brokers))
	}
	return c.Dial(ctx, m.Brokers[0].ID)
}

// Send writes one batch. Acked, if not nil, is called once the broker has it; it
// must not block.
func (f *feed) Send(ctx context.Context, tp starferry.TopicPartition, b batch.Batch, acked func()) error {
	if err := f.failed(); err != nil {
		return err
	}
	select {
	case f.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 30_000
	t := kmsg.NewProduceRequestTopic()
	t.Topic = string(tp.Topic)
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = int32(tp.Partition), b
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	err := f.conn.Send(req, func(r kmsg.Response, err error) {
		if err == nil {
			err = wire.Code(r.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode)
		}
		if err == nil && acked != nil {
			acked()
		}
		f.fail(err)
		<-f.slots
	})
	if err != nil {
		<-f.slots
	}
	return err
}

func (f *feed) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

func (f *feed) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Close waits for the answers to all batches and says what failed.
func (f *feed) Close(ctx context.Context) error {
	for range feedWindow {
		select {
		case f.slots <- struct{}{}:
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), f.conn.Close())
		}
	}
	return errors.Join(f.failed(), f.conn.Close())
}
