package demo

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

const (
	produceEvery  = 5 * time.Millisecond
	produceWithin = 10 * time.Second
	maxPending    = 2000 // records that wait in one partition before it takes no more
	maxBatch      = 500
	customers     = 997
)

// topicPlan is one topic of the demo.
type topicPlan struct {
	name       starferry.Topic
	partitions int
	compress   bool
}

// producer writes numbered records at a steady rate, all the time, and knows
// exactly which were acknowledged: it produces idempotently, and a batch whose
// answer is missing is sent again, unchanged, until it is answered.
type producer struct {
	cluster *wire.Cluster
	log     *slog.Logger
	who     identity
	rate    float64
	lanes   []*outLane
	topics  []topicPlan
	byTopic map[starferry.Topic][]*outLane

	acked atomic.Int64
	stop  chan struct{} // closed: write no further records
	once  sync.Once
	done  chan struct{} // closed: everything written is acknowledged, or given up
	err   error         // why it was given up; read after done
}

// outLane is one partition as the producer sees it.
type outLane struct {
	tp       starferry.TopicPartition
	id       [16]byte
	compress bool
	keys     []string // not sent yet
	acked    int64    // also the number of the first record not acknowledged
	inFlight []byte   // the batch that waits for its answer
	count    int      // its records
}

// newProducer prepares a producer; run it with run.
func newProducer(ctx context.Context, c *wire.Cluster, topics []topicPlan, rate float64, log *slog.Logger) (*producer, error) {
	p := &producer{
		cluster: c, log: log, rate: rate, topics: topics, byTopic: map[starferry.Topic][]*outLane{},
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	own, err := identify(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("start the demo's producer: %w", err)
	}
	p.who = identity{own.ID, own.Epoch}
	names := make([]starferry.Topic, len(topics))
	for i, t := range topics {
		names[i] = t.name
	}
	meta, err := c.Metadata(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("start the demo's producer: %w", err)
	}
	for _, t := range topics {
		for i := range t.partitions {
			l := &outLane{
				tp: starferry.TopicPartition{Topic: t.name, Partition: starferry.Partition(i)},
				id: meta.Topics[t.name].ID, compress: t.compress,
			}
			p.lanes = append(p.lanes, l)
			p.byTopic[t.name] = append(p.byTopic[t.name], l)
		}
	}
	return p, nil
}

// identify gets a producer id. A broker that has just started has none to give
// for a moment (COORDINATOR_LOAD_IN_PROGRESS).
func identify(ctx context.Context, c *wire.Cluster) (wire.Producer, error) {
	tick := time.NewTicker(20 * produceEvery)
	defer tick.Stop()
	for {
		own, err := c.InitProducer(ctx, "", time.Minute, wire.Producer{ID: -1, Epoch: -1})
		var code kafka.Error
		if err == nil || !errors.As(err, &code) || !code.Temporary() {
			return own, err
		}
		select {
		case <-ctx.Done():
			return own, err
		case <-tick.C:
		}
	}
}

// run writes until finish is called, then waits for the last answers. It
// returns when everything written is acknowledged, or ctx ends.
func (p *producer) run(ctx context.Context) error {
	defer close(p.done)
	tick := time.NewTicker(produceEvery)
	defer tick.Stop()
	start, written, open := time.Now(), int64(0), true
	for {
		select {
		case <-ctx.Done():
			p.err = context.Cause(ctx)
			return p.err
		case <-p.stop:
			open = false
		case <-tick.C:
		}
		if open {
			written = p.generate(start, written)
		}
		if err := p.send(ctx); err != nil {
			p.err = err
			return err
		}
		if !open && p.idle() {
			return nil
		}
		if !open {
			<-tick.C // p.stop is always ready now
		}
	}
}

// generate adds the records that are due by now. Records go to topics in turn
// by their partitions' number, and to partitions by key.
func (p *producer) generate(start time.Time, written int64) int64 {
	due := int64(time.Since(start).Seconds() * p.rate)
	for ; written < due; written++ {
		spread := p.lanes[written%int64(len(p.lanes))]
		key := fmt.Sprintf("customer-%d", (written*7919)%customers)
		same := p.byTopic[spread.tp.Topic]
		h := fnv.New32a()
		_, _ = h.Write([]byte(key)) // a hash's Write never fails
		l := same[int(h.Sum32()%uint32(len(same)))]
		if len(l.keys) >= maxPending {
			break // the cluster is slower than the rate: go on when it has caught up
		}
		l.keys = append(l.keys, key)
	}
	return written
}

func (p *producer) idle() bool {
	return !slices.ContainsFunc(p.lanes, func(l *outLane) bool { return l.inFlight != nil || len(l.keys) > 0 })
}

// send sends one batch of every partition that has any, one request a broker.
func (p *producer) send(ctx context.Context) error {
	byLeader := map[int32][]*outLane{}
	for _, l := range p.lanes {
		if err := l.fill(p.who); err != nil {
			return err
		}
		if l.inFlight == nil {
			continue
		}
		leader, _, err := p.cluster.Leader(ctx, l.tp)
		if err != nil {
			p.log.Debug("no leader yet", "partition", l.tp, "err", err)
			continue
		}
		byLeader[leader] = append(byLeader[leader], l)
	}
	var g errgroup.Group
	for broker, lanes := range byLeader {
		g.Go(func() error { return p.produce(ctx, broker, lanes) })
	}
	return g.Wait()
}

// fill makes the next batch, unless one is still unanswered.
func (l *outLane) fill(who identity) (err error) {
	if l.inFlight != nil || len(l.keys) == 0 {
		return nil
	}
	l.count = min(len(l.keys), maxBatch)
	l.inFlight, err = encode(who, l.tp, l.acked, l.keys[:l.count], l.compress, time.Now())
	l.keys = slices.Delete(l.keys, 0, l.count)
	return err
}

func (p *producer) produce(ctx context.Context, broker int32, lanes []*outLane) error {
	ctx, cancel := context.WithTimeout(ctx, produceWithin)
	defer cancel()
	req := kmsg.NewPtrProduceRequest()
	req.Acks = -1
	req.TimeoutMillis = int32(produceWithin.Milliseconds())
	byID := map[[16]byte]starferry.Topic{}
	for _, l := range lanes {
		byID[l.id] = l.tp.Topic
		i := slices.IndexFunc(req.Topics, func(t kmsg.ProduceRequestTopic) bool { return t.Topic == string(l.tp.Topic) })
		if i < 0 {
			t := kmsg.NewProduceRequestTopic()
			t.Topic, t.TopicID = string(l.tp.Topic), l.id
			i, req.Topics = len(req.Topics), append(req.Topics, t)
		}
		part := kmsg.NewProduceRequestTopicPartition()
		part.Partition, part.Records = int32(l.tp.Partition), l.inFlight
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, part)
	}
	answer, err := p.cluster.DoOn(ctx, broker, req)
	if err != nil {
		if p.topicsForgotten(); ctx.Err() == nil {
			p.log.Debug("produce again", "broker", broker, "err", err)
		}
		return nil // sent again, unchanged, with the next tick
	}
	for _, t := range answer.(*kmsg.ProduceResponse).Topics {
		name := starferry.Topic(t.Topic)
		if name == "" {
			name = byID[t.TopicID]
		}
		for _, part := range t.Partitions {
			tp := starferry.TopicPartition{Topic: name, Partition: starferry.Partition(part.Partition)}
			if err := p.answered(lanes, tp, kafka.Error(part.ErrorCode)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *producer) topicsForgotten() {
	for t := range p.byTopic {
		p.cluster.Forget(t)
	}
}

func (p *producer) answered(lanes []*outLane, tp starferry.TopicPartition, code kafka.Error) error {
	i := slices.IndexFunc(lanes, func(l *outLane) bool { return l.tp == tp })
	if i < 0 {
		return fmt.Errorf("produce: an answer for %s, which was not asked for", tp)
	}
	l := lanes[i]
	switch {
	case code == 0 || errors.Is(code, kafka.DuplicateSequenceNumber): // written now, or by an earlier try
		l.acked += int64(l.count)
		p.acked.Add(int64(l.count))
		l.inFlight, l.count = nil, 0
		if l.acked > math.MaxInt32 {
			return fmt.Errorf("produce to %s: 2³¹ records are enough for a demo", tp)
		}
	case code.Temporary():
		p.cluster.Forget(tp.Topic)
	default:
		return fmt.Errorf("produce to %s: %w", tp, code)
	}
	return nil
}

// finish stops writing and waits until every record is acknowledged. It returns
// how many each partition has.
func (p *producer) finish(ctx context.Context) (map[starferry.TopicPartition]int64, error) {
	p.once.Do(func() { close(p.stop) })
	select {
	case <-p.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("stop the demo's producer: %w", context.Cause(ctx))
	}
	if p.err != nil {
		return nil, p.err
	}
	counts := map[starferry.TopicPartition]int64{}
	for _, l := range p.lanes {
		counts[l.tp] = l.acked
	}
	return counts, nil
}
