package builtins

import (
	"context"
	"fmt"

	"github.com/starferry/starferry/scripting"
)

func unskipEntry(p Ports, t typeSet) *scripting.Builtin {
	u := unskip{p}
	return &scripting.Builtin{
		Name: "unskip", Class: scripting.Effect, Rev: 1, Returns: "struct(group, revision, id, keep, instances)",
		Doc:     "Takes a skip back. Records that were passed meanwhile stay passed.",
		Example: `unskip("billing", id = "s1", reason = "INC-4411 is fixed")`,
		Params: []scripting.Param{
			{Name: "group", Type: t.group, Required: true, Doc: "the group", Complete: "groups"},
			{Name: "id", Type: t.text, Required: true, Doc: "the skip's id, as skip returned it"},
			{Name: "reason", Type: t.text, Required: true, Doc: "why, for the audit trail"},
		},
		Plan: u.plan, Run: u.run, Reconcile: u.reconcile, Inverse: u.inverse, Summary: acknowledged,
	}
}

type unskip struct{ p Ports }

func (u unskip) find(ctx context.Context, c scripting.Call) (*GroupSkip, GroupSettings, error) {
	set, err := u.p.Hand.Settings(ctx, groupArg(c))
	if err != nil {
		return nil, set, fmt.Errorf("read settings of group %s: %w", groupArg(c), err)
	}
	for i := range set.Skips {
		if set.Skips[i].ID == c.Args.Text("id") {
			return &set.Skips[i], set, nil
		}
	}
	return nil, set, nil
}

func (u unskip) plan(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
	there, _, err := u.find(ctx, c)
	if err != nil {
		return scripting.Prediction{}, err
	}
	result := unknownFields("revision", "instances", "before", "keep")
	result["group"], result["id"] = groupArg(c), c.Args.Text("id")
	if there == nil {
		return scripting.Prediction{Verdict: scripting.NoChange, Text: "no such skip is in force", Result: result}, nil
	}
	return scripting.Prediction{Verdict: scripting.WillDo, Text: fmt.Sprintf("group %s reads %s [%d, %d) again, unless passed already", groupArg(c), there.Partition, there.Range.From, there.Range.To), Result: result}, nil
}

func (u unskip) run(ctx context.Context, c scripting.Call) (any, error) {
	r, err := u.p.Hand.Unskip(ctx, groupArg(c), c.Args.Text("id"), why(c))
	if err != nil {
		return nil, fmt.Errorf("take skip %s of group %s back: %w", c.Args.Text("id"), groupArg(c), err)
	}
	return r, nil
}

func (u unskip) reconcile(ctx context.Context, c scripting.Call) (scripting.Finding, any, error) {
	there, set, err := u.find(ctx, c)
	switch {
	case err != nil:
		return scripting.Unclear, nil, err
	case there != nil:
		return scripting.DidNot, nil, nil
	}
	return scripting.Happened, Receipt{Group: groupArg(c), Revision: set.Revision, ID: c.Args.Text("id"), Instances: []string{}}, nil
}

func (u unskip) inverse(ctx context.Context, c scripting.Call) (*scripting.Undo, error) {
	there, _, err := u.find(ctx, c)
	if err != nil || there == nil {
		return nil, err
	}
	keep := string(there.Keep)
	if keep == "" {
		keep = "none"
	}
	return &scripting.Undo{Builtin: "skip", Text: "set the skip again", Args: scripting.Args{
		"keep": keep, "group": c.Args.Text("group"), "at": fmt.Sprintf("%s@%d", there.Partition, there.Range.From), "to": int64(there.Range.To),
		"on": string(there.Cluster), "reason": "undo: " + c.Args.Text("reason"), "force": true,
	}}, nil
}
