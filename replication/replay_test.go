package replication

import (
	"testing"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
)

// Guarantee 2: The offset map is exact in both directions or says that it does
// not know. A record that was copied and then cleaned away on the source, while
// its copy still stands, is no hole: whoever was sent behind it would miss the
// copy.
func TestWhatWasCopiedAndThenCleanedIsNoHole(t *testing.T) {
	w, src, _ := faulty(t)
	topic := w.topic(1, map[string]string{"cleanup.policy": "compact", "retention.ms": "-1"})
	tp := starferry.TopicPartition{Topic: topic}
	for n := range 3 {
		w.put(topic, 0, round(n, 4)...)
	}
	s := w.shard("s", t.TempDir())
	w.link(topic)
	w.caughtUp()
	copied := kafkatest.Records(t, w.tgt, topic, 0)
	require.Len(t, copied, 30)
	require.NoError(t, s.Close())
	w.put(topic, 0, round(3, 4)...)
	w.put(topic, 0, round(4, 4)...) // the cleaner leaves the last batch alone
	src.Compact()
	require.Less(t, len(kafkatest.Records(t, w.src, topic, 0)), 30, "nothing was compacted: the test is void")
	w.shard("other", t.TempDir(), func(c *ShardConfig) { c.Snapshots.Every = -1 })
	w.link(topic)
	w.caughtUp()
	require.Positive(t, w.exactOrUnknown(tp, copied))
}

// exactOrUnknown makes sure that the map says of what was copied where it stands,
// or that it does not know. It returns how many answers were exact.
func (w *world) exactOrUnknown(tp starferry.TopicPartition, copied []kafka.Message) (exact int) {
	w.t.Helper()
	for source, m := range copied {
		for _, ask := range []struct {
			d        starferry.Direction
			at, want starferry.Offset
		}{{starferry.Forward, starferry.Offset(source), starferry.Offset(m.Offset)}, {starferry.Back, starferry.Offset(m.Offset), starferry.Offset(source)}} {
			got, err := w.client.Translate(w.t.Context(), w.name(), ask.d, starferry.Cut{tp: {Next: ask.at}})
			require.NoError(w.t, err)
			if a := got.Answers[tp]; a.Status != starferry.Unknown {
				require.Equal(w.t, starferry.Answer{Offset: ask.want, Status: starferry.Exact}, a, "%s %d", ask.d, ask.at)
				exact++
			}
		}
	}
	return exact
}

// Nor is a record a hole that was copied and that the cleaners of both clusters
// have taken since: whoever stood there once was not behind it. That copies are
// missing is told by sequences, or, where an epoch ended with them, by the offsets
// that the target's log lacks.
func TestWhatBothCleanersTookIsNoHole(t *testing.T) {
	for _, c := range []struct {
		name   string
		epochs bool
	}{{"in the middle of an epoch", false}, {"at the end of one", true}} {
		t.Run(c.name, func(t *testing.T) {
			w, src, tgt := faulty(t)
			topic := w.topic(1, map[string]string{"cleanup.policy": "compact", "retention.ms": "-1"})
			tp := starferry.TopicPartition{Topic: topic}
			again := func(n int) []kafka.Message { // all of whose keys come again
				out := numbered(100*n, 10)
				for i := range out {
					out[i].Key = []byte{byte('a' + i)}
				}
				return out
			}
			w.put(topic, 0, numbered(0, 5)...)
			w.put(topic, 0, again(1)...)
			w.put(topic, 0, again(2)...)
			dir := t.TempDir()
			s := w.shard("s", dir, func(c *ShardConfig) { c.Snapshots.Every = -1 })
			w.link(topic)
			w.caughtUp()
			if c.epochs {
				require.NoError(t, s.Close())
				s = w.shard("s", dir, func(c *ShardConfig) { c.Snapshots.Every = -1 })
			}
			w.put(topic, 0, numbered(5, 1)...)
			w.put(topic, 0, again(3)...)
			w.put(topic, 0, again(4)...)
			w.put(topic, 0, again(5)...) // the cleaner leaves the last batch alone
			w.caughtUp()
			copied := kafkatest.Records(t, w.tgt, topic, 0)
			require.Len(t, copied, 56)
			require.NoError(t, s.Close())
			src.Compact()
			tgt.Compact()
			require.Equal(t, 26, len(kafkatest.Records(t, w.src, topic, 0)), "not all of three rounds was compacted: the test is void")
			require.Equal(t, 26, len(kafkatest.Records(t, w.tgt, topic, 0)), "not all of three rounds was compacted: the test is void")
			w.shard("other", t.TempDir(), func(c *ShardConfig) { c.Snapshots.Every = -1 })
			w.link(topic)
			w.caughtUp()
			require.Positive(t, w.exactOrUnknown(tp, copied))
		})
	}
}
