package cli

import (
	"testing"

	"github.com/stretchr/testify/require"

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
