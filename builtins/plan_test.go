package builtins_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/builtins/memory"
	"github.com/starferry/starferry/scripting"
)

// A plan says of a call what its run does: topics are taken off a link only if
// the world can do that.
func TestThePlanOfTakingTopicsOffALinkSaysWhatTheRunDoes(t *testing.T) {
	w := memory.New()
	w.Links["old-new"] = builtins.LinkInfo{Name: "old-new", Source: "old", Target: "new", Topics: []starferry.Topic{"orders", "payments"}, State: "copying"}
	r := runner(t, w)
	p, err := scripting.LoadExec(`stop_replication("old-new", topics = ["orders"])`, r.Registry)
	require.NoError(t, err)
	plan, err := r.Plan(t.Context(), p, nil)
	require.NoError(t, err)
	line := plan.Phases[0].Lines[0]
	require.Equal(t, scripting.NoChange, line.Verdict)
	require.Contains(t, line.Text, "goes on copying orders too")

	_, err = r.Run(t.Context(), p, nil, "r")
	require.NoError(t, err)
	require.Contains(t, w.Links, starferry.LinkName("old-new"))
	require.Equal(t, "copying", w.Links["old-new"].State)
}
