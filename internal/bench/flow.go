package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/batch"
)

// flow writes numbered records at an even rate, to the partitions in turn, until
// it is stopped.
type flow struct {
	topic   starferry.Topic
	written []int64 // records of each partition; its own goroutine's until done
	cancel  context.CancelFunc
	done    chan struct{}
	err     error
}

// flowTick is how often a flow writes what is due.
const flowTick = 5 * time.Millisecond

// flowWindow is how many requests of a flow are under way.
const flowWindow = 4

func newFlow(ctx context.Context, c *wire.Cluster, topic starferry.Topic, partitions int, rate float64) (*flow, error) {
	conn, err := dialOnly(ctx, c)
	if err != nil {
		return nil, err
	}
	f := &flow{topic: topic, written: make([]int64, partitions), done: make(chan struct{})}
	ctx, f.cancel = context.WithCancel(ctx)
	go func() {
		defer close(f.done)
		f.err = errors.Join(f.run(ctx, conn, rate), conn.Close())
	}()
	return f, nil
}

// Stop writes no more, waits for what is under way and returns how many records
// each partition has.
func (f *flow) Stop() ([]int64, error) {
	f.cancel()
	<-f.done
	return f.written, f.err
}

func (f *flow) run(ctx context.Context, conn *wire.Conn, rate float64) error {
	tick := time.NewTicker(flowTick)
	defer tick.Stop()
	var answers sync.WaitGroup
	slots := make(chan error, flowWindow)
	for range flowWindow {
		slots <- nil
	}
	began, sent := time.Now(), int64(0)
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			continue
		case <-tick.C:
		}
		due := int64(time.Since(began).Seconds() * rate)
		if due == sent {
			continue
		}
		req, err := f.request(sent, due)
		if err == nil {
			err = <-slots // of an earlier request
		}
		if err != nil {
			return fmt.Errorf("write to %s: %w", f.topic, err)
		}
		sent = due
		answers.Add(1)
		err = conn.Send(req, func(r kmsg.Response, err error) {
			if err == nil {
				err = produced(r)
			}
			slots <- err
			answers.Done()
		})
		if err != nil {
			answers.Done()
			return fmt.Errorf("write to %s: %w", f.topic, err)
		}
	}
	answers.Wait()
	for range flowWindow {
		if err := <-slots; err != nil {
			return fmt.Errorf("write to %s: %w", f.topic, err)
		}
	}
	return nil
}

// request holds the records [from, to) of all partitions together.
func (f *flow) request(from, to int64) (*kmsg.ProduceRequest, error) {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 30_000
	t := kmsg.NewProduceRequestTopic()
	t.Topic = string(f.topic)
	due := make(map[int][]batch.Record)
	now := time.Now().UnixMilli()
	for n := from; n < to; n++ {
		p := int(n % int64(len(f.written)))
		value := make([]byte, 100)
		stamp(value, f.written[p], 0)
		due[p] = append(due[p], batch.Record{Offset: starferry.Offset(len(due[p])), Time: now, Value: value})
		f.written[p]++
	}
	for p, records := range due {
		b, err := batch.Build(records, batch.Options{LeaderEpoch: -1})
		if err != nil {
			return nil, err
		}
		part := kmsg.NewProduceRequestTopicPartition()
		part.Partition, part.Records = int32(p), b
		t.Partitions = append(t.Partitions, part)
	}
	req.Topics = append(req.Topics, t)
	return req, nil
}

// produced is the first error of a produce answer.
func produced(r kmsg.Response) error {
	for _, t := range r.(*kmsg.ProduceResponse).Topics {
		for _, p := range t.Partitions {
			if err := wire.Code(p.ErrorCode); err != nil {
				return fmt.Errorf("partition %d: %w", p.Partition, err)
			}
		}
	}
	return nil
}
