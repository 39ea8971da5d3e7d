package fleet_test

import (
	"context"
	"testing"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/control/switchover"
	"github.com/stretchr/testify/require"
)

func (w *world) order(from, to starferry.Cluster, token string) fleet.SwitchOrder {
	return fleet.SwitchOrder{Group: w.group, Source: from.Name, Target: to.Name, Link: "old-new", By: "ann", Why: "test", Token: token,
		Verify: 500 * time.Millisecond, Progress: func(phase, waits string) { w.t.Logf("%s: %s", phase, waits) }}
}

func (w *world) switched(from, to starferry.Cluster, token string) switchover.Report {
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*patience)
	defer cancel()
	r, err := w.fleet.Switch(ctx, w.order(from, to, token))
	require.NoError(w.t, err)
	return r
}

func TestAGroupMovesThereAndBackUnderTraffic(t *testing.T) {
	w := newWorld(t, 6)
	stop := w.traffic()
	for _, name := range []string{"i1", "i2", "i3"} {
		w.instance(name)
	}
	require.Eventually(t, func() bool { return w.handledOn(w.old) > 100 }, patience, 10*time.Millisecond)

	there := w.switched(w.old, w.new, "run-1")
	require.Len(t, there.Instances, 3)
	require.Len(t, there.Cut, 6)
	require.Equal(t, 6, there.Exact)
	before := w.handledOn(w.new)
	require.Eventually(t, func() bool { return w.handledOn(w.new) > before+100 }, patience, 10*time.Millisecond)
	h, err := w.fleet.Home(t.Context(), w.group)
	require.NoError(t, err)
	require.Equal(t, w.new.Name, h.Cluster)
	require.Equal(t, "run-1", h.Token)

	again := w.switched(w.old, w.new, "run-1")
	require.Equal(t, there.Epoch, again.Epoch, "the same token must not switch again")
	require.Equal(t, there.Cut, again.Cut)

	back := w.switched(w.new, w.old, "run-2")
	require.Greater(t, back.Epoch, there.Epoch)
	before = w.handledOn(w.old)
	require.Eventually(t, func() bool { return w.handledOn(w.old) > before+100 }, patience, 10*time.Millisecond)
	stop()
	lost, twice := w.settled()
	require.Zero(t, lost)
	require.Zero(t, twice)
	t.Logf("there: control %.1f ms, pauses %v; back: control %.1f ms, pauses %v", there.ControlMS, there.Pauses, back.ControlMS, back.Pauses)

	events, err := w.store.AuditLog(t.Context(), desired.AuditFilter{Group: w.group})
	require.NoError(t, err)
	require.Equal(t, "switch", events[0].What)
	require.Equal(t, "switched", events[len(events)-1].What)
	p, _, err := w.store.Placement(t.Context(), w.group)
	require.NoError(t, err)
	require.Equal(t, control.Steady, p.Phase)
}
