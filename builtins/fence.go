package builtins

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

// Fencer knows on which clusters everybody is kept out of a group.
type Fencer interface {
	// Fences lists the clusters on which a group is to be fenced, in order.
	Fences(ctx context.Context, g starferry.Group) ([]starferry.ClusterName, error)
	// RaiseFence keeps everybody out of a group on a cluster that it has left, and
	// returns when the fence stands. Raising one that stands is no error.
	RaiseFence(ctx context.Context, g starferry.Group, c starferry.ClusterName, by, why string) error
	// LiftFence lets clients in again, and returns when they may come. Lifting a
	// fence that does not stand is no error.
	LiftFence(ctx context.Context, g starferry.Group, c starferry.ClusterName, by, why string) error
}

// fencing is fence_group, or lift_fence.
type fencing struct {
	p     Ports
	raise bool
}

func fenceEntry(p Ports, t typeSet, raise bool) *scripting.Builtin {
	f := fencing{p, raise}
	b := &scripting.Builtin{
		Name: "lift_fence", Class: scripting.Effect, Rev: 1, Returns: "struct(group, cluster, changed)",
		Doc:     "Lets clients into a group again on a cluster that it has left, where it is fenced.",
		Example: `lift_fence("billing", on = old, reason = "the old cluster is given up")`,
		Params: []scripting.Param{
			{Name: "group", Type: t.group, Required: true, Doc: "the group", Complete: "groups"},
			{Name: "on", Type: t.cluster, Required: true, Doc: "the cluster that it has left", Complete: "clusters"},
			{Name: "reason", Type: t.text, Doc: "why, for the audit trail"},
		},
		Plan: f.plan, Run: f.run, Reconcile: f.reconcile, InverseOf: f.inverseOf,
	}
	if raise {
		b.Name = "fence_group"
		b.Doc = "Keeps everybody out of an emptied group on a cluster that it has left: the coordinator refuses clients there for as long as an agent lives."
		b.Example = `fence_group("billing", on = old, reason = "it lives on new")`
	}
	return b
}

func (f fencing) stands(ctx context.Context, c scripting.Call) (bool, error) {
	on, err := f.p.Fencer.Fences(ctx, groupArg(c))
	if err != nil {
		return false, fmt.Errorf("read fences of group %s: %w", groupArg(c), err)
	}
	return slices.Contains(on, clusterArg(c, "on")), nil
}

func (f fencing) result(c scripting.Call, changed bool) map[string]any {
	return map[string]any{"group": c.Args.Text("group"), "cluster": typedCluster(clusterArg(c, "on")), "changed": changed}
}

func (f fencing) plan(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
	stands, err := f.stands(ctx, c)
	if err != nil {
		return scripting.Prediction{}, err
	}
	g, on := groupArg(c), clusterArg(c, "on")
	pred := scripting.Prediction{Verdict: scripting.WillDo, Result: f.result(c, stands != f.raise)}
	switch {
	case f.raise && stands:
		pred.Verdict, pred.Text = scripting.NoChange, fmt.Sprintf("group %s is fenced on %s already", g, on)
	case f.raise:
		pred.Text = fmt.Sprintf("keep everybody out of group %s on %s", g, on)
	case stands:
		pred.Text = fmt.Sprintf("let clients into group %s on %s again", g, on)
	default:
		pred.Verdict, pred.Text = scripting.NoChange, fmt.Sprintf("group %s is not fenced on %s", g, on)
	}
	return pred, nil
}

func (f fencing) run(ctx context.Context, c scripting.Call) (any, error) {
	stands, err := f.stands(ctx, c)
	if err != nil {
		return nil, err
	}
	do := f.p.Fencer.LiftFence
	if f.raise {
		do = f.p.Fencer.RaiseFence
	}
	if err := do(ctx, groupArg(c), clusterArg(c, "on"), c.By, why(c)); err != nil {
		return nil, err
	}
	return f.result(c, stands != f.raise), nil
}

func (f fencing) reconcile(ctx context.Context, c scripting.Call) (scripting.Finding, any, error) {
	stands, err := f.stands(ctx, c)
	switch {
	case err != nil:
		return scripting.Unclear, nil, err
	case stands != f.raise:
		return scripting.DidNot, nil, nil
	}
	return scripting.Happened, f.result(c, true), nil
}

func (f fencing) inverseOf(_ context.Context, c scripting.Call, result json.RawMessage) (*scripting.Undo, error) {
	var r struct {
		Changed bool `json:"changed"`
	}
	if err := json.Unmarshal(result, &r); err != nil || !r.Changed {
		return nil, err
	}
	args := scripting.Args{"group": c.Args.Text("group"), "on": c.Args.Text("on"), "reason": "undo: " + c.Args.Text("reason")}
	if f.raise {
		return &scripting.Undo{Builtin: "lift_fence", Args: args, Text: fmt.Sprintf("let clients into group %s on %s again", c.Args.Text("group"), c.Args.Text("on"))}, nil
	}
	return &scripting.Undo{Builtin: "fence_group", Args: args, Text: fmt.Sprintf("keep everybody out of group %s on %s", c.Args.Text("group"), c.Args.Text("on"))}, nil
}
