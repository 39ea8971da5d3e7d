package scripting

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.starlark.net/starlark"
)

// Plan is what a run would do now.
type Plan struct {
	Name   string            `json:"name"`
	File   string            `json:"file"`
	Params map[string]string `json:"params"`
	Locks  []string          `json:"locks"`
	Phases []PlanPhase       `json:"phases"`
	Counts map[Verdict]int   `json:"counts"`
}

// PlanPhase is one phase of a plan.
type PlanPhase struct {
	Name  string     `json:"name"`
	Lines []PlanLine `json:"lines"`
	// Undo says how the phase would be undone.
	Undo string `json:"undo"`
}

// PlanLine is one call, or one remark, of a plan.
type PlanLine struct {
	Part    string        `json:"part"` // check, do, verify
	Builtin string        `json:"builtin,omitempty"`
	Where   string        `json:"where,omitempty"`
	Verdict Verdict       `json:"verdict"`
	Text    string        `json:"text"`
	Class   Class         `json:"class,omitempty"`
	AtMost  time.Duration `json:"at_most,omitempty"`
	// Branch is the branch of a parallel that makes the call.
	Branch string `json:"branch,omitempty"`
	// Table is shown below the line; its first row are the heads.
	Table [][]string `json:"table,omitempty"`
}

// Plan predicts what Run would do now. It makes real reads, predicts effects
// and writes nothing anywhere, not even to the journal. An error is one of the
// script or its parameters; what would stop the run is a line of the plan.
func (r *Runner) Plan(ctx context.Context, p *Program, params map[string]string) (*Plan, error) {
	args, err := p.bindParams(params)
	if err != nil {
		return nil, err
	}
	pl := &planner{runner: r, files: p.files, plan: &Plan{File: p.file, Params: paramText(args), Counts: map[Verdict]int{}}}
	if pl.plan.Name, pl.plan.Locks, err = p.Names(args); err != nil {
		return nil, err
	}
	m, err := newMachine(r.Registry, "plan", p.params, args, r.clock(), r.newID)
	if err != nil {
		return nil, err
	}
	m.out.unknown = map[string]bool{}
	for _, ph := range p.phases {
		pl.plan.Phases = append(pl.plan.Phases, PlanPhase{Name: ph.name, Undo: undoText(ph)})
		if err := pl.phase(ctx, p, ph, m); err != nil {
			return nil, err
		}
	}
	return pl.plan, nil
}

func undoText(ph *phase) string {
	switch {
	case ph.irreversible:
		return "no way back"
	case ph.undo != nil:
		return "by its own undo"
	}
	return "automatic"
}

// planner answers calls with predictions.
type planner struct {
	runner  *Runner
	plan    *Plan
	files   map[string]string
	earlier []Planned
}

func (pl *planner) phase(ctx context.Context, p *Program, ph *phase, m *machine) error {
	m.out.unknown[ph.name] = true
	for _, f := range []struct {
		part string
		call starlark.Callable
	}{{partCheck, ph.check}, {partDo, ph.do}, {partVerify, ph.verify}} {
		if f.call == nil {
			continue
		}
		s := newSession(pl.runner.Registry, ph, f.part, nil, pl)
		out, err := execute(ctx, s, f.call, m, pl.runner.MaxSteps, p.files)
		if ctx.Err() != nil {
			return fmt.Errorf("plan %s: %w", p.file, context.Cause(ctx))
		}
		if err != nil {
			if err = pl.remark(s, err); err != nil {
				return err
			}
			continue
		}
		if f.part == partDo {
			if m.out.done[ph.name], err = decodeValue(pl.runner.Registry, out); err != nil {
				return err
			}
		}
	}
	return nil
}

// remark turns what ended a function early into a line; errors of the script
// itself end the plan.
func (pl *planner) remark(s *session, err error) error {
	var (
		unknown *UnknownError
		unmet   *UnmetError
		call    *callError
		where   string
	)
	if errors.As(err, &call) {
		where = call.where
	}
	switch {
	case errors.As(err, &unknown):
		pl.line(s, PlanLine{Where: where, Verdict: UnknownUntilRun, Text: "the rest of " + s.part + ": " + unknown.Error()})
	case errors.As(err, &unmet):
		pl.line(s, PlanLine{Where: where, Verdict: pl.failing(s), Text: unmet.Error()})
	case call != nil:
		pl.line(s, PlanLine{Where: where, Verdict: pl.failing(s), Text: call.Error()})
	default:
		return err
	}
	return nil
}

// failing is the verdict on a check that does not hold now: after effects that
// are only predicted nobody can tell.
func (pl *planner) failing(s *session) Verdict {
	for _, e := range pl.earlier {
		if e.Verdict == WillDo && strings.HasPrefix(s.branch, e.branch) { // branches don't see each other
			return UnknownUntilRun
		}
	}
	return FailsNow
}

func (pl *planner) line(s *session, l PlanLine) {
	l.Part, l.Branch = s.part, s.branch
	ph := &pl.plan.Phases[len(pl.plan.Phases)-1]
	ph.Lines = append(ph.Lines, l)
	if l.Verdict != "" {
		pl.plan.Counts[l.Verdict]++
	}
}

func (pl *planner) print(context.Context, *session, string) {}

func (pl *planner) decide(_ context.Context, _ *session, _, _ string, make func() any) (json.RawMessage, error) {
	return json.Marshal(make())
}

func (pl *planner) call(ctx context.Context, s *session, b *Builtin, args Args, where string) (json.RawMessage, error) {
	clock := pl.runner.clock()
	c := Call{Run: "plan", Phase: s.phase.name, Step: s.stepID(b.Name), Builtin: b.Name, Where: where, Args: args,
		Token: "plan", By: pl.runner.By, Clock: clock, Progress: func(string) {}, Earlier: pl.earlier}
	pred, err := pl.predict(ctx, b, c)
	if err != nil {
		var unmet *UnmetError
		if errors.As(err, &unmet) && b.Class == Check {
			pl.line(s, PlanLine{Builtin: b.Name, Where: where, Verdict: pl.failing(s), Text: unmet.Error(), Class: b.Class})
			return []byte("null"), nil // go on: the plan shows all that is wrong
		}
		return nil, &outside{fmt.Errorf("%s: %w", b.Name, err)}
	}
	if pred.Verdict == FailsNow {
		pred.Verdict = pl.failing(s)
	}
	if b.Class != Read || pred.Table != nil {
		text := strings.TrimPrefix(describeCall(b, args), b.Name)
		if pred.Text != "" {
			text = pred.Text
		}
		pl.line(s, PlanLine{Builtin: b.Name, Where: where, Verdict: pred.Verdict, Text: text, Class: b.Class, AtMost: pred.AtMost, Table: pred.Table})
	}
	if b.Class.Changes() {
		pl.earlier = append(pl.earlier, Planned{Builtin: b.Name, Args: args, Verdict: pred.Verdict, branch: s.branch})
	}
	raw, err := json.Marshal(pred.Result)
	if err != nil {
		return nil, &outside{fmt.Errorf("%s: encode prediction: %w", b.Name, err)}
	}
	return raw, nil
}

// predict asks the builtin, or runs it if it only looks.
func (pl *planner) predict(ctx context.Context, b *Builtin, c Call) (Prediction, error) {
	if b.Plan != nil {
		return b.Plan(ctx, c)
	}
	if b.Class.Changes() {
		return Prediction{}, fmt.Errorf("cannot be planned")
	}
	v, err := b.Run(ctx, c)
	return Prediction{Verdict: HoldsNow, Result: v}, err
}

// fork implements answerer: branch after branch, since nothing is waited for.
func (pl *planner) fork(ctx context.Context, s *session, f *forkCall) (json.RawMessage, error) {
	f.At = s.at()
	pl.line(s, PlanLine{Builtin: "parallel", Where: f.where, Text: f.String(), Class: Flow})
	out := make([]json.RawMessage, len(f.Keys))
	for i, k := range f.Keys {
		b := &session{reg: s.reg, phase: s.phase, part: s.part, path: s.phase.name + "/" + f.branch(k), branch: f.branch(k), answer: pl}
		raw, err := execute(ctx, b, f.fn, f.items[i], pl.runner.MaxSteps, pl.files)
		if ctx.Err() != nil {
			return nil, &outside{context.Cause(ctx)}
		}
		if err != nil {
			if err = pl.remark(b, err); err != nil {
				return nil, &outside{err}
			}
			raw, _ = json.Marshal(Unknown{}) // plain data: it cannot fail
		}
		out[i] = raw
	}
	return json.Marshal(out)
}

// lock implements answerer.
func (pl *planner) lock(ctx context.Context, s *session, names []string, where string) error {
	err := pl.runner.checkLocks(ctx, names, "")
	var held *LockedError
	switch {
	case errors.As(err, &held):
		pl.line(s, PlanLine{Builtin: "lock", Where: where, Verdict: pl.failing(s), Text: held.Error(), Class: Flow})
		return nil
	case err != nil:
		return &outside{err}
	}
	pl.line(s, PlanLine{Builtin: "lock", Where: where, Verdict: HoldsNow, Text: fmt.Sprintf("%d free: %s", len(names), abbreviate(names, 5)), Class: Flow})
	return nil
}

// approve implements answerer.
func (pl *planner) approve(_ context.Context, s *session, question, where string) error {
	pl.line(s, PlanLine{Builtin: "approve", Where: where, Verdict: UnknownUntilRun, Text: "the run stops until it is resumed: " + question, Class: Flow})
	return nil
}
