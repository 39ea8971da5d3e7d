package fleet_test

import (
	"sync"
	"testing"
	"time"

	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/control/switchover"
	"github.com/stretchr/testify/require"
)

// An operator sees which handler of which instance a drain waits for, on which
// partition, and since when.
func TestAWaitNamesInstancePartitionAndHandler(t *testing.T) {
	w := newWorld(t, 2)
	release, held := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.hold = func(value string) <-chan struct{} {
		if value != "1/3" {
			return nil
		}
		once.Do(func() { close(held) })
		return release
	}
	for range 6 {
		w.produce()
	}
	w.instance("billing-7f")
	<-held
	o := w.order(w.old, w.new, "run-1")
	var seen switchover.Wait
	var at fleet.Progress
	var free sync.Once
	o.Watch = func(p fleet.Progress) {
		for _, row := range p.Rows {
			if p.Phase == "drain" && row.Partition == w.tp(1) && row.Since > 0 {
				if p.At-row.Since > 1000 && row.What != "to finish the records in flight" {
					free.Do(func() { seen, at = row, p; close(release) })
				}
			}
		}
	}
	_, err := w.fleet.Switch(contextFor(t, 2*patience), o)
	require.NoError(t, err)
	require.Equal(t, "billing-7f", string(seen.Instance))
	require.Equal(t, "to finish record 3: its handler is busy", seen.What)
	require.NotZero(t, at.Since)
	require.GreaterOrEqual(t, at.At-seen.Since, time.Second.Milliseconds())
}
