package consumer

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Again is the error of a handler that says when its record, or batch, is to be
// handed out again.
type Again struct {
	// After is how long that is at least; 0: after the usual pause. It holds a
	// batch up whole.
	After time.Duration
	// Untried: the record was not tried, for what it needs is busy or away. It is
	// no attempt in the sense of Failure.
	Untried bool
	Err     error
}

func (e *Again) Error() string { return fmt.Sprintf("to be handed out again: %v", e.Err) }
func (e *Again) Unwrap() error { return e.Err }

// Hopeless is the error of a handler that knows that trying again is of no use.
// With Failure.DeadLetter the record goes there at once; otherwise it is an error
// like any other. A batch is handed out record by record first.
type Hopeless struct{ Err error }

func (e *Hopeless) Error() string { return fmt.Sprintf("hopeless: %v", e.Err) }
func (e *Hopeless) Unwrap() error { return e.Err }

// Partly is the error of a BatchHandler that has handled some of its records:
// those whose error is nil. They are not handed out again; the others are, in
// order, as their errors say. What was handled behind one that was not travels
// with commits, which have room for 100 stretches of it: what lies beyond those
// counts as not handled.
type Partly struct{ Errs []error }

func (e *Partly) Error() string {
	n, first := 0, error(nil)
	for _, err := range e.Errs {
		if err == nil {
			continue
		}
		if n++; first == nil {
			first = err
		}
	}
	return fmt.Sprintf("%d of %d records not handled, the first: %v", n, len(e.Errs), first)
}

// errNoRoom is why a record comes again that was handled.
var errNoRoom = errors.New("it was handled, with too many gaps before it for a commit to say so")

// partly takes out of a batch what its handler has handled, and what is
// hopeless. It returns why the rest comes again, nil if nothing is left; false
// when the session halts first.
func (p *part) partly(f *flight, tries int, err error) (why error, ok bool) {
	var some *Partly
	if !errors.As(err, &some) {
		return err, true
	}
	if len(some.Errs) != len(f.records) {
		return fmt.Errorf("handler tells of %d records and was given %d: %w", len(some.Errs), len(f.records), err), true
	}
	dead, why := p.shed(f, bounded(some.Errs))
	for _, d := range dead {
		if !p.bury(d.flight, p.s.c.cfg.Failure.DeadLetter, tries, d.err) {
			return why, false
		}
	}
	return why, true
}

// lost is a record of a batch that is hopeless.
type lost struct {
	flight *flight
	err    error
}

// bounded has what was handled count as far as a commit can say it.
func bounded(errs []error) []error {
	out := slices.Clone(errs)
	stretches := 0
	for i := 1; i < len(errs); i++ {
		if errs[i] != nil {
			continue
		}
		if errs[i-1] != nil {
			stretches++
		}
		if stretches > maxAhead {
			out[i] = &Again{Untried: true, Err: errNoRoom}
		}
	}
	return out
}

// shed lands the records of a job without an error, gives those that are
// hopeless a flight each, and returns those and why the rest comes again.
func (p *part) shed(f *flight, errs []error) (dead []lost, why error) {
	var left job
	var again *Again
	handled := 0
	p.mu.Lock()
	for i, err := range errs {
		switch {
		case err == nil:
			p.done.add(f.spans[i])
			handled++
		case p.hopeless(err):
			d := &flight{job: job{f.records[i : i+1 : i+1], f.spans[i : i+1 : i+1]}, since: f.since}
			p.flights = append(p.flights, d)
			dead = append(dead, lost{d, err})
		default:
			left.records, left.spans = append(left.records, f.records[i]), append(left.spans, f.spans[i])
			again = again.and(err)
		}
	}
	f.job = left
	p.count += int64(handled)
	wake := p.dequeued(handled)
	p.mu.Unlock()
	p.s.wakeUp(wake)
	if again == nil {
		return dead, nil
	}
	return dead, again
}

// and is the reason for several records: the first of their errors, the longest
// of their pauses, and an attempt if any of them was tried. Nil is none yet.
func (e *Again) and(err error) *Again {
	more := &Again{Err: err}
	errors.As(err, &more)
	if e == nil {
		return &Again{After: more.After, Untried: more.Untried, Err: more.Err}
	}
	e.After, e.Untried = max(e.After, more.After), e.Untried && more.Untried
	return e
}

// pace is how long a job waits to be handed out again, and whether that was no
// attempt.
func pace(err error, usual time.Duration) (pause time.Duration, untried bool) {
	var again *Again
	if !errors.As(err, &again) {
		return usual, false
	}
	return cmp.Or(max(again.After, 0), usual), again.Untried
}

// hopeless reports whether an error sends a record to the dead-letter topic.
func (p *part) hopeless(err error) bool {
	var h *Hopeless
	return p.s.c.cfg.Failure.DeadLetter != "" && errors.As(err, &h)
}
