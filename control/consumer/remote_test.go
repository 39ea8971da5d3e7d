package consumer_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/kafkatest"
)

// obeyed sets wishes and waits until n instances have said so.
func (h *hand) obeyed(n int, s control.Settings) {
	h.t.Helper()
	rev := h.wish(s)
	h.all(n, "acknowledged", func(l control.Lease) bool { return l.SettingsRevision == rev })
}

// Guarantee 7: No record is skipped without an audit entry, and a copy
func TestWhatIsSkippedIsKept(t *testing.T) {
	e := newEstate(t, 1)
	h, nats := e.withNATS()
	kept := kafkatest.Topic(t, e.old, 1, nil)
	e.seen.block["0/2"] = make(chan struct{})
	e.produce(0, 10, e.old)
	e.open("a", nats)
	h.all(1, "blocked", func(l control.Lease) bool { return len(l.Partitions) == 1 && l.Partitions[0].Blocked != nil })
	h.wish(control.Settings{Skips: []control.Skip{{
		ID: "s1", Cluster: e.old.Name, Partition: e.tp(0), Range: starferry.Range{From: 2, To: 5}, Keep: kept, By: "ann", Why: "INC-1",
	}}})
	e.committed(e.old, 0, 10)
	require.Equal(t, 7, e.seen.count())
	got := kafkatest.Records(t, e.old, kept, 0)
	require.Len(t, got, 3)
	for i, r := range got {
		h := headers(r.Headers)
		require.Equal(t, "0/"+h["starferry.offset"], string(r.Value))
		require.Equal(t, []string{"2", "3", "4"}[i], h["starferry.offset"])
		require.Equal(t, "s1", h["starferry.skip"])
		require.Equal(t, "ann", h["starferry.by"])
		require.Equal(t, "skipped: INC-1", h["starferry.error"])
	}
	h.all(1, "three skipped", func(l control.Lease) bool { return l.Partitions[0].Skipped == 3 })
}

// What cannot be kept is not passed, until it can be or the skip is taken back.
func TestNothingIsSkippedForWantOfATopic(t *testing.T) {
	e := newEstate(t, 1)
	h, nats := e.withNATS()
	skip := control.Skip{ID: "s1", Cluster: e.old.Name, Partition: e.tp(0), Range: starferry.Range{From: 1, To: 2}, Keep: starferry.Topic(kafkatest.Group(t) + "-kept")}
	h.wish(control.Settings{Skips: []control.Skip{skip}})
	e.open("a", nats, func(c *consumer.Config) { c.RetryMin, c.RetryMax = time.Millisecond, 10*time.Millisecond })
	e.produce(0, 3, e.old)
	e.committed(e.old, 0, 1)
	require.Never(t, func() bool { return e.seen.count() > 1 }, 200*time.Millisecond, 20*time.Millisecond)
	h.wish(control.Settings{})
	e.committed(e.old, 0, 3)
	require.Equal(t, 3, e.seen.count())
}

func TestAPauseHoldsWhatItNamesThroughARestart(t *testing.T) {
	e := newEstate(t, 2)
	h, nats := e.withNATS()
	first := e.open("a", nats)
	e.produce(0, 5, e.old)
	e.produce(1, 5, e.old)
	e.settled(10)
	one := starferry.Partition(1)
	h.obeyed(1, control.Settings{Holds: []control.Hold{{ID: "p1", Topic: e.topic, Partition: &one}}})
	e.produce(0, 5, e.old)
	e.produce(1, 5, e.old)
	e.settled(15) // of partition 0
	h.all(1, "held", func(l control.Lease) bool {
		return l.Partitions[0].Held == "" && l.Partitions[1].Held == "paused by p1"
	})
	closeIn(t, first)
	e.open("b", nats)
	h.all(1, "held", func(l control.Lease) bool { return len(l.Partitions) == 2 && l.Partitions[1].Held == "paused by p1" })
	e.produce(0, 5, e.old)
	e.settled(20)
	h.wish(control.Settings{})
	e.settled(25)
}

// Guarantee 6: A plan changes nothing, a hold ends by itself
func TestATimedPauseEndsByItself(t *testing.T) {
	e := newEstate(t, 1)
	h, nats := e.withNATS()
	until := time.Now().Add(3 * time.Second)
	h.wish(control.Settings{Holds: []control.Hold{{ID: "p1", Until: until.UnixMilli()}}})
	e.open("a", nats)
	e.produce(0, 5, e.old)
	e.settled(5)
	require.False(t, time.Now().Before(until.Truncate(time.Millisecond)), "nothing was handed out before its end")
}

// A switch finds nothing in the way of it where a group is paused.
func TestAPausedGroupIsSwitched(t *testing.T) {
	e := newEstate(t, 1)
	h, nats := e.withNATS()
	e.produce(0, 5, e.old, e.new)
	e.open("a", nats)
	e.settled(5)
	h.obeyed(1, control.Settings{Holds: []control.Hold{{ID: "p1"}}})
	e.produce(0, 5, e.old, e.new)
	h.move(1, e.new.Name)
	h.all(1, "held on the new cluster", func(l control.Lease) bool {
		return len(l.Partitions) == 1 && l.Partitions[0].Cluster == e.new.Name && l.Partitions[0].Held == "paused by p1"
	})
	require.Equal(t, 5, e.seen.count())
	h.wish(control.Settings{})
	e.settled(10)
}

func TestARewindHandsOutAgainFromItsPlaceAndOnlyOnce(t *testing.T) {
	e := newEstate(t, 2)
	h, nats := e.withNATS()
	e.produce(0, 10, e.old)
	e.produce(1, 10, e.old)
	first := e.open("a", nats)
	e.settled(20)
	e.committed(e.old, 0, 10)
	rewind := control.Settings{Rewinds: []control.Rewind{{
		ID: "r1", Cluster: e.old.Name, Places: map[starferry.TopicPartition]starferry.Offset{e.tp(0): 4},
		Until: time.Now().Add(time.Hour).UnixMilli(),
	}}}
	h.obeyed(1, rewind)
	e.committed(e.old, 0, 4)
	h.all(1, "rewound", func(l control.Lease) bool { return l.Partitions[0].Rewound == "r1" && l.Partitions[0].Position == 4 })
	e.produce(1, 1, e.old)
	e.settled(21)     // the other partition goes on
	closeIn(t, first) // whoever is next finds the order again
	e.open("b", nats)
	h.all(1, "rewound", func(l control.Lease) bool { return len(l.Partitions) == 2 && l.Partitions[0].Rewound == "r1" })
	require.Equal(t, 21, e.seen.total(), "nothing is handed out while the order stands")
	h.wish(control.Settings{})
	require.Eventually(t, func() bool { return e.seen.total() == 27 }, patience, 5*time.Millisecond)
	e.committed(e.old, 0, 10)
	e.committed(e.old, 1, 11)
	for v, n := range e.seen.times {
		again := v >= "0/4" && v <= "0/9"
		require.Equal(t, again, n == 2, "%s was handled %d times", v, n)
	}
}

// A record that blocks its partition is left where the rewind says.
func TestARewindPassesABlockedRecord(t *testing.T) {
	e := newEstate(t, 1)
	h, nats := e.withNATS()
	e.seen.block["0/2"] = make(chan struct{})
	e.produce(0, 5, e.old)
	e.open("a", nats)
	h.all(1, "blocked", func(l control.Lease) bool { return len(l.Partitions) == 1 && l.Partitions[0].Blocked != nil })
	places := map[starferry.TopicPartition]starferry.Offset{e.tp(0): 4}
	h.obeyed(1, control.Settings{Rewinds: []control.Rewind{{ID: "r1", Cluster: e.old.Name, Places: places, Until: time.Now().Add(time.Hour).UnixMilli()}}})
	e.committed(e.old, 0, 4)
	h.wish(control.Settings{})
	e.committed(e.old, 0, 5)
	require.Equal(t, 3, e.seen.count())
}

// A rewind of another epoch, or one whose time is over, moves nothing.
func TestARewindThatIsVoidMovesNothing(t *testing.T) {
	e := newEstate(t, 1)
	h, nats := e.withNATS()
	e.produce(0, 5, e.old)
	e.open("a", nats)
	e.settled(5)
	places := map[starferry.TopicPartition]starferry.Offset{e.tp(0): 0}
	h.obeyed(1, control.Settings{Rewinds: []control.Rewind{
		{ID: "other epoch", Cluster: e.old.Name, Epoch: 7, Places: places, Until: time.Now().Add(time.Hour).UnixMilli()},
		{ID: "over", Cluster: e.old.Name, Places: places, Until: 1},
		{ID: "elsewhere", Cluster: e.new.Name, Places: places, Until: time.Now().Add(time.Hour).UnixMilli()},
	}})
	e.produce(0, 5, e.old)
	e.settled(10)
}

// Parallelism goes up and down while records are handled, and keys stay in order.
func TestParallelismIsChangedUnderLoad(t *testing.T) {
	e := newEstate(t, 1)
	h, nats := e.withNATS()
	k := newKeys()
	var busy, most atomic.Int32
	handler := func(ctx context.Context, r consumer.Record) error {
		n := busy.Add(1)
		defer busy.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
		return k.handle(ctx, r)
	}
	cfg := e.config("a")
	nats(&cfg)
	c, err := consumer.Open(context.Background(), cfg, handler)
	require.NoError(t, err)
	t.Cleanup(func() { closeIn(t, c) })
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	e.produceKeys(0, 100, names, e.old)
	require.Eventually(t, func() bool { return k.count() > 5 }, patience, time.Millisecond)
	require.Equal(t, int32(1), most.Load(), "as configured")
	h.wish(control.Settings{Throttle: &control.Throttle{Parallelism: 8}})
	require.Eventually(t, func() bool { return most.Load() > 3 }, patience, time.Millisecond)
	h.obeyed(1, control.Settings{Throttle: &control.Throttle{Parallelism: 2}})
	from := k.count()
	require.Eventually(t, func() bool { return k.count() > from+16 || k.count() == 800 }, patience, time.Millisecond)
	most.Store(0) // whoever had a record when that came has finished it
	from = k.count()
	require.Eventually(t, func() bool { return k.count() > from+20 || k.count() == 800 }, patience, time.Millisecond)
	require.LessOrEqual(t, most.Load(), int32(2))
	h.wish(control.Settings{Throttle: &control.Throttle{Parallelism: 50}})
	e.committed(e.old, 0, 800)
	k.inOrder(t, 100, names...)
}

// One partition is limited, and each of its records waits; the other is not.
func TestAThrottleOfOnePartition(t *testing.T) {
	e := newEstate(t, 2)
	h, nats := e.withNATS()
	h.wish(control.Settings{Throttles: map[starferry.TopicPartition]control.Throttle{e.tp(0): {Rate: 10}, e.tp(1): {QueueHigh: 4}}})
	e.open("a", nats)
	e.produce(0, 30, e.old)
	e.produce(1, 100, e.old)
	begun := time.Now()
	require.Eventually(t, func() bool { e.seen.mu.Lock(); defer e.seen.mu.Unlock(); return len(e.seen.order[e.tp(1)]) == 100 }, patience, 5*time.Millisecond)
	e.seen.mu.Lock()
	slow := len(e.seen.order[e.tp(0)])
	e.seen.mu.Unlock()
	require.LessOrEqual(t, slow, 2+int(10*time.Since(begun).Seconds()))
	h.wish(control.Settings{Throttle: &control.Throttle{DelayMS: 20}})
	begun = time.Now()
	rest := 30 - slow
	e.settled(130)
	require.Greater(t, time.Since(begun), time.Duration(max(0, rest-12))*20*time.Millisecond, "each of its records waits")
}
