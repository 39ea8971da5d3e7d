package scripting

import (
	"context"
	"encoding/json"
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
	// Events is told of everything that happens, in order, on the goroutine of
	// the run. Nil: nobody listens.
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
	Step    string          `json:"step,omitempty"`
	Builtin string          `json:"builtin,omitempty"`
	Where   string          `json:"where,omitempty"`
	Text    string          `json:"text,omitempty"` // one line for people
	Error   string          `json:"error,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
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
}

// Run carries out a program under a new run id. Parameters are text, as from a
// command line. Errors are *UsageError, *LockedError, *StopError, ErrFenced, or
// those of the journal; a run that was interrupted (ctx done, journal gone)
// stays open and is taken up again with Resume.
func (r *Runner) Run(ctx context.Context, p *Program, params map[string]string, run string) (*Outcome, error) {
	return nil, usagef("running is not available")
}

// Resume takes up a run that is open, or failed and can be tried again.
func (r *Runner) Resume(ctx context.Context, run string) (*Outcome, error) {
	return nil, usagef("running is not available")
}

// Rollback undoes all phases of a run, newest first. An interrupted rollback is
// taken up by calling it again.
func (r *Runner) Rollback(ctx context.Context, run string) (*Outcome, error) {
	return nil, usagef("running is not available")
}

// Plan predicts what Run would do now. It writes nothing anywhere.
func (r *Runner) Plan(ctx context.Context, p *Program, params map[string]string) (*Plan, error) {
	return nil, usagef("planning is not available")
}
