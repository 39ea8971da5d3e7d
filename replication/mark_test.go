package replication

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

// markLanes writes the marks of all lanes of a shard, as a renewal does.
func (w *world) markLanes(s *Shard) {
	w.t.Helper()
	c, _ := s.link(w.name())
	for _, r := range c.running() {
		h := &holding{served: map[*lane]wire.Producer{}}
		r.mu.Lock()
		for _, l := range r.lanes {
			h.served[l] = l.producer
		}
		r.mu.Unlock()
		require.NoError(w.t, r.marks(w.t.Context(), h))
	}
}

// The map is lost, and the source no longer has what was copied first: a mark
// along the way says where the rest stands, and the copy goes on exactly.
func TestALostMapIsRebuiltFromAMark(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	tp := starferry.TopicPartition{Topic: topic}
	s := w.shard("s", t.TempDir(), without)
	w.link(topic)
	for n := range 4 {
		w.put(topic, 0, numbered(10*n, 10)...)
		w.caughtUp()
		w.markLanes(s)
	}
	w.put(topic, 0, numbered(40, 10)...)
	w.caughtUp()
	s.Kill()
	w.deleteBelow(w.src, tp, 25)
	w.put(topic, 0, numbered(50, 10)...)
	w.shard("other", t.TempDir(), without)
	w.caughtUp()
	target := w.sameRecords(topic, 0, numbered(0, 60))
	source := kafkatest.Records(t, w.src, topic, 0)
	w.exactMap(topic, 0, source[5:], target[30:])
	ctx := t.Context()
	got, err := w.client.Translate(ctx, w.name(), starferry.Forward, starferry.Cut{tp: {Next: 26}})
	require.NoError(t, err)
	require.Equal(t, starferry.BeforeStart, got.Answers[tp].Status)
}

// Old marks lie wider apart than new ones.
func TestMarksThinOut(t *testing.T) {
	var marks []anchor
	hour := time.Hour.Milliseconds()
	for n := range int64(24 * 14) {
		marks = append(marks, anchor{Source: starferry.Offset(n), At: n * hour, Seq: 1})
		if len(marks) > keptMarks {
			out := superfluous(marks, n*hour)
			kept := marks[:0:0]
			for _, m := range marks {
				if m.Source != out.Source {
					kept = append(kept, m)
				}
			}
			marks = kept
		}
	}
	require.Len(t, marks, keptMarks)
	var ages []int64
	for _, m := range marks {
		ages = append(ages, 24*14-1-int64(m.Source))
	}
	require.Zero(t, ages[keptMarks-1])
	require.LessOrEqual(t, ages[keptMarks-2], int64(6), "%v", ages)
	require.Less(t, ages[1]-ages[2], int64(24*12), "%v", ages)
	for i := range keptMarks - 2 {
		require.Greater(t, ages[i], ages[i+1], "%v", ages)
	}
	t.Log(ages)
}
