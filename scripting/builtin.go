package scripting

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Class says what a builtin does to the world, and so where it may be called
// and what is journaled of it.
type Class string

// The classes of builtins.
const (
	Declare Class = "declare" // top level only: says what the script is
	Pure    Class = "pure"    // computes; anywhere, not journaled
	Read    Class = "read"    // looks; inside phases
	Check   Class = "check"   // looks, and stops the run if what it expects is not so
	Effect  Class = "effect"  // changes; in do and undo only
	Hold    Class = "hold"    // an effect that ends by itself
	Wait    Class = "wait"    // looks until something is so
	Flow    Class = "flow"    // says how the calls of a phase run
)

// Changes reports whether calls of the class change something.
func (c Class) Changes() bool { return c == Effect || c == Hold }

// Param is one parameter of a builtin or of a script.
type Param struct {
	Name     string
	Type     *Type
	Default  any // parsed by Type; nil: absent unless given
	Required bool
	Doc      string
	Complete string // what completes it: clusters, groups, topics, links, partitions
	Secret   bool   // never journaled, printed or planned in clear
}

// Builtin is one entry of the registry and the only source for unpacking,
// suggestions, documentation, command line verbs, plan and journal.
type Builtin struct {
	Name    string
	Doc     string // first line is the summary
	Example string
	Params  []Param
	Returns string
	Class   Class
	// Rev grows when the meaning of the arguments changes; a journal written
	// with another revision does not replay.
	Rev int

	// Plan predicts. If nil, reads, checks and pure calls are run instead.
	Plan func(ctx context.Context, c Call) (Prediction, error)
	// Run carries the call out. The result must marshal to JSON; that JSON is
	// journaled and turned into the script's value, live and on replay alike.
	Run func(ctx context.Context, c Call) (any, error)
	// Reconcile looks at the real system after an intent whose result is not
	// known. The result is what Run would have returned if it happened.
	Reconcile func(ctx context.Context, c Call) (Finding, any, error)
	// Inverse gives, before the effect, the call that undoes it. It may read.
	// Nil, or a nil answer: known only from the result, see InverseOf.
	Inverse func(ctx context.Context, c Call) (*Undo, error)
	// InverseOf gives the undo from the result. A nil answer: nothing to undo.
	InverseOf func(ctx context.Context, c Call, result json.RawMessage) (*Undo, error)
	// Summary tells the result in one line for people, without the builtin's
	// name. It may be of an older version's Run: an empty text says nothing.
	Summary func(result json.RawMessage) string
}

// Call is one call of a builtin.
type Call struct {
	Run     string
	Phase   string
	Step    string // phase/n:builtin
	Builtin string
	Where   string // file:line:col
	Args    Args
	// Token names the effect of this step in this attempt; the same token asked
	// twice is one effect.
	Token string
	By    string // who runs the script
	Clock Clock
	// Progress tells people what a long call waits for. Never nil.
	Progress func(text string)
	// Details, if set, is told the same with something for programs beside it.
	Details func(text string, detail any)
	// Earlier are the effects that a plan has already predicted, oldest first.
	// Empty in a run.
	Earlier []Planned

	branch string // of its records
}

// Tell tells people what a long call waits for, and programs the details.
func (c Call) Tell(text string, detail any) {
	if c.Details == nil {
		c.Progress(text)
		return
	}
	c.Details(text, detail)
}

// Why is the origin of the call for audit trails: run and place.
func (c Call) Why() string { return fmt.Sprintf("run %s, %s", c.Run, c.Where) }

// Planned is an effect that a plan predicted.
type Planned struct {
	Builtin string
	Args    Args
	Verdict Verdict

	branch string
}

// Verdict is a plan's word on one call.
type Verdict string

// The verdicts of a plan.
const (
	WillDo          Verdict = "will do"
	NoChange        Verdict = "no change"
	HoldsNow        Verdict = "holds now"
	FailsNow        Verdict = "fails now"
	UnknownUntilRun Verdict = "unknown until run"
)

// Prediction is what a builtin's Plan answers.
type Prediction struct {
	Verdict Verdict
	Text    string // one line for people, without the builtin's name
	// Table, if there is one, is shown below the line; its first row are the heads.
	Table [][]string
	// Result has the shape of Run's result. Fields that are known only during
	// the run are set to Unknown{} in a map[string]any.
	Result any
	AtMost time.Duration // how long the call may take; 0: short
}

// Unknown stands in a predicted result for what is known only during the run.
type Unknown struct{}

// MarshalJSON implements json.Marshaler.
func (Unknown) MarshalJSON() ([]byte, error) { return []byte(`{"$type":"unknown"}`), nil }

// Finding is what Reconcile found out.
type Finding string

// The findings of Reconcile.
const (
	Happened Finding = "happened"
	DidNot   Finding = "did_not"
	Unclear  Finding = "unclear"
)

// Undo is a call that undoes an effect.
type Undo struct {
	Builtin string `json:"builtin"`
	Args    Args   `json:"args"`
	Text    string `json:"text"` // one line for people
}

// Clock is the time that builtins wait by.
type Clock interface {
	Now() time.Time
	// Sleep waits for d or until ctx is done, whose cause it then returns.
	Sleep(ctx context.Context, d time.Duration) error
}

// SystemClock is the machine's clock.
type SystemClock struct{}

// Now implements Clock.
func (SystemClock) Now() time.Time { return time.Now() }

// Sleep implements Clock.
func (SystemClock) Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
