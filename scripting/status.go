package scripting

import (
	"context"
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
}

// Status tells where a run stands. An unknown run is a *UsageError.
func (r *Runner) Status(ctx context.Context, run string) (*Status, error) {
	return nil, usagef("status is not available")
}

// Runs tells where all runs stand, oldest first.
func (r *Runner) Runs(ctx context.Context) ([]Status, error) {
	return nil, usagef("status is not available")
}

// History returns a run's journal as events, for people.
func (r *Runner) History(ctx context.Context, run string) ([]Event, error) {
	return nil, usagef("status is not available")
}
