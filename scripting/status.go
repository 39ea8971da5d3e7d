package scripting

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// State is where a run stands.
type State string

// The states of a run.
const (
	StateOpen        State = "open"         // running, or interrupted
	StateFinished    State = "finished"     // all phases done
	StateFailed      State = "failed"       // stopped; can be resumed or rolled back
	StateRollingBack State = "rolling_back" // running, interrupted, or incomplete
	StateRolledBack  State = "rolled_back"  // nothing of it is left
)

// Status is all that is known of a run, derived from the journal alone.
type Status struct {
	Run     string            `json:"run"`
	Name    string            `json:"name"`
	File    string            `json:"file"`
	By      string            `json:"by"`
	Params  map[string]string `json:"params"`
	Locks   []string          `json:"locks"`
	State   State             `json:"state"`
	Started time.Time         `json:"started"`
	Updated time.Time         `json:"updated"`
	Phases  []PhaseStatus     `json:"phases"`
	Held    []Held            `json:"held"`
	Error   string            `json:"error,omitempty"` // why it stopped
	Next    []string          `json:"next,omitempty"`  // commands
	// Refused is why the last phase that failed was refused, if that makes a table.
	Refused *RefusedError `json:"refused,omitempty"`
	// Open is the call whose result is not known, if there is one.
	Open string `json:"open,omitempty"`
}

// PhaseStatus is where a phase stands: waiting, open, done, failed, undone.
type PhaseStatus struct {
	Name    string    `json:"name"`
	State   string    `json:"state"`
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	Error   string    `json:"error,omitempty"`
	// Forks are its calls of parallel, in order.
	Forks []ForkStatus `json:"forks,omitempty"`
}

// Status tells where a run stands. An unknown run is a *UsageError.
func (r *Runner) Status(ctx context.Context, run string) (*Status, error) {
	h, err := r.read(ctx, run)
	if err != nil {
		return nil, err
	}
	return h.status(r.Registry), nil
}

func (h *history) status(reg *Registry) *Status {
	p := h.pinned
	s := &Status{Run: h.run, Name: p.Name, File: p.File, By: p.By, Params: p.Params, Locks: h.allLocks(), State: h.state,
		Started: time.UnixMilli(h.started), Updated: time.UnixMilli(h.updated), Held: h.held(reg), Error: h.err}
	for _, name := range p.Phases {
		ph := h.phase(name)
		if ph.state == phaseFailed && ph.failure.Refused != nil {
			s.Refused = ph.failure.Refused
		}
		s.Phases = append(s.Phases, PhaseStatus{Name: name, State: ph.state, Started: milli(ph.started), Ended: milli(ph.ended), Error: ph.err, Forks: ph.forks(reg)})
		if open := ph.open(reg); open != "" {
			s.Open = open
		}
	}
	if h.state != StateFinished && h.state != StateRolledBack || len(s.Held) > 0 {
		s.Next = h.next(reg)
	}
	return s
}

// open tells of calls whose result is not known.
func (p *phaseHistory) open(reg *Registry) string {
	first, n := "", 0
	look := func(sc *scope) {
		for _, st := range slices.Concat(sc.do, sc.undo) {
			if st.open() {
				first, n = st.id+"  "+st.text(reg), n+1
			}
		}
	}
	look(&p.scope)
	for _, b := range slices.Sorted(maps.Keys(p.branches)) {
		look(p.branches[b])
	}
	if n > 1 {
		first += fmt.Sprintf(", and %d more", n-1)
	}
	return first
}

func milli(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// Runs tells where all runs stand, oldest first.
func (r *Runner) Runs(ctx context.Context) ([]Status, error) {
	names, err := r.Journal.Runs(ctx)
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	var out []Status
	for _, run := range names {
		s, err := r.Status(ctx, run)
		if err != nil {
			return nil, err
		}
		out = append(out, *s)
	}
	return out, nil
}

// History returns a run's journal as events, for people.
func (r *Runner) History(ctx context.Context, run string) ([]Event, error) {
	records, err := r.Journal.Read(ctx, run)
	if err != nil {
		return nil, fmt.Errorf("read run %s: %w", run, err)
	}
	if len(records) == 0 {
		return nil, usagef("run %s: not in the journal; 'starferry runs' lists those that are", run)
	}
	var out []Event
	for _, rec := range records {
		out = append(out, eventOf(r.Registry, rec))
	}
	return out, nil
}
