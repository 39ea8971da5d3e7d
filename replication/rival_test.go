package replication

import (
	"math"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
)

// otherBuckets is a number of buckets that puts a lane into another one than the
// first, where all are if there is only one.
func otherBuckets(tp starferry.TopicPartition) int {
	n := 2
	for (LinkSpec{Buckets: n}).BucketOf(tp) == 0 {
		n++
	}
	return n
}

// A link is made again with another number of buckets, and the old owner of a
// lane goes on within its lease. It begins an epoch after the new owner has looked
// for others and before that one's own anchor. Neither knows of the other from its
// fence, and their transactional ids are different ones; still, only one of them
// writes at a time.
func TestOwnersByTwoNumbersOfBucketsDoNoHarm(t *testing.T) {
	w, _, tgt := faulty(t)
	topic := w.topic(1, nil)
	tp := starferry.TopicPartition{Topic: topic}
	w.put(topic, 0, numbered(0, 5)...)
	held, release := holdNext(t, tgt, kmsg.AddPartitionsToTxn)
	w.asks.Buckets = 1
	late := w.shard("late", t.TempDir())
	linked := make(chan error, 1)
	go func() { _, err := w.ensure(topic); linked <- err }()
	<-held // it has found nobody to shut out

	other := w.elsewhere()
	other.asks.Buckets = otherBuckets(tp)
	between := other.shard("between", t.TempDir())
	other.link(topic)
	other.caughtUp()
	stop := other.traffic(topic, 1)

	release()
	require.NoError(t, <-linked)
	require.Eventually(t, func() bool { return w.producerOf(late, tp).ID >= 0 }, patience, tick)
	end := starferry.Offset(len(kafkatest.Records(t, w.src, topic, 0)))
	w.caughtUpTo(topic, end+100) // by then two that write at once have doubled something
	stop()
	require.NoError(t, between.Close())
	w.everythingIsThere(topic, 1)
}

// Owners of other buckets are shut out once: the anchors say that it was done.
func TestOtherBucketsAreShutOutOnce(t *testing.T) {
	w, _, tgt := faulty(t)
	topic := w.topic(1, nil)
	tp := starferry.TopicPartition{Topic: topic}
	w.put(topic, 0, numbered(0, 5)...)
	first := w.shard("first", t.TempDir())
	w.asks.Buckets = otherBuckets(tp)
	w.link(topic)
	w.caughtUp()
	require.NoError(t, w.client.Stop(t.Context(), w.name()))
	require.NoError(t, first.Close())

	theirs := LinkSpec{Name: w.name()}.txid(w.asks.BucketOf(tp))
	var shut atomic.Int64
	tgt.ControlKey(int16(kmsg.EndTxn), func(r kmsg.Request) (kmsg.Response, error, bool) {
		tgt.KeepControl()
		if r.(*kmsg.EndTxnRequest).TransactionalID == theirs {
			shut.Add(1)
		}
		return nil, nil, false
	})
	w.asks.Buckets = 1
	for _, id := range []ShardID{"second", "third"} {
		s := w.shard(id, t.TempDir())
		if id == "second" {
			w.link(topic)
		}
		w.put(topic, 0, numbered(5, 5)...)
		w.caughtUp()
		require.EqualValues(t, 1, shut.Load(), "shard %s", id)
		require.NoError(t, s.Close())
	}
	w.shard("last", t.TempDir())
	w.everythingIsThere(topic, 1)
}

// Which owners of other buckets are left to be shut out.
func TestRivals(t *testing.T) {
	s := newStateLog(nil)
	for n, ids := range map[int][]int64{0: {10}, 1: {11, 21}, 2: {12}} {
		for _, id := range ids {
			c := claim{Link: "l", Bucket: n, PID: id}
			s.claims[c.key()] = c
		}
	}
	at := func(id int64, epoch int16, b barred) anchor {
		return anchor{Link: "l", PID: id, Epoch: epoch, Barred: b}
	}
	for name, c := range map[string]struct {
		anchors []anchor
		want    map[int][]int64
	}{
		"nobody":                   {nil, map[int][]int64{}},
		"its own":                  {[]anchor{at(10, 1, nil), at(10, 2, nil)}, map[int][]int64{}},
		"another":                  {[]anchor{at(11, 0, nil), at(10, 1, nil)}, map[int][]int64{1: {11}}},
		"another, barred":          {[]anchor{at(11, 0, nil), at(10, 1, barred{11: 1})}, map[int][]int64{}},
		"another, back again":      {[]anchor{at(11, 0, nil), at(10, 1, barred{11: 1}), at(11, 1, nil)}, map[int][]int64{1: {11}}},
		"two, and one is barred":   {[]anchor{at(11, 3, nil), at(12, 0, nil), at(10, 1, barred{11: 4})}, map[int][]int64{2: {12}}},
		"barred by a third":        {[]anchor{at(11, 3, nil), at(12, 5, barred{11: 4}), at(10, 1, barred{12: 6})}, map[int][]int64{}},
		"one that got another id":  {[]anchor{at(11, 3, nil), at(21, 0, nil)}, map[int][]int64{1: {11, 21}}},
		"one whose id is outlived": {[]anchor{at(11, 3, nil), at(21, 0, nil), at(10, 1, barred{11: math.MaxInt16, 21: 1})}, map[int][]int64{}},
		"nobody's":                 {[]anchor{at(99, 0, nil)}, map[int][]int64{}},
	} {
		require.Equal(t, c.want, s.rivals(c.anchors, 0, barredBy(c.anchors)), name)
	}
	require.Equal(t, barred{11: 4}, barredBy([]anchor{at(11, 0, nil), at(10, 0, barred{11: 4, 12: 9}), at(10, 1, barred{11: 2})}), "of ids that still tell something")
}
