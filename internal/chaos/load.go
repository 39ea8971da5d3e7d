package chaos

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/chaos/checker"
)

// loadEvery is how often the load sends a few records to every partition.
const loadEvery = 10 * time.Millisecond

// Load produces numbered records to the source, all the time, and knows which
// of them the cluster has promised to keep.
type Load struct {
	client *kgo.Client
	lanes  []starferry.TopicPartition
	rate   int // records per second over all partitions
	next   atomic.Int64

	mu   sync.Mutex // of all below, and of lanes
	sent []checker.Produced
	errs []error

	cancel context.CancelFunc
	done   chan struct{}
}

// StartLoad starts to produce.
func StartLoad(address string, lanes []starferry.TopicPartition, rate int) (*Load, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(0), kgo.ClientID("chaos-load"),
		// A partition that was added is not known at once.
		kgo.MetadataMinAge(100*time.Millisecond), kgo.UnknownTopicRetries(-1))
	if err != nil {
		return nil, fmt.Errorf("start load: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{client: client, lanes: slices.Clone(lanes), rate: rate, cancel: cancel, done: make(chan struct{})}
	go l.run(ctx)
	return l, nil
}

func (l *Load) run(ctx context.Context) {
	defer close(l.done)
	tick := time.NewTicker(loadEvery)
	defer tick.Stop()
	began, lane := time.Now(), 0
	for sent := 0; ; {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for due := int(now.Sub(began).Seconds() * float64(l.rate)); sent < due; sent++ {
				l.mu.Lock()
				tp := l.lanes[lane%len(l.lanes)]
				l.mu.Unlock()
				l.produce(ctx, tp)
				lane++
			}
		}
	}
}

// add has the load go to one more partition.
func (l *Load) add(tp starferry.TopicPartition) {
	l.client.ForceMetadataRefresh()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lanes = append(l.lanes, tp)
}

// produce sends one record. Its number is its value; its key repeats, so that
// there is an order per key to be kept.
func (l *Load) produce(ctx context.Context, tp starferry.TopicPartition) {
	id := l.next.Add(1)
	r := &kgo.Record{
		Topic: string(tp.Topic), Partition: int32(tp.Partition),
		Key: []byte("key-" + strconv.FormatInt(id%97, 10)), Value: strconv.AppendInt(nil, id, 10),
	}
	l.client.Produce(context.WithoutCancel(ctx), r, func(r *kgo.Record, err error) {
		p := checker.Produced{ID: checker.ID(id), TopicPartition: tp, Offset: starferry.Offset(r.Offset)}
		l.mu.Lock()
		defer l.mu.Unlock()
		if err != nil {
			p.Offset = starferry.NoOffset
			l.errs = append(l.errs, err)
		}
		l.sent = append(l.sent, p)
	})
}

// Sent is what was answered so far, in the order of answers.
func (l *Load) Sent() []checker.Produced {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent[:len(l.sent):len(l.sent)]
}

// Close stops producing and waits for what is on its way.
func (l *Load) Close() error {
	l.cancel()
	<-l.done
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := l.client.Flush(ctx)
	l.client.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.errs) > 0 {
		return fmt.Errorf("load: %d records were not acknowledged, the first because of: %w", len(l.errs), l.errs[0])
	}
	return err
}
