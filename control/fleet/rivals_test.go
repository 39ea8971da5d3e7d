package fleet_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/control/switchover"
	"github.com/stretchr/testify/require"
)

// Two agents that want the same group moved, each with a token of its own: one
// moves it, the other waits and finds it moved, or says that it lost.
func TestTwoAgentsMoveAGroupOnce(t *testing.T) {
	w, stop := running(t)
	var wg sync.WaitGroup
	reports, errs := make([]switchover.Report, 2), make([]error, 2)
	for i, token := range []string{"run-a", "run-b"} {
		o := w.order(w.old, w.new, token)
		o.Progress = nil
		wg.Go(func() { reports[i], errs[i] = w.fleet.Switch(t.Context(), o) })
	}
	wg.Wait()
	moved := 0
	for i, err := range errs {
		var f switchover.Failure
		switch {
		case err == nil && reports[i].Attempts > 0:
			moved++
		case errors.As(err, &f):
			require.True(t, f.Conflict, err)
		default:
			require.NoError(t, err)
		}
	}
	require.Equal(t, 1, moved, "%v", errs)
	w.consumesOn(w.new)
	w.nothingLost(stop)
}

// Two agents that pull in opposite directions leave the group on one cluster.
func TestTwoAgentsThatDisagreeLeaveOneHome(t *testing.T) {
	w, stop := running(t)
	var wg sync.WaitGroup
	for i, o := range []fleet.SwitchOrder{w.order(w.old, w.new, "run-a"), w.order(w.new, w.old, "run-b")} {
		o.Progress = nil
		wg.Go(func() {
			for range 3 {
				_, err := w.fleet.Switch(t.Context(), o)
				t.Logf("agent %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	h, err := w.fleet.Home(t.Context(), w.group)
	require.NoError(t, err)
	w.consumesOn(map[starferry.ClusterName]starferry.Cluster{w.old.Name: w.old, w.new.Name: w.new}[h.Cluster])
	w.nothingLost(stop)
}

// A record that lies beyond the cut and is skipped on the old home is not handed
// out on the new one.
func TestASkipBeyondTheCutIsCarriedOver(t *testing.T) {
	w := newWorld(t, 2)
	for range 10 {
		w.produce()
	}
	release := w.holdAt("1/4")
	w.instance("i1")
	require.Eventually(t, func() bool { return w.seen() == 14 }, patience, 10*time.Millisecond, "one partition is held at record 4")
	s, err := w.fleet.Skip(t.Context(), fleet.SkipOrder{Group: w.group, Partition: w.tp(1), Range: starferry.Range{From: 7, To: 9}, By: "ann", Token: "s1"})
	require.NoError(t, err)
	done := make(chan struct{})
	var report switchover.Report
	go func() {
		defer close(done)
		report = w.switched(w.old, w.new, "run-1")
	}()
	w.standsStill()
	release()
	<-done
	require.Equal(t, starferry.Offset(5), report.Cut[w.tp(1)].Next)
	v, _, err := w.fleet.Settings(t.Context(), w.group)
	require.NoError(t, err)
	require.Len(t, v.Skips, 2)
	require.Equal(t, starferry.Range{From: 7, To: 9}, v.Skips[1].Range)
	require.Equal(t, w.new.Name, v.Skips[1].Cluster)
	require.NotEqual(t, s.ID, v.Skips[1].ID)
	w.produce()
	require.Eventually(t, func() bool { return w.seen() == 22-2 }, patience, 10*time.Millisecond)
	w.mu.Lock()
	defer w.mu.Unlock()
	require.Zero(t, w.handled["1/7"]+w.handled["1/8"], "skipped records were handed out on the new home")
	for v, n := range w.handled {
		require.Equal(t, 1, n, v)
	}
}
