package scripting

import (
	"errors"
	"fmt"
	"strings"
)

// Exit codes of the command line. Zero is done.
const (
	ExitError      = 1  // anything not listed below
	ExitUsage      = 2  // wrong parameters
	ExitUnmet      = 3  // the expected state was not reached
	ExitRolledBack = 4  // it failed, and everything was rolled back
	ExitIncomplete = 5  // rolling back did not finish
	ExitScript     = 7  // the script is wrong
	ExitMismatch   = 8  // journal and script differ
	ExitLocked     = 10 // another run holds what this one needs
)

// ExitCode maps an error of Load, Plan, Run, Resume or Rollback to the exit
// code of the command line.
func ExitCode(err error) int {
	var coded interface{ ExitCode() int }
	switch {
	case err == nil:
		return 0
	case errors.As(err, &coded):
		return coded.ExitCode()
	}
	return ExitError
}

// UsageError says that parameters or a request are wrong; nothing was done.
type UsageError struct{ Text string }

func (e *UsageError) Error() string { return e.Text }

// ExitCode is ExitUsage.
func (e *UsageError) ExitCode() int { return ExitUsage }

func usagef(format string, args ...any) error { return &UsageError{fmt.Sprintf(format, args...)} }

// ScriptError says what is wrong with a script and where.
type ScriptError struct {
	Where string // file:line:col
	Text  string
	Hint  string // what to write instead, if known
	Err   error  // what it stems from, if anything
}

func (e *ScriptError) Error() string {
	s := e.Text
	if e.Where != "" {
		s = e.Where + ": " + s
	}
	if e.Hint != "" {
		s += "\n  hint: " + e.Hint
	}
	return s
}

// Unwrap returns what the error stems from.
func (e *ScriptError) Unwrap() error { return e.Err }

// ExitCode is ExitScript.
func (e *ScriptError) ExitCode() int { return ExitScript }

// UnmetError is the answer of a check whose expectation does not hold.
type UnmetError struct {
	Expected string
	Found    string
}

func (e *UnmetError) Error() string {
	if e.Found == "" {
		return "expected: " + e.Expected
	}
	return "expected: " + e.Expected + "; found: " + e.Found
}

// ExitCode is ExitUnmet.
func (e *UnmetError) ExitCode() int { return ExitUnmet }

// Unmet is what a check returns if its expectation does not hold.
func Unmet(expected, found string) error { return &UnmetError{expected, found} }

// MismatchError says that a script did something else than its journal says.
type MismatchError struct {
	Run, Step           string
	Journaled, Scripted string // the calls, as text
	JournalAt, ScriptAt string // file:line:col
	JournalSeq          uint64
	Next                []string
}

func (e *MismatchError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "resume run %s: journal and script differ at step %s\n", e.Run, e.Step)
	fmt.Fprintf(&b, "  - journal  %s  %s\n", e.JournalAt, e.Journaled)
	fmt.Fprintf(&b, "  + script   %s  %s\n", e.ScriptAt, e.Scripted)
	b.WriteString("nothing was changed; what to do next:")
	for _, n := range e.Next {
		b.WriteString("\n  " + n)
	}
	return b.String()
}

// ExitCode is ExitMismatch.
func (e *MismatchError) ExitCode() int { return ExitMismatch }

// LockedError says that another open run holds a lock this one needs.
type LockedError struct{ Lock, Holder string }

func (e *LockedError) Error() string {
	return fmt.Sprintf("lock %s: held by run %s, which is not finished; look with 'starferry status %s', then resume it or roll it back", e.Lock, e.Holder, e.Holder)
}

// ExitCode is ExitLocked.
func (e *LockedError) ExitCode() int { return ExitLocked }

// StopError says why a run stopped, what it leaves behind and what to do next.
type StopError struct {
	Run, Phase, Step, Where string

	Expected string   // what should have been so; empty if a call failed otherwise
	Found    string   // what was so instead
	Held     []Held   // effects done and not undone, oldest first
	Undone   []string // effects that were undone by this stop
	Left     []string // what undoing did not manage, with the reason
	Next     []string // commands
	// RolledBack is true if nothing of the run is left.
	RolledBack bool
	Err        error // the cause
}

// Held is an effect that stands.
type Held struct {
	Phase string `json:"phase"`
	Step  string `json:"step"`
	Text  string `json:"text"`           // the call
	Undo  string `json:"undo,omitempty"` // what undoing it does
}

func (e *StopError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "run %s stopped", e.Run)
	if e.Phase != "" {
		fmt.Fprintf(&b, " in phase %s", e.Phase)
	}
	if e.Where != "" {
		fmt.Fprintf(&b, " at %s", e.Where)
	}
	if e.Expected != "" {
		fmt.Fprintf(&b, "\n  expected: %s", e.Expected)
		if e.Found != "" {
			fmt.Fprintf(&b, "\n  found:    %s", indent(e.Found))
		}
	} else if e.Err != nil {
		text := strings.TrimPrefix(e.Err.Error(), e.Where+": ")
		fmt.Fprintf(&b, "\n  error:    %s", indent(text))
	}
	for _, u := range e.Undone {
		fmt.Fprintf(&b, "\n  undone:   %s", indent(u))
	}
	for _, l := range e.Left {
		fmt.Fprintf(&b, "\n  not undone: %s", indent(l))
	}
	b.WriteString(heldText(e.Held))
	if len(e.Left) > 0 {
		b.WriteString("\n  rollback incomplete")
	}
	if e.RolledBack {
		b.WriteString("\n  rolled back: nothing is left to undo")
	}
	if len(e.Next) > 0 {
		b.WriteString("\n  next:")
		for _, n := range e.Next {
			b.WriteString("\n    " + n)
		}
	}
	return b.String()
}

func indent(s string) string { return strings.ReplaceAll(s, "\n", "\n            ") }

// showHeld is how many effects a stop lists; the status has them all.
const showHeld = 25

func heldText(held []Held) string {
	if len(held) == 0 {
		return "\n  changed and held now: nothing"
	}
	var b strings.Builder
	b.WriteString("\n  changed and held now:")
	for i, h := range held {
		if i == showHeld {
			fmt.Fprintf(&b, "\n    … and %d more", len(held)-i)
			break
		}
		fmt.Fprintf(&b, "\n    %s  %s", h.Step, cutText(h.Text, 200))
		if h.Undo != "" {
			fmt.Fprintf(&b, "  (undo: %s)", h.Undo)
		}
	}
	return b.String()
}

// cutText shortens a text for people.
func cutText(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// Unwrap returns the cause.
func (e *StopError) Unwrap() error { return e.Err }

// ExitCode tells unmet expectations, errors, finished and unfinished rollbacks
// apart.
func (e *StopError) ExitCode() int {
	var script *ScriptError
	switch {
	case len(e.Left) > 0:
		return ExitIncomplete
	case e.RolledBack:
		return ExitRolledBack
	case e.Expected != "":
		return ExitUnmet
	case errors.As(e.Err, &script):
		return ExitScript
	}
	return ExitError
}
