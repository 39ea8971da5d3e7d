package replication

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
)

// After 2,147,483,648 records of one epoch sequences begin at 0 again, in the
// middle of a batch. The copy goes on, and a map that is lost is built anew
// across that place. Leaders that forgot a producer take any sequence from it,
// which saves us the first 2,147,483,643.
func TestSequencesBeginAnew(t *testing.T) {
	w, _ := behindAProxy(t, map[string]string{"producer.id.expiration.ms": "2000", "producer.id.expiration.check.interval.ms": "50"})
	topic := w.topic(1, nil)
	tp := starferry.TopicPartition{Topic: topic}
	s := w.shard("s", t.TempDir(), without)
	w.link(topic)
	n := 0
	put := func(records int) {
		ms := numbered(n, records)
		for i := range ms {
			ms[i].Time = time.Now()
		}
		w.put(topic, 0, ms...)
		n += records
		w.caughtUp()
	}
	put(5)
	require.NoError(t, wait(t.Context(), 3*time.Second)) // while the leader forgets
	l, _ := w.copier(s).lane(tp)
	l.mu.Lock()
	l.pipe.seq = math.MaxInt32 - 4
	epoch := l.producer
	l.mu.Unlock()
	w.markLanes(s)
	for _, records := range []int{4, 4, 4} { // up to the last but one, over the end, and behind it
		put(records)
	}
	l.mu.Lock()
	require.Equal(t, epoch, l.producer, "the lane was fenced meanwhile")
	require.EqualValues(t, 7, l.pipe.seq)
	l.mu.Unlock()
	s.Kill()
	w.deleteBelow(w.src, tp, 5) // so that the map begins at the mark
	w.shard("other", t.TempDir(), without)
	put(5)
	source, target := kafkatest.Records(t, w.src, topic, 0), kafkatest.Records(t, w.tgt, topic, 0)
	require.Len(t, source, 17)
	require.Equal(t, texts(source), texts(target[5:]))
	w.exactMap(topic, 0, source, target[5:])
	for i, m := range target {
		require.Equal(t, numbered(i, 1)[0].Value, m.Value)
	}
}
