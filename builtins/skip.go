package builtins

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

// skipLimit is how many records a skip may pass without force.
const skipLimit = 10_000

func skipEntry(p Ports, t typeSet) *scripting.Builtin {
	s := skip{p}
	return &scripting.Builtin{
		Name: "skip", Class: scripting.Effect, Rev: 1, Returns: "struct(group, revision, id, instances)",
		Doc:     "Passes records of one partition without handing them to the group, also one that blocks it now.",
		Example: `skip(group = "billing", at = "orders/7@184223", reason = "INC-4411")`,
		Params: []scripting.Param{
			{Name: "group", Type: t.group, Required: true, Doc: "the group", Complete: "groups"},
			{Name: "at", Type: t.position, Required: true, Doc: "the first record to pass, topic/partition@offset", Complete: "partitions"},
			{Name: "reason", Type: t.text, Required: true, Doc: "why, for the audit trail"},
			{Name: "count", Type: t.whole, Doc: "how many offsets to pass; 1 if left out"},
			{Name: "to", Type: t.whole, Doc: "instead of count: the first offset that is read again"},
			{Name: "on", Type: t.cluster, Doc: "the cluster whose offsets these are; the group's home if left out", Complete: "clusters"},
			{Name: "force", Type: t.yes, Default: false, Doc: "True: pass more than 10,000 offsets"},
		},
		Plan: s.plan, Run: s.run, Reconcile: s.reconcile, Inverse: noUndoYet, InverseOf: s.inverseOf,
	}
}

// noUndoYet is the inverse of effects whose undo only the result tells.
func noUndoYet(context.Context, scripting.Call) (*scripting.Undo, error) { return nil, nil }

type skip struct{ p Ports }

func (s skip) request(ctx context.Context, c scripting.Call) (SkipRequest, error) {
	at, err := starferry.ParsePosition(c.Args.Text("at"))
	if err != nil {
		return SkipRequest{}, fmt.Errorf("skip: %w", err)
	}
	to := at.Offset + 1
	switch {
	case c.Args.Has("count") && c.Args.Has("to"):
		return SkipRequest{}, fmt.Errorf("skip: count and to exclude each other")
	case c.Args.Has("count"):
		to = at.Offset + starferry.Offset(c.Args.Int("count"))
	case c.Args.Has("to"):
		to = starferry.Offset(c.Args.Int("to"))
	}
	n := int64(to - at.Offset)
	if n <= 0 {
		return SkipRequest{}, fmt.Errorf("skip: from offset %d to %d there is nothing to pass", at.Offset, to)
	}
	if n > skipLimit && !c.Args.Bool("force") {
		return SkipRequest{}, fmt.Errorf("skip: %d offsets are more than %d; if that is meant, say force = True", n, skipLimit)
	}
	q := SkipRequest{Group: groupArg(c), Cluster: clusterArg(c, "on"), Partition: at.TopicPartition,
		Range: starferry.Range{From: at.Offset, To: to}, By: c.By, Why: why(c), Token: c.Token}
	if q.Cluster == "" {
		home, err := s.p.Hand.Home(ctx, q.Group)
		if err != nil {
			return q, fmt.Errorf("find home of group %s: %w", q.Group, err)
		}
		q.Cluster = home.Cluster
	}
	return q, nil
}

// find looks for the skip in what is set now.
func (s skip) find(ctx context.Context, q SkipRequest) (GroupSettings, *GroupSkip, error) {
	set, err := s.p.Hand.Settings(ctx, q.Group)
	if err != nil {
		return set, nil, fmt.Errorf("read settings of group %s: %w", q.Group, err)
	}
	for i, k := range set.Skips {
		if k.Cluster == q.Cluster && k.Partition == q.Partition && k.Range == q.Range {
			return set, &set.Skips[i], nil
		}
	}
	return set, nil, nil
}

func (s skip) plan(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
	q, err := s.request(ctx, c)
	if err != nil {
		return scripting.Prediction{}, err
	}
	set, there, err := s.find(ctx, q)
	if err != nil {
		return scripting.Prediction{}, err
	}
	result := unknownFields("revision", "id", "instances", "before")
	result["group"] = q.Group
	if there != nil {
		result["id"], result["revision"] = there.ID, set.Revision
		return scripting.Prediction{Verdict: scripting.NoChange, Text: fmt.Sprintf("group %s passes %s [%d, %d) already", q.Group, q.Partition, q.Range.From, q.Range.To), Result: result}, nil
	}
	return scripting.Prediction{Verdict: scripting.WillDo, Result: result,
		Text: fmt.Sprintf("group %s passes %s of %s on %s, offsets [%d, %d)", q.Group, count(int(q.Range.To-q.Range.From), "offset"), q.Partition, q.Cluster, q.Range.From, q.Range.To)}, nil
}

func (s skip) run(ctx context.Context, c scripting.Call) (any, error) {
	q, err := s.request(ctx, c)
	if err != nil {
		return nil, err
	}
	r, err := s.p.Hand.Skip(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("skip %s of group %s: %w", c.Args.Text("at"), q.Group, err)
	}
	return r, nil
}

func (s skip) reconcile(ctx context.Context, c scripting.Call) (scripting.Finding, any, error) {
	q, err := s.request(ctx, c)
	if err != nil {
		return scripting.Unclear, nil, err
	}
	set, there, err := s.find(ctx, q)
	if err != nil {
		return scripting.Unclear, nil, err
	}
	if there == nil {
		return scripting.DidNot, nil, nil
	}
	return scripting.Happened, Receipt{Group: q.Group, Revision: set.Revision, ID: there.ID, Instances: []string{}}, nil
}

func (s skip) inverseOf(_ context.Context, c scripting.Call, result json.RawMessage) (*scripting.Undo, error) {
	var r Receipt
	if err := json.Unmarshal(result, &r); err != nil {
		return nil, fmt.Errorf("read receipt: %w", err)
	}
	for _, k := range r.Before.Skips {
		if k.ID == r.ID {
			return nil, nil // it was set before; not ours to take away
		}
	}
	return &scripting.Undo{Builtin: "unskip", Args: scripting.Args{"group": string(r.Group), "id": r.ID, "reason": "undo: " + c.Args.Text("reason")},
		Text: fmt.Sprintf("take the skip of %s back; records already passed stay passed", c.Args.Text("at"))}, nil
}
