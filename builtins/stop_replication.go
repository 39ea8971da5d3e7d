package builtins

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

// Narrower is what a Copier may also be able to do: take topics off a link that
// goes on with the others. Without it, topics that were added to a link that
// existed before stay on it when the addition is undone, which harms nothing.
type Narrower interface {
	// Narrow takes topics and patterns off a link, with a pattern the topics it
	// brought; what is not on the link is no error.
	Narrow(ctx context.Context, name starferry.LinkName, topics []starferry.Topic, patterns ...string) error
}

func stopReplicationEntry(p Ports, t typeSet) *scripting.Builtin {
	s := stopReplication{p}
	return &scripting.Builtin{
		Name: "stop_replication", Class: scripting.Effect, Rev: 1, Returns: "struct(link, stopped, note)",
		Doc:     "Ends a link, or takes some topics off it. The copied topics stay on the target.",
		Example: `stop_replication(m.out.copy.link)`,
		Params: []scripting.Param{
			{Name: "link", Type: t.link, Required: true, Doc: "the link", Complete: "links"},
			{Name: "topics", Type: t.list, Doc: "only these; all if left out", Complete: "topics"},
			{Name: "match", Type: patternType(), Doc: "only these patterns, and the topics they brought"},
			{Name: "unless_shared", Type: t.yes, Default: false, Doc: "True: the link ends if nothing else is on it; what others have put there stays"},
		},
		Plan: s.plan, Run: s.run, Reconcile: s.reconcile, Inverse: s.inverse, Summary: s.summary,
	}
}

type stopReplication struct{ p Ports }

// link looks at the link; an unknown one is not alive. One whose lanes have
// stopped is there all the same.
func (s stopReplication) link(ctx context.Context, c scripting.Call) (info LinkInfo, alive bool, err error) {
	name := starferry.LinkName(c.Args.Text("link"))
	info, err = s.p.Copier.Link(ctx, name)
	if errors.Is(err, ErrNotFound) {
		return info, false, nil
	}
	if err != nil {
		return info, false, fmt.Errorf("look at link %s: %w", name, err)
	}
	return info, true, nil
}

func (s stopReplication) plan(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
	name := c.Args.Text("link")
	_, alive, err := s.link(ctx, c)
	if err != nil {
		return scripting.Prediction{}, err
	}
	result := map[string]any{"link": name, "stopped": alive, "note": ""}
	whole, err := s.whole(ctx, c)
	if err != nil {
		return scripting.Prediction{}, err
	}
	if topics, patterns := topicsArg(c), c.Args.Strings("match"); len(topics)+len(patterns) > 0 && !whole {
		if _, ok := s.p.Copier.(Narrower); !ok {
			result["stopped"], result["note"] = false, staysWhole(name, things(topics, patterns))
			return scripting.Prediction{Verdict: scripting.NoChange, Text: staysWhole(name, things(topics, patterns)), Result: result}, nil
		}
		return scripting.Prediction{Verdict: scripting.WillDo, Text: fmt.Sprintf("take %s off link %s", things(topics, patterns), name), Result: result}, nil
	}
	if !alive && !planned(c, "replicate", "link", name) && len(c.Earlier) == 0 {
		return scripting.Prediction{Verdict: scripting.NoChange, Text: "link " + name + " does not run", Result: result}, nil
	}
	return scripting.Prediction{Verdict: scripting.WillDo, Text: "stop link " + name, Result: result}, nil
}

// whole reports whether the link ends: nobody named a part of it, or that part is
// all there is, and it was asked to go then.
func (s stopReplication) whole(ctx context.Context, c scripting.Call) (bool, error) {
	topics, patterns := topicsArg(c), c.Args.Strings("match")
	if len(topics)+len(patterns) == 0 {
		return true, nil
	}
	if !c.Args.Bool("unless_shared") {
		return false, nil
	}
	info, alive, err := s.link(ctx, c)
	if err != nil || !alive {
		return !alive, err
	}
	if len(patterns) > 0 { // what they brought goes with them
		return !slices.ContainsFunc(info.Settings.Match, func(p string) bool { return !slices.Contains(patterns, p) }), nil
	}
	return len(info.Settings.Match) == 0 &&
		!slices.ContainsFunc(info.Topics, func(t starferry.Topic) bool { return !slices.Contains(topics, t) }), nil
}

// staysWhole says that topics stay on a link because it cannot be narrowed.
func staysWhole(link string, what string) string {
	return fmt.Sprintf("link %s existed before and goes on copying %s too; stop it as a whole when nothing needs it", link, what)
}

func (s stopReplication) run(ctx context.Context, c scripting.Call) (any, error) {
	name := starferry.LinkName(c.Args.Text("link"))
	result := map[string]any{"link": name, "stopped": true, "note": ""}
	whole, err := s.whole(ctx, c)
	if err != nil {
		return nil, err
	}
	if topics, patterns := topicsArg(c), c.Args.Strings("match"); !whole {
		n, ok := s.p.Copier.(Narrower)
		if !ok {
			result["stopped"], result["note"] = false, staysWhole(string(name), things(topics, patterns))
			c.Progress(staysWhole(string(name), things(topics, patterns)))
			return result, nil
		}
		if err := n.Narrow(ctx, name, topics, patterns...); err != nil {
			return nil, fmt.Errorf("take topics off link %s: %w", name, err)
		}
		if c.Args.Bool("unless_shared") {
			result["stopped"], result["note"] = false, fmt.Sprintf("link %s goes on with what others have put on it", name)
			c.Progress(result["note"].(string))
		}
		return result, nil
	}
	if err := s.p.Copier.Stop(ctx, name); err != nil {
		return nil, fmt.Errorf("stop link %s: %w", name, err)
	}
	return result, nil
}

// summary tells what became of the link.
func (s stopReplication) summary(result json.RawMessage) string {
	var r struct{ Link, Note string }
	if json.Unmarshal(result, &r) != nil || r.Link == "" {
		return ""
	}
	if r.Note != "" {
		return r.Note
	}
	return "link " + r.Link + ", what it copied stays"
}

func (s stopReplication) reconcile(ctx context.Context, c scripting.Call) (scripting.Finding, any, error) {
	info, alive, err := s.link(ctx, c)
	if err != nil {
		return scripting.Unclear, nil, err
	}
	topics, patterns := topicsArg(c), c.Args.Strings("match")
	gone := func(t starferry.Topic) bool { return !slices.Contains(info.Topics, t) }
	off := func(p string) bool { return !slices.Contains(info.Settings.Match, p) }
	if alive && (slices.ContainsFunc(topics, gone) || slices.ContainsFunc(patterns, off)) {
		return scripting.Happened, map[string]any{"link": info.Name, "stopped": true, "note": ""}, nil
	}
	if alive {
		return scripting.DidNot, nil, nil
	}
	return scripting.Happened, map[string]any{"link": c.Args.Text("link"), "stopped": true, "note": ""}, nil
}

func (s stopReplication) inverse(ctx context.Context, c scripting.Call) (*scripting.Undo, error) {
	info, alive, err := s.link(ctx, c)
	if err != nil || !alive {
		return nil, err
	}
	topics, patterns := topicsArg(c), c.Args.Strings("match")
	if len(topics)+len(patterns) == 0 {
		topics, patterns = info.Topics, info.Settings.Match
	}
	settings := info.Settings
	settings.Match = patterns
	args := settings.args()
	args["source"], args["target"], args["link"] = string(info.Source), string(info.Target), string(info.Name)
	if len(topics) > 0 {
		args["topics"] = names(topics)
	}
	return &scripting.Undo{Builtin: "replicate", Args: args, Text: fmt.Sprintf("copy %s again on link %s", things(topics, patterns), info.Name)}, nil
}
