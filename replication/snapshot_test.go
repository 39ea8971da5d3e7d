package replication

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/jet"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/offsetmap"
)

// eager snapshots whatever has grown, when the test says so.
func eager(cfg *ShardConfig) { cfg.Snapshots = SnapshotConfig{Every: time.Hour, Growth: 1} }

// without neither makes nor uses snapshots.
func without(cfg *ShardConfig) { cfg.Snapshots = SnapshotConfig{Every: -1} }

// snapshotNow puts the maps of a shard's lanes into the object store.
func (w *world) snapshotNow(s *Shard) {
	w.t.Helper()
	for _, c := range s.running() {
		c.snapshot(context.Background())
	}
	require.NotEmpty(w.t, w.objects(), "nothing was snapshotted")
}

func (w *world) objectStore() jetstream.ObjectStore {
	js, err := jetstream.New(w.nc)
	require.NoError(w.t, err)
	store, err := js.ObjectStore(context.Background(), snapshotsBucket)
	require.NoError(w.t, err)
	return store
}

func (w *world) objects() map[string]*jetstream.ObjectInfo {
	out := map[string]*jetstream.ObjectInfo{}
	infos, err := w.objectStore().List(context.Background())
	if !errors.Is(err, jetstream.ErrNoObjectsFound) {
		require.NoError(w.t, err)
	}
	for _, o := range infos {
		out[o.Name] = o
	}
	return out
}

// many puts numbered batches that a map of one record to a run takes apart:
// every other transaction is aborted.
func (w *world) many(topic starferry.Topic, from, rounds int) {
	for n := range rounds {
		w.put(topic, 0, numbered(from+10*n, 8)...)
		kafkatest.ProduceTxn(w.t, w.src, topic, 0, n%2 == 0, numbered(from+10*n+8, 2)...)
	}
}

// pairs are the records of the first partition that were copied, and their copies.
func (w *world) pairs(topic starferry.Topic) (source, target []kafka.Message) {
	target = kafkatest.Records(w.t, w.tgt, topic, 0)
	copied := map[string]bool{}
	for _, m := range target {
		copied[string(m.Value)] = true
	}
	for _, m := range kafkatest.Records(w.t, w.src, topic, 0) {
		if copied[string(m.Value)] {
			source = append(source, m)
		}
	}
	return source, target
}

// deleteBelow removes what a partition has below an offset, as retention does.
func (w *world) deleteBelow(on starferry.Cluster, tp starferry.TopicPartition, below starferry.Offset) {
	w.t.Helper()
	c := kafkatest.Open(w.t, on)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	leader, _, err := c.Leader(ctx, tp)
	require.NoError(w.t, err)
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.TimeoutMillis = 5000
	rt := kmsg.NewDeleteRecordsRequestTopic()
	rp := kmsg.NewDeleteRecordsRequestTopicPartition()
	rt.Topic, rp.Partition, rp.Offset = string(tp.Topic), int32(tp.Partition), int64(below)
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := c.DoOn(ctx, leader, req)
	require.NoError(w.t, err)
	require.NoError(w.t, wire.Code(resp.(*kmsg.DeleteRecordsResponse).Topics[0].Partitions[0].ErrorCode))
}

// The map of a dead shard's lane comes from its snapshot on another machine,
// which reads back only what was copied since, and is what reading back all of
// the target would have made of it.
func TestATakeoverReadsBackOnlyTheTail(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	w.many(topic, 0, 60)
	a := w.shard("a", t.TempDir(), eager)
	w.link(topic)
	w.caughtUp()
	w.snapshotNow(a)
	w.many(topic, 5000, 3)
	w.caughtUp()
	a.Kill()

	dir := t.TempDir()
	b := w.shard("b", dir, eager)
	w.owned("b")
	tail := w.caughtUp().Lanes[0].ReadBack
	b.Kill()
	full := t.TempDir()
	c := w.shard("c", full, without)
	w.owned("c")
	all := w.caughtUp().Lanes[0].ReadBack
	require.NoError(t, c.Close())
	require.Equal(t, w.segments(full), w.segments(dir), "the map rebuilt in full")
	require.Positive(t, tail)
	require.Less(t, 5*tail, all, "only the tail is read back")
}

// owned waits until a shard owns all lanes, and copies.
func (w *world) owned(id ShardID) {
	w.t.Helper()
	for end := time.Now().Add(patience); ; {
		o := w.owners()
		if len(o) == 1 && o[id] > 0 {
			return
		}
		require.True(w.t, time.Now().Before(end), "shard %s does not own all: %+v", id, w.status().Lanes)
		_ = wait(context.Background(), 20*time.Millisecond)
	}
}

// What retention has taken from the target since no rebuild can know; the
// snapshot does.
func TestASnapshotKnowsWhatTheTargetHasLost(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	dir := t.TempDir()
	a := w.shard("a", dir, eager)
	w.link(topic)
	for n := range 10 { // in batches of their own
		w.many(topic, 100*n, 1)
		w.caughtUp()
	}
	require.NoError(t, a.Close(), "which hands its snapshots over")
	before := w.segments(dir)
	source, target := w.pairs(topic)
	tp := starferry.TopicPartition{Topic: topic}
	w.deleteBelow(w.tgt, tp, starferry.Offset(target[len(target)/2].Offset))

	lost := t.TempDir()
	b := w.shard("b", lost, without)
	w.owned("b")
	w.caughtUp()
	b.Kill()
	require.NotEqual(t, before, w.segments(lost), "the test must take away what a rebuild needs")

	other := t.TempDir()
	c := w.shard("c", other, eager)
	w.owned("c")
	w.caughtUp()
	w.exactMap(topic, 0, source, target)
	require.NoError(t, c.Close())
	require.Equal(t, before, w.segments(other))
}

// Snapshots that cannot be used are as good as none.
func TestSnapshotsThatAreNoneAreIgnored(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, w *world, o *jetstream.ObjectInfo, data []byte){
		"damaged": func(t *testing.T, w *world, o *jetstream.ObjectInfo, data []byte) {
			data[len(data)/2] ^= 1
			w.putAgain(t, o, data)
		},
		"cut off": func(t *testing.T, w *world, o *jetstream.ObjectInfo, data []byte) {
			w.putAgain(t, o, data[:len(data)-9])
		},
		"of another life": func(t *testing.T, w *world, o *jetstream.ObjectInfo, data []byte) {
			o.Metadata[metaIncarnation] = "x.y"
			w.putAgain(t, o, data)
		},
		"of another lane": func(t *testing.T, w *world, o *jetstream.ObjectInfo, _ []byte) {
			w.putAgain(t, o, foreign(t))
		},
		"emptied": func(t *testing.T, w *world, o *jetstream.ObjectInfo, _ []byte) {
			require.NoError(t, w.objectStore().Delete(context.Background(), o.Name))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			topic := w.topic(1, nil)
			w.many(topic, 0, 5)
			dir := t.TempDir()
			a := w.shard("a", dir, eager)
			w.link(topic)
			w.caughtUp()
			require.NoError(t, a.Close())
			before := w.segments(dir)
			for _, o := range w.objects() {
				data, err := w.objectStore().GetBytes(context.Background(), o.Name)
				require.NoError(t, err)
				spoil(t, w, o, data)
			}
			other := t.TempDir()
			b := w.shard("b", other, eager)
			w.owned("b")
			w.caughtUp()
			require.NoError(t, b.Close())
			require.Equal(t, before, w.segments(other))
		})
	}
}

func (w *world) putAgain(t *testing.T, o *jetstream.ObjectInfo, data []byte) {
	js, err := jetstream.New(w.nc)
	require.NoError(t, err)
	require.NoError(t, jet.PutObject(context.Background(), js, snapshotsBucket, jetstream.ObjectMeta{Name: o.Name, Metadata: o.Metadata}, data, o))
}

// foreign is a snapshot of a lane that nobody has.
func foreign(t *testing.T) []byte {
	s, err := offsetmap.OpenStore(t.TempDir(), offsetmap.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	key := offsetmap.LaneKey{Link: "else", TopicPartition: starferry.TopicPartition{Topic: "else"}}
	l, err := s.Lane(key)
	require.NoError(t, err)
	require.NoError(t, l.Reset(0, 0))
	require.NoError(t, l.Append(offsetmap.Run{Count: 1_000_000}))
	require.NoError(t, l.Flush())
	var b bytes.Buffer
	_, err = s.Snapshot(key, &b)
	require.NoError(t, err)
	return b.Bytes()
}

// An object store that is deleted under the shards is made again.
func TestTheObjectStoreMayVanish(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	w.many(topic, 0, 3)
	a := w.shard("a", t.TempDir(), eager)
	w.link(topic)
	w.caughtUp()
	w.snapshotNow(a)
	js, err := jetstream.New(w.nc)
	require.NoError(t, err)
	require.NoError(t, js.DeleteObjectStore(context.Background(), snapshotsBucket))
	w.many(topic, 500, 3)
	w.caughtUp()
	for range 2 { // the first finds out
		for _, c := range a.running() {
			c.snapshot(context.Background())
		}
	}
	require.Len(t, w.objects(), 1)
}

// Snapshots of a link go a while after it has ended; those of others stay.
func TestSnapshotsOfEndedLinksAreRemoved(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	w.put(topic, 0, numbered(0, 5)...)
	a := w.shard("a", t.TempDir(), eager)
	w.link(topic)
	w.caughtUp()
	w.snapshotNow(a)
	ctx := context.Background()
	w.putAgain(t, &jetstream.ObjectInfo{ObjectMeta: jetstream.ObjectMeta{Name: "ended/orders/0"}}, []byte("x"))
	a.snaps.read = time.Time{}
	require.NoError(t, a.sweep(ctx))
	require.Len(t, w.objects(), 2, "kept for a day")
	a.snaps.gone["ended"] = time.Now().Add(-25 * time.Hour)
	require.NoError(t, a.sweep(ctx))
	require.Len(t, w.objects(), 1)
	require.NotContains(t, w.objects(), "ended/orders/0")
}

// A snapshot that goes further than a map which was lost is not replaced by a
// shorter one.
func TestAShorterMapDoesNotReplaceALongerSnapshot(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	w.put(topic, 0, numbered(0, 5)...)
	a := w.shard("a", t.TempDir(), eager)
	w.link(topic)
	w.caughtUp()
	w.snapshotNow(a)
	var name string
	for n, o := range w.objects() {
		name = n
		o.Metadata[metaSource] = "1000"
		w.putAgain(t, o, []byte("of somebody who came later"))
	}
	w.put(topic, 0, numbered(5, 5)...)
	w.caughtUp()
	w.snapshotNow(a)
	data, err := w.objectStore().GetString(context.Background(), name)
	require.NoError(t, err)
	require.Equal(t, "of somebody who came later", data)
}

// Blocks below the starts of both logs are forgotten, those that either still
// has are not, and what is left stays exact in the snapshot too.
func TestWhatBothLogsHaveLostIsForgotten(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	tp := starferry.TopicPartition{Topic: topic}
	w.many(topic, 0, 150) // 3 segments each: several blocks
	dir := t.TempDir()
	a := w.shard("a", dir, eager)
	w.link(topic)
	w.caughtUp()
	source, target := w.pairs(topic)
	trim := func() starferry.Offset {
		var start starferry.Offset
		for _, c := range a.running() {
			c.trim(context.Background())
			l, _ := c.lane(tp)
			start, _ = l.omap.Start()
		}
		return start
	}
	require.Zero(t, trim())
	n := len(source) * 3 / 4
	w.deleteBelow(w.src, tp, starferry.Offset(source[n].Offset))
	require.Zero(t, trim(), "the target still has the copies")
	w.deleteBelow(w.tgt, tp, starferry.Offset(target[n].Offset))
	start := trim()
	require.Positive(t, start)
	require.LessOrEqual(t, start, starferry.Offset(source[n].Offset))
	w.exactMap(topic, 0, source[n:], target[n:])
	old := w.answer(starferry.Forward, starferry.Cut{tp: {Next: 0}})
	require.Equal(t, starferry.BeforeStart, old.Answers[tp].Status)
	require.Contains(t, old.Missing[tp], "older than what the map remembers")
	require.NoError(t, a.Close())
	w.many(topic, 9000, 2)
	require.NoError(t, os.RemoveAll(dir))
	w.shard("b", dir, eager)
	w.caughtUp()
	w.exactMap(topic, 0, source[n:], target[n:])
}

// answer asks as things stand, whatever comes.
func (w *world) answer(d starferry.Direction, cut starferry.Cut) starferry.Translation {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	t, err := w.client.Translate(ctx, w.name(), d, cut)
	require.NoError(w.t, err)
	return t
}

// A map that turns out to be damaged while the lane copies is opened anew, and
// the copy goes on.
func TestAMapThatIsDamagedMeanwhileIsMadeAnew(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	w.many(topic, 0, 5)
	a := w.shard("a", t.TempDir(), eager)
	w.link(topic)
	w.caughtUp()
	c, _ := a.link(w.name())
	l, _ := c.lane(starferry.TopicPartition{Topic: topic})
	before := l.sound()
	l.damaged(before, offsetmap.ErrDamaged)
	w.many(topic, 500, 5)
	w.caughtUp()
	require.NotSame(t, before, l.sound())
	source, target := w.pairs(topic)
	w.sameRecords(topic, 0, source)
	w.exactMap(topic, 0, source, target)
}
