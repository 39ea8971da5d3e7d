package replication

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/offsetmap"
)

// back is the world seen from the other side: its link leads the other way.
func (w *world) back() *world {
	b := &world{t: w.t, src: w.tgt, tgt: w.src, nc: w.nc, client: w.client, log: w.log, suffix: w.suffix + "-back"}
	if w.asks.Rename != nil {
		b.asks.Rename = Rename{}
		for to, from := range w.asks.Rename {
			b.asks.Rename[starferry.Topic(from)] = string(to)
		}
	}
	return b
}

// idempotent is a producer of a service, with a producer id of its own.
type idempotent struct {
	w    *world
	c    *wire.Cluster
	p    wire.Producer
	next map[starferry.TopicPartition]int32
}

func (w *world) producer() *idempotent {
	c := kafkatest.Open(w.t, w.src)
	var p wire.Producer
	require.NoError(w.t, again(context.Background(), func() (err error) {
		p, err = c.InitProducer(context.Background(), "", 0, wire.Producer{ID: -1, Epoch: -1})
		return err
	}))
	return &idempotent{w, c, p, map[starferry.TopicPartition]int32{}}
}

func (i *idempotent) put(topic starferry.Topic, p starferry.Partition, from, n int) {
	tp := starferry.TopicPartition{Topic: topic, Partition: p}
	_, err := kafkatest.ProduceBatch(i.c, tp, "", kafkatest.Batch(numbered(from, n), i.p, i.next[tp], false))
	require.NoError(i.w.t, err)
	i.next[tp] += int32(n)
}

// bothWays produces numbered records on both sides until it is stopped. The
// other side's numbers begin at a million, and those of later rounds behind.
func bothWays(sides []*world, topic starferry.Topic, partitions, round int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for s, w := range sides {
		wg.Go(func() {
			i := w.producer()
			for n := 1_000_000*s + 10_000*round; ctx.Err() == nil; n += 3 {
				for p := range starferry.Partition(partitions) {
					if n%2 == 0 {
						w.put(topic, p, numbered(n, 3)...)
					} else {
						i.put(topic, p, n, 3)
					}
				}
				_ = wait(ctx, 2*time.Millisecond)
			}
		})
	}
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); wg.Wait() }) }
	sides[0].t.Cleanup(stop)
	return stop
}

// settledBoth waits until both directions have passed all there is.
func settledBoth(w, back *world) {
	w.t.Helper()
	w.caughtUp()
	back.caughtUp()
	w.caughtUp()
}

// union demands that both sides of a topic have the same records, each once,
// and those of each side in their order. It returns how many.
func union(w *world, topic starferry.Topic, partitions int) int {
	w.t.Helper()
	n := 0
	for p := range starferry.Partition(partitions) {
		var sides [2][]string
		for i, c := range []starferry.Cluster{w.src, w.tgt} {
			name := []starferry.Topic{topic, w.asks.TargetOf(topic)}[i]
			sides[i] = slices.DeleteFunc(values(kafkatest.Records(w.t, c, name, p)), aborted)
			seen := map[string]bool{}
			for _, v := range sides[i] {
				require.False(w.t, seen[v], "%s twice on %s", v, c.Name)
				seen[v] = true
			}
		}
		for _, far := range []bool{false, true} {
			of := func(vs []string) []string {
				return slices.DeleteFunc(slices.Clone(vs), func(v string) bool { return (len(v) > 7) != far })
			}
			require.Equal(w.t, of(sides[0]), of(sides[1]), "partition %d", p)
			n += len(of(sides[0]))
		}
		require.Len(w.t, sides[0], len(sides[1]))
	}
	return n
}

// aborted marks the records of transactions that tests abort: whoever reads the
// log itself sees them too.
func aborted(v string) bool { return strings.HasPrefix(v, "v60000") }

// reasons counts the source offsets in the holes of a world's stored maps.
func (w *world) reasons(dir string) map[starferry.Reason]int64 {
	out := map[starferry.Reason]int64{}
	for _, segments := range w.segments(dir) {
		for _, s := range segments {
			if s.Status == starferry.InHole {
				out[s.Reason] += s.Count
			}
		}
	}
	return out
}

// Guarantee 1: A copied record is on the target exactly once, in source order
// per partition, byte for byte; what is not copied is listed with its reason.
// Two links lead between the same topics, and producers write on both sides.
func TestBothSidesEndWithEverythingOnce(t *testing.T) {
	w := newWorld(t)
	back := w.back()
	topic := w.topic(2, nil)
	dir := t.TempDir()
	s := w.shard("s1", dir)
	w.link(topic)
	stop := bothWays([]*world{w, back}, topic, 2, 0)
	require.Eventually(t, func() bool { return w.status().Lanes[0].Copied > 20 }, patience, 10*time.Millisecond)
	back.link(topic) // a topic full of copies and of records of its own
	require.Eventually(t, func() bool { return back.status().Lanes[0].Copied > 50 }, patience, 10*time.Millisecond)
	for p := range starferry.Partition(2) {
		kafkatest.ProduceTxn(t, w.src, topic, p, true, numbered(500_000, 4)...)
		kafkatest.ProduceTxn(t, w.src, topic, p, false, numbered(600_000, 4)...)
		kafkatest.ProduceTxn(t, w.tgt, topic, p, true, numbered(5_000_000, 4)...)
		kafkatest.ProduceTxn(t, w.tgt, topic, p, false, numbered(6_000_000, 4)...)
	}
	stop()
	settledBoth(w, back)
	n := union(w, topic, 2)
	w.put(topic, 0, numbered(700_000, 1)...)
	back.put(topic, 1, numbered(7_000_000, 1)...)
	settledBoth(w, back)
	require.Equal(t, n+2, union(w, topic, 2), "a record was copied back")
	require.NoError(t, s.Close())
	for _, side := range []*world{w, back} {
		holes := side.reasons(dir)
		require.Greater(t, holes[starferry.Returned], int64(100))
		require.Equal(t, int64(8), holes[starferry.Aborted])
		delete(holes, starferry.Returned)
		delete(holes, starferry.Aborted)
		delete(holes, starferry.Control)
		require.Empty(t, holes)
	}
}

// Guarantee 2: The offset map is exact in both directions, and survives the
// loss of the store, with records of the target's own between the copies.
func TestLostMapsOfBothDirectionsAreRebuilt(t *testing.T) {
	w := newWorld(t)
	back := w.back()
	topic := w.topic(2, nil)
	dir := t.TempDir()
	for round := range 3 {
		s := w.shard("s", dir)
		stop := bothWays([]*world{w, back}, topic, 2, round)
		w.link(topic)
		back.link(topic)
		moved := func(side *world) int64 { return side.status().Lanes[0].Copied }
		require.Eventually(t, func() bool { return moved(w) > 20 && moved(back) > 20 }, patience, 10*time.Millisecond)
		stop()
		settledBoth(w, back)
		require.NoError(t, s.Close())
	}
	before := []map[starferry.TopicPartition][]offsetmap.Segment{w.segments(dir), back.segments(dir)}
	require.NoError(t, os.RemoveAll(dir))
	s := w.shard("s", dir)
	settledBoth(w, back)
	require.NoError(t, s.Close())
	for i, side := range []*world{w, back} {
		for tp, want := range before[i] {
			got := side.segments(dir)[tp]
			require.Equal(t, want, got[:len(want)], "%s of %s", tp, side.name())
			for _, more := range got[len(want):] { // the fences of this round
				require.Equal(t, starferry.Control, more.Reason)
			}
		}
	}
	union(w, topic, 2)
}

// Copies are data for any third link: those of A to B go on from B to C, and
// what comes back to A under another name is a topic of its own.
func TestCopiesAreDataForAThirdLink(t *testing.T) {
	w := newWorld(t)
	back := w.back()
	topic := w.topic(1, nil)
	third := w.back()
	third.suffix = "-third"
	third.asks.Rename = Rename{topic: "third." + string(topic)}
	t.Cleanup(func() { third.dropCopies(topic) })
	w.shard("s", t.TempDir())
	stop := bothWays([]*world{w, back}, topic, 1, 0)
	w.link(topic)
	back.link(topic)
	third.link(topic)
	require.Eventually(t, func() bool { return third.status().Lanes[0].Copied > 100 }, patience, 10*time.Millisecond)
	stop()
	settledBoth(w, back)
	third.caughtUp()
	union(w, topic, 1)
	third.sameRecords(third.asks.TargetOf(topic), 0, kafkatest.Records(t, w.tgt, topic, 0))
}

// The way back of a renamed topic leads to its old name.
func TestARenamedTopicComesBackUnderItsName(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	w.asks.Rename = Rename{topic: "dc2." + string(topic)}
	t.Cleanup(func() { w.dropCopies(topic) })
	back := w.back()
	w.shard("s", t.TempDir())
	w.put(topic, 0, numbered(0, 10)...)
	w.link(topic)
	w.caughtUp()
	far := w.asks.TargetOf(topic)
	back.put(far, 0, numbered(1_000_000, 10)...)
	back.link(far)
	settledBoth(w, back)
	require.Equal(t, 20, union(w, topic, 1))
}

// A source that no link leads to is only read.
func TestASourceIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	if os.Getenv("STARFERRY_KAFKA") != "" {
		t.Skip("real clusters are shared by tests that copy to both")
	}
	topic := w.topic(1, nil)
	w.shard("s", t.TempDir())
	w.producer().put(topic, 0, 0, 5)
	w.link(topic)
	w.caughtUp()
	m, err := kafkatest.Open(t, w.src).Metadata(t.Context(), stateTopic)
	require.NoError(t, err)
	require.Empty(t, m.Topics[stateTopic].Partitions)
}

// Copies whose origin nobody can tell any more are not passed on as records.
func TestCopiesOfUnknownOriginStopALane(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	c := kafkatest.Open(t, w.src)
	i := w.producer()
	log := newStateLog(c)
	require.NoError(t, log.Refresh(t.Context()))
	require.NoError(t, log.Sign(t.Context(), claim{Link: "gone", PID: i.p.ID, At: 1}))
	i.put(topic, 0, 0, 5)
	w.shard("s", t.TempDir())
	_, _ = w.ensure(topic) // fails, unless it is ready before the first records are read
	require.Eventually(t, func() bool {
		l := w.status().Lanes[0]
		return l.State == Stopped && strings.Contains(l.Reason, "of link gone, and topic starferry.state there does not say where they came from")
	}, patience, 10*time.Millisecond)
}
