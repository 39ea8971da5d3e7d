package scripting

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// stop ends a run whose phase returned an error: it journals the failure and
// does what the phase's on_fail says. It returns the error for the operator.
func (e *engine) stop(ctx context.Context, ph *phase, err error) error {
	var mismatch *MismatchError
	switch {
	case e.dead() != nil || ctx.Err() != nil:
		return e.interruption(ctx, err)
	case errors.As(err, &mismatch):
		return mismatch // nothing is journaled: another version may go on
	}
	f, text := failureOf(err, ph.onFail)
	if f.Policy == onFailRollback && e.history.final() != "" {
		f.Policy = onFailUndo // the other phases have no way back
	}
	raw, merr := json.Marshal(f)
	if merr != nil {
		return merr
	}
	if werr := e.write(ctx, Record{Kind: PhaseFailed, Phase: ph.name, Where: f.Where, Error: text, Result: raw}); werr != nil {
		return e.interruption(ctx, werr)
	}
	return e.finishFailure(ctx, ph, err, false)
}

// failureOf is what the journal keeps of an error, and its text.
func failureOf(err error, policy string) (failure, string) {
	f := failure{Policy: policy}
	var (
		call    *callError
		script  *ScriptError
		unmet   *UnmetError
		unclear *unclearError
		refused *RefusedError
	)
	if errors.As(err, &call) {
		f.Where = call.where
	}
	if errors.As(err, &unmet) {
		f.Expected, f.Found = unmet.Expected, unmet.Found
	}
	if errors.As(err, &refused) {
		f.Refused = refused
	}
	text := headline(err)
	if errors.As(err, &script) {
		f.Script, f.Where = true, script.Where
		text = script.Text
		if script.Hint != "" {
			text += "\n  hint: " + script.Hint
		}
	}
	if errors.As(err, &unclear) {
		f.Policy = onFailHold // undoing what may not have happened is a guess
	}
	return f, text
}

// finishFailure does what is left to do about a failed phase and returns the
// stop. Cause is nil if the failure is known from the journal only. With again,
// the phase is going to be tried once more: nil is returned if it is undone.
func (e *engine) finishFailure(ctx context.Context, ph *phase, cause error, again bool) error {
	h := e.history.phase(ph.name)
	if cause == nil {
		cause = errors.New(h.err)
		if h.failure.Script {
			cause = &ScriptError{Text: h.err}
		}
		if h.failure.Refused != nil {
			cause = h.failure.Refused
		}
	}
	stop := &StopError{Run: e.history.run, Phase: ph.name, Where: h.failure.Where, Expected: h.failure.Expected, Found: h.failure.Found, Err: cause}
	var err error
	switch h.failure.Policy {
	case onFailUndo:
		stop.Undone, stop.Left, err = e.undoPhase(ctx, ph)
	case onFailRollback:
		if err = e.write(ctx, Record{Kind: RollingBack, Phase: ph.name, Text: "on_fail of phase " + ph.name}); err == nil {
			stop.Undone, stop.Left, err = e.undoAll(ctx)
		}
	}
	if err != nil {
		return e.interruption(ctx, err)
	}
	if again && len(stop.Left) == 0 && h.failure.Policy == onFailUndo {
		return nil
	}
	return e.conclude(ctx, stop)
}

// conclude journals the end of a run that did not reach its goal.
func (e *engine) conclude(ctx context.Context, stop *StopError) error {
	last := Record{Kind: Failed, Error: stop.reason()}
	if len(stop.Left) > 0 { // the status is asked for it later
		last.Error += "; not undone: " + strings.Join(stop.Left, "; ")
	}
	if e.history.state == StateRollingBack && len(stop.Left) == 0 {
		last = Record{Kind: RolledBack, Error: stop.reason()}
		stop.RolledBack = true
	}
	if err := e.write(ctx, last); err != nil {
		return e.interruption(ctx, err)
	}
	stop.Held = e.history.held(e.r.Registry)
	stop.Next = e.history.next(e.r.Registry)
	return stop
}

// reason is the stop's cause in one line.
func (e *StopError) reason() string {
	if e.Expected != "" {
		return Unmet(e.Expected, e.Found).Error()
	}
	if e.Err != nil {
		return headline(e.Err)
	}
	return "rollback incomplete"
}

// next lists the commands that make sense now.
func (h *history) next(reg *Registry) []string {
	var out []string
	switch h.state {
	case StateOpen:
		out = append(out, "starferry resume "+h.run+"     to go on where it was")
	case StateFailed:
		out = append(out, "starferry resume "+h.run+"     to try the failed phase again")
	case StateRollingBack:
		out = append(out, "starferry rollback "+h.run+"   to go on rolling back")
	}
	if h.state != StateRollingBack && len(h.held(reg)) > 0 && h.final() == "" {
		out = append(out, "starferry rollback "+h.run+"   to undo all that is held")
	}
	return append(out, "starferry journal "+h.run+"    to see every step")
}

// rollback undoes all phases of a run that is rolling back.
func (e *engine) rollback(ctx context.Context) (*Outcome, error) {
	undone, left, err := e.undoAll(ctx)
	if err != nil {
		return nil, e.interruption(ctx, err)
	}
	if len(left) > 0 {
		return nil, e.conclude(ctx, &StopError{Run: e.history.run, Undone: undone, Left: left, Err: errors.New("rolling back did not finish")})
	}
	if err := e.write(ctx, Record{Kind: RolledBack}); err != nil {
		return nil, e.interruption(ctx, err)
	}
	out := e.outcome()
	out.Undone = undone
	return out, nil
}

// undoAll undoes the phases, newest first. It stops at the first that cannot be
// undone: what older phases made may still be needed by it.
func (e *engine) undoAll(ctx context.Context) (undone, left []string, err error) {
	for _, ph := range slices.Backward(e.program.phases) {
		u, l, err := e.undoPhase(ctx, ph)
		undone = append(undone, u...)
		if err != nil || len(l) > 0 {
			return undone, l, err
		}
	}
	return undone, nil, nil
}

// undoPhase takes a phase back. Left tells what could not be undone; err is set
// only if the engine cannot go on at all.
func (e *engine) undoPhase(ctx context.Context, ph *phase) (undone, left []string, err error) {
	h := e.history.phase(ph.name)
	if h.state == phaseWaiting || h.state == phaseUndone {
		return nil, nil, nil
	}
	if ph.undo != nil && slices.ContainsFunc(h.do, func(s *step) bool { return s.fork != nil || s.effect && !s.absent }) {
		_, err = e.call(ctx, ph, partUndo, ph.undo)
		undone = []string{"phase " + ph.name + ", by its own undo"}
		if err != nil {
			undone, left = nil, []string{"phase " + ph.name + ": its own undo failed: " + err.Error()}
		}
	} else {
		undone, left, err = e.undoSteps(ctx, h, &h.scope)
	}
	if dead := e.dead(); dead != nil || ctx.Err() != nil {
		if err == nil {
			err = cmp.Or(dead, context.Cause(ctx))
		}
		return undone, nil, err
	}
	if len(left) > 0 {
		return undone, left, nil
	}
	return undone, nil, e.write(ctx, Record{Kind: PhaseUndone, Phase: ph.name})
}

// undoSteps undoes the effects of a phase or branch, newest first, up to the
// first that cannot be undone; err is that one's.
func (e *engine) undoSteps(ctx context.Context, h *phaseHistory, sc *scope) (undone, left []string, err error) {
	for _, s := range slices.Backward(sc.do) {
		if s.fork != nil {
			u, l, err := e.undoFork(ctx, h, sc, s)
			undone = append(undone, u...)
			if err != nil || len(l) > 0 {
				return undone, l, err
			}
			continue
		}
		text, err := e.undoStep(ctx, h, sc, s)
		if err != nil {
			return undone, []string{fmt.Sprintf("%s  %s: %v", s.id, s.text(e.r.Registry), err)}, err
		}
		if text != "" {
			undone = append(undone, text)
		}
	}
	return undone, nil, nil
}

// undoStep undoes one effect and says so; an empty text is nothing to undo.
func (e *engine) undoStep(ctx context.Context, h *phaseHistory, sc *scope, s *step) (string, error) {
	if !s.effect || s.absent {
		return "", nil
	}
	if !s.ok() {
		if err := e.settleForUndo(ctx, h, sc, s); err != nil || s.absent {
			return "", err
		}
	}
	u, err := parseUndo(s.inverse)
	if err != nil || u == nil {
		return "", err
	}
	b, ok := e.r.Registry.Builtin(u.Builtin)
	if !ok {
		return "", fmt.Errorf("undo: no builtin %s in this version", u.Builtin)
	}
	args, err := b.parse(u.Args)
	if err != nil {
		return "", fmt.Errorf("undo: %w", err)
	}
	c := e.newCall(h.name, sc, undoID(s.id, u.Builtin), b, args, s.where)
	text := u.Text
	if text == "" {
		text = describeCall(b, args)
	}
	old := sc.undoOf(s.id)
	if old != nil {
		if old.ok() {
			return text, nil
		}
		if _, settled, err := e.settle(ctx, b, c, old); err != nil || settled {
			return text, err
		}
	}
	_, err = e.perform(ctx, b, c, old, nil)
	return text, err
}

// settleForUndo finds out whether an effect whose outcome is open happened.
func (e *engine) settleForUndo(ctx context.Context, h *phaseHistory, sc *scope, s *step) error {
	b, ok := e.r.Registry.Builtin(s.builtin)
	if !ok {
		return fmt.Errorf("no builtin %s in this version", s.builtin)
	}
	args, err := parseJournaled(s.args)
	if err != nil {
		return err
	}
	_, settled, err := e.settle(ctx, b, e.newCall(h.name, sc, s.id, b, args, s.where), s)
	if err != nil || settled {
		return err
	}
	return e.write(ctx, Record{Kind: Done, Phase: h.name, Branch: sc.branch, Step: s.id, Builtin: s.builtin, Text: didNotHappen})
}
