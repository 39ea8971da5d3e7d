package scripting

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// The states of a branch in tables, beside those of phases.
const branchNotBegun = "not begun"

// forkedFrom lists the branches of a parallel, in the order of its items.
func (p *phaseHistory) forkedFrom(_ *scope, s *step) []*scope {
	out := make([]*scope, len(s.fork.Keys))
	for i, k := range s.fork.Keys {
		out[i] = p.part(s.fork.branch(k))
	}
	return out
}

// fork implements answerer: it calls the function for every item and joins what
// they return.
func (l *live) fork(ctx context.Context, s *session, f *forkCall) (json.RawMessage, error) {
	e := l.engine
	if err := e.dead(); err != nil {
		return nil, err
	}
	f.At = s.at()
	id := s.stepID("parallel")
	args, err := json.Marshal(f.forked)
	if err != nil {
		return nil, &outside{err}
	}
	hash := hashCall("parallel", 0, Args{"keys": f.Keys, "at": f.At})
	old := s.journaled()
	switch {
	case old != nil && (old.id != id || old.hash != hash):
		return nil, e.mismatch(old, f.String(), f.where)
	case old != nil && old.ok():
		return old.result, nil
	case old == nil && s.scope != nil:
		if err := e.write(ctx, Record{Kind: Forked, Phase: s.phase.name, Branch: s.branch, Step: id, Builtin: "parallel", Args: args, Hash: hash, Where: f.where, Text: f.String()}); err != nil {
			return nil, err
		}
	}
	out, err := e.branches(ctx, s, f)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(out)
	if err != nil || s.scope == nil {
		return raw, err
	}
	return raw, e.write(ctx, Record{Kind: Done, Phase: s.phase.name, Branch: s.branch, Step: id, Builtin: "parallel", Result: raw})
}

// branches runs the branches that are not done, at most f.Max at once.
func (e *engine) branches(ctx context.Context, s *session, f *forkCall) ([]json.RawMessage, error) {
	out, errs := make([]json.RawMessage, len(f.Keys)), make([]error, len(f.Keys))
	var failed atomic.Bool
	var wg sync.WaitGroup
	slots := make(chan struct{}, f.Max)
	for i := range f.Keys {
		b := e.branchSession(s, f, i)
		if b.scope != nil && b.scope.state == phaseDone {
			out[i] = b.scope.result
			continue
		}
		slots <- struct{}{}
		if ctx.Err() != nil || failed.Load() && f.OnError == onErrorStop {
			errs[i] = errNotBegun
			<-slots
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if out[i], errs[i] = e.branch(ctx, b, f, i); errs[i] != nil {
				failed.Store(true)
			}
		})
	}
	wg.Wait()
	if !failed.Load() && ctx.Err() == nil {
		return out, nil
	}
	return nil, e.joined(ctx, s, f, errs)
}

var errNotBegun = errors.New(branchNotBegun)

// branchSession is the session of one branch of the call under way.
func (e *engine) branchSession(s *session, f *forkCall, i int) *session {
	b := &session{reg: s.reg, phase: s.phase, part: s.part, path: s.phase.name + "/" + f.branch(f.Keys[i]), answer: s.answer}
	if s.scope != nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		b.branch = f.branch(f.Keys[i])
		b.scope = e.history.phase(s.phase.name).part(b.branch)
	}
	return b
}

// branch runs one branch to its end. One that fails undoes itself.
func (e *engine) branch(ctx context.Context, b *session, f *forkCall, i int) (json.RawMessage, error) {
	if b.scope == nil { // a check or verify: nothing of it is kept
		return execute(ctx, b, f.fn, f.items[i], e.r.MaxSteps, e.program.files)
	}
	sc := b.scope
	if sc.state == phaseFailed && sc.failure.Policy != onFailHold { // it did not come to undo itself
		if err := e.undoBranch(ctx, b.phase.name, sc); err != nil {
			return nil, err
		}
	}
	if sc.state != phaseOpen {
		if err := e.write(ctx, Record{Kind: BranchStarted, Phase: b.phase.name, Branch: b.branch, Where: f.where, Text: f.Keys[i]}); err != nil {
			return nil, err
		}
	}
	out, err := e.follow(ctx, b, f.fn, f.items[i])
	if err == nil {
		return out, e.write(ctx, Record{Kind: BranchDone, Phase: b.phase.name, Branch: b.branch, Result: out, Text: f.Keys[i]})
	}
	var mismatch *MismatchError
	if e.dead() != nil || ctx.Err() != nil || errors.As(err, &mismatch) {
		return nil, err // it stays open
	}
	kept, text := failureOf(err, onFailUndo)
	raw, merr := json.Marshal(kept)
	if merr != nil {
		return nil, merr
	}
	if werr := e.write(ctx, Record{Kind: BranchFailed, Phase: b.phase.name, Branch: b.branch, Where: kept.Where, Error: text, Result: raw, Text: f.Keys[i]}); werr != nil {
		return nil, werr
	}
	if kept.Policy == onFailHold {
		return nil, err
	}
	if uerr := e.undoBranch(ctx, b.phase.name, sc); uerr != nil {
		return nil, &leftError{err, uerr}
	}
	return nil, err
}

// leftError is a branch that failed and could not be undone.
type leftError struct{ err, undo error }

func (e *leftError) Error() string { return e.err.Error() + "; NOT UNDONE: " + e.undo.Error() }
func (e *leftError) Unwrap() error { return e.err }

// undoBranch takes one branch back. What could not be undone is an error.
func (e *engine) undoBranch(ctx context.Context, phase string, sc *scope) error {
	e.mu.Lock()
	h := e.history.phase(phase)
	e.mu.Unlock()
	_, left, err := e.undoSteps(ctx, h, sc)
	switch {
	case e.dead() != nil:
		return e.dead()
	case ctx.Err() != nil:
		return &outside{context.Cause(ctx)}
	case len(left) > 0:
		return errors.New(strings.Join(left, "; "))
	case err != nil:
		return err
	}
	return e.write(ctx, Record{Kind: BranchUndone, Phase: phase, Branch: sc.branch})
}

// undoFork takes the branches of a parallel back, as many at once as it ran.
// One that cannot be undone does not keep the others.
func (e *engine) undoFork(ctx context.Context, h *phaseHistory, sc *scope, s *step) (undone, left []string, err error) {
	e.mu.Lock()
	scopes := h.forkedFrom(sc, s)
	e.mu.Unlock()
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(max(1, s.fork.Max))
	for i, b := range slices.Backward(scopes) {
		if b.state == phaseWaiting || b.state == phaseUndone {
			continue
		}
		g.Go(func() error {
			if ctx.Err() != nil || e.dead() != nil {
				return nil
			}
			had := e.effects(b)
			err := e.undoBranch(ctx, h.name, b)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				left = append(left, fmt.Sprintf("%s: %v", s.fork.Keys[i], err))
			case had:
				undone = append(undone, s.fork.Keys[i])
			}
			return nil
		})
	}
	_ = g.Wait() // what failed is in left
	if dead := e.dead(); dead != nil {
		return nil, nil, dead
	}
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	slices.Sort(undone)
	slices.Sort(left)
	if len(undone) > 0 {
		undone = []string{fmt.Sprintf("%s: %d of %d undone: %s", titleOf(s.fork), len(undone), len(scopes), strings.Join(undone, ", "))}
	}
	return undone, left, nil
}

func titleOf(f *forked) string {
	if f.Title == "" {
		return "parallel"
	}
	return f.Title
}

// effects reports whether a branch has done anything that can be undone.
func (e *engine) effects(sc *scope) bool {
	return slices.ContainsFunc(sc.do, func(s *step) bool { return s.fork != nil || s.effect && !s.absent })
}

// joined makes one error of those of the branches.
func (e *engine) joined(ctx context.Context, s *session, f *forkCall, errs []error) error {
	if dead := e.dead(); dead != nil {
		return dead
	}
	if ctx.Err() != nil {
		return &outside{context.Cause(ctx)}
	}
	for _, err := range errs {
		var (
			mismatch *MismatchError
			script   *ScriptError
		)
		if errors.As(err, &mismatch) || errors.As(err, &script) {
			return &outside{err}
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var rows []BranchStatus
	for i, k := range f.Keys {
		row := BranchStatus{Key: k, State: phaseDone}
		switch {
		case errors.Is(errs[i], errNotBegun):
			row.State = branchNotBegun
		case errs[i] != nil:
			row.State, row.Error = phaseFailed, headline(errs[i])
			if s.scope != nil && e.history.phase(s.phase.name).part(f.branch(k)).state == phaseUndone {
				row.State = phaseUndone
			}
		case s.scope != nil:
			row.Text = e.history.phase(s.phase.name).part(f.branch(k)).told(e.r.Registry)
		}
		rows = append(rows, row)
	}
	return &outside{newBranchesError(f.forked, rows)}
}
