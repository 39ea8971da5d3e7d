package scripts_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/builtins/memory"
	"github.com/starferry/starferry/scripting"
)

// fleetOf is a world of n groups, every third of them gold, that share topics.
func fleetOf(n int) *memory.World {
	w := memory.New()
	for i := range n {
		sla := "bronze"
		if i%3 == 2 {
			sla = "gold"
		}
		topics := []starferry.Topic{starferry.Topic(fmt.Sprintf("t%02d", i)), starferry.Topic(fmt.Sprintf("t%02d", i+1))}
		for _, t := range topics {
			w.On["old"][t] = 2
		}
		w.Census = append(w.Census, builtins.GroupInfo{
			Name: starferry.Group(fmt.Sprintf("g%02d", i)), Topics: topics, Partitions: 4,
			Labels: map[string]string{"sla": sla}, Instances: 1,
		})
	}
	return w
}

func moved(w *memory.World) (there int) {
	for _, h := range w.Homes {
		if h.Cluster == "new" {
			there++
		}
	}
	return there
}

func gradual(t *testing.T, w *memory.World) (*scripting.Runner, *scripting.Program, map[string]string) {
	r := runner(t, w, scripting.NewMemoryJournal())
	return r, shipped(t, r, "move_groups.star"), map[string]string{
		"match": "g*", "by": "sla", "order": "bronze,gold", "wave": "4", "at_once": "3", "pause": "10s",
	}
}

func TestMoveGroupsInWavesAndBack(t *testing.T) {
	ctx := context.Background()
	w := fleetOf(12)
	r, p, params := gradual(t, w)
	out, err := r.Run(ctx, p, params, "r1")
	require.NoError(t, err)
	require.Equal(t, scripting.StateFinished, out.State)
	require.Equal(t, 12, moved(w))
	require.Len(t, w.Links["old-new"].Topics, 13, "one link, and a topic that two groups read once")
	s, err := r.Status(ctx, "r1")
	require.NoError(t, err)
	require.Len(t, s.Locks, 12)
	var titles []string
	for _, f := range s.Phases[2].Forks {
		titles = append(titles, fmt.Sprintf("%s: %d", f.Title, len(f.Branches)))
	}
	require.Equal(t, []string{
		"canary: 1", "watch canary: 1", "wave 1 (sla=bronze): 4", "watch wave 1 (sla=bronze): 4", "wave 2 (sla=bronze): 3",
		"watch wave 2 (sla=bronze): 3", "wave 3 (sla=gold): 4",
	}, titles)

	_, err = r.Rollback(ctx, "r1")
	require.NoError(t, err)
	require.Zero(t, moved(w))
	require.Empty(t, w.Links)
}

// One group cannot be moved: its wave ends, the later ones are not begun, the
// run stops with 3. Mended, it goes on and moves nobody twice.
func TestAWaveThatFailsStopsThere(t *testing.T) {
	ctx := context.Background()
	w := fleetOf(12)
	w.Refuses["g04"] = "member java-1 is no instance"
	r, p, params := gradual(t, w)
	_, err := r.Run(ctx, p, params, "r1")
	require.Equal(t, scripting.ExitUnmet, scripting.ExitCode(err))
	for _, want := range []string{"expected: wave 1 (sla=bronze): all 4 done", "g04", "failed and undone", "refused: member java-1 is", "starferry resume r1"} {
		require.ErrorContains(t, err, want)
	}
	require.GreaterOrEqual(t, moved(w), 2, "the canary, and what was under way")
	require.Less(t, moved(w), 5)
	require.NotContains(t, w.Homes, starferry.Group("g02"), "a gold one")
	require.NotContains(t, w.Homes, starferry.Group("g04"))

	_, err = r.Run(ctx, shipped(t, r, "move_group.star"), map[string]string{"group": "g09"}, "r2")
	require.Equal(t, scripting.ExitLocked, scripting.ExitCode(err), "one lock for each group, whatever script")

	delete(w.Refuses, "g04")
	out, err := r.Resume(ctx, "r1")
	require.NoError(t, err)
	require.Equal(t, scripting.StateFinished, out.State)
	require.Equal(t, 12, moved(w))
	for g, h := range w.Homes {
		require.Equal(t, starferry.Epoch(2), h.Epoch, "%s moved once", g)
	}
	_, err = r.Rollback(ctx, "r1")
	require.NoError(t, err)
	require.Zero(t, moved(w))
}

func TestAGateOfPeople(t *testing.T) {
	ctx := context.Background()
	w := fleetOf(3)
	r, p, params := gradual(t, w)
	params["gate"] = "approve"
	_, err := r.Run(ctx, p, params, "r1")
	require.Equal(t, scripting.ExitUnmet, scripting.ExitCode(err))
	require.ErrorContains(t, err, "a yes to: canary has moved; move wave 1 (sla=bronze) (1 groups)?")
	require.Equal(t, 1, moved(w))
	_, err = r.Resume(ctx, "r1")
	require.ErrorContains(t, err, "wave 1 (sla=bronze) has moved; move wave 2 (sla=gold)")
	require.Equal(t, 2, moved(w))
	_, err = r.Resume(ctx, "r1")
	require.NoError(t, err)
	require.Equal(t, 3, moved(w))
}

// The plan shows the waves before anything happens, and changes nothing.
func TestThePlanShowsTheWaves(t *testing.T) {
	w := fleetOf(12)
	r, p, params := gradual(t, w)
	plan, err := r.Plan(context.Background(), p, params)
	require.NoError(t, err)
	require.Zero(t, w.Writes)
	text := plan.String()
	for _, want := range []string{
		"waves  12 groups in 4 waves", "WAVE ", "canary               1       4           g00", "wave 1 (sla=bronze)  4       16          g01, g03, g04, g06",
		"replicate  make link old-new: copy 13 topics (26 partitions)", "parallel  wave 3 (sla=gold): 4, 3 at once",
		"· switch_consumer  move group g02 from old (epoch 1) to new over link old-new … and 3 more alike",
		"12 free: group g00, group g01",
	} {
		require.Contains(t, text, want)
	}
}

func TestNoGroupFits(t *testing.T) {
	w := fleetOf(3)
	r, p, _ := gradual(t, w)
	_, err := r.Run(context.Background(), p, map[string]string{"match": "x*", "labels": "sla=gold"}, "r1")
	require.Equal(t, scripting.ExitUnmet, scripting.ExitCode(err))
	require.ErrorContains(t, err, "groups on old that fit x* with sla=gold")
	_, err = r.Plan(context.Background(), p, map[string]string{"labels": "gold"})
	require.ErrorContains(t, err, "want labels such as")
}

// Nobody can say whether a group that cannot be read is one of those that were
// meant: it is not passed over in silence.
func TestAGroupThatCannotBeReadIsNamed(t *testing.T) {
	w := fleetOf(3)
	w.Census[1].Unknown = "its coordinator is silent"
	r, p, params := gradual(t, w)
	_, err := r.Run(context.Background(), p, params, "r1")
	require.Equal(t, scripting.ExitUnmet, scripting.ExitCode(err))
	require.ErrorContains(t, err, "g01")
	require.ErrorContains(t, err, "its coordinator is silent")
	require.ErrorContains(t, err, "2 other groups can be read")
	require.Zero(t, moved(w))

	params["except_"] = "g01"
	_, err = r.Run(context.Background(), p, params, "r2")
	require.NoError(t, err)
	require.Equal(t, 2, moved(w))
}
