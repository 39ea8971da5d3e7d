package replication

import (
	"testing"

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
	exact := 0
	for source, m := range copied {
		for _, ask := range []struct {
			d        starferry.Direction
			at, want starferry.Offset
		}{{starferry.Forward, starferry.Offset(source), starferry.Offset(m.Offset)}, {starferry.Back, starferry.Offset(m.Offset), starferry.Offset(source)}} {
			got, err := w.client.Translate(t.Context(), w.name(), ask.d, starferry.Cut{tp: {Next: ask.at}})
			require.NoError(t, err)
			if a := got.Answers[tp]; a.Status != starferry.Unknown {
				require.Equal(t, starferry.Answer{Offset: ask.want, Status: starferry.Exact}, a, "%s %d", ask.d, ask.at)
				exact++
			}
		}
	}
	require.Positive(t, exact)
}
