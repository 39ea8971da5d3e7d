package scripting

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"go.starlark.net/starlark"
)

// The parts of a phase.
const (
	partCheck  = "check"
	partDo     = "do"
	partVerify = "verify"
	partUndo   = "undo"
)

// defaultMaxSteps bounds one phase function, in Starlark steps.
const defaultMaxSteps = 100_000_000

// session is the execution of one function of a phase, or of one branch of a
// parallel in it: who answers its calls.
type session struct {
	reg    *Registry
	phase  *phase
	part   string
	path   string // what the ids of its steps begin with
	branch string // of its records
	scope  *scope // what it is replayed against; nil: check and verify, plans
	n      int    // calls so far
	answer answerer
}

func newSession(reg *Registry, ph *phase, part string, sc *scope, answer answerer) *session {
	s := &session{reg: reg, phase: ph, part: part, path: ph.name, scope: sc, answer: answer}
	if part != partDo {
		s.path += "/" + part
	}
	return s
}

// steps are the journaled calls that the session is replayed against.
func (s *session) steps() []*step {
	switch {
	case s.scope == nil:
		return nil
	case s.part == partUndo && s.branch == "":
		return s.scope.undo
	}
	return s.scope.do
}

// journaled is the record of the call under way, if the journal has it.
func (s *session) journaled() *step {
	if steps := s.steps(); s.n <= len(steps) {
		return steps[s.n-1]
	}
	return nil
}

// answerer carries out the calls of a session: live with a journal, or in a plan.
type answerer interface {
	// call answers a builtin.
	call(ctx context.Context, s *session, b *Builtin, args Args, where string) (json.RawMessage, error)
	// decide answers m.now, m.uuid and m.random.
	decide(ctx context.Context, s *session, what, where string, make func() any) (json.RawMessage, error)
	// print tells people.
	print(ctx context.Context, s *session, text string)
	// fork calls a function for many items at once.
	fork(ctx context.Context, s *session, f *forkCall) (json.RawMessage, error)
	// lock takes more locks for the run.
	lock(ctx context.Context, s *session, names []string, where string) error
	// approve asks a person to resume the run.
	approve(ctx context.Context, s *session, question, where string) error
}

// stepID names a call: phase/n:builtin, with the part if it is not do, and the
// branch if it is in one.
func (s *session) stepID(builtin string) string { return fmt.Sprintf("%s/%d:%s", s.path, s.n, builtin) }

// callBuiltin is what every word of the registry does when a script calls it.
func callBuiltin(thread *starlark.Thread, reg *Registry, b *Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	where := thread.CallFrame(1).Pos.String()
	loader, _ := thread.Local(localLoader).(*loader)
	s, _ := thread.Local(localSession).(*session)
	ctx, _ := thread.Local(localContext).(context.Context)
	if b.Class == Declare {
		if loader == nil {
			return nil, fmt.Errorf("%s declares: it belongs to the top level of the script, not into a phase", b.Name)
		}
		return declare(loader, b, where, args, kwargs)
	}
	if s == nil && b.Class != Pure {
		return nil, fmt.Errorf("%s reaches out to the world, and the top level of a script only declares: move the call into a function of a phase", b.Name)
	}
	if b.Class == Flow {
		return flow(ctx, s, b, where, args, kwargs)
	}
	parsed, err := unpack(b, args, kwargs)
	if err != nil {
		return nil, err
	}
	if b.Class == Pure {
		return runPure(ctx, reg, b, parsed, where)
	}
	if b.Class.Changes() && s.part != partDo && s.part != partUndo {
		return nil, fmt.Errorf("%s changes something, and %s of phase %s only looks: move the call into do", b.Name, s.part, s.phase.name)
	}
	s.n++
	raw, err := s.answer.call(ctx, s, b, parsed, where)
	if err != nil {
		return nil, err
	}
	return decodeValue(reg, raw)
}

func runPure(ctx context.Context, reg *Registry, b *Builtin, args Args, where string) (starlark.Value, error) {
	v, err := b.Run(ctx, Call{Builtin: b.Name, Args: args, Where: where, Clock: SystemClock{}, Progress: func(string) {}})
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("%s: encode result: %w", b.Name, err)
	}
	return decodeValue(reg, raw)
}

// execute calls one function of a phase with m, or one of parallel with an item,
// and returns its value as JSON.
func execute(ctx context.Context, s *session, f starlark.Callable, arg starlark.Value, maxSteps uint64, files map[string]string) (json.RawMessage, error) {
	if maxSteps == 0 {
		maxSteps = defaultMaxSteps
	}
	thread, release := newThread(ctx, s.phase.name, maxSteps, func(text string) { s.answer.print(ctx, s, text) }, nil)
	defer release()
	thread.SetLocal(localSession, s)
	v, err := starlark.Call(thread, f, starlark.Tuple{arg}, nil)
	if err != nil {
		return nil, placed(err, files)
	}
	plain, err := toPlain(v)
	if err != nil {
		return nil, &ScriptError{Where: s.phase.where, Text: fmt.Sprintf("%s of phase %s returns something that cannot be kept: %v", s.part, s.phase.name, err), Hint: "return values of builtins, strings, numbers, lists, or struct(...) of them"}
	}
	return encodePlain(plain)
}

// callError is an error out of a function of a phase, with its place.
type callError struct {
	where string
	err   error
}

func (e *callError) Error() string { return e.err.Error() }
func (e *callError) Unwrap() error { return e.err }

// outside marks errors that stem from the world or the runtime, not from the
// text of the script.
type outside struct{ err error }

func (e *outside) Error() string { return e.err.Error() }
func (e *outside) Unwrap() error { return e.err }

// placed tells errors of the script from errors of what it called.
func placed(err error, files map[string]string) error {
	var eval *starlark.EvalError
	if !errors.As(err, &eval) {
		return err
	}
	where := evalPosition(eval).String()
	var (
		out     *outside
		unknown *UnknownError
	)
	switch {
	case errors.As(err, &out):
		var inner *callError
		if errors.As(out.err, &inner) {
			return inner // of the check that runs again before a new effect
		}
		return &callError{where, out.err}
	case errors.As(err, &unknown):
		return &callError{where, unknown}
	case strings.HasPrefix(eval.Msg, "fail: "):
		return &callError{where, Unmet(strings.TrimPrefix(eval.Msg, "fail: "), "")}
	}
	return scriptError(err, files)
}

// machine is the m that functions of phases are given.
type machine struct {
	reg    *Registry
	run    string
	params starlark.Value
	out    *outs
	newID  func() string
	clock  Clock
}

func newMachine(reg *Registry, run string, declared []Param, params Args, clock Clock, newID func() string) (*machine, error) {
	fields := map[string]starlark.Value{}
	for _, d := range declared {
		v, err := canonicalValue(reg, d.Type, params[d.Name])
		if err != nil {
			return nil, err
		}
		fields[d.Name] = v
	}
	return &machine{reg: reg, run: run, params: newObject(fields), out: &outs{done: map[string]starlark.Value{}}, clock: clock, newID: newID}, nil
}

func (m *machine) String() string        { return "m" }
func (m *machine) Type() string          { return "machine" }
func (m *machine) Freeze()               {}
func (m *machine) Truth() starlark.Bool  { return true }
func (m *machine) Hash() (uint32, error) { return 0, fmt.Errorf("unhashable: machine") }
func (m *machine) AttrNames() []string   { return []string{"now", "out", "p", "random", "run", "uuid"} }

// Attr gives parameters, results of phases, the run's id, and the journaled
// clock and randomness.
func (m *machine) Attr(name string) (starlark.Value, error) {
	switch name {
	case "p":
		return m.params, nil
	case "out":
		return m.out, nil
	case "run":
		return starlark.String(m.run), nil
	case "now":
		return m.decision(name, func() any { return Typed{"time", m.clock.Now().UTC().Format(time.RFC3339Nano)} }), nil
	case "uuid":
		return m.decision(name, func() any { return m.newID() }), nil
	case "random":
		return m.decision(name, func() any { return rand.Float64() }), nil
	}
	return nil, starlark.NoSuchAttrError(fmt.Sprintf("m has no .%s", name))
}

func (m *machine) decision(name string, make func() any) starlark.Value {
	return starlark.NewBuiltin("m."+name, func(thread *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		if err := starlark.UnpackArgs(b.Name(), args, kwargs); err != nil {
			return nil, err
		}
		s, _ := thread.Local(localSession).(*session)
		ctx, _ := thread.Local(localContext).(context.Context)
		if s == nil {
			return nil, fmt.Errorf("%s: only inside a phase", b.Name())
		}
		s.n++
		raw, err := s.answer.decide(ctx, s, name, thread.CallFrame(1).Pos.String(), make)
		if err != nil {
			return nil, err
		}
		return decodeValue(m.reg, raw)
	})
}

// outs is m.out: what finished phases returned.
type outs struct {
	done    map[string]starlark.Value
	unknown map[string]bool // in a plan: phases that could not be planned to their end
}

func (o *outs) String() string        { return "m.out" }
func (o *outs) Type() string          { return "out" }
func (o *outs) Freeze()               {}
func (o *outs) Truth() starlark.Bool  { return true }
func (o *outs) Hash() (uint32, error) { return 0, fmt.Errorf("unhashable: out") }
func (o *outs) AttrNames() []string   { return slices.Sorted(maps.Keys(o.done)) }

// Attr gives the value of a phase that is done.
func (o *outs) Attr(name string) (starlark.Value, error) {
	if v, ok := o.done[name]; ok {
		return v, nil
	}
	if o.unknown[name] {
		return nil, &UnknownError{"m.out." + name}
	}
	return nil, starlark.NoSuchAttrError(fmt.Sprintf("m.out has no .%s: no phase of that name is done before this one", name))
}

var _ starlark.HasAttrs = (*machine)(nil)
var _ starlark.HasAttrs = (*outs)(nil)
