package replication

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/testlog"
	"github.com/starferry/starferry/internal/wire"
)

// elsewhere is the same pair of clusters and the same link in another NATS:
// shards there hold themselves for the owners too, as they do for a moment after
// NATS has lost its leases.
func (w *world) elsewhere() *world { return worldOf(w.t, w.src, w.tgt) }

// holdNext lets the next request of a kind wait until it is released.
func holdNext(t *testing.T, c *kfake.Cluster, key kmsg.Key) (held <-chan struct{}, release func()) {
	arrived, over := make(chan struct{}), make(chan struct{})
	var once, released atomic.Bool
	c.ControlKey(int16(key), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if once.CompareAndSwap(false, true) {
			close(arrived)
			c.SleepControl(func() { <-over })
		}
		return nil, nil, false
	})
	release = func() {
		if released.CompareAndSwap(false, true) {
			close(over)
		}
	}
	t.Cleanup(release)
	return arrived, release
}

// An owner takes over in two steps: it reads the state topic, and shuts the
// others out. Another shard that holds itself for the owner too may begin an
// epoch and copy between the two. Its anchor is found all the same, and its
// copies are placed.
func TestAnEpochThatBeganDuringATakeoverIsPlaced(t *testing.T) {
	w, _, tgt := faulty(t)
	topic := w.topic(1, nil)
	w.put(topic, 0, numbered(0, 5)...)
	first := w.shard("first", t.TempDir())
	w.link(topic)
	w.caughtUp()
	require.NoError(t, first.Close())

	held, release := holdNext(t, tgt, kmsg.InitProducerID)
	w.shard("late", t.TempDir())
	<-held // it has read the state topic, and has shut nobody out

	other := w.elsewhere()
	between := other.shard("between", t.TempDir())
	other.link(topic)
	other.put(topic, 0, numbered(5, 5)...)
	other.caughtUp()
	require.NoError(t, between.Close())

	release()
	w.put(topic, 0, numbered(10, 5)...)
	w.everythingIsThere(topic, 1)
}

// The same for a lane that nobody had copied before: its map begins where the
// other one's epoch did.
func TestAFirstEpochThatBeganDuringATakeoverIsPlaced(t *testing.T) {
	w, _, tgt := faulty(t)
	topic := w.topic(1, nil)
	w.put(topic, 0, numbered(0, 5)...)
	held, release := holdNext(t, tgt, kmsg.InitProducerID)
	w.shard("late", t.TempDir())
	linked := make(chan error, 1)
	go func() { _, err := w.ensure(topic); linked <- err }()
	<-held

	other := w.elsewhere()
	between := other.shard("between", t.TempDir())
	other.link(topic)
	other.caughtUp()
	require.NoError(t, between.Close())

	release()
	require.NoError(t, <-linked)
	w.put(topic, 0, numbered(5, 5)...)
	w.everythingIsThere(topic, 1)
}

// A takeover that breaks off goes on with the map it has, also beyond where the
// log was seen to end before the fence. To build the map anew would lose what it
// says about records that the source has no more.
func TestATakeoverThatBreaksOffKeepsItsMap(t *testing.T) {
	w, _, tgt := faulty(t)
	var said testlog.Log
	w.log = slog.New(slog.NewTextHandler(&said, nil))
	topic := w.topic(1, nil)
	w.put(topic, 0, numbered(0, 5)...)
	first := w.shard("first", t.TempDir())
	w.link(topic)
	w.caughtUp()
	require.NoError(t, first.Close())

	held, release := holdNext(t, tgt, kmsg.InitProducerID)
	w.shard("late", t.TempDir())
	<-held
	other := w.elsewhere()
	between := other.shard("between", t.TempDir())
	other.link(topic)
	for n := range 8 { // more than one answer holds
		m := numbered(5+n, 1)
		m[0].Value = append(m[0].Value, make([]byte, 900_000)...)
		other.put(topic, 0, m...)
	}
	other.caughtUp()
	require.NoError(t, between.Close())

	var cut atomic.Bool
	tgt.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		tgt.KeepControl()
		for _, rt := range req.(*kmsg.FetchRequest).Topics {
			for _, p := range rt.Partitions {
				if p.FetchOffset >= 10 && cut.CompareAndSwap(false, true) {
					return nil, errors.New("cut"), true
				}
			}
		}
		return nil, nil, false
	})
	release()
	w.everythingIsThere(topic, 1)
	require.True(t, cut.Load(), "nothing broke off: the test is void")
	require.NotContains(t, said.String(), errDisagree.Error())
	require.NotContains(t, said.String(), "rebuilding the map")
}

// Who is fenced looks at the table before it takes over again: whoever came may
// be the owner, and to fence each other helps neither.
func TestWhoIsFencedLooksWhoTheOwnerIs(t *testing.T) {
	w, _, tgt := faulty(t)
	topic := w.topic(1, nil)
	w.put(topic, 0, numbered(0, 5)...)
	first := w.shard("first", t.TempDir(), func(c *ShardConfig) { c.LeaseTTL, c.settle = time.Hour, time.Hour })
	w.link(topic)
	w.caughtUp()

	var looks atomic.Int64
	sub, err := w.nc.Subscribe("$JS.API.DIRECT.GET.KV_"+ownersBucket+".>", func(*nats.Msg) { looks.Add(1) })
	require.NoError(t, err)
	require.NoError(t, w.nc.Flush())
	// A fake takes an old epoch for the newest: that somebody came has to be said.
	tgt.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, Err: kerr.ProducerFenced, Count: 1})
	l, _ := w.copier(first).lane(starferry.TopicPartition{Topic: topic})
	l.halt(Recovering, "")
	l.bucket.refence(l, errNoMarker)
	require.Eventually(t, func() bool { return looks.Load() > 0 }, patience, tick)
	require.NoError(t, sub.Unsubscribe())
	w.everythingIsThere(topic, 1)
}

// Two shards that both hold themselves for the owner fence each other again and
// again under traffic. Nothing is lost or doubled, no lane stops, and when one of
// them learns better, the other goes on.
func TestTwoOwnersDoNoHarm(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(2, nil)
	tp := starferry.TopicPartition{Topic: topic}
	first := w.shard("first", t.TempDir())
	w.link(topic)
	stop := w.traffic(topic, 2)
	began := wire.Producer{ID: -1, Epoch: -1}
	require.Eventually(t, func() bool { began = w.producerOf(first, tp); return began.ID >= 0 }, patience, tick)
	other := w.elsewhere()
	second := other.shard("second", t.TempDir())
	other.link(topic)
	require.Eventually(t, func() bool { return w.producerOf(first, tp).Epoch >= began.Epoch+8 }, 2*patience, tick)
	require.NoError(t, second.Close())
	stop()
	w.everythingIsThere(topic, 2)
}

// A marker that was lost can leave two epochs with one place in the log: the
// later one is the one that writes, and the earlier one is dropped.
func TestOfTwoAnchorsAtOnePlaceTheLaterEpochStays(t *testing.T) {
	for range 20 { // maps are read in any order
		s := newStateLog(nil)
		for epoch := range int16(4) {
			a := anchor{Link: "l", PID: 1, Epoch: epoch, Source: 5, Target: 9}
			s.anchors[a.key()] = a
		}
		as := s.Anchors("l", starferry.TopicPartition{})
		require.Equal(t, int16(3), as[len(as)-1].Epoch)
	}
}
