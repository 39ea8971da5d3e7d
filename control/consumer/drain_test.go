package consumer_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/kafkatest"
)

// A handler that does not mind the end of its context is named, with its record
// and for how long, and Close does not wait for it.
func TestAHandlerThatIgnoresItsContextIsNamed(t *testing.T) {
	e := newEstate(t, 2)
	e.produce(0, 2, e.old)
	e.produce(1, 2, e.old)
	release, handled := make(chan struct{}), make(chan struct{}, 10)
	cfg := e.config("a")
	named := make(chan starferry.Offset, 10)
	cfg.Hooks.Deaf = func(_ starferry.ClusterName, tp starferry.TopicPartition, o starferry.Offset, _ time.Duration) {
		if tp == e.tp(0) {
			named <- o
		}
	}
	c, err := consumer.Open(context.Background(), cfg, func(_ context.Context, r consumer.Record) error {
		if r.Partition == 0 && r.Offset == 1 {
			<-release
		}
		handled <- struct{}{}
		return nil
	})
	require.NoError(t, err)
	for range 3 {
		<-handled
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	err = c.Close(ctx)
	require.ErrorContains(t, err, "handlers that ignore the end of their context: "+e.tp(0).String()+"@1 for ")
	require.NotContains(t, err.Error(), e.tp(1).String())
	require.Less(t, time.Since(began), patience)
	require.EqualValues(t, 1, <-named)
	close(release)
	<-handled
}

// While a group waits for such a handler, its lease says so.
func TestADeafHandlerShowsInTheLease(t *testing.T) {
	e := newEstate(t, 1)
	h, nats := e.withNATS()
	e.produce(0, 1, e.old)
	release := make(chan struct{})
	cfg := e.config("a")
	nats(&cfg)
	cfg.RebalanceTimeout = 600 * time.Millisecond
	c, err := consumer.Open(context.Background(), cfg, func(context.Context, consumer.Record) error { <-release; return nil })
	require.NoError(t, err)
	t.Cleanup(func() { closeIn(t, c) })
	h.all(1, "a handler at work", func(l control.Lease) bool {
		return len(l.Partitions) == 1 && l.Partitions[0].InFlight == 1 && !l.Partitions[0].Deaf
	})
	h.put(func(p *control.Placement) { p.Epoch = 1 })
	h.put(func(p *control.Placement) { p.Epoch, p.Phase, p.Target = 2, control.Prepare, e.new.Name })
	h.put(func(p *control.Placement) { p.Phase, p.DrainDeadlineMS = control.Drain, 30_000 })
	h.all(1, "the deaf handler", func(l control.Lease) bool {
		return len(l.Partitions) == 1 && l.Partitions[0].Deaf && l.Partitions[0].BusyMS >= 400
	})
	close(release)
	h.all(1, "the drain", func(l control.Lease) bool { return l.Drained == 2 })
	h.put(func(p *control.Placement) { p.Phase, p.Target = control.Steady, "" })
}

// With CommitEach a kill repeats nothing but what was in hand, however much lies
// in the queues; hooks hear of every commit.
func TestEachRecordIsCommittedBeforeTheNext(t *testing.T) {
	kafkatest.Waits(t)
	for _, parallelism := range []int{0, 4} {
		e := newEstate(t, 1)
		var mu sync.Mutex
		safe := starferry.Place{}
		hold := make(chan struct{})
		cfg := e.config("a")
		cfg.CommitEach, cfg.CommitInterval, cfg.Parallelism = true, time.Hour, parallelism
		if !kafkatest.Real() {
			cfg.SessionTimeout = time.Second
		}
		cfg.Hooks.Committed = func(on starferry.ClusterName, cut starferry.Cut) {
			mu.Lock()
			defer mu.Unlock()
			safe = cut[e.tp(0)]
		}
		ahead := max(parallelism, 1)
		times, most := map[starferry.Offset]int{}, 0
		handler := func(ctx context.Context, r consumer.Record) error {
			mu.Lock()
			unsafe := 0
			for o := range times {
				in := o < safe.Next
				for _, h := range safe.Handled {
					in = in || h.Contains(o)
				}
				if !in {
					unsafe++
				}
			}
			most = max(most, unsafe)
			times[r.Offset]++
			mu.Unlock()
			if r.Offset == 30 {
				select {
				case <-hold:
				case <-ctx.Done():
				}
			}
			return nil
		}
		c, err := consumer.Open(context.Background(), cfg, handler)
		require.NoError(t, err)
		e.produce(0, 40, e.old)
		require.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return times[30] == 1 }, patience, time.Millisecond)
		c.Kill()
		close(hold)
		c, err = consumer.Open(context.Background(), cfg, handler)
		require.NoError(t, err)
		e.committed(e.old, 0, 40)
		closeIn(t, c)
		mu.Lock()
		require.Less(t, most, ahead+1, "parallelism %d", parallelism)
		repeated := 0
		for _, n := range times {
			repeated += n - 1
		}
		require.LessOrEqual(t, repeated, ahead)
		mu.Unlock()
	}
}

// A process that comes back under its name reports what the one before it had
// been handed and had not committed.
func TestARestartReportsWhatMayRepeat(t *testing.T) {
	e := newEstate(t, 1)
	h, nats := e.withNATS()
	e.produce(0, 10, e.old)
	a := e.open("a", nats, static)
	e.settled(10)
	e.committed(e.old, 0, 10)
	closeIn(t, a)
	a = e.open("a", nats, static, func(c *consumer.Config) { c.CommitInterval = time.Hour })
	e.produce(0, 10, e.old)
	e.settled(20)
	h.all(1, "the position", func(l control.Lease) bool { return len(l.Partitions) == 1 && l.Partitions[0].Position == 20 })
	a.Kill()
	e.open("a", nats, static)
	require.Eventually(t, func() bool { return e.seen.total() == 30 }, patience, 5*time.Millisecond)
	h.one("the range", func(l control.Lease) bool {
		return len(l.Repeats) == 1 && l.Repeats[0].Range == starferry.Range{From: 10, To: 20}
	})
}
