package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/control/producer"
	"github.com/starferry/starferry/internal/estate"
	"github.com/starferry/starferry/internal/records"
)

// The producers that are moved, and how often.
const (
	producersMoved     = 4
	producerPartitions = 12
	producerKeys       = 50  // of each producer
	producerRate       = 500 // records per second of each
	producerMoves      = 150 // there and back counted separately
	producerWarm       = 60  // made before those, not counted
	// writesBetween is how many records of each producer stand on its new cluster
	// before it is moved again.
	writesBetween = 50
	back          = starferry.LinkName("back")
)

// producerFigures are the part's figures.
func producerFigures() []Figure {
	return []Figure{
		{Name: "producer_hold_p50_ms", Text: "hold of the slowest of 4 producers on a switch under load, p50", Unit: "ms", Bar: most(20)},
		{Name: "producer_hold_p99_ms", Text: "hold of the slowest of 4 producers on a switch under load, p99", Unit: "ms", Bar: most(100)},
		{Name: "producer_hold_first_ms", Text: "the same of the first switch of all, when nothing is warm", Unit: "ms"},
		{Name: "producer_moves", Text: "switches of producers under load", Unit: "switches"},
		{Name: "producer_lost", Text: "records lost by them, on either cluster", Unit: "records", Bar: most(0)},
		{Name: "producer_twice", Text: "records written twice", Unit: "records", Bar: most(0)},
		{Name: "producer_out_of_order", Text: "records out of the order of their key", Unit: "records", Bar: most(0)},
	}
}

// producing is producers that are moved while they write.
type producing struct {
	*fleetRun
	all   []*press
	holds []float64 // of each switch the longest, milliseconds
	first float64
}

// producers measures how long producers hold when they are moved there and back
// between two clusters, with a link in each direction, while each writes at an
// even rate. The figure is the hold of the slowest: from the order to hold to
// where it may send again. In the end both clusters must have every record once,
// those of a key in the order they were sent, or nothing is told.
func producers(b *bench, ctx context.Context, dir string) (_ Values, err error) {
	p, err := b.pair(ctx)
	if err != nil {
		return nil, err
	}
	run, err := b.openFleetRun(ctx, dir, p, plan{name: "produced", partitions: producerPartitions})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, run.Close()) }()
	r := &producing{fleetRun: run}
	if err := r.there(ctx, b.sized(producerWarm, 2), b.sized(producerMoves, 4)); err != nil {
		return nil, fmt.Errorf("%w; the shard said:\n%s", err, r.shard.Tail())
	}
	out := Values{"producer_moves": float64(len(r.holds)), "producer_hold_first_ms": r.first}
	if err := r.account(ctx, out); err != nil {
		return nil, err
	}
	out["producer_hold_p50_ms"], out["producer_hold_p99_ms"] = percentile(r.holds, 50), percentile(r.holds, 99)
	return out, nil
}

// there makes the link back, starts the producers and moves them to and fro.
func (r *producing) there(ctx context.Context, warm, times int) error {
	_, err := r.ports.Copier.Replicate(ctx, builtins.ReplicateRequest{Link: back, Source: estate.New, Target: estate.Old,
		Topics: []starferry.Topic{r.topic}, Token: "back"})
	if err != nil {
		return err
	}
	for i := range producersMoved {
		if err := r.press(ctx, i); err != nil {
			return err
		}
	}
	from, to := starferry.ClusterName(estate.Old), starferry.ClusterName(estate.New)
	for i := range warm + times {
		for _, s := range r.all {
			if err := s.writesOn(ctx, from); err != nil {
				return err
			}
		}
		held, err := r.move(ctx, from, to, i)
		if err != nil {
			return fmt.Errorf("switch %d of the producers from %s to %s: %w", i+1, from, to, err)
		}
		r.b.say("%s %d: to %s, held %.1f ms (%s)", r.name, i+1, to, held, r.steps)
		if i == 0 {
			r.first = held
		}
		if i >= warm {
			r.holds = append(r.holds, held)
		}
		from, to = to, from
	}
	return nil
}

// move moves all producers once and returns the hold of the slowest.
func (r *producing) move(ctx context.Context, from, to starferry.ClusterName, i int) (worst float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, pauseWithin)
	defer cancel()
	r.steps = steps{}
	rep, err := r.ports.Producers.SwitchProducers(ctx, builtins.ProducerSwitch{Topic: r.topic, Source: from, Target: to, Link: link,
		By: "bench", Token: fmt.Sprintf("%s-%d", r.name, i), Progress: func(step, _ string) { r.steps.enter(step) }})
	r.steps.enter("")
	if err != nil {
		return 0, err
	}
	if len(rep.Producers) != len(r.all) || len(rep.Late)+len(rep.Gone) > 0 {
		return 0, fmt.Errorf("of %d producers %d were moved, %d late and %d gone", len(r.all), len(rep.Producers), len(rep.Late), len(rep.Gone))
	}
	for _, s := range r.all {
		select {
		case held := <-s.held:
			worst = max(worst, ms(held))
		case <-ctx.Done():
			return 0, fmt.Errorf("producer %s does not say that it moved: %w", s.name, context.Cause(ctx))
		}
	}
	return worst, nil
}

// press is a service that writes numbered records of keys of its own.
type press struct {
	name    string
	keys    int // the number of its first key
	p       *producer.Producer
	nc      *nats.Conn
	held    chan time.Duration
	written []int64 // of each key; its goroutine's until done
	cancel  context.CancelFunc
	done    chan struct{}
	err     error

	mu    sync.Mutex
	on    starferry.ClusterName // where the newest acknowledged record stands
	since int                   // records acknowledged there
	fail  error                 // of the first record that failed
	came  chan struct{}         // something was acknowledged
}

func (r *producing) press(ctx context.Context, i int) (err error) {
	s := &press{name: fmt.Sprintf("p%d", i), keys: i * producerKeys, written: make([]int64, producerKeys), held: make(chan time.Duration, 1),
		done: make(chan struct{}), came: make(chan struct{}, 1)}
	if s.nc, err = nats.Connect(r.natsURL); err != nil {
		return err
	}
	s.p, err = producer.Open(ctx, producer.Config{
		Topics: []starferry.Topic{r.topic}, Clusters: []starferry.Cluster{r.ours[estate.Old], r.ours[estate.New]}, Home: estate.Old,
		NATS: s.nc, Instance: starferry.InstanceID(s.name),
		Hooks: producer.Hooks{Moved: func(_ starferry.Topic, _, _ starferry.ClusterName, held time.Duration) { s.held <- held }},
	})
	if err != nil {
		s.nc.Close()
		return err
	}
	ctx, s.cancel = context.WithCancel(ctx)
	go func() {
		defer close(s.done)
		s.err = s.run(ctx, r.topic)
	}()
	r.all = append(r.all, s)
	r.closers = append(r.closers, s.Close)
	return nil
}

// run writes what is due until it is told to stop.
func (s *press) run(ctx context.Context, topic starferry.Topic) error {
	tick := time.NewTicker(flowTick / 2)
	defer tick.Stop()
	began, sent := time.Now(), int64(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for due := int64(time.Since(began).Seconds() * producerRate); sent < due; sent++ {
			k := int(sent % producerKeys)
			value := make([]byte, 100)
			stamp(value, s.written[k], 0)
			err := s.p.Send(ctx, producer.Record{Topic: topic, Key: fmt.Append(nil, s.keys+k), Value: value}, s.settled)
			if ctx.Err() != nil && err != nil {
				return nil
			}
			if err != nil {
				return fmt.Errorf("producer %s: %w", s.name, err)
			}
			s.written[k]++
		}
	}
}

// settled is called for each record.
func (s *press) settled(r producer.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Err != nil && s.fail == nil {
		s.fail = r.Err
	}
	if s.on != r.Cluster {
		s.on, s.since = r.Cluster, 0
	}
	s.since++
	select {
	case s.came <- struct{}{}:
	default:
	}
}

// writesOn waits until it has written for a while on a cluster.
func (s *press) writesOn(ctx context.Context, c starferry.ClusterName) error {
	ctx, cancel := context.WithTimeout(ctx, pauseWithin)
	defer cancel()
	for {
		s.mu.Lock()
		there, err := s.on == c && s.since >= writesBetween, s.fail
		s.mu.Unlock()
		if there || err != nil {
			return err
		}
		select {
		case <-s.came:
		case <-s.done:
			return fmt.Errorf("producer %s ended: %w", s.name, s.err)
		case <-ctx.Done():
			return fmt.Errorf("producer %s does not write on %s: %w", s.name, c, context.Cause(ctx))
		}
	}
}

// Close writes what was taken and ends it. It may be called again.
func (s *press) Close() error {
	if s.p == nil {
		return nil
	}
	s.cancel()
	<-s.done
	late, cancel := context.WithTimeout(context.Background(), closeWithin)
	defer cancel()
	err := errors.Join(s.err, s.p.Close(late))
	s.p = nil
	s.nc.Close()
	return errors.Join(err, s.fail)
}

// account ends the producers and compares both clusters with what they wrote.
func (r *producing) account(ctx context.Context, out Values) error {
	var written []int64
	var want int64
	for _, s := range r.all {
		if err := s.Close(); err != nil {
			return err
		}
		for _, n := range s.written {
			written, want = append(written, n), want+n
		}
	}
	for name, c := range map[string]*side{estate.Old: r.pair.source, estate.New: r.pair.target} {
		got, err := r.standing(ctx, c, written, want)
		if err != nil {
			return err
		}
		r.b.say("%s on %s: of %d records %d lost, %d twice, %d out of order", r.name, name, want, got.lost, got.twice, got.late)
		out["producer_lost"] += float64(got.lost)
		out["producer_twice"] += float64(got.twice)
		out["producer_out_of_order"] += float64(got.late)
		if got.lost+got.twice+got.late > 0 {
			return fmt.Errorf("on %s, of %d records %d were lost, %d written twice and %d out of order: the figures of this run are void", name, want, got.lost, got.twice, got.late)
		}
	}
	return nil
}

// standing reads a cluster's whole topic, again and again until all that was
// written has come or time is up.
func (r *producing) standing(ctx context.Context, c *side, written []int64, want int64) (got sums, err error) {
	ctx, cancel := context.WithTimeout(ctx, pauseWithin)
	defer cancel()
	at := map[starferry.TopicPartition]starferry.Offset{}
	for _, tp := range (Load{Partitions: r.partitions}).lanes(r.topic) {
		at[tp] = 0
	}
	l := newLedger(len(written))
	for {
		err := readAll(ctx, c.cluster, at, func(tp starferry.TopicPartition, rec records.Record) error {
			var key int
			n, _, ok := stampOf(rec.Value)
			if _, err := fmt.Sscan(string(rec.Key), &key); err != nil || !ok || key < 0 || key >= len(written) {
				return fmt.Errorf("%s has a record at %d that nobody wrote", tp, rec.Offset)
			}
			l.handled(c.cluster.Name(), starferry.Partition(key), n, time.Time{})
			at[tp] = starferry.Offset(rec.Offset) + 1
			return nil
		})
		if got = l.sums(written); err != nil || got.handled >= want {
			return got, err
		}
		select {
		case <-ctx.Done():
			return got, nil // what is missing is lost
		case <-time.After(20 * time.Millisecond): // the copy is on its way
		}
	}
}
