package fleet_test

import (
	"testing"
	"time"

	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/switchover"
	"github.com/stretchr/testify/require"
)

// An instance without NATS looks frozen: it is a member and has no lease. It is
// removed; when it comes back it is clear that it only cannot reach NATS, and it
// is not removed for ever.
func TestAnInstanceWithoutNATSIsRemovedOnceAndThenRefused(t *testing.T) {
	w, stop := running(t)
	w.withoutNATS("cut-off", 3)
	o := w.order(w.old, w.new, "run-1")
	o.OnStraggler, o.EvictAfter, o.Patience = switchover.Evict, 100*time.Millisecond, 500*time.Millisecond
	_, err := w.fleet.Switch(contextFor(t, 2*patience), o)
	var f switchover.Failure
	require.ErrorAs(t, err, &f)
	require.Contains(t, f.Rows[0].What, "cut-off")
	require.Contains(t, f.Rows[0].Why, "without a lease")
	trail, err := w.store.AuditLog(t.Context(), desired.AuditFilter{Group: w.group})
	require.NoError(t, err)
	evictions := 0
	for _, e := range trail {
		if e.What == "evict" {
			evictions++
			require.Contains(t, e.Detail, "cut-off")
		}
	}
	require.Equal(t, 1, evictions)
	w.consumesOn(w.old)
	stop()
	lost, _ := w.settled() // what it was handed when it was removed may come again
	require.Zero(t, lost)
}

func TestAnUnknownPolicyForStragglersIsRefused(t *testing.T) {
	w := newWorld(t, 1)
	o := w.order(w.old, w.new, "run-1")
	o.OnStraggler = "kill"
	_, err := w.fleet.Switch(t.Context(), o)
	require.ErrorContains(t, err, `on_straggler is "kill"; want "abort" or "evict"`)
}
