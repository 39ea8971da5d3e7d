package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/estate"
)

// What is told to how many.
const (
	toldInstances = 2000
	toldTimes     = 40 // throttles
	startAtOnce   = 32 // instances that are started at the same time
	// toldEvery is the time between two throttles.
	toldEvery  = 300 * time.Millisecond
	toldGroup  = starferry.Group("told")
	skipGroup  = starferry.Group("skipped")
	skipTopic  = starferry.Topic("skipped-from")
	skipLanes  = 8
	skipBlocks = 12 // records that block in each partition
)

// handFigures are the part's figures.
func handFigures() []Figure {
	return []Figure{
		{Name: "throttle_fanout_2000_p50_ms", Text: "a throttle, from the order until 2,000 instances have acknowledged it, p50", Unit: "ms"},
		{Name: "throttle_fanout_2000_p99_ms", Text: "a throttle, from the order until 2,000 instances have acknowledged it, p99", Unit: "ms", Bar: most(1000)},
		{Name: "skip_release_p50_ms", Text: "a skip, from the order until the blocked handler's partition goes on with the next record, p50", Unit: "ms"},
		{Name: "skip_release_p99_ms", Text: "a skip, from the order until the blocked handler's partition goes on with the next record, p99", Unit: "ms", Bar: most(100)},
		{Name: "skip_cancel_p99_ms", Text: "of that until the handler's context ends, p99", Unit: "ms"},
	}
}

// hand measures orders to running groups as the agent gives them.
//
// A throttle goes to 2,000 instances of one group, each the library's own
// consumer with a connection of its own to NATS: what watches the desired state,
// puts a limit in force and acknowledges it is the code of services. Their cluster
// accepts connections and says nothing, so they are no members: the coordinator of
// 2,000 members is none of what is measured. All of them, NATS and the agent's hand
// share this process.
//
// A skip goes to a group on a real broker one of whose handlers waits for the end
// of its context, as one does that tries a record for ever. What is passed is kept
// in a topic first.
func hand(b *bench, ctx context.Context, dir string) (_ Values, err error) {
	p, err := b.pair(ctx)
	if err != nil {
		return nil, err
	}
	r, err := b.openHand(ctx, dir, p, plan{name: "hand"})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	out := Values{}
	if err := r.skips(ctx, out); err != nil {
		return nil, fmt.Errorf("skip: %w", err)
	}
	if err := r.throttles(ctx, out); err != nil {
		return out, fmt.Errorf("throttle: %w", err)
	}
	return out, nil
}

// mute is a cluster that takes connections and never answers.
func mute() (starferry.Cluster, func() error, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return starferry.Cluster{}, nil, err
	}
	var mu sync.Mutex
	var all []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			mu.Lock()
			all = append(all, c)
			mu.Unlock()
		}
	}()
	return starferry.Cluster{Name: estate.Old, Brokers: []string{l.Addr().String()}}, func() error {
		err := l.Close()
		<-done
		for _, c := range all {
			_ = c.Close() // its other end may be gone
		}
		return err
	}, nil
}

// throttles throttles a group of many instances again and again.
func (r *fleetRun) throttles(ctx context.Context, out Values) (err error) {
	cluster, silence, err := mute()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, silence()) }()
	n := r.b.sized(toldInstances, 10)
	began := time.Now()
	g, err := r.crowd(ctx, n, cluster)
	defer func() { err = errors.Join(err, g.end()) }()
	if err != nil {
		return err
	}
	r.b.say("%d instances started in %.0f s", n, time.Since(began).Seconds())
	for end := time.Now().Add(pauseWithin); ; { // until all that have just started follow what is desired
		if _, err = r.throttle(ctx, n, 0); err == nil {
			break
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return err
		}
	}
	var took []float64
	for i := 1; len(took) < r.b.sized(toldTimes, 4); i++ {
		d, err := r.throttle(ctx, n, i)
		switch {
		case err == nil:
			took = append(took, ms(d))
		case i > 2*toldTimes: // this machine is too busy to keep so many leases
			return err
		}
		if err := rest(ctx, toldEvery); err != nil {
			return err
		}
	}
	out["throttle_fanout_2000_p50_ms"], out["throttle_fanout_2000_p99_ms"] = percentile(took, 50), percentile(took, 99)
	return nil
}

// throttle orders a limit that was not there before.
func (r *fleetRun) throttle(ctx context.Context, instances, i int) (time.Duration, error) {
	began := time.Now()
	receipt, err := r.ports.Hand.Throttle(ctx, builtins.ThrottleRequest{Group: toldGroup, Limit: builtins.Limit{Rate: float64(1000 + i)},
		By: "bench", Why: "to measure it", Token: fmt.Sprintf("told-%d", i)})
	took := time.Since(began)
	if err == nil && len(receipt.Instances) != instances {
		err = fmt.Errorf("%d of %d instances acknowledged it", len(receipt.Instances), instances)
	}
	r.b.say("throttle %d: %d acknowledged after %.0f ms", i, len(receipt.Instances), ms(took))
	return took, err
}

// rest waits.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// crowd starts n instances of a group and waits until the agent sees them all.
func (r *fleetRun) crowd(ctx context.Context, n int, on starferry.Cluster) (*group, error) {
	g := &group{all: make([]*consumer.Consumer, n), conns: make([]*nats.Conn, n)}
	var wg errgroup.Group
	wg.SetLimit(startAtOnce)
	for i := range n {
		wg.Go(func() (err error) {
			if g.conns[i], err = nats.Connect(r.natsURL); err != nil {
				return err
			}
			g.all[i], err = consumer.Open(ctx, consumer.Config{
				Group: toldGroup, Topics: []starferry.Topic{"told"}, Instance: starferry.InstanceID(fmt.Sprintf("i%04d", i)),
				Clusters: []starferry.Cluster{on}, Home: on.Name, Start: consumer.Earliest, NATS: g.conns[i],
			}, func(context.Context, consumer.Record) error { return nil })
			return err
		})
	}
	if err := wg.Wait(); err != nil {
		return g, err
	}
	ctx, cancel := context.WithTimeout(ctx, pauseWithin)
	defer cancel()
	for {
		s, err := r.ports.Remote.State(ctx, toldGroup)
		if err == nil && len(s.Instances) == n {
			return g, nil
		}
		if rest(ctx, toldEvery) != nil {
			return g, fmt.Errorf("of %d instances %d are seen: %w", n, len(s.Instances), errors.Join(err, context.Cause(ctx)))
		}
	}
}

// end closes the instances, many at once: they have no group to leave.
func (g *group) end() error {
	if g == nil {
		return nil
	}
	for _, nc := range g.conns { // nobody is told
		if nc != nil {
			nc.Close()
		}
	}
	past, cancel := context.WithCancel(context.Background())
	cancel()
	var wg errgroup.Group
	for _, c := range g.all {
		if c != nil {
			wg.Go(func() error { _ = c.Close(past); return nil }) // it says that it was broken off
		}
	}
	return wg.Wait()
}

// stuck is a partition whose handler does not come to an end by itself.
type stuck struct {
	tp     starferry.TopicPartition
	offset starferry.Offset
	at     chan time.Time // when its context ended
}

// skips passes records that block, one after the other.
func (r *fleetRun) skips(ctx context.Context, out Values) error {
	l := Load{Topic: skipTopic, Partitions: skipLanes, Records: 2 * skipLanes * r.b.sized(skipBlocks, 2), Size: 100, Batch: 10}
	if err := l.Fill(ctx, r.pair.source.cluster); err != nil {
		return err
	}
	nc, err := nats.Connect(r.natsURL)
	if err != nil {
		return err
	}
	defer nc.Close()
	blocked, handed := make(chan stuck, l.Records), make(map[starferry.Partition]chan time.Time)
	for p := range l.Partitions {
		handed[starferry.Partition(p)] = make(chan time.Time, l.Records)
	}
	c, err := consumer.Open(ctx, consumer.Config{
		Group: skipGroup, Topics: []starferry.Topic{skipTopic}, Clusters: []starferry.Cluster{r.ours[estate.Old]}, Home: estate.Old,
		Start: consumer.Earliest, NATS: nc,
	}, func(ctx context.Context, rec consumer.Record) error {
		if rec.Offset%2 != 0 {
			handed[rec.Partition] <- time.Now()
			return nil
		}
		s := stuck{starferry.TopicPartition{Topic: rec.Topic, Partition: rec.Partition}, rec.Offset, make(chan time.Time, 1)}
		blocked <- s
		<-ctx.Done()
		s.at <- time.Now()
		return context.Cause(ctx)
	})
	if err != nil {
		return err
	}
	defer func() {
		late, cancel := context.WithTimeout(context.Background(), closeWithin)
		defer cancel()
		_ = c.Close(late) // its handlers are stuck
	}()
	var cancelled, released []float64
	for i := range l.Records / 2 {
		ctx, cancel := context.WithTimeout(ctx, pauseWithin)
		let, next, err := r.release(ctx, blocked, handed)
		cancel()
		if err != nil {
			return err
		}
		r.b.say("skip %d: the context ended after %.1f ms, the next record came after %.1f ms", i+1, let, next)
		if i > 0 { // the first makes the topic of the copies
			cancelled, released = append(cancelled, let), append(released, next)
		}
	}
	out["skip_release_p50_ms"], out["skip_release_p99_ms"], out["skip_cancel_p99_ms"] = percentile(released, 50), percentile(released, 99), percentile(cancelled, 99)
	return nil
}

// release skips the next record that blocks, and returns after how many
// milliseconds its handler's context ended and its partition went on.
func (r *fleetRun) release(ctx context.Context, blocked <-chan stuck, handed map[starferry.Partition]chan time.Time) (let, next float64, err error) {
	var s stuck
	select {
	case s = <-blocked:
	case <-ctx.Done():
		return 0, 0, fmt.Errorf("no record blocks: %w", context.Cause(ctx))
	}
	began := time.Now()
	if _, err := r.ports.Hand.Skip(ctx, builtins.SkipRequest{Group: skipGroup, Partition: s.tp, Range: starferry.Range{From: s.offset, To: s.offset + 1},
		By: "bench", Why: "to measure it", Token: fmt.Sprintf("skip-%d-%d", s.tp.Partition, s.offset)}); err != nil {
		return 0, 0, err
	}
	select {
	case at := <-s.at:
		let = ms(at.Sub(began))
	case <-ctx.Done():
		return 0, 0, fmt.Errorf("the handler of %s@%d is not let go: %w", s.tp, s.offset, context.Cause(ctx))
	}
	select {
	case at := <-handed[s.tp.Partition]:
		return let, ms(at.Sub(began)), nil
	case <-ctx.Done():
		return 0, 0, fmt.Errorf("%s does not go on behind %d: %w", s.tp, s.offset, context.Cause(ctx))
	}
}
