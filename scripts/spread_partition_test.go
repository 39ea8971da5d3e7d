package scripts_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/builtins/memory"
	"github.com/starferry/starferry/scripting"
)

var hotParams = map[string]string{"group": "billing", "partition": "orders/0", "reason": "INC-1", "rate": "200/s", "stuck": "3s"}

// hotWorld has two instances, and one partition 5,000 records behind.
func hotWorld() *memory.World {
	w := memory.New()
	w.Instances = []starferry.InstanceID{"a", "b"}
	w.Behind[starferry.TopicPartition{Topic: "orders"}] = 5000
	w.Free = true
	return w
}

func TestSpreadPartition(t *testing.T) {
	ctx := context.Background()
	w := hotWorld()
	r := runner(t, w, scripting.NewMemoryJournal())
	p := shipped(t, r, "spread_partition.star")
	plan, err := r.Plan(ctx, p, hotParams)
	require.NoError(t, err)
	require.Zero(t, w.Writes)
	require.Zero(t, plan.Counts[scripting.FailsNow], plan.String())
	require.Contains(t, plan.String(), "the backlog of orders/0, 5000 records now, is spread over all instances; each key stays in order")

	out, err := r.Run(ctx, p, hotParams, "r1")
	require.NoError(t, err)
	require.Equal(t, scripting.StateFinished, out.State)
	require.Equal(t, 200.0, w.Set.Rate)
	require.Equal(t, time.Hour, time.UnixMilli(w.Set.Until).Sub(w.Time).Round(time.Hour), "the limit ends by itself")
	require.Len(t, w.Spread, 1)
	_, err = r.Rollback(ctx, "r1")
	require.NoError(t, err)
	require.Zero(t, w.Set.Rate)
}

// What stands in the way is said before anything is done.
func TestSpreadPartitionRefuses(t *testing.T) {
	for want, change := range map[string]func(*memory.World){
		"more instances than one":      func(w *memory.World) { w.Instances = w.Instances[:1] },
		"no record blocks orders/0":    func(w *memory.World) { w.Free = false },
		"at least 1000 records behind": func(w *memory.World) { w.Behind[starferry.TopicPartition{Topic: "orders"}] = 10 },
		"nothing else of the group is being redist": func(w *memory.World) {
			w.Set.Redistribution = &builtins.GroupSpread{Partition: starferry.TopicPartition{Topic: "orders", Partition: 1}}
		},
	} {
		w := hotWorld()
		change(w)
		r := runner(t, w, scripting.NewMemoryJournal())
		_, err := r.Run(context.Background(), shipped(t, r, "spread_partition.star"), hotParams, "r1")
		require.Equal(t, scripting.ExitUnmet, scripting.ExitCode(err), want)
		require.ErrorContains(t, err, want)
		require.Zero(t, w.Writes)
	}
}

// One that cannot be seen to its end is stopped.
func TestSpreadPartitionStops(t *testing.T) {
	w := hotWorld()
	w.BreakOn = "redistribute"
	r := runner(t, w, scripting.NewMemoryJournal())
	_, err := r.Run(context.Background(), shipped(t, r, "spread_partition.star"), hotParams, "r1")
	require.Error(t, err)
	stopped := slices.ContainsFunc(slices.Collect(maps.Keys(w.Effects)), func(k string) bool { return strings.HasPrefix(k, "redistribute stop") })
	require.True(t, stopped, "%v", w.Effects)
	require.Equal(t, 200.0, w.Set.Rate, "the earlier phase stays")
}
