// Package api is how the command line asks an agent in another process: JSON
// requests over NATS, answered by one of the agents that serve the queue group.
//
// # Rules
//
//   - A run belongs to the agent that carries it out: that one alone answers
//     under the run's own subject, for as long as it lives.
//   - Events are for people and may be lost; how a run ended is asked for.
package api

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"github.com/starferry/starferry/scripting"
)

// Queue is the queue group of all agents.
const Queue = "starferry-agents"

// The subjects that any agent answers.
const (
	SubjectRun      = "starferry.agent.run"
	SubjectExec     = "starferry.agent.exec"
	SubjectPlan     = "starferry.agent.plan"
	SubjectResume   = "starferry.agent.resume"
	SubjectRollback = "starferry.agent.rollback"
	SubjectRuns     = "starferry.agent.runs"
	SubjectStatus   = "starferry.agent.status"
	SubjectHistory  = "starferry.agent.history"
)

func subjects() []string {
	return []string{SubjectRun, SubjectExec, SubjectPlan, SubjectResume, SubjectRollback, SubjectRuns, SubjectStatus, SubjectHistory}
}

// SubjectAs is where an operator asks who has a name at NATS: the subject's last
// token is that name, and NATS lets nobody else publish there. Without a name it
// is the subject itself.
func SubjectAs(subject, operator string) string {
	if operator == "" {
		return subject
	}
	return subject + "." + token(operator)
}

// Operator is the name that a request was sent under; empty: none.
func Operator(subject string) string {
	for _, s := range subjects() {
		if name, ok := strings.CutPrefix(subject, s+"."); ok {
			return name
		}
	}
	return ""
}

// SubjectOwner is answered by the agent that carries out a run, and for a while
// by the one that did. A message on it that asks for no answer says that the run
// begins anew: whoever tells of its last end falls silent.
func SubjectOwner(run string) string { return "starferry.owner." + token(run) }

// SubjectEvents is where a run's events are published.
func SubjectEvents(run string) string { return "starferry.events." + token(run) }

// token keeps what NATS gives a meaning to out of a subject. Run names that an
// agent makes need none of it; a name that an operator mistyped may.
func token(run string) string {
	return strings.Map(func(r rune) rune {
		if r == '.' || r == '*' || r == '>' || r <= ' ' {
			return '_'
		}
		return r
	}, run)
}

// RunRequest asks to run or plan a script, or a snippet. The script's files
// travel with it, so that the agent needs none of the operator's folders.
type RunRequest struct {
	File    string            `json:"file,omitempty"`
	Files   map[string]string `json:"files,omitempty"`
	Snippet string            `json:"snippet,omitempty"`
	Params  map[string]string `json:"params,omitempty"`
	By      string            `json:"by"`
	// Run is the name the run is to have, so that it can be followed from its
	// beginning; empty lets the agent choose.
	Run string `json:"run,omitempty"`
}

// NewRunName makes a name that is short enough to type: the script's and six
// digits.
func NewRunName(file string) string {
	base := "exec"
	if file != "" {
		base = strings.TrimSuffix(path.Base(file), ".star")
	}
	base = strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			return c
		}
		return '-'
	}, base)
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails
	return base + "-" + hex.EncodeToString(b[:])
}

// NameRequest names a run.
type NameRequest struct {
	Run string `json:"run"`
	By  string `json:"by"`
}

// RunAnswer names the run that has begun, or goes on.
type RunAnswer struct {
	Run string `json:"run"`
}

// PlanAnswer is a plan, for programs and for people.
type PlanAnswer struct {
	Plan *scripting.Plan `json:"plan"`
	Text string          `json:"text"`
}

// Progress is what a run's owner says of it.
type Progress struct {
	Run     string `json:"run"`
	Agent   string `json:"agent"` // host and process id
	Running bool   `json:"running"`
	// Last is the newest progress, while it runs and waits for something.
	Last *scripting.Event `json:"last,omitempty"`
	// Ending is set when it is no longer running.
	Ending *Ending `json:"ending,omitempty"`
}

// Ending is how a run, or a rollback, ended.
type Ending struct {
	Exit    int                `json:"exit"`
	Text    string             `json:"text,omitempty"` // what went wrong
	Outcome *scripting.Outcome `json:"outcome,omitempty"`
	// Refused is set if what went wrong makes a table.
	Refused *scripting.RefusedError `json:"refused,omitempty"`
}

// Envelope wraps every answer.
type Envelope struct {
	Answer json.RawMessage `json:"answer,omitempty"`
	Error  string          `json:"error,omitempty"`
	Exit   int             `json:"exit,omitempty"`
}

// RemoteError is an error that an agent answered with.
type RemoteError struct {
	Text string
	Exit int
}

// Error implements error.
func (e *RemoteError) Error() string { return e.Text }

// ExitCode is the exit code of the command line.
func (e *RemoteError) ExitCode() int { return max(e.Exit, 1) }

// Seal makes the envelope of an answer.
func Seal(answer any, err error) ([]byte, error) {
	if err != nil {
		return json.Marshal(Envelope{Error: err.Error(), Exit: scripting.ExitCode(err)})
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return nil, fmt.Errorf("seal answer: %w", err)
	}
	return json.Marshal(Envelope{Answer: body})
}

// Open takes an answer out of its envelope.
func Open(data []byte, answer any) error {
	var e Envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return fmt.Errorf("read answer of the agent: %w: are agent and command line of the same version?", err)
	}
	if e.Error != "" {
		return &RemoteError{e.Error, e.Exit}
	}
	if err := json.Unmarshal(e.Answer, answer); err != nil {
		return fmt.Errorf("read answer of the agent: %w: are agent and command line of the same version?", err)
	}
	return nil
}
