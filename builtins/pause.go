package builtins

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/starferry/starferry/scripting"
)

func pauseEntry(p Ports, t typeSet) *scripting.Builtin {
	h := pause{p}
	return &scripting.Builtin{
		Name: "pause", Class: scripting.Hold, Rev: 1, Returns: "struct(group, revision, id, instances)",
		Doc: "Has a group hand out nothing, or nothing of one topic or partition, wherever it lives. Its members stay members; " +
			"what a handler has in hand is finished.",
		Example: `pause("billing", for_ = "10m", reason = "INC-4411")`,
		Params: []scripting.Param{
			{Name: "group", Type: t.group, Required: true, Doc: "the group", Complete: "groups"},
			{Name: "on", Type: t.text, Doc: "a topic, or topic/partition; the whole group if left out", Complete: "partitions"},
			{Name: "for_", Type: t.duration, Doc: "ends by itself after this, whether an agent lives or not; until it is resumed if left out"},
			{Name: "reason", Type: t.text, Required: true, Doc: "why, for the audit trail"},
		},
		Plan: h.plan, Run: h.run, Reconcile: h.reconcile, Inverse: noUndoYet, InverseOf: h.inverseOf, Summary: acknowledged,
	}
}

type pause struct{ p Ports }

// covered is what a pause is about, in words.
func covered(on string) string {
	if on == "" {
		return "everything"
	}
	return on
}

// holds are the pauses that count now.
func holds(ctx context.Context, p Ports, c scripting.Call) ([]GroupHold, uint64, error) {
	set, err := p.Hand.Settings(ctx, groupArg(c))
	if err != nil {
		return nil, 0, fmt.Errorf("read settings of group %s: %w", groupArg(c), err)
	}
	var out []GroupHold
	for _, h := range set.Holds {
		if h.Until == 0 || h.Until > c.Clock.Now().UnixMilli() {
			out = append(out, h)
		}
	}
	return out, set.Revision, nil
}

func (h pause) plan(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
	now, _, err := holds(ctx, h.p, c)
	if err != nil {
		return scripting.Prediction{}, err
	}
	result := unknownFields("revision", "id", "instances", "before", "keep")
	result["group"] = groupArg(c)
	text := fmt.Sprintf("group %s hands out nothing of %s", groupArg(c), covered(c.Args.Text("on")))
	if d := c.Args.Duration("for_"); d > 0 {
		text += " for " + scripting.FormatDuration(d)
	} else {
		text += " until it is resumed"
	}
	if len(now) > 0 {
		text += fmt.Sprintf("; %s in force already", count(len(now), "pause"))
	}
	return scripting.Prediction{Verdict: scripting.WillDo, Text: text, Result: result}, nil
}

func (h pause) run(ctx context.Context, c scripting.Call) (any, error) {
	r, err := h.p.Remote.Pause(ctx, PauseRequest{Group: groupArg(c), On: c.Args.Text("on"), For: c.Args.Duration("for_"), By: c.By, Why: why(c), Token: c.Token})
	if err != nil {
		return nil, fmt.Errorf("pause group %s: %w", groupArg(c), err)
	}
	return r, nil
}

func (h pause) reconcile(ctx context.Context, c scripting.Call) (scripting.Finding, any, error) {
	set, err := h.p.Hand.Settings(ctx, groupArg(c))
	if err != nil {
		return scripting.Unclear, nil, fmt.Errorf("read settings of group %s: %w", groupArg(c), err)
	}
	for _, k := range set.Holds {
		if k.ID == "pause-"+c.Token {
			return scripting.Happened, Receipt{Group: groupArg(c), Revision: set.Revision, ID: k.ID, Instances: []string{}}, nil
		}
	}
	return scripting.DidNot, nil, nil
}

func (h pause) inverseOf(_ context.Context, c scripting.Call, result json.RawMessage) (*scripting.Undo, error) {
	var r Receipt
	if err := json.Unmarshal(result, &r); err != nil {
		return nil, fmt.Errorf("read receipt: %w", err)
	}
	return &scripting.Undo{Builtin: "resume", Args: scripting.Args{"group": string(r.Group), "id": r.ID, "reason": "undo: " + c.Args.Text("reason")},
		Text: fmt.Sprintf("group %s hands out %s again", r.Group, covered(c.Args.Text("on")))}, nil
}

func resumeEntry(p Ports, t typeSet) *scripting.Builtin {
	u := resume{p}
	return &scripting.Builtin{
		Name: "resume", Class: scripting.Effect, Rev: 1, Returns: "struct(group, revision, instances)",
		Doc:     "Ends pauses of a group: one by its id, those of just one topic or partition, or all.",
		Example: `resume("billing", reason = "INC-4411 is fixed")`,
		Params: []scripting.Param{
			{Name: "group", Type: t.group, Required: true, Doc: "the group", Complete: "groups"},
			{Name: "id", Type: t.text, Doc: "the pause's id, as pause returned it"},
			{Name: "on", Type: t.text, Doc: "end what was paused as just this topic or topic/partition", Complete: "partitions"},
			{Name: "reason", Type: t.text, Required: true, Doc: "why, for the audit trail"},
		},
		Plan: u.plan, Run: u.run, Reconcile: u.reconcile, Inverse: u.inverse, Summary: acknowledged,
	}
}

type resume struct{ p Ports }

// meant are the pauses that a call ends.
func (u resume) meant(ctx context.Context, c scripting.Call) (meant []GroupHold, revision uint64, err error) {
	id, on := c.Args.Text("id"), c.Args.Text("on")
	if id != "" && on != "" {
		return nil, 0, fmt.Errorf("resume: id and on exclude each other")
	}
	now, revision, err := holds(ctx, u.p, c)
	for _, h := range now {
		if id == "" && on == "" || id != "" && h.ID == id || on != "" && h.On == on {
			meant = append(meant, h)
		}
	}
	return meant, revision, err
}

func (u resume) plan(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
	meant, _, err := u.meant(ctx, c)
	if err != nil {
		return scripting.Prediction{}, err
	}
	result := unknownFields("revision", "id", "instances", "before", "keep")
	result["group"] = groupArg(c)
	if len(meant) == 0 {
		return scripting.Prediction{Verdict: scripting.NoChange, Text: fmt.Sprintf("group %s: no such pause is in force", groupArg(c)), Result: result}, nil
	}
	text := fmt.Sprintf("group %s hands out again", groupArg(c))
	for _, h := range meant {
		text += fmt.Sprintf("; %s, paused by %s: %s", covered(h.On), h.By, h.Why)
	}
	return scripting.Prediction{Verdict: scripting.WillDo, Text: text, Result: result}, nil
}

func (u resume) run(ctx context.Context, c scripting.Call) (any, error) {
	if _, _, err := u.meant(ctx, c); err != nil {
		return nil, err
	}
	r, err := u.p.Remote.Resume(ctx, ResumeRequest{Group: groupArg(c), ID: c.Args.Text("id"), On: c.Args.Text("on"), By: c.By, Why: why(c), Token: c.Token})
	if err != nil {
		return nil, fmt.Errorf("resume group %s: %w", groupArg(c), err)
	}
	return r, nil
}

func (u resume) reconcile(ctx context.Context, c scripting.Call) (scripting.Finding, any, error) {
	meant, revision, err := u.meant(ctx, c)
	switch {
	case err != nil:
		return scripting.Unclear, nil, err
	case len(meant) > 0:
		return scripting.DidNot, nil, nil
	}
	return scripting.Happened, Receipt{Group: groupArg(c), Revision: revision, Instances: []string{}}, nil
}

// inverse sets the pause again, with what is left of its time. Of several, which
// an undo cannot hold in one call, the whole group is paused.
func (u resume) inverse(ctx context.Context, c scripting.Call) (*scripting.Undo, error) {
	meant, _, err := u.meant(ctx, c)
	if err != nil || len(meant) == 0 {
		return nil, err
	}
	args := scripting.Args{"group": c.Args.Text("group"), "reason": "undo: " + c.Args.Text("reason")}
	on := meant[0].On
	if len(meant) > 1 {
		on = ""
	}
	if on != "" {
		args["on"] = on
	}
	if until := meant[0].Until; until > 0 && len(meant) == 1 {
		left := time.UnixMilli(until).Sub(c.Clock.Now()).Round(time.Second)
		args["for_"] = scripting.FormatDuration(max(left, time.Second))
	}
	return &scripting.Undo{Builtin: "pause", Args: args, Text: fmt.Sprintf("pause %s of group %s again", covered(on), c.Args.Text("group"))}, nil
}
