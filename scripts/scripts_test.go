package scripts_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/builtins/memory"
	"github.com/starferry/starferry/scripting"
	"github.com/starferry/starferry/scripts"
)

func runner(t *testing.T, w *memory.World, j scripting.Journal) *scripting.Runner {
	reg, err := builtins.Registry(w.Ports())
	require.NoError(t, err)
	n := 0
	return &scripting.Runner{Registry: reg, Journal: j, Clock: w, By: "ann", NewID: func() string { n++; return fmt.Sprint("id", n) }}
}

func shipped(t *testing.T, r *scripting.Runner, name string) *scripting.Program {
	p, err := scripting.Load(scripting.FS(scripts.FS), name, r.Registry)
	require.NoError(t, err)
	return p
}

func TestMoveGroupThereAndBack(t *testing.T) {
	ctx := context.Background()
	w := memory.New()
	w.Behind[starferry.TopicPartition{Topic: "orders"}] = 10_000
	w.CaughtUp = 1000
	r := runner(t, w, scripting.NewMemoryJournal())
	p := shipped(t, r, "move_group.star")
	require.Contains(t, p.Doc(), "Move a consumer group")

	out, err := r.Run(ctx, p, nil, "r1")
	require.NoError(t, err)
	require.Equal(t, scripting.StateFinished, out.State)
	require.Equal(t, starferry.ClusterName("new"), w.Lives.Cluster)
	require.Contains(t, w.Links, starferry.LinkName("old-new"))
	require.Len(t, out.Held, 2)
	require.Equal(t, "billing-to-new", out.Name)

	_, err = r.Rollback(ctx, "r1")
	require.NoError(t, err)
	require.Equal(t, starferry.ClusterName("old"), w.Lives.Cluster)
	require.Empty(t, w.Links)
	s, err := r.Status(ctx, "r1")
	require.NoError(t, err)
	require.Equal(t, scripting.StateRolledBack, s.State)
	require.Empty(t, s.Held)
}

// Guarantee 6: A plan changes nothing
func TestPlanOfMoveWritesNothing(t *testing.T) {
	w := memory.New()
	j := scripting.NewMemoryJournal()
	r := runner(t, w, j)
	plan, err := r.Plan(context.Background(), shipped(t, r, "move_group.star"), map[string]string{"group": "billing"})
	require.NoError(t, err)
	require.Zero(t, w.Writes)
	runs, err := j.Runs(context.Background())
	require.NoError(t, err)
	require.Empty(t, runs)

	text := plan.String()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	for _, line := range strings.Split(text, "\n") {
		require.Contains(t, string(readme), line, "the plan that README.md shows")
	}
	require.Equal(t, 2, plan.Counts[scripting.WillDo], text)
	require.Zero(t, plan.Counts[scripting.FailsNow], text)
	require.Contains(t, text, "make link old-new: copy 2 topics (5 partitions) from old to new")
	require.Contains(t, text, "known only during the run")
}

func TestFailedVerifySwitchesBackAndSaysWhatIsHeld(t *testing.T) {
	w := memory.New()
	w.Exact = 4
	r := runner(t, w, scripting.NewMemoryJournal())
	_, err := r.Run(context.Background(), shipped(t, r, "move_group.star"), nil, "r1")
	var stop *scripting.StopError
	require.ErrorAs(t, err, &stop)
	require.Equal(t, scripting.ExitUnmet, scripting.ExitCode(err))
	require.Equal(t, starferry.ClusterName("old"), w.Lives.Cluster, "the phase undid itself")
	require.Contains(t, w.Links, starferry.LinkName("old-new"), "the copy stays")
	for _, want := range []string{"every partition went on at its exact place", "orders/3", "move_group.star:", "undone:   move group billing back", "copy/2:replicate", "starferry resume r1", "starferry rollback r1"} {
		require.Contains(t, err.Error(), want)
	}

	w.Exact = 5 // mended; resume tries the phase again
	out, err := r.Resume(context.Background(), "r1")
	require.NoError(t, err)
	require.Equal(t, scripting.StateFinished, out.State)
	require.Equal(t, starferry.ClusterName("new"), w.Lives.Cluster)
}

func TestLockIsHeldByAnUnfinishedRun(t *testing.T) {
	w := memory.New()
	w.Exact = 4
	r := runner(t, w, scripting.NewMemoryJournal())
	p := shipped(t, r, "move_group.star")
	_, err := r.Run(context.Background(), p, nil, "r1")
	require.Error(t, err)
	_, err = r.Run(context.Background(), p, nil, "r2")
	require.Equal(t, scripting.ExitLocked, scripting.ExitCode(err))
	require.ErrorContains(t, err, "held by run r1")
}

func TestClustersOfOtherNames(t *testing.T) {
	w := memory.New()
	r := runner(t, w, scripting.NewMemoryJournal())
	p := shipped(t, r, "move_group.star")
	_, err := r.Plan(context.Background(), p, map[string]string{"target": "dc2"})
	require.Equal(t, scripting.ExitUsage, scripting.ExitCode(err))
	require.ErrorContains(t, err, `no cluster "dc2" in the configuration; there are [new old]`)
}

// killed fails every append from the given one on, as a crash does. With
// lost, the last record reaches the journal but its writer never hears of it.
type killed struct {
	scripting.Journal
	left int
	lost bool
}

var errKilled = errors.New("killed")

func (k *killed) Append(ctx context.Context, after uint64, r scripting.Record) (uint64, error) {
	k.left--
	if k.left > 0 {
		return k.Journal.Append(ctx, after, r)
	}
	if k.left == 0 && k.lost {
		if _, err := k.Journal.Append(ctx, after, r); err != nil {
			return 0, err
		}
	}
	return 0, errKilled
}

// TestCrashSweep kills the agent at every journal record of a move, of its
// rollback, and of a move that fails and undoes itself; another one takes up.
// The end is the same each time, and no effect of one step happened twice.
//
// Guarantee 5: A run survives kill −9 of the agent at any point
func TestCrashSweep(t *testing.T) {
	for _, story := range []struct {
		name  string
		exact int
		back  bool
		home  starferry.ClusterName
		links int
		state scripting.State
	}{
		{"move", 5, false, "new", 1, scripting.StateFinished},
		{"there and back", 5, true, "old", 0, scripting.StateRolledBack},
		{"fails", 4, false, "old", 1, scripting.StateFailed},
	} {
		for _, lost := range []bool{false, true} {
			for at := 1; ; at++ {
				w, mem := memory.New(), scripting.NewMemoryJournal()
				w.Exact = story.exact
				k := &killed{mem, at, lost}
				finished := live(t, w, k, mem, story.back)
				name := fmt.Sprintf("%s, lost=%v, killed at record %d", story.name, lost, at)
				require.Equal(t, story.home, w.Lives.Cluster, name)
				require.Len(t, w.Links, story.links, name)
				for effect, n := range w.Effects {
					require.LessOrEqual(t, n, 1, "%s: %s", name, effect)
				}
				s, err := runner(t, w, mem).Status(context.Background(), "r1")
				require.NoError(t, err)
				require.Equal(t, story.state, s.State, name)
				if finished {
					require.Greater(t, at, 10)
					break
				}
			}
		}
	}
}

// live runs a move, and back if asked, and takes it up with a fresh runner
// after the crash. It reports whether there was none.
func live(t *testing.T, w *memory.World, k *killed, mem scripting.Journal, back bool) bool {
	ctx := context.Background()
	r := runner(t, w, k)
	crashed := func(err error) bool {
		if errors.Is(err, errKilled) {
			r = runner(t, w, mem)
			return true
		}
		return false
	}
	crash := false
	if _, err := r.Run(ctx, shipped(t, r, "move_group.star"), nil, "r1"); crashed(err) {
		crash = true
		if recs, _ := mem.Read(ctx, "r1"); len(recs) == 0 {
			_, _ = r.Run(ctx, shipped(t, r, "move_group.star"), nil, "r1")
		} else if _, err := r.Resume(ctx, "r1"); err != nil {
			var stop *scripting.StopError
			var usage *scripting.UsageError
			require.True(t, errors.As(err, &stop) || errors.As(err, &usage), "%v", err)
		}
	}
	if back {
		_, err := r.Rollback(ctx, "r1")
		if crashed(err) {
			crash = true
			if _, err = r.Rollback(ctx, "r1"); scripting.ExitCode(err) == scripting.ExitUsage {
				err = nil // the lost record was the last
			}
		}
		require.NoError(t, err)
	}
	return !crash
}

func TestSkipAndThrottleAreUndoneToWhatWasBefore(t *testing.T) {
	ctx := context.Background()
	w := memory.New()
	w.Set.Rate = 900
	r := runner(t, w, scripting.NewMemoryJournal())
	_, err := r.Run(ctx, shipped(t, r, "throttle_group.star"), map[string]string{"group": "billing", "rate": "500/s", "reason": "INC-1"}, "t1")
	require.NoError(t, err)
	require.Equal(t, 500.0, w.Set.Rate)
	require.NotZero(t, w.Set.Until)
	_, err = r.Rollback(ctx, "t1")
	require.NoError(t, err)
	require.Equal(t, 900.0, w.Set.Rate)
	require.Zero(t, w.Set.Until)

	_, err = r.Run(ctx, shipped(t, r, "skip_record.star"), map[string]string{"group": "billing", "at": "orders/7@184223", "reason": "INC-1"}, "s1")
	require.NoError(t, err)
	require.Equal(t, starferry.Range{From: 184223, To: 184224}, w.Set.Skips[0].Range)
	_, err = r.Rollback(ctx, "s1")
	require.NoError(t, err)
	require.Empty(t, w.Set.Skips)

	_, err = r.Run(ctx, shipped(t, r, "skip_record.star"), map[string]string{"group": "billing", "at": "orders"}, "s2")
	require.Equal(t, scripting.ExitUsage, scripting.ExitCode(err))
}

func TestExecOneLine(t *testing.T) {
	w := memory.New()
	r := runner(t, w, scripting.NewMemoryJournal())
	var said []string
	r.Events = func(e scripting.Event) {
		if e.Kind == scripting.Note {
			said = append(said, e.Text)
		}
	}
	p, err := scripting.LoadExec(`skip(group="billing", at="orders/7@184223", reason="INC-1").group`, r.Registry)
	require.NoError(t, err)
	_, err = r.Run(context.Background(), p, nil, "x1")
	require.NoError(t, err)
	require.Equal(t, []string{"billing"}, said)
	require.Len(t, w.Set.Skips, 1)
	_, err = r.Rollback(context.Background(), "x1")
	require.NoError(t, err)
	require.Empty(t, w.Set.Skips)
}
