package replication

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
)

// heavy makes n records of 50 KB.
func heavy(n int) []kafka.Message {
	out := numbered(0, n)
	for i := range out {
		out[i].Value = make([]byte, 50_000)
	}
	return out
}

// A target partition that takes nothing holds up its own lane alone, and what is
// held in memory stays within its bound.
func TestAStalledPartitionStallsNoOther(t *testing.T) {
	for name, err := range map[string]*kerr.Error{"refuses": kerr.NotEnoughReplicas, "times out": kerr.RequestTimedOut} {
		t.Run(name, func(t *testing.T) {
			w, _, tgt := faulty(t)
			topic := w.topic(4, nil)
			const limit = 1 << 20
			s := w.shard("s", t.TempDir(), func(c *ShardConfig) { c.InFlightBytes = limit })
			w.link(topic)
			h := tgt.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: string(topic), Partitions: []int32{0}, Err: err, Count: -1})
			most := s.budget.watch(t)
			for range 16 {
				for p := range starferry.Partition(4) {
					w.put(topic, p, heavy(5)...)
				}
			}
			require.Eventually(t, func() bool {
				for _, l := range w.status().Lanes[1:] {
					if l.SourceNext < 80 {
						return false
					}
				}
				return true
			}, patience, tick)
			require.Less(t, w.status().Lanes[0].SourceNext, starferry.Offset(80))
			require.LessOrEqual(t, most(), int64(limit+limit/4), "bytes held")
			h.Remove()
			w.everythingIsThere(topic, 4)
			require.Eventually(t, func() bool { return s.budget.held() == 0 }, patience, tick, "all memory is given back")
		})
	}
}

func (b *budget) held() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// watch notes how much is held at most until the test ends.
func (b *budget) watch(t *testing.T) (most func() int64) {
	var top atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for wait(ctx, 100*time.Microsecond) == nil {
			top.Store(max(top.Load(), b.held()))
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return top.Load
}

// Memory is granted in the order of asking, a large claim is not passed by for
// ever, and one that is given up lets the next go.
func TestMemoryIsGrantedInOrder(t *testing.T) {
	b := newBudget(100)
	require.NoError(t, b.wait(t.Context(), 60))
	got := make(chan string, 3)
	ctx, cancel := context.WithCancel(t.Context())
	claim := func(ctx context.Context, name string, n int64, before int) {
		go func() {
			if b.wait(ctx, n) == nil {
				got <- name
			} else {
				got <- name + " gave up"
			}
		}()
		require.Eventually(t, func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.queue) == before+1 }, patience, time.Millisecond)
	}
	claim(ctx, "larger than all", 500, 0)
	claim(t.Context(), "small", 10, 1)
	claim(t.Context(), "large", 90, 2)
	require.True(t, b.tight())
	cancel()
	require.ElementsMatch(t, []string{"larger than all gave up", "small"}, []string{<-got, <-got})
	b.free(60)
	require.Equal(t, "large", <-got)
	b.free(100)
	require.NoError(t, b.wait(t.Context(), 500), "alone, it is granted")
	require.False(t, b.tight())
}

// What a slow lane gives back is fetched again, from the right place.
func TestASlowLaneGivesBackWhatWasNotSent(t *testing.T) {
	b := newBudget(1 << 20)
	l := &lane{c: &copier{budget: b, limits: newLimits(0, 0)}, active: true}
	l.pipe.reset()
	frame := newLoad(b, 1000, nil)
	b.take(1000)
	for i := range 10 {
		l.pipe.add(&entry{pieces: []piece{{starferry.Offset(i), 1, ""}}, batch: make([]byte, 100), load: frame.hold(), records: 1})
	}
	frame.drop()
	l.fetch = 10
	first, _ := l.pipe.take()
	l.shrinkLocked()
	require.Equal(t, []*entry{first}, l.pipe.queue)
	require.EqualValues(t, 1, l.fetch)
	require.EqualValues(t, 100, b.held())
	require.EqualValues(t, 100, l.pipe.bytes)
	l.shrinkLocked()
	require.EqualValues(t, 100, b.held())
}

// A new limit acts on a link that runs, which goes on where it is.
func TestALimitChangesWithoutABreak(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	for i := range 40 {
		w.put(topic, 0, numbered(5*i, 5)...)
	}
	s := w.shard("s", t.TempDir())
	w.asks.RateRecords = 1
	w.link(topic)
	running, _ := s.link(w.name())
	l, _ := running.lane(starferry.TopicPartition{Topic: topic})
	require.Eventually(t, func() bool { return l.status().State == Stalled }, patience, tick)
	require.Contains(t, l.status().Reason, "rate limit")
	l.mu.Lock()
	term := l.term
	l.mu.Unlock()
	w.asks.RateRecords = 0
	w.link(topic)
	w.everythingIsThere(topic, 1)
	require.Equal(t, Copying, l.status().State)
	now, _ := s.link(w.name())
	require.Same(t, running, now)
	require.True(t, l.current(term))
}

// A lane that stands still says what it waits for, and takes it back when it moves.
func TestALaneThatStandsStillSaysWhy(t *testing.T) {
	src, tgt := starferry.ClusterName("old"), starferry.ClusterName("new")
	for name, x := range map[string]struct {
		set  func(l *lane, now time.Time)
		want string
	}{
		"nothing to do": {func(l *lane, now time.Time) { l.fetch = l.end }, ""},
		"silent source": {func(l *lane, now time.Time) { l.fetch = l.end; l.session.sent.Store(now.UnixNano()) }, "broker 3 of old has not answered a fetch for 4s"},
		"no source":     {func(l *lane, now time.Time) { l.session = nil; l.trouble = kafka.LeaderNotAvailable }, "nothing comes from old for 4s"},
		"transaction":   {func(l *lane, now time.Time) { l.stable = l.fetch }, "transaction that is open on old hides what follows offset 5"},
		"silent target": {func(l *lane, now time.Time) { l.pipe.add(waitingEntry()); l.pipe.take() }, "new has not acknowledged what it was sent 4s ago"},
		"no target":     {func(l *lane, now time.Time) { l.pipe.add(waitingEntry()) }, "the leader of t/1 on new is not known for 4s"},
	} {
		t.Run(name, func(t *testing.T) {
			c := testCopier()
			c.spec.Source, c.spec.Target = src, tgt
			c.log = slog.New(slog.DiscardHandler)
			tp := starferry.TopicPartition{Topic: "t", Partition: 1}
			l := &lane{tp: tp, to: tp, c: c, active: true, state: Copying, end: 9, stable: 9, fetch: 5, fetching: true}
			l.session = newSession(newFetcher(c, 3))
			l.pipe.reset()
			now := time.Now()
			l.moved = now
			x.set(l, now)
			l.check(now.Add(2*time.Second), false)
			require.Equal(t, Copying, l.state)
			l.check(now.Add(4*time.Second), false)
			if x.want == "" {
				require.Equal(t, Copying, l.state)
				return
			}
			require.Equal(t, Stalled, l.state)
			require.Contains(t, l.reason, x.want)
			l.moved = now.Add(4 * time.Second)
			if l.session != nil {
				l.session.sent.Store(0)
			}
			l.check(now.Add(5*time.Second), false)
			require.Equal(t, Copying, l.state)
		})
	}
}

func waitingEntry() *entry {
	return &entry{pieces: []piece{{5, 1, ""}}, batch: make([]byte, 100), records: 1}
}
