package fleet

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

// Two agents that drive the same switch stand in the same fence. What one has
// read the other must not change before it commits: the one that began last
// drives, until it has gone. Those that keep the fence are in nobody's way.
func TestOneAgentDrivesInAFence(t *testing.T) {
	c, _ := kafkatest.Pair(t)
	f := &Fleet{c: Config{Clusters: map[starferry.ClusterName]*wire.Cluster{c.Name: kafkatest.Open(t, c)}}, log: slog.New(slog.DiscardHandler)}
	g := kafkatest.Group(t)
	open := func(drives int64) *fence {
		x, err := f.openFence(t.Context(), c.Name, g, drives)
		require.NoError(t, err)
		return x
	}
	drives := func(x *fence) bool { _, ok := x.pass(); return ok }
	becomes := func(x *fence, want bool) {
		t.Helper()
		require.Eventually(t, func() bool { return drives(x) == want }, time.Minute, 20*time.Millisecond)
	}

	keeper := open(0)
	first := open(1)
	require.True(t, drives(first))
	was, _ := first.pass()
	second := open(2)
	require.True(t, drives(second), "the one that began last")
	becomes(first, false)
	require.Eventually(t, func() bool { return first.generation() > was.gen }, time.Minute, 20*time.Millisecond)
	require.False(t, drives(first), "also in the generation in which both stand")
	require.NoError(t, first.renew(t.Context()))
	require.False(t, drives(first), "nor does it help to join again")

	require.NoError(t, second.close(t.Context()))
	becomes(first, true)
	now, _ := first.pass()
	require.NotEqual(t, was, now, "what was read before counts no more")
	require.False(t, drives(keeper))
	require.NoError(t, first.close(t.Context()))
	require.NoError(t, keeper.close(t.Context()))
}
