package cli

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/scripting"
)

// The last line says what is true of the run now.
func TestTheLastLineOfARun(t *testing.T) {
	held := []scripting.Held{{Step: "copy/1:replicate"}}
	for want, o := range map[string]scripting.Outcome{
		"run r is finished; take it back with: starferry rollback r":                {State: scripting.StateFinished, Held: held},
		"run r is finished; nothing to take back":                                   {State: scripting.StateFinished},
		"run r is finished; there is no way back from its phase drop":               {State: scripting.StateFinished, Held: held, Final: "drop"},
		"run r is rolled back: 1 effect undone, nothing is left to undo":            {State: scripting.StateRolledBack, Undone: []string{"a"}},
		"run r is rolled back: 2 effects undone, nothing is left to undo":           {State: scripting.StateRolledBack, Undone: []string{"a", "b"}},
		"run r is rolled back: it had changed nothing, and nothing is left to undo": {State: scripting.StateRolledBack},
	} {
		require.Equal(t, want, outcomeText("r", &o))
	}
}

func TestAnEffectThatIsDoneShowsItsResult(t *testing.T) {
	done := scripting.Event{Kind: scripting.Done, Builtin: "switch_consumer", Summary: "6 of 6 positions exact"}
	require.Equal(t, "  switch_consumer done: 6 of 6 positions exact", describe(done))
	done.Summary = ""
	require.Equal(t, "  switch_consumer done", describe(done))
	done.Error = "no"
	require.Equal(t, "  switch_consumer failed no", describe(done))
}

func TestWhatMayHaveBeenHandledTwiceIsShown(t *testing.T) {
	var out strings.Builder
	v := groupView{Group: "pay", Home: "old", Instances: []control.Lease{{Instance: "a"}}}
	require.NoError(t, showGroup(&out, v))
	require.NotContains(t, strings.ToLower(out.String()), "handled twice")
	for _, p := range []starferry.Partition{10, 2} {
		v.Instances[0].Repeats = append(v.Instances[0].Repeats, control.Repeat{
			Cluster: "old", Partition: starferry.TopicPartition{Topic: "orders", Partition: p},
			Range: starferry.Range{From: 100, To: 120}, Reason: "instance b died without committing them",
		})
	}
	out.Reset()
	require.NoError(t, showGroup(&out, v))
	require.Regexp(t, `(?s)HANDLED TWICE\?.*orders/2 +old +100 +119 +instance b died.*orders/10 +old +100 +119`, out.String())
}
