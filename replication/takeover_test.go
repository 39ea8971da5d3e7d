package replication

import (
	"context"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/replication/offsetmap"
)

// traffic produces numbered batches to all partitions until it is stopped, and
// returns then.
func (w *world) traffic(topic starferry.Topic, partitions int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ctx.Err() == nil; n += 3 {
			for p := range partitions {
				w.put(topic, starferry.Partition(p), numbered(n, 3)...)
			}
			_ = wait(ctx, 2*time.Millisecond)
		}
	})
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); wg.Wait() }) }
	w.t.Cleanup(stop)
	return stop
}

func (w *world) everythingIsThere(topic starferry.Topic, partitions int) {
	w.t.Helper()
	w.caughtUp()
	for p := range partitions {
		source := kafkatest.Records(w.t, w.src, topic, starferry.Partition(p))
		target := w.sameRecords(topic, starferry.Partition(p), source)
		w.exactMap(topic, starferry.Partition(p), source, target)
	}
}

func (w *world) owners() map[ShardID]int {
	out := map[ShardID]int{}
	for _, l := range w.status().Lanes {
		if l.State == Copying {
			out[l.Owner]++
		}
	}
	return out
}

// Two shards share a link; when one dies under traffic, the other goes on, and
// nothing is lost or doubled. It has never seen the dead one's maps: it reads
// the target log.
func TestAnotherShardTakesOver(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(8, nil)
	stop := w.traffic(topic, 8)
	a := w.shard("a", t.TempDir())
	w.link(topic)
	w.shard("b", t.TempDir())
	require.Eventually(t, func() bool { o := w.owners(); return o["a"] == 4 && o["b"] == 4 }, patience, 50*time.Millisecond)
	a.Kill()
	require.Eventually(t, func() bool { return w.owners()["b"] == 8 }, patience, 50*time.Millisecond)
	stop()
	w.everythingIsThere(topic, 8)
}

// A shard that leaves in order hands over at once and comes back later.
func TestShardsComeAndGo(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(4, nil)
	stop := w.traffic(topic, 4)
	dirs := map[ShardID]string{"a": t.TempDir(), "b": t.TempDir()}
	a := w.shard("a", dirs["a"])
	w.link(topic)
	for range 2 {
		b := w.shard("b", dirs["b"])
		require.Eventually(t, func() bool { return w.owners()["b"] == 2 }, patience, 20*time.Millisecond)
		require.NoError(t, a.Close())
		require.Eventually(t, func() bool { return w.owners()["b"] == 4 }, patience, 20*time.Millisecond)
		a = w.shard("a", dirs["a"])
		require.Eventually(t, func() bool { return w.owners()["a"] == 2 }, patience, 20*time.Millisecond)
		require.NoError(t, b.Close())
		require.Eventually(t, func() bool { return w.owners()["a"] == 4 }, patience, 20*time.Millisecond)
	}
	stop()
	w.everythingIsThere(topic, 4)
}

// segments reads the whole map of each lane of the world's link.
func (w *world) segments(dir string) map[starferry.TopicPartition][]offsetmap.Segment {
	s, err := offsetmap.OpenStore(dir, offsetmap.Options{})
	require.NoError(w.t, err)
	defer func() { require.NoError(w.t, s.Close()) }()
	keys, err := s.Lanes(w.name())
	require.NoError(w.t, err)
	out := map[starferry.TopicPartition][]offsetmap.Segment{}
	for _, k := range keys {
		l, err := s.Lane(k)
		require.NoError(w.t, err)
		for seg, err := range l.Segments(0) {
			require.NoError(w.t, err)
			out[k.TopicPartition] = append(out[k.TopicPartition], seg)
		}
		require.NoError(w.t, l.Close())
	}
	return out
}

// Guarantee 2: The offset map is exact in both directions, and survives the
// loss of the store: what is rebuilt from the target log is what was lost,
// holes and fences included.
func TestALostMapIsRebuilt(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(2, nil)
	dir := t.TempDir()
	put := func(from int) {
		for p := range starferry.Partition(2) {
			w.put(topic, p, numbered(from, 7)...)
			kafkatest.ProduceTxn(t, w.src, topic, p, true, numbered(from+7, 3)...)
			kafkatest.ProduceTxn(t, w.src, topic, p, false, numbered(from+900, 3)...)
			w.put(topic, p, numbered(from+10, 2)...)
		}
	}
	for round := range 3 {
		put(1000 * round)
		s := w.shard("s", dir)
		w.link(topic)
		w.caughtUp()
		put(1000*round + 500)
		w.caughtUp()
		require.NoError(t, s.Close())
	}
	before := w.segments(dir)
	require.Len(t, before, 2)
	require.NoError(t, os.RemoveAll(dir))
	s := w.shard("s", dir)
	w.link(topic)
	w.caughtUp()
	require.NoError(t, s.Close())
	require.Equal(t, before, w.segments(dir))
}

// What was aborted is told from what was not in a lane of any length: its
// rebuilding reads the source in answers as large as a request may have.
func TestALongLanesMapIsRebuilt(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	const size = 400_000
	for n := range 16 { // more than one answer of the source holds
		ms := numbered(2*n, 2)
		for i := range ms {
			ms[i].Value = append(make([]byte, size/2), ms[i].Value...)
		}
		kafkatest.ProduceTxn(t, w.src, topic, 0, n%3 != 1, ms...)
	}
	dir := t.TempDir()
	s := w.shard("s", dir)
	w.link(topic)
	w.caughtUp()
	require.NoError(t, s.Close())
	before := w.segments(dir)
	require.NoError(t, os.RemoveAll(dir))
	s = w.shard("s", dir)
	w.caughtUp()
	require.NoError(t, s.Close())
	require.Equal(t, before, w.segments(dir))
}

// "... and of NATS": with all of JetStream's buckets deleted under traffic the
// link is asked for again and goes on where it was.
func TestNATSMayBeEmptied(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(2, nil)
	stop := w.traffic(topic, 2)
	w.shard("s", t.TempDir())
	w.link(topic)
	require.Eventually(t, func() bool { return w.status().Lanes[0].Copied > 30 }, patience, 10*time.Millisecond)
	js, err := jetstream.New(w.nc)
	require.NoError(t, err)
	for _, b := range []string{linksBucket, ownersBucket, shardsBucket} {
		require.NoError(t, js.DeleteKeyValue(context.Background(), b))
	}
	fresh := NewClient(w.nc, w.clusters(), nil)
	fresh.leaseTTL = testTTL
	t.Cleanup(func() { _ = fresh.Close() })
	w.client = fresh
	w.link(topic)
	stop()
	w.everythingIsThere(topic, 2)
}

// A NATS that was away for longer than a lease lasts, and came back without the
// bucket of the leases, which is kept in memory, stops nobody for good.
func TestALeaseThatRanOutBesideItsBucketIsTakenAgain(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(2, nil)
	stop := w.traffic(topic, 2)
	s := w.shard("s", t.TempDir())
	w.link(topic)
	require.Eventually(t, func() bool { return w.status().Lanes[0].Copied > 30 }, patience, 10*time.Millisecond)
	js, err := jetstream.New(w.nc)
	require.NoError(t, err)
	s.lease.until.Store(0)
	require.NoError(t, js.DeleteKeyValue(context.Background(), shardsBucket))
	s.lease.until.Store(0)
	require.Eventually(t, s.lease.Valid, patience, 10*time.Millisecond)
	stop()
	w.everythingIsThere(topic, 2)
}

// The fence refuses whoever owned the bucket before.
func TestTheOldOwnerIsRefused(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	tp := starferry.TopicPartition{Topic: topic}
	w.put(topic, 0, numbered(0, 5)...)
	s := w.shard("s", t.TempDir())
	w.link(topic)
	w.caughtUp()
	c, _ := s.link(w.name())
	l, _ := c.lane(tp)
	old := l.producer
	l.halt(Recovering, "")
	l.bucket.refence(l, errLease)
	require.Eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.producer != old && l.state == Copying
	}, patience, 5*time.Millisecond)
	late := kafkatest.Batch(numbered(900, 1), old, 5, false)
	tgt := kafkatest.Open(t, w.tgt)
	_, err := kafkatest.ProduceBatch(tgt, tp, "", late)
	require.ErrorIs(t, err, kafka.InvalidProducerEpoch)
	w.put(topic, 0, numbered(5, 5)...)
	w.everythingIsThere(topic, 1)
}

// Foreign records on the target are not taken for copies.
func TestForeignRecordsArePassedOver(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	tp := starferry.TopicPartition{Topic: topic}
	w.put(topic, 0, numbered(0, 5)...)
	s := w.shard("s", t.TempDir())
	w.link(topic)
	w.caughtUp()
	kafkatest.Produce(t, w.tgt, topic, 0, numbered(700, 4)...)
	w.put(topic, 0, numbered(5, 5)...)
	w.caughtUp()
	require.NoError(t, s.Close())
	w.shard("s", t.TempDir())
	w.link(topic)
	w.put(topic, 0, numbered(10, 5)...)
	w.caughtUp()
	target := kafkatest.Records(t, w.tgt, topic, 0)
	require.Len(t, target, 19)
	require.Equal(t, "v700", string(target[5].Value))
	for from, index := range map[starferry.Offset]int{0: 0, 4: 4, 5: 9, 9: 13, 10: 14} {
		a := w.translate(starferry.Forward, starferry.Cut{tp: {Next: from}}).Answers[tp]
		require.Equal(t, starferry.Answer{Offset: starferry.Offset(target[index].Offset), Status: starferry.Exact}, a, "source %d", from)
	}
}

// Partitions that are added to the source are followed.
func TestNewPartitionsAreFollowed(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	w.shard("s", t.TempDir(), func(c *ShardConfig) { c.refresh = 100 * time.Millisecond })
	w.link(topic)
	src := kafkatest.Open(t, w.src)
	require.NoError(t, follow(context.Background(), src, topic, 1, 3))
	w.put(topic, 2, numbered(0, 5)...)
	require.Eventually(t, func() bool { return len(w.status().Lanes) == 3 }, patience, 50*time.Millisecond)
	w.everythingIsThere(topic, 3)
}

// A target that lost the last copies, and has other records in their places,
// is not taken for one that has them.
func TestATruncatedTargetIsFoundOut(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	w.put(topic, 0, numbered(0, 5)...)
	dir := t.TempDir()
	s := w.shard("s", dir)
	w.link(topic)
	w.caughtUp()
	require.NoError(t, s.Close())
	kafkatest.Produce(t, w.tgt, topic, 0, numbered(700, 6)...)
	w.put(topic, 0, numbered(5, 5)...)
	w.mapMore(dir, 5) // as it was before the target lost them
	w.shard("s", dir)
	w.link(topic)
	w.caughtUp()
	require.Equal(t, slices.Concat(values(numbered(0, 5)), values(numbered(700, 6)), values(numbered(5, 5))),
		values(kafkatest.Records(t, w.tgt, topic, 0)))
}

// mapMore makes the map of the world's only lane hold n records more.
func (w *world) mapMore(dir string, n int64) {
	s, err := offsetmap.OpenStore(dir, offsetmap.Options{})
	require.NoError(w.t, err)
	keys, err := s.Lanes(w.name())
	require.NoError(w.t, err)
	require.Len(w.t, keys, 1)
	l, err := s.Lane(keys[0])
	require.NoError(w.t, err)
	source, target := l.Next()
	require.NoError(w.t, l.Append(offsetmap.Run{Source: source, Target: target, Count: n}))
	require.NoError(w.t, s.Close())
}
