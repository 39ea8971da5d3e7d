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
	// Narrow takes topics off a link; those it does not copy are no error.
	Narrow(ctx context.Context, name starferry.LinkName, topics []starferry.Topic) error
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
		},
		Plan: s.plan, Run: s.run, Reconcile: s.reconcile, Inverse: s.inverse, Summary: s.summary,
	}
}

type stopReplication struct{ p Ports }

// link looks at the link; a stopped or unknown one is not alive.
func (s stopReplication) link(ctx context.Context, c scripting.Call) (info LinkInfo, alive bool, err error) {
	name := starferry.LinkName(c.Args.Text("link"))
	info, err = s.p.Copier.Link(ctx, name)
	if errors.Is(err, ErrNotFound) {
		return info, false, nil
	}
	if err != nil {
		return info, false, fmt.Errorf("look at link %s: %w", name, err)
	}
	return info, info.State != "stopped", nil
}

func (s stopReplication) plan(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
	name := c.Args.Text("link")
	_, alive, err := s.link(ctx, c)
	if err != nil {
		return scripting.Prediction{}, err
	}
	result := map[string]any{"link": name, "stopped": alive, "note": ""}
	if topics := topicsArg(c); len(topics) > 0 {
		if _, ok := s.p.Copier.(Narrower); !ok {
			result["stopped"], result["note"] = false, staysWhole(name, topics)
			return scripting.Prediction{Verdict: scripting.NoChange, Text: staysWhole(name, topics), Result: result}, nil
		}
		return scripting.Prediction{Verdict: scripting.WillDo, Text: fmt.Sprintf("take %s off link %s", topicNames(topics), name), Result: result}, nil
	}
	if !alive && !planned(c, "replicate", "link", name) && len(c.Earlier) == 0 {
		return scripting.Prediction{Verdict: scripting.NoChange, Text: "link " + name + " does not run", Result: result}, nil
	}
	return scripting.Prediction{Verdict: scripting.WillDo, Text: "stop link " + name, Result: result}, nil
}

// staysWhole says that topics stay on a link because it cannot be narrowed.
func staysWhole(link string, topics []starferry.Topic) string {
	return fmt.Sprintf("link %s existed before and goes on copying %s too; stop it as a whole when nothing needs it", link, topicNames(topics))
}

func (s stopReplication) run(ctx context.Context, c scripting.Call) (any, error) {
	name := starferry.LinkName(c.Args.Text("link"))
	result := map[string]any{"link": name, "stopped": true, "note": ""}
	if topics := topicsArg(c); len(topics) > 0 {
		n, ok := s.p.Copier.(Narrower)
		if !ok {
			result["stopped"], result["note"] = false, staysWhole(string(name), topics)
			c.Progress(staysWhole(string(name), topics))
			return result, nil
		}
		if err := n.Narrow(ctx, name, topics); err != nil {
			return nil, fmt.Errorf("take topics off link %s: %w", name, err)
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
	for _, t := range topicsArg(c) {
		if alive && !slices.Contains(info.Topics, t) {
			return scripting.Happened, map[string]any{"link": info.Name, "stopped": true, "note": ""}, nil
		}
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
	topics := topicsArg(c)
	if len(topics) == 0 {
		topics = info.Topics
	}
	return &scripting.Undo{Builtin: "replicate", Args: scripting.Args{"topics": names(topics), "source": string(info.Source), "target": string(info.Target), "link": string(info.Name)},
		Text: fmt.Sprintf("copy %s again on link %s", topicNames(topics), info.Name)}, nil
}
