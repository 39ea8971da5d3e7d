package scripting

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Runner plans, runs, resumes and rolls back. It holds no state: all that is
// known of a run is in the journal, so any Runner can take over any run.
type Runner struct {
	Registry *Registry
	Journal  Journal
	Clock    Clock         // nil: SystemClock
	NewID    func() string // for m.uuid() and run ids; nil: random UUIDs
	By       string        // who runs, for the journal and audit trails
	// Events is told of everything that happens, in order, one at a time. It must
	// not block. Nil: nobody listens.
	Events func(Event)
	// MaxSteps bounds the computation of one phase function, in Starlark steps;
	// 0 means 100 million.
	MaxSteps uint64
}

// Event is something people want to see while a run goes on.
type Event struct {
	Run     string          `json:"run"`
	At      time.Time       `json:"at"`
	Kind    Kind            `json:"kind"` // of the journal record, or Progress
	Phase   string          `json:"phase,omitempty"`
	Branch  string          `json:"branch,omitempty"` // of a parallel
	Step    string          `json:"step,omitempty"`
	Builtin string          `json:"builtin,omitempty"`
	Where   string          `json:"where,omitempty"`
	Text    string          `json:"text,omitempty"` // one line for people
	Error   string          `json:"error,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	// Detail is what a progress says to programs, if the builtin tells any.
	Detail json.RawMessage `json:"detail,omitempty"`
	// Summary is the result of an effect in one line, if its builtin has one.
	Summary string `json:"summary,omitempty"`
}

// Progress is the kind of events that are not journaled.
const Progress Kind = "progress"

// Outcome is how a run ended well.
type Outcome struct {
	Run    string
	Name   string
	State  State
	Out    map[string]json.RawMessage // what each phase returned
	Held   []Held
	Undone []string // by Rollback
	// Final is the phase that has begun and has no way back; empty: there is one.
	Final string
}

// Run carries out a program under a new run id. Parameters are text, as from a
// command line. Errors are *UsageError, *LockedError, *StopError, ErrFenced, or
// those of the journal; a run that was interrupted (ctx done, journal gone)
// stays open and is taken up again with Resume.
func (r *Runner) Run(ctx context.Context, p *Program, params map[string]string, run string) (*Outcome, error) {
	args, err := p.bindParams(params)
	if err != nil {
		return nil, err
	}
	pin, err := p.pin(args, r.By)
	if err != nil {
		return nil, err
	}
	records, err := r.Journal.Read(ctx, run)
	if err != nil {
		return nil, fmt.Errorf("start run %s: %w", run, err)
	}
	if run == "" || len(records) > 0 {
		return nil, usagef("start run %q: a run needs an id of its own; 'starferry resume %s' takes up the one there is", run, run)
	}
	if err := r.checkLocks(ctx, pin.Locks, run); err != nil {
		return nil, err
	}
	h, err := readHistory(run, nil)
	if err != nil {
		return nil, err
	}
	e, err := r.newEngine(h, p, args)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(pin)
	if err != nil {
		return nil, fmt.Errorf("start run %s: %w", run, err)
	}
	if err := e.write(ctx, Record{Kind: Started, Source: raw, Text: pin.Name}); err != nil {
		return nil, e.interruption(ctx, err)
	}
	return e.forward(ctx)
}

// pin is what the journal keeps of the program for this run.
func (p *Program) pin(args Args, by string) (pinned, error) {
	out := pinned{File: p.file, Files: p.files, Exec: p.exec, Params: paramText(args), By: by, Phases: p.Phases()}
	var err error
	if out.Name, out.Locks, err = p.Names(args); err != nil {
		return pinned{}, err
	}
	for _, ph := range p.phases {
		if ph.irreversible {
			out.Final = append(out.Final, ph.name)
		}
	}
	return out, nil
}

// Names gives the migration's name and locks with parameters filled in.
func (p *Program) Names(args Args) (name string, locks []string, err error) {
	if name, err = fillIn(p.name, p.params, args); err != nil {
		return "", nil, err
	}
	for _, l := range p.locks {
		filled, err := fillIn(l, p.params, args)
		if err != nil {
			return "", nil, err
		}
		locks = append(locks, filled)
	}
	return name, locks, nil
}

// checkLocks refuses what a run other than this one holds. It is a courtesy
// between operators; what keeps two writers of one run apart is the journal itself.
func (r *Runner) checkLocks(ctx context.Context, locks []string, run string) error {
	if len(locks) == 0 {
		return nil
	}
	all, err := r.Runs(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		holds := s.State == StateOpen || s.State == StateRollingBack || (s.State == StateFailed && len(s.Held) > 0)
		for _, l := range locks {
			if holds && s.Run != run && slices.Contains(s.Locks, l) {
				return &LockedError{l, s.Run}
			}
		}
	}
	return nil
}

// reopen makes an engine for a run that is in the journal, from what it pinned.
func (r *Runner) reopen(ctx context.Context, run string) (*engine, error) {
	h, err := r.read(ctx, run)
	if err != nil {
		return nil, err
	}
	var p *Program
	if h.pinned.Exec {
		p, err = LoadExec(h.pinned.Files[h.pinned.File], r.Registry)
	} else {
		p, err = Load(Files(h.pinned.Files), h.pinned.File, r.Registry)
	}
	if err != nil {
		return nil, fmt.Errorf("load the script of run %s: %w", run, err)
	}
	args, err := p.bindParams(h.pinned.Params)
	if err != nil {
		return nil, err
	}
	return r.newEngine(h, p, args)
}

func (r *Runner) read(ctx context.Context, run string) (*history, error) {
	records, err := r.Journal.Read(ctx, run)
	if err != nil {
		return nil, fmt.Errorf("read run %s: %w", run, err)
	}
	if len(records) == 0 {
		return nil, usagef("run %s: not in the journal; 'starferry runs' lists those that are", run)
	}
	return readHistory(run, records)
}

// Resume takes up a run: one that is open goes on where it was, one that failed
// tries its failed phase again, one that is rolling back goes on rolling back.
func (r *Runner) Resume(ctx context.Context, run string) (*Outcome, error) {
	e, err := r.reopen(ctx, run)
	if err != nil {
		return nil, err
	}
	before := e.history.state
	switch before {
	case StateFinished, StateRolledBack:
		return nil, usagef("resume run %s: it is %s; nothing is left to do", run, before)
	case StateRollingBack:
		return e.rollback(ctx)
	}
	if before == StateFailed { // an open run has kept its locks
		if err := r.checkLocks(ctx, e.history.allLocks(), run); err != nil {
			return nil, err
		}
	}
	if err := e.write(ctx, Record{Kind: Resumed, Text: "by " + r.By}); err != nil {
		return nil, e.interruption(ctx, err)
	}
	for _, ph := range e.program.phases {
		h := e.history.phase(ph.name)
		if h.state != phaseFailed {
			continue
		}
		if before == StateOpen || h.failure.Policy != onFailHold {
			again := before == StateFailed
			if stop := e.finishFailure(ctx, ph, nil, again); stop != nil {
				return nil, stop
			}
		}
	}
	return e.forward(ctx)
}

// Rollback undoes all phases of a run, newest first. An interrupted rollback is
// taken up by calling it again.
func (r *Runner) Rollback(ctx context.Context, run string) (*Outcome, error) {
	e, err := r.reopen(ctx, run)
	if err != nil {
		return nil, err
	}
	switch e.history.state {
	case StateRolledBack:
		return nil, usagef("roll back run %s: it is rolled back already", run)
	case StateRollingBack:
		return e.rollback(ctx)
	}
	if name := e.history.final(); name != "" {
		return nil, usagef("roll back run %s: phase %s has begun, and the script says that there is no way back from it", run, name)
	}
	if err := e.write(ctx, Record{Kind: RollingBack, Text: "by " + r.By}); err != nil {
		return nil, e.interruption(ctx, err)
	}
	return e.rollback(ctx)
}
