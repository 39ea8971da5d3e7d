package scripts_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins/memory"
	"github.com/starferry/starferry/scripting"
)

func TestMoveProducersThereAndBack(t *testing.T) {
	ctx := context.Background()
	w := memory.New()
	r := runner(t, w, scripting.NewMemoryJournal())
	p := shipped(t, r, "move_producers.star")
	plan, err := r.Plan(ctx, p, nil)
	require.NoError(t, err)
	require.Zero(t, w.Writes)
	require.Equal(t, 3, plan.Counts[scripting.WillDo], plan.String())
	require.Zero(t, plan.Counts[scripting.FailsNow], plan.String())
	require.Contains(t, plan.String(), "move the producers of orders (2 producers) from old to new over link old-new")

	_, err = r.Run(ctx, p, nil, "r1")
	require.NoError(t, err)
	require.Equal(t, starferry.ClusterName("new"), w.Written.Home.Cluster)
	require.Len(t, w.Links, 2)
	_, err = r.Rollback(ctx, "r1")
	require.NoError(t, err)
	require.Equal(t, starferry.ClusterName("old"), w.Written.Home.Cluster)
	require.Empty(t, w.Links)
}

// TestProducersWithoutTheLibraryAreWaitedFor: while somebody else writes on the
// source the run does not pass, and the producers are back where they were.
func TestProducersWithoutTheLibraryAreWaitedFor(t *testing.T) {
	w := memory.New()
	w.Written.Others = map[starferry.ClusterName]int64{"old": 3}
	r := runner(t, w, scripting.NewMemoryJournal())
	_, err := r.Run(context.Background(), shipped(t, r, "move_producers.star"), nil, "r1")
	require.Equal(t, scripting.ExitUnmet, scripting.ExitCode(err))
	require.ErrorContains(t, err, "wrote 3 records on old")
	require.Equal(t, starferry.ClusterName("old"), w.Written.Home.Cluster)
}
