package builtins_test

import (
	"context"
	"fmt"
	"slices"
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

// A plan says what a link will do beside copying, and refuses before the run what
// a link that is there contradicts.
func TestThePlanOfALinkSaysWhatItDoes(t *testing.T) {
	w := memory.New()
	r := runner(t, w)
	plan := func(text string) (scripting.PlanLine, error) {
		p, err := scripting.LoadExec(text, r.Registry)
		require.NoError(t, err)
		plan, err := r.Plan(t.Context(), p, nil)
		if err != nil {
			return scripting.PlanLine{}, err
		}
		return plan.Phases[0].Lines[0], nil
	}
	line, err := plan(`replicate(["orders"], source = "old", target = "new", match = "pay.*", rename = "dc2.{topic}", from_ = "latest", sample = 0.25, scrub = ["value", "key"], on_loss = "continue")`)
	require.NoError(t, err)
	require.Equal(t, scripting.WillDo, line.Verdict)
	for _, words := range []string{"copy 1 topic (3 partitions)", "what matches pay.* later on", "renamed * to dc2.{topic}", "from latest", "a sample of 25%", "without value, key", "leaving out what the source deletes"} {
		require.Contains(t, line.Text, words)
	}
	w.Links["old-new"] = builtins.LinkInfo{Name: "old-new", Source: "old", Target: "new", Topics: []starferry.Topic{"orders"}, State: "copying",
		Settings: builtins.LinkSettings{Sample: 0.5, Match: []string{"x.*"}}}
	line, err = plan(`replicate(["payments"], source = "old", target = "new")`)
	if err == nil {
		require.Equal(t, scripting.FailsNow, line.Verdict)
		require.Contains(t, line.Text, "made with sample 0.5, and all is asked for")
	} else {
		require.ErrorContains(t, err, "made with sample 0.5, and all is asked for")
	}
	line, err = plan(`replicate(source = "old", target = "new", match = "y.*", sample = 0.5)`)
	require.NoError(t, err)
	require.Equal(t, scripting.WillDo, line.Verdict)
	require.Contains(t, line.Text, "what matches y.* later on")
}

// What stopping a link is undone by asks for the link as it was.
func TestAStoppedLinkComesBackAsItWas(t *testing.T) {
	w := memory.New()
	was := builtins.LinkInfo{Name: "l", Source: "old", Target: "new", Topics: []starferry.Topic{"orders"}, State: "copying", Settings: builtins.LinkSettings{
		Match: []string{`a{1,2}`}, Rename: map[string]string{"*": "dc2.{topic}"}, From: "listed",
		Begin: map[starferry.TopicPartition]starferry.Offset{{Topic: "orders"}: 5}, Sample: 0.5, Scrub: []string{"value"}, OnLoss: "continue",
	}}
	w.Links["l"] = was
	r := runner(t, w)
	p, err := scripting.LoadExec("stop_replication(\"l\")\nexpect(False, \"a reason to go back\", found = \"nothing\")", r.Registry)
	require.NoError(t, err)
	_, err = r.Run(t.Context(), p, nil, "r")
	require.Error(t, err)
	require.Equal(t, was.Settings, w.Links["l"].Settings)
}

// narrowing is a world whose links can lose single topics.
type narrowing struct{ *memory.World }

func (w narrowing) Narrow(_ context.Context, name starferry.LinkName, topics []starferry.Topic, _ ...string) error {
	l := w.Links[name]
	l.Topics = slices.DeleteFunc(slices.Clone(l.Topics), func(t starferry.Topic) bool { return slices.Contains(topics, t) })
	w.Links[name] = l
	return nil
}

// Whoever made a link takes back what it asked for, and the link only with the
// last of them: a group that has moved since needs what it put there.
func TestALinkEndsWithTheLastWhoAskedForIt(t *testing.T) {
	w := memory.New()
	ports := w.Ports()
	ports.Copier = narrowing{w}
	reg, err := builtins.Registry(ports)
	require.NoError(t, err)
	r := &scripting.Runner{Registry: reg, Journal: scripting.NewMemoryJournal(), Clock: w, By: "ann"}
	for _, topic := range []string{"orders", "payments"} {
		p, err := scripting.LoadExec(fmt.Sprintf(`replicate(["%s"], source = "old", target = "new")`, topic), reg)
		require.NoError(t, err)
		_, err = r.Run(t.Context(), p, nil, "run-"+topic)
		require.NoError(t, err)
	}
	_, err = r.Rollback(t.Context(), "run-orders")
	require.NoError(t, err)
	require.Equal(t, []starferry.Topic{"payments"}, w.Links["old-new"].Topics)
	_, err = r.Rollback(t.Context(), "run-payments")
	require.NoError(t, err)
	require.Empty(t, w.Links)
}
