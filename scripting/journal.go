package scripting

import (
	"context"
	"encoding/json"
	"errors"
)

// Journal is the durable record of runs. Implementations must make Append
// durable before they return: what the journal has not got did not happen.
type Journal interface {
	// Append adds a record to its run. After is the sequence number of the
	// run's last record as the writer knows it (0 for the first); if another
	// writer was faster, nothing is written and ErrFenced is returned. It
	// returns the new record's sequence number, which grows but may have gaps.
	Append(ctx context.Context, after uint64, r Record) (uint64, error)
	// Read returns a run's records in order, with Seq set. An unknown run has none.
	Read(ctx context.Context, run string) ([]Record, error)
	// Runs returns the names of all runs, oldest first.
	Runs(ctx context.Context) ([]string, error)
}

// ErrFenced is returned by Append when another writer owns the run now.
var ErrFenced = errors.New("another agent has taken over this run")

// Kind says what a record tells.
type Kind string

// The kinds of records. A run begins with Started, which pins script, loaded
// files and parameters, and ends with Finished, Failed or RolledBack;
// Resumed and RollingBack may reopen it.
const (
	Started      Kind = "started"
	Resumed      Kind = "resumed"
	RollingBack  Kind = "rolling_back"
	PhaseStarted Kind = "phase_started"
	PhaseDone    Kind = "phase_done"
	PhaseFailed  Kind = "phase_failed"
	PhaseUndone  Kind = "phase_undone"
	Intent       Kind = "intent"
	Done         Kind = "done"
	Observed     Kind = "observed"
	// Forked begins a call of parallel; its branches tell of themselves, and a
	// Done of the call ends it.
	Forked        Kind = "forked"
	BranchStarted Kind = "branch_started"
	BranchDone    Kind = "branch_done"
	BranchFailed  Kind = "branch_failed"
	BranchUndone  Kind = "branch_undone"
	Locked        Kind = "locked" // the run holds more locks from here on
	Note          Kind = "note"   // print and progress, for people
	Finished      Kind = "finished"
	Failed        Kind = "failed"
	RolledBack    Kind = "rolled_back"
)

// Record is one entry of a journal. Which fields are set depends on Kind.
type Record struct {
	Seq  uint64 `json:"-"`
	Run  string `json:"run"`
	Kind Kind   `json:"kind"`
	At   int64  `json:"at"` // Unix milliseconds

	Phase   string          `json:"phase,omitempty"`
	Branch  string          `json:"branch,omitempty"`  // n[key] of a parallel, below the phase
	Step    string          `json:"step,omitempty"`    // phase/n:builtin, phase/n[key]/n:builtin
	Builtin string          `json:"builtin,omitempty"` // of Intent, Done and Observed
	Args    json.RawMessage `json:"args,omitempty"`
	Hash    string          `json:"hash,omitempty"`  // of name and arguments
	Where   string          `json:"where,omitempty"` // file:line:col of the call
	Token   string          `json:"token,omitempty"`
	// Inverse is what undoes the effect: a builtin's name and arguments.
	Inverse json.RawMessage `json:"inverse,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   string          `json:"error,omitempty"`
	Text    string          `json:"text,omitempty"`
	// Source is set on Started: the pinned script, the files it loads, its
	// parameters, and who started it.
	Source json.RawMessage `json:"source,omitempty"`
}
