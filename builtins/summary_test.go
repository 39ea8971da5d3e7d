package builtins_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/builtins/memory"
	"github.com/starferry/starferry/scripting"
)

// reporting is a world whose instances measure and acknowledge.
type reporting struct{ *memory.World }

func (w reporting) Switch(ctx context.Context, r builtins.SwitchRequest) (builtins.SwitchReport, error) {
	rep, err := w.World.Switch(ctx, r)
	rep.Instances, rep.ControlMS, rep.Pauses = []string{"a", "b", "c"}, 12.3, map[starferry.TopicPartition]float64{}
	for p, ms := range []float64{41, 3, 23.4} {
		rep.Pauses[starferry.TopicPartition{Topic: "orders", Partition: starferry.Partition(p)}] = ms
	}
	return rep, err
}

func (w reporting) Throttle(ctx context.Context, r builtins.ThrottleRequest) (builtins.Receipt, error) {
	rec, err := w.World.Throttle(ctx, r)
	rec.Instances = []string{"a", "b"}
	return rec, err
}

// summaries carries out a snippet and returns what is told of its effects, and
// what is printed.
func summaries(t *testing.T, w *memory.World, snippet string) (told, printed []string) {
	t.Helper()
	ports := w.Ports()
	ports.Hand = reporting{w}
	reg, err := builtins.Registry(ports)
	require.NoError(t, err)
	r := &scripting.Runner{Registry: reg, Journal: scripting.NewMemoryJournal(), Clock: w, Events: func(e scripting.Event) {
		if e.Summary != "" {
			told = append(told, e.Builtin+": "+e.Summary)
		}
		if e.Kind == scripting.Note {
			printed = append(printed, e.Text)
		}
	}}
	p, err := scripting.LoadExec(snippet, reg)
	require.NoError(t, err)
	_, err = r.Run(context.Background(), p, nil, "r1")
	require.NoError(t, err)
	return told, printed
}

func TestEffectsTellTheirResultInALine(t *testing.T) {
	w := memory.New()
	told, printed := summaries(t, w, `
replicate(["orders"], source = cluster("old"), target = cluster("new"))
switch_consumer("billing", source = cluster("old"), target = cluster("new"), link = "old-new")
switch_consumer("billing", source = cluster("old"), target = cluster("new"), link = "old-new")
throttle("billing", rate = "500/s")
`)
	require.Equal(t, []string{
		"replicate: link old-new, 1 topic, 5 lanes, copying",
		"switch_consumer: 5 of 5 positions exact, 12 ms from drain to decision, 23 ms (p50) and 41 ms (worst) between a partition's records, 3 instances",
		"switch_consumer: nothing to do, the group lived there already",
		"throttle: revision 1, acknowledged by 2 instances: a, b",
	}, told)
	require.Empty(t, printed, "told twice")
}

// A switch that was decided, and whose agent died before all knew, is brought to
// its end by whoever asks for the same: an open switch would stand in the way of
// every skip, rewind and redistribution.
func TestWhoeverAsksForADecidedSwitchFinishesIt(t *testing.T) {
	w := memory.New()
	w.Lives.Cluster, w.Lives.Phase, w.Lives.Token = "new", "announce", "another's"
	told, _ := summaries(t, w, `switch_consumer("billing", source = cluster("old"), target = cluster("new"), link = "old-new")`)
	require.Equal(t, []string{"switch_consumer: nothing to do, the group lived there already"}, told)
	require.Equal(t, "steady", w.Lives.Phase)
}

func TestASwitchThatFoundNoPlaceSaysSo(t *testing.T) {
	w := memory.New()
	w.Exact = 4
	told, _ := summaries(t, w, `switch_consumer("billing", source = cluster("old"), target = cluster("new"), link = "old-new")`)
	require.Contains(t, told[0], "4 of 5 positions exact")
}

// What is made of a result is the script's affair, and is printed.
func TestValuesThatAreNoEffectArePrinted(t *testing.T) {
	told, printed := summaries(t, memory.New(), `
skip("billing", at = "orders/1@5", reason = "INC-1").group
home("billing").cluster
`)
	require.Len(t, told, 1)
	require.Len(t, printed, 2)
	require.Equal(t, "billing", printed[0])
}
