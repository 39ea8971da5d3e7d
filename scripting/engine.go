package scripting

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.starlark.net/starlark"
)

// engine carries one run forward or back. It is the run's one writer: its
// records follow each other by sequence number, and a journal that has moved on
// without it stops it.
type engine struct {
	r       *Runner
	program *Program
	machine *machine
	clock   Clock
	// recheck, if set, must pass before the open phase's next new effect.
	recheck *gate

	mu      sync.Mutex // branches of a parallel write side by side
	history *history   // a scope's steps are read by whoever writes them without it
	broken  error      // why the journal takes nothing more from this engine
	tell    sync.Mutex // events are told one at a time
}

// gate is a check that runs once, before the first of several new effects; what
// it says holds for all of them.
type gate struct {
	once  sync.Once
	check func(ctx context.Context) error
	err   error
}

func (g *gate) pass(ctx context.Context) error {
	g.once.Do(func() { g.err = g.check(ctx) })
	return g.err
}

// interrupted says that the run stopped where it was and stays open.
type interrupted struct {
	run string
	err error
}

func (e *interrupted) Error() string {
	return fmt.Sprintf("run %s: interrupted: %v; take it up again with 'starferry resume %s'", e.run, e.err, e.run)
}
func (e *interrupted) Unwrap() error { return e.err }

func (r *Runner) clock() Clock {
	if r.Clock == nil {
		return SystemClock{}
	}
	return r.Clock
}

func (r *Runner) newID() string {
	if r.NewID != nil {
		return r.NewID()
	}
	return rand.Text()
}

// emit tells what happens, one event at a time.
func (e *engine) emit(ev Event) {
	e.tell.Lock()
	defer e.tell.Unlock()
	if e.r.Events != nil {
		e.r.Events(ev)
	}
}

// dead is why the engine can write nothing more, if that is so.
func (e *engine) dead() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.broken
}

func (r *Runner) newEngine(h *history, p *Program, params Args) (*engine, error) {
	m, err := newMachine(r.Registry, h.run, p.params, params, r.clock(), r.newID)
	if err != nil {
		return nil, err
	}
	for name, p := range h.phases {
		if p.state == phaseDone {
			if m.out.done[name], err = decodeValue(r.Registry, p.result); err != nil {
				return nil, err
			}
		}
	}
	return &engine{r: r, history: h, program: p, machine: m, clock: r.clock()}, nil
}

// write appends a record and folds it in. A failure is final for the engine.
func (e *engine) write(ctx context.Context, rec Record) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.broken != nil {
		return e.broken
	}
	rec.Run, rec.At = e.history.run, e.clock.Now().UnixMilli()
	// Whatever was done must be written even if ctx has just ended.
	seq, err := e.r.Journal.Append(context.WithoutCancel(ctx), e.history.seq, rec)
	if err != nil {
		e.broken = &outside{fmt.Errorf("journal run %s: append %s: %w", rec.Run, rec.Kind, err)}
		return e.broken
	}
	rec.Seq = seq
	if err := e.history.apply(rec); err != nil {
		e.broken = &outside{fmt.Errorf("journal run %s: %w", rec.Run, err)}
		return e.broken
	}
	e.emit(eventOf(e.r.Registry, rec))
	return nil
}

// forward runs all phases that are not done, then finishes the run.
func (e *engine) forward(ctx context.Context) (*Outcome, error) {
	for _, ph := range e.program.phases {
		if e.history.phase(ph.name).state != phaseDone {
			if err := e.runPhase(ctx, ph); err != nil {
				return nil, e.stop(ctx, ph, err)
			}
		}
	}
	if err := e.write(ctx, Record{Kind: Finished}); err != nil {
		return nil, e.interruption(ctx, err)
	}
	return e.outcome(), nil
}

func (e *engine) outcome() *Outcome {
	out := map[string]json.RawMessage{}
	for name, p := range e.history.phases {
		if p.state == phaseDone {
			out[name] = p.result
		}
	}
	return &Outcome{Run: e.history.run, Name: e.history.pinned.Name, State: e.history.state, Out: out, Held: e.history.held(e.r.Registry), Final: e.history.final()}
}

// runPhase takes a phase from where it stands to done: check, do, verify.
func (e *engine) runPhase(ctx context.Context, ph *phase) error {
	h := e.history.phase(ph.name)
	if h.state != phaseOpen {
		if err := e.write(ctx, Record{Kind: PhaseStarted, Phase: ph.name, Where: ph.where}); err != nil {
			return err
		}
	}
	check := func(ctx context.Context) error {
		_, err := e.call(ctx, ph, partCheck, ph.check)
		return err
	}
	if len(h.do) == 0 {
		if err := check(ctx); err != nil {
			return err
		}
		e.recheck = nil
	} else {
		e.recheck = &gate{check: check}
	}
	out, err := e.call(ctx, ph, partDo, ph.do)
	if err != nil {
		return err
	}
	e.machine.out.done[ph.name], err = decodeValue(e.r.Registry, out)
	if err != nil {
		return err
	}
	if _, err := e.call(ctx, ph, partVerify, ph.verify); err != nil {
		delete(e.machine.out.done, ph.name)
		return err
	}
	return e.write(ctx, Record{Kind: PhaseDone, Phase: ph.name, Result: out})
}

// call executes one function of a phase, if it has it.
func (e *engine) call(ctx context.Context, ph *phase, part string, f starlark.Callable) (json.RawMessage, error) {
	if f == nil {
		return nil, nil
	}
	var sc *scope
	if part == partDo || part == partUndo {
		sc = &e.history.phase(ph.name).scope
	}
	s := newSession(e.r.Registry, ph, part, sc, &live{engine: e})
	return e.follow(ctx, s, f, e.machine)
}

// follow executes a session and sees that it made all calls the journal has.
func (e *engine) follow(ctx context.Context, s *session, f starlark.Callable, arg starlark.Value) (json.RawMessage, error) {
	out, err := execute(ctx, s, f, arg, e.r.MaxSteps, e.program.files)
	if err == nil {
		if steps := s.steps(); s.n < len(steps) {
			return nil, e.mismatch(steps[s.n], "(nothing: the function ended)", s.phase.where)
		}
	}
	return out, err
}

func (e *engine) mismatch(s *step, scripted, where string) error {
	run := e.history.run
	return &outside{&MismatchError{Run: run, Step: s.id, Journaled: s.text(e.r.Registry), Scripted: scripted,
		JournalAt: s.where, ScriptAt: where, JournalSeq: s.seq, Next: []string{
			"starferry resume " + run + "     with the builtins the run was started with",
			"starferry rollback " + run + "   to undo what the run has done",
			"starferry journal " + run + "    to see every step",
		}}}
}

// live answers calls with a journal: from it, or from the world.
type live struct{ engine *engine }

func (l *live) print(ctx context.Context, s *session, text string) {
	e := l.engine
	if s.n < len(s.steps()) {
		return // said before
	}
	// A journal that is gone stops the run at its next call.
	_ = e.write(ctx, Record{Kind: Note, Phase: s.phase.name, Branch: s.branch, Text: text})
}

func (l *live) decide(ctx context.Context, s *session, what, where string, make func() any) (json.RawMessage, error) {
	e := l.engine
	id := s.stepID(what)
	if old := s.journaled(); old != nil {
		if old.id != id {
			return nil, e.mismatch(old, "m."+what+"()", where)
		}
		return old.result, nil
	}
	raw, err := json.Marshal(make())
	if err != nil {
		return nil, &outside{err}
	}
	return raw, e.write(ctx, Record{Kind: Observed, Phase: s.phase.name, Branch: s.branch, Step: id, Builtin: what, Hash: hashCall(what, 0, nil), Where: where, Result: raw})
}

func (l *live) call(ctx context.Context, s *session, b *Builtin, args Args, where string) (json.RawMessage, error) {
	e := l.engine
	if err := e.dead(); err != nil {
		return nil, err
	}
	c := e.newCall(s.phase.name, s.scope, s.stepID(b.Name), b, args, where)
	old := s.journaled()
	if old != nil {
		if old.id != c.Step || old.hash != hashCall(b.Name, b.Rev, args) {
			return nil, e.mismatch(old, describeCall(b, args), where)
		}
		if old.ok() {
			return old.result, nil
		}
	}
	if !b.Class.Changes() {
		return e.observe(ctx, b, c)
	}
	if old != nil && old.effect {
		if raw, settled, err := e.settle(ctx, b, c, old); settled || err != nil {
			return raw, err
		}
	}
	if s.part == partDo && e.recheck != nil {
		if err := e.recheck.pass(ctx); err != nil {
			return nil, &outside{err}
		}
	}
	return e.effect(ctx, b, c, old)
}

func (e *engine) newCall(phase string, sc *scope, stepID string, b *Builtin, args Args, where string) Call {
	run := e.history.run
	tell := func(text string, detail any) {
		ev := Event{Run: run, At: e.clock.Now(), Kind: Progress, Phase: phase, Step: stepID, Builtin: b.Name, Where: where, Text: text}
		if raw, err := json.Marshal(detail); err == nil && detail != nil {
			ev.Detail = raw
		}
		e.emit(ev)
	}
	c := Call{Run: run, Phase: phase, Step: stepID, Builtin: b.Name, Where: where, Args: args, By: e.r.By, Clock: e.clock,
		Progress: func(text string) { tell(text, nil) }, Details: tell}
	if sc != nil { // looks of check and verify have no token
		c.branch, c.Token = sc.branch, token(run, stepID, sc.life())
	}
	return c
}

// observe looks, and journals what was seen.
func (e *engine) observe(ctx context.Context, b *Builtin, c Call) (json.RawMessage, error) {
	raw, runErr := runBuiltin(ctx, b, c)
	if runErr != nil && ctx.Err() != nil {
		return nil, &outside{context.Cause(ctx)}
	}
	rec, err := e.record(Observed, b, c)
	if err != nil {
		return nil, err
	}
	rec.Result, rec.Token = raw, ""
	if runErr != nil {
		rec.Error, rec.Result = headline(runErr), nil
	}
	if err := e.write(ctx, rec); err != nil {
		return nil, err
	}
	if runErr != nil {
		return nil, &outside{runErr}
	}
	return raw, nil
}

func (e *engine) record(k Kind, b *Builtin, c Call) (Record, error) {
	args, err := journalArgs(b, c.Args)
	if err != nil {
		return Record{}, &outside{fmt.Errorf("%s: encode arguments: %w", b.Name, err)}
	}
	return Record{Kind: k, Phase: c.Phase, Branch: c.branch, Step: c.Step, Builtin: b.Name, Args: args, Hash: hashCall(b.Name, b.Rev, c.Args), Where: c.Where, Token: c.Token}, nil
}

// effect carries out a change: intent with its inverse, the change, its result.
func (e *engine) effect(ctx context.Context, b *Builtin, c Call, old *step) (json.RawMessage, error) {
	if ctx.Err() != nil {
		return nil, &outside{context.Cause(ctx)}
	}
	inverse, err := e.inverse(ctx, b, c, old)
	if err != nil {
		return nil, &outside{fmt.Errorf("%s: how to undo it cannot be told, so it was not done: %w", b.Name, err)}
	}
	return e.perform(ctx, b, c, old, inverse)
}

// perform journals the intent, unless an open one stands, acts and journals the
// result.
func (e *engine) perform(ctx context.Context, b *Builtin, c Call, old *step, inverse json.RawMessage) (json.RawMessage, error) {
	if old == nil || !old.open() {
		rec, err := e.record(Intent, b, c)
		if err != nil {
			return nil, err
		}
		rec.Inverse = inverse
		if err := e.write(ctx, rec); err != nil {
			return nil, err
		}
	}
	raw, err := runBuiltin(ctx, b, c)
	if err != nil {
		if ctx.Err() != nil {
			return nil, &outside{context.Cause(ctx)} // the intent stays open
		}
		if werr := e.write(ctx, Record{Kind: Done, Phase: c.Phase, Branch: c.branch, Step: c.Step, Builtin: b.Name, Error: headline(err)}); werr != nil {
			return nil, werr
		}
		return nil, &outside{err}
	}
	return raw, e.done(ctx, b, c, raw, inverse)
}

// inverse is the undo to journal with the intent. That of an earlier intent of
// the same step is kept: it was read before anything was changed.
func (e *engine) inverse(ctx context.Context, b *Builtin, c Call, old *step) (json.RawMessage, error) {
	if old != nil && old.effect && len(old.inverse) > 0 {
		return old.inverse, nil
	}
	if b.Inverse == nil || partOf(c.Step) != partDo {
		return nil, nil
	}
	u, err := b.Inverse(ctx, c)
	if err != nil || u == nil {
		return nil, err
	}
	return json.Marshal(u)
}

// done journals an effect's result and its final undo.
func (e *engine) done(ctx context.Context, b *Builtin, c Call, raw, inverse json.RawMessage) error {
	if b.InverseOf != nil && partOf(c.Step) == partDo {
		u, err := b.InverseOf(ctx, c, raw)
		if err != nil {
			return &outside{fmt.Errorf("%s: undo of the result: %w", b.Name, err)}
		}
		inverse = nil
		if u != nil {
			if inverse, err = json.Marshal(u); err != nil {
				return &outside{err}
			}
		}
	}
	return e.write(ctx, Record{Kind: Done, Phase: c.Phase, Branch: c.branch, Step: c.Step, Builtin: b.Name, Result: raw, Inverse: inverse})
}

// unclearError says that nobody can tell whether an effect happened.
type unclearError struct {
	step, text string
	err        error
}

func (e *unclearError) Error() string {
	s := fmt.Sprintf("step %s: %s was begun, and whether it happened cannot be told", e.step, e.text)
	if e.err != nil {
		s += ": " + e.err.Error()
	}
	return s + "; look at the system itself, then resume (it will be looked at again) or roll back"
}
func (e *unclearError) Unwrap() error { return e.err }

// settle finds out about an intent without a result. Settled is false if it did
// not happen and may be done now.
func (e *engine) settle(ctx context.Context, b *Builtin, c Call, old *step) (raw json.RawMessage, settled bool, err error) {
	if old.token != "" {
		c.Token = old.token
	}
	finding, result, err := b.Reconcile(ctx, c)
	if ctx.Err() != nil {
		return nil, false, &outside{context.Cause(ctx)}
	}
	if err != nil || finding == Unclear {
		return nil, false, &outside{&unclearError{c.Step, describeCall(b, c.Args), err}}
	}
	if finding == DidNot {
		return nil, false, nil
	}
	if raw, err = json.Marshal(result); err != nil {
		return nil, false, &outside{fmt.Errorf("%s: encode result: %w", b.Name, err)}
	}
	return raw, true, e.done(ctx, b, c, raw, old.inverse)
}

func runBuiltin(ctx context.Context, b *Builtin, c Call) (json.RawMessage, error) {
	v, err := b.Run(ctx, c)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("%s: encode result: %w", b.Name, err)
	}
	return raw, nil
}

// hashCall identifies a call: name, revision and arguments.
func hashCall(name string, rev int, args Args) string {
	raw, err := json.Marshal(args)
	if err != nil {
		raw = []byte(err.Error())
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%s", name, rev, raw))
	return hex.EncodeToString(sum[:8])
}

// token names an effect in one attempt of its phase.
func token(run, stepID, attempt string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s", run, stepID, attempt))
	return hex.EncodeToString(sum[:12])
}

// interruption wraps what stops a run without failing it.
func (e *engine) interruption(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, ErrFenced):
		return fmt.Errorf("run %s: %w; this agent stops writing to it", e.history.run, err)
	case e.dead() != nil:
		return &interrupted{e.history.run, e.dead()}
	case ctx.Err() != nil:
		return &interrupted{e.history.run, context.Cause(ctx)}
	}
	return err
}

func eventOf(reg *Registry, rec Record) Event {
	ev := Event{Run: rec.Run, At: time.UnixMilli(rec.At), Kind: rec.Kind, Phase: rec.Phase, Branch: rec.Branch, Step: rec.Step, Builtin: rec.Builtin, Where: rec.Where, Text: rec.Text, Error: rec.Error, Result: rec.Result}
	b, ok := reg.Builtin(rec.Builtin)
	if ok && rec.Text == "" && len(rec.Args) > 0 {
		if args, err := parseJournaled(rec.Args); err == nil {
			ev.Text = describeCall(b, args)
		}
	}
	if ok && b.Summary != nil && rec.Kind == Done && len(rec.Result) > 0 {
		ev.Summary = b.Summary(rec.Result)
	}
	if ev.Text == "" && ev.Phase != "" && ev.Step == "" {
		ev.Text = strings.ReplaceAll(string(rec.Kind), "phase_", "phase "+rec.Phase+" ")
	}
	return ev
}
