package builtins

import (
	"context"
	"fmt"
	"time"

	"github.com/starferry/starferry/scripting"
)

func throttleEntry(p Ports, t typeSet) *scripting.Builtin {
	th := throttle{p}
	return &scripting.Builtin{
		Name: "throttle", Class: scripting.Hold, Rev: 1, Returns: "struct(group, revision, instances)",
		Doc:     "Limits how many records per second a whole group handles; it follows rebalances by itself.",
		Example: `throttle("billing", rate = "500/s", for_ = "30m", reason = "INC-4411")`,
		Params: []scripting.Param{
			{Name: "group", Type: t.group, Required: true, Doc: "the group", Complete: "groups"},
			{Name: "rate", Type: t.rate, Required: true, Doc: "records per second for the whole group; 0/s lifts the limit"},
			{Name: "for_", Type: t.duration, Doc: "ends by itself after this; until changed if left out"},
			{Name: "reason", Type: t.text, Doc: "why, for the audit trail"},
		},
		Plan: th.plan, Run: th.run, Reconcile: th.reconcile, Inverse: th.inverse, Summary: acknowledged,
	}
}

type throttle struct{ p Ports }

func (t throttle) request(c scripting.Call) (ThrottleRequest, error) {
	rate := c.Args.Rate("rate")
	if rate.Bytes {
		return ThrottleRequest{}, fmt.Errorf("throttle: rate %s counts bytes; a group is limited in records, such as 500/s", rate)
	}
	return ThrottleRequest{Group: groupArg(c), Rate: rate.PerSecond, For: c.Args.Duration("for_"), By: c.By, Why: why(c), Token: c.Token}, nil
}

func (t throttle) settings(ctx context.Context, c scripting.Call) (GroupSettings, error) {
	set, err := t.p.Hand.Settings(ctx, groupArg(c))
	if err != nil {
		return set, fmt.Errorf("read settings of group %s: %w", groupArg(c), err)
	}
	// A limit that has ended is none.
	if set.Until > 0 && set.Until <= c.Clock.Now().UnixMilli() {
		set.Rate, set.Until = 0, 0
	}
	return set, nil
}

func (t throttle) plan(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
	q, err := t.request(c)
	if err != nil {
		return scripting.Prediction{}, err
	}
	set, err := t.settings(ctx, c)
	if err != nil {
		return scripting.Prediction{}, err
	}
	result := unknownFields("revision", "instances", "before")
	result["group"] = q.Group
	if set.Rate == q.Rate && set.Until == 0 && q.For == 0 {
		return scripting.Prediction{Verdict: scripting.NoChange, Text: fmt.Sprintf("group %s: %s already", q.Group, rateText(q.Rate)), Result: result}, nil
	}
	text := fmt.Sprintf("group %s: from %s to %s", q.Group, rateText(set.Rate), rateText(q.Rate))
	if q.For > 0 {
		text += " for " + scripting.FormatDuration(q.For)
	}
	return scripting.Prediction{Verdict: scripting.WillDo, Text: text, Result: result}, nil
}

func rateText(r float64) string {
	if r == 0 {
		return "no limit"
	}
	return scripting.Rate{PerSecond: r}.String()
}

func (t throttle) run(ctx context.Context, c scripting.Call) (any, error) {
	q, err := t.request(c)
	if err != nil {
		return nil, err
	}
	r, err := t.p.Hand.Throttle(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("throttle group %s: %w", q.Group, err)
	}
	return r, nil
}

func (t throttle) reconcile(ctx context.Context, c scripting.Call) (scripting.Finding, any, error) {
	q, err := t.request(c)
	if err != nil {
		return scripting.Unclear, nil, err
	}
	set, err := t.p.Hand.Settings(ctx, q.Group)
	if err != nil {
		return scripting.Unclear, nil, fmt.Errorf("read settings of group %s: %w", q.Group, err)
	}
	if set.Rate != q.Rate || (set.Until > 0) != (q.For > 0) {
		return scripting.DidNot, nil, nil
	}
	return scripting.Happened, Receipt{Group: q.Group, Revision: set.Revision, Instances: []string{}}, nil
}

// inverse reads the limit that was, and what is left of its time.
func (t throttle) inverse(ctx context.Context, c scripting.Call) (*scripting.Undo, error) {
	set, err := t.settings(ctx, c)
	if err != nil {
		return nil, err
	}
	args := scripting.Args{"group": c.Args.Text("group"), "rate": scripting.Rate{PerSecond: set.Rate}.String(), "reason": "undo: " + c.Args.Text("reason")}
	if set.Until > 0 {
		left := time.UnixMilli(set.Until).Sub(c.Clock.Now()).Round(time.Second)
		args["for_"] = scripting.FormatDuration(max(left, time.Second))
	}
	return &scripting.Undo{Builtin: "throttle", Args: args, Text: fmt.Sprintf("group %s: back to %s", c.Args.Text("group"), rateText(set.Rate))}, nil
}
