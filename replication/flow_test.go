package replication

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A steady copy shows its rate, whatever its batches; one that stands still soon
// shows none.
func TestFlow(t *testing.T) {
	for _, every := range []time.Duration{time.Millisecond, 100 * time.Millisecond, time.Second} {
		var f flow
		now := time.Unix(1, 0)
		for range int(time.Minute / every) {
			now = now.Add(every)
			f.add(int64(1e6*every.Seconds()), now)
		}
		require.InEpsilon(t, 1e6, f.as(now), 0.06, "every %v", every)
		require.InEpsilon(t, 1e6/2.72, f.as(now.Add(flowOver)), 0.06)
		require.Less(t, f.as(now.Add(2*time.Minute)), 10.0)
	}
	require.Zero(t, (&flow{}).as(time.Unix(1, 0)))
}

// A link says how much it copies.
func TestALinkShowsItsRate(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	w.put(topic, 0, numbered(0, 200)...)
	w.shard("s", t.TempDir())
	w.link(topic)
	require.Positive(t, w.caughtUp().Rate())
}
