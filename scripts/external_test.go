package scripts_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins/memory"
	"github.com/starferry/starferry/scripting"
)

func TestMoveExternalGroupThereAndBack(t *testing.T) {
	ctx := context.Background()
	w := memory.New()
	w.CaughtUp = 1000
	r := runner(t, w, scripting.NewMemoryJournal())
	p := shipped(t, r, "move_external_group.star")
	plan, err := r.Plan(ctx, p, map[string]string{"stop": "scale billing to 0"})
	require.NoError(t, err)
	require.Contains(t, plan.String(), "wait until group billing is empty (scale billing to 0), hold it there")

	_, err = r.Run(ctx, p, nil, "r1")
	require.NoError(t, err)
	require.Equal(t, starferry.ClusterName("new"), w.Lives.Cluster)
	require.Equal(t, []starferry.ClusterName{"old"}, w.Fenced)

	_, err = r.Rollback(ctx, "r1")
	require.NoError(t, err)
	require.Equal(t, starferry.ClusterName("old"), w.Lives.Cluster)
	require.Equal(t, []starferry.ClusterName{"new"}, w.Fenced, "the way back is fenced behind it too")
	require.Empty(t, w.Links)
}

func TestChoicesOfAnExternalMoveAreChecked(t *testing.T) {
	for args, want := range map[string]string{
		`mode = "foreign"`:                       "no choice",
		`mode = "external", on_ranges = "x"`:     "no choice",
		`stop = "now"`:                           "groups without the library",
		`mode = "external", fence = False`:       "always fenced",
		`mode = "external", on_missing = "zero"`: "no choice",
	} {
		w := memory.New()
		r := runner(t, w, scripting.NewMemoryJournal())
		p, err := scripting.LoadExec(`switch_consumer("billing", source = "old", target = "new", link = "l", `+args+`)`, r.Registry)
		if err == nil {
			_, err = r.Run(context.Background(), p, nil, "x")
		}
		require.ErrorContains(t, err, want, args)
		require.Zero(t, w.Writes, args)
	}
}

func TestAFenceIsRaisedAndLifted(t *testing.T) {
	ctx := context.Background()
	w := memory.New()
	r := runner(t, w, scripting.NewMemoryJournal())
	p, err := scripting.LoadExec(`fence_group("billing", on = "new", reason = "INC-1")`, r.Registry)
	require.NoError(t, err)
	_, err = r.Run(ctx, p, nil, "f1")
	require.NoError(t, err)
	require.Equal(t, []starferry.ClusterName{"new"}, w.Fenced)
	p, err = scripting.LoadExec(`lift_fence("billing", on = "new")`, r.Registry)
	require.NoError(t, err)
	_, err = r.Run(ctx, p, nil, "f2")
	require.NoError(t, err)
	require.Empty(t, w.Fenced)
	_, err = r.Rollback(ctx, "f2")
	require.NoError(t, err)
	require.Equal(t, []starferry.ClusterName{"new"}, w.Fenced)
}
