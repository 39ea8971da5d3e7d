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
}

// Plan predicts what Run would do now. It makes real reads, predicts effects
// and writes nothing anywhere, not even to the journal. An error is one of the
// script or its parameters; what would stop the run is a line of the plan.
func (r *Runner) Plan(ctx context.Context, p *Program, params map[string]string) (*Plan, error) {
	args, err := p.bindParams(params)
	if err != nil {
		return nil, err
	}
	pl := &planner{runner: r, plan: &Plan{File: p.file, Params: paramText(args), Counts: map[Verdict]int{}}}
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
		s := &session{reg: pl.runner.Registry, phase: ph, part: f.part, answer: pl}
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
		pl.line(s, PlanLine{Where: where, Verdict: pl.failing(), Text: unmet.Error()})
	case call != nil:
		pl.line(s, PlanLine{Where: where, Verdict: pl.failing(), Text: call.Error()})
	default:
		return err
	}
	return nil
}

// failing is the verdict on a check that does not hold now: after effects that
// are only predicted nobody can tell.
func (pl *planner) failing() Verdict {
	for _, e := range pl.earlier {
		if e.Verdict == WillDo {
			return UnknownUntilRun
		}
	}
	return FailsNow
}

func (pl *planner) line(s *session, l PlanLine) {
	l.Part = s.part
	ph := &pl.plan.Phases[len(pl.plan.Phases)-1]
	ph.Lines = append(ph.Lines, l)
	pl.plan.Counts[l.Verdict]++
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
			pl.line(s, PlanLine{Builtin: b.Name, Where: where, Verdict: pl.failing(), Text: unmet.Error(), Class: b.Class})
			return []byte("null"), nil // go on: the plan shows all that is wrong
		}
		return nil, &outside{fmt.Errorf("%s: %w", b.Name, err)}
	}
	if pred.Verdict == FailsNow {
		pred.Verdict = pl.failing()
	}
	if b.Class != Read {
		text := strings.TrimPrefix(describeCall(b, args), b.Name)
		if pred.Text != "" {
			text = pred.Text
		}
		pl.line(s, PlanLine{Builtin: b.Name, Where: where, Verdict: pred.Verdict, Text: text, Class: b.Class, AtMost: pred.AtMost})
	}
	if b.Class.Changes() {
		pl.earlier = append(pl.earlier, Planned{Builtin: b.Name, Args: args, Verdict: pred.Verdict})
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

// String renders the plan for people: one line per call, a line of counts, and
// the longest wait.
func (p *Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Plan of %s (%s)\n", p.Name, p.File)
	var longest PlanLine
	for _, ph := range p.Phases {
		fmt.Fprintf(&b, "\n  %s  (undo: %s)\n", ph.Name, ph.Undo)
		for _, l := range ph.Lines {
			name := l.Builtin
			if name != "" {
				name += "  "
			}
			fmt.Fprintf(&b, "    %-6s  %-17s  %s%s\n", l.Part, l.Verdict, name, strings.ReplaceAll(l.Text, "\n", " "))
			if l.AtMost > longest.AtMost {
				longest = l
			}
		}
	}
	var counts []string
	for _, v := range []Verdict{WillDo, NoChange, HoldsNow, FailsNow, UnknownUntilRun} {
		if n := p.Counts[v]; n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, v))
		}
	}
	fmt.Fprintf(&b, "\n%s", strings.Join(counts, ", "))
	if longest.AtMost > 0 {
		fmt.Fprintf(&b, "; longest: %s, at most %s", longest.Builtin, FormatDuration(longest.AtMost))
	}
	b.WriteString(". Nothing was changed.\n")
	return b.String()
}
