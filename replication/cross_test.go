package replication

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
)

// tourist is a group that reads one topic wherever it lives, by its cut alone.
type tourist struct {
	t       *testing.T
	sides   [2]*world // the first leads from old to new, the second back
	home    int
	topic   [2]starferry.Topic
	cut     starferry.Cut
	handled map[string]int
	moves   int
}

func newTourist(w, back *world, topic starferry.Topic, partitions int) *tourist {
	g := &tourist{
		t: w.t, sides: [2]*world{w, back}, topic: [2]starferry.Topic{topic, w.asks.TargetOf(topic)},
		cut: starferry.Cut{}, handled: map[string]int{},
	}
	for p := range starferry.Partition(partitions) {
		g.cut[starferry.TopicPartition{Topic: topic, Partition: p}] = starferry.Place{}
	}
	return g
}

// read handles up to n records of each partition, all of them for n = 0. It
// leaves some for later, which makes ranges.
func (g *tourist) read(n int) {
	g.t.Helper()
	for tp, place := range g.cut {
		m := sound{place: place}
		for i, r := range kafkatest.Records(g.t, g.sides[g.home].src, tp.Topic, tp.Partition) {
			o := starferry.Offset(r.Offset)
			if m.open(m.place.Next) > m.place.Next || m.open(o) != o || o < m.place.Next {
				continue
			}
			if n > 0 && i%7 == 3 {
				continue // a slow worker has it
			}
			if id := recordID(tp, r); !aborted(string(r.Value)) {
				g.handled[id]++
				require.Equal(g.t, 1, g.handled[id], "%s is handled again, at %s@%d", r.Value, tp, o)
			}
			if m.done(o); n > 0 {
				if n--; n == 0 {
					break
				}
			}
		}
		g.cut[tp] = m.place
	}
}

// recordID is what a record is known by on either side.
func recordID(tp starferry.TopicPartition, r kafka.Message) string {
	return fmt.Sprint(tp.Partition, " ", string(r.Value))
}

// move goes to the other side, by either link, and demands that the way back
// leads where it came from.
func (g *tourist) move(d starferry.Direction) {
	g.t.Helper()
	ask := map[starferry.Direction]*world{starferry.Forward: g.sides[g.home], starferry.Back: g.sides[1-g.home]}
	there := ask[d].translate(d, g.cut)
	require.True(g.t, there.Final(), "%+v", there)
	require.Len(g.t, there.Cut, len(g.cut))
	back := ask[d].translate(map[starferry.Direction]starferry.Direction{starferry.Forward: starferry.Back, starferry.Back: starferry.Forward}[d], there.Cut)
	require.True(g.t, back.Final(), "%+v", back)
	for tp, p := range g.cut {
		g.same(tp, p, back.Cut[tp])
	}
	g.home, g.cut = 1-g.home, there.Cut
	g.moves++
}

// same demands that two places leave the same records to be handled.
func (g *tourist) same(tp starferry.TopicPartition, a, b starferry.Place) {
	g.t.Helper()
	for _, r := range kafkatest.Records(g.t, g.sides[g.home].src, tp.Topic, tp.Partition) {
		if o := starferry.Offset(r.Offset); !aborted(string(r.Value)) {
			require.Equal(g.t, isHandled(a, o), isHandled(b, o), "there and back: %s@%d (%s): %v became %v", tp, o, r.Value, a, b)
		}
	}
}

func isHandled(p starferry.Place, o starferry.Offset) bool {
	in := o < p.Next
	for _, r := range p.Handled {
		in = in || r.Contains(o)
	}
	return in
}

// everythingOnce demands that the group has handled what there is, once.
func (g *tourist) everythingOnce() {
	g.t.Helper()
	for tp := range g.cut {
		for _, r := range kafkatest.Records(g.t, g.sides[g.home].src, tp.Topic, tp.Partition) {
			if !aborted(string(r.Value)) {
				require.Equal(g.t, 1, g.handled[recordID(tp, r)], "%s at %s@%d", r.Value, tp, r.Offset)
			}
		}
	}
}

// Guarantee 3: A switch loses nothing and hands no record to a handler twice.
// A group's place goes to and fro while producers write on both sides, one shard
// dies, and the maps are lost.
func TestAGroupGoesToAndFroWhileBothSidesAreWritten(t *testing.T) {
	w := newWorld(t)
	back := w.back()
	topic := w.topic(2, nil)
	w.put(topic, 0, numbered(0, 5)...)
	g := newTourist(w, back, topic, 2)
	dirs := []string{t.TempDir(), t.TempDir()}
	one := w.shard("s1", dirs[0])
	two := w.shard("s2", dirs[1])
	w.link(topic)
	back.link(topic)
	stop := bothWays([]*world{w, back}, topic, 2, 1)
	moved := func(side *world) int64 { return side.status().Lanes[0].Copied }
	require.Eventually(t, func() bool { return moved(w) > 20 && moved(back) > 20 }, patience, 10*time.Millisecond)
	for range 2 {
		for _, d := range []starferry.Direction{starferry.Forward, starferry.Back} {
			g.read(20)
			g.move(d)
			g.read(10)
			g.move(d)
		}
		kafkatest.ProduceTxn(t, w.src, topic, 0, g.moves < 8, numbered(600_000, 4)...)
		one.Kill()
	}
	require.NoError(t, two.Close())
	require.NoError(t, os.RemoveAll(dirs[1]))
	w.shard("s3", dirs[1])
	g.read(30)
	g.move(starferry.Forward)
	stop()
	settledBoth(w, back)
	union(w, topic, 2)
	g.move(starferry.Back)
	g.read(0)
	g.everythingOnce()
	g.move(starferry.Forward)
	g.read(0)
	g.everythingOnce()
}

// Without the map of the link that brought records back nobody can tell which
// of them are handled: there is no answer, until that link is there again.
func TestACutNeedsTheLinkThatLeadsBack(t *testing.T) {
	w := newWorld(t)
	back := w.back()
	topic := w.topic(1, nil)
	tp := starferry.TopicPartition{Topic: topic}
	w.put(topic, 0, numbered(0, 5)...)
	w.shard("s1", t.TempDir())
	w.link(topic)
	w.caughtUp()
	back.put(topic, 0, numbered(1_000_000, 5)...)
	require.Equal(t, starferry.Offset(3), w.translate(starferry.Back, w.translate(starferry.Forward, starferry.Cut{tp: {Next: 3}}).Cut).Cut[tp].Next)
	back.link(topic)
	settledBoth(w, back)
	both := w.translate(starferry.Forward, starferry.Cut{tp: {Next: 7}})
	require.True(t, both.Final(), "%+v", both)
	require.Equal(t, starferry.Exact, both.Answers[tp].Status)

	require.NoError(t, w.client.Stop(t.Context(), back.name()))
	for _, d := range []starferry.Direction{starferry.Forward, starferry.Back} {
		got, err := w.client.Translate(t.Context(), w.name(), d, starferry.Cut{tp: {Next: 3}})
		require.NoError(t, err)
		require.Contains(t, got.Missing[tp], "link "+string(back.name())+" has brought records")
	}
	back.link(topic)
	require.True(t, both.Cut[tp].Equal(w.translate(starferry.Forward, starferry.Cut{tp: {Next: 7}}).Cut[tp]))
}
