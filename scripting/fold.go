package scripting

import (
	"encoding/json"
	"fmt"
	"strings"
)

// pinned is what Started keeps of a run: enough to take it up anywhere.
type pinned struct {
	File   string            `json:"file"`
	Files  map[string]string `json:"files"`
	Exec   bool              `json:"exec,omitempty"`
	Params map[string]string `json:"params"`
	Name   string            `json:"name"`
	Locks  []string          `json:"locks,omitempty"`
	Phases []string          `json:"phases"`
	// Final lists the phases that have no way back.
	Final []string `json:"final,omitempty"`
	By    string   `json:"by"`
}

// The states of a phase.
const (
	phaseWaiting = "waiting"
	phaseOpen    = "open"
	phaseDone    = "done"
	phaseFailed  = "failed"
	phaseUndone  = "undone"
)

// didNotHappen marks the Done record of an effect that was found not to have
// happened.
const didNotHappen = "did not happen"

// history is a run as its journal tells it: the fold of its records. The engine
// and the status are both made from it, so they cannot disagree.
type history struct {
	run     string
	seq     uint64
	started int64
	updated int64
	pinned  pinned
	state   State
	err     string
	phases  map[string]*phaseHistory
}

type phaseHistory struct {
	name    string
	state   string
	attempt int
	started int64
	ended   int64
	err     string
	failure failure // of PhaseFailed
	result  json.RawMessage
	do      []*step
	undo    []*step
	index   map[string]*step // of both, by stepKey
}

// failure is what PhaseFailed keeps for the text of the stop.
type failure struct {
	Where    string `json:"where,omitempty"`
	Expected string `json:"expected,omitempty"`
	Found    string `json:"found,omitempty"`
	Script   bool   `json:"script,omitempty"`
	Policy   string `json:"policy"`
	// Refused is set if a call was refused for reasons that make a table.
	Refused *RefusedError `json:"refused,omitempty"`
}

// step is one journaled call.
type step struct {
	id, builtin, hash, where, token string

	seq     uint64
	args    json.RawMessage
	effect  bool
	settled bool // it has a result, or was found not to have happened
	absent  bool // it did not happen
	err     string
	result  json.RawMessage
	inverse json.RawMessage
}

// ok reports whether a replay takes the step's result from the journal.
func (s *step) ok() bool { return s.settled && s.err == "" && !s.absent }

// open reports whether the step's intent has no result.
func (s *step) open() bool { return s.effect && !s.settled }

func readHistory(run string, records []Record) (*history, error) {
	h := &history{run: run, phases: map[string]*phaseHistory{}}
	for _, r := range records {
		if err := h.apply(r); err != nil {
			return nil, fmt.Errorf("read run %s: record %d: %w", run, r.Seq, err)
		}
	}
	return h, nil
}

func (h *history) phase(name string) *phaseHistory {
	p := h.phases[name]
	if p == nil {
		p = &phaseHistory{name: name, state: phaseWaiting}
		h.phases[name] = p
	}
	return p
}

// apply adds one record.
func (h *history) apply(r Record) error {
	h.seq, h.updated = r.Seq, r.At
	p := h.phase(r.Phase)
	switch r.Kind {
	case Started:
		h.started, h.state = r.At, StateOpen
		return json.Unmarshal(r.Source, &h.pinned)
	case Resumed:
		h.state, h.err = StateOpen, ""
	case RollingBack:
		h.state = StateRollingBack
	case Finished:
		h.state, h.err = StateFinished, ""
	case Failed:
		if h.state != StateRollingBack {
			h.state = StateFailed
		}
		h.err = r.Error
	case RolledBack:
		h.state = StateRolledBack
	case PhaseStarted:
		p.start(r)
	case PhaseDone:
		p.state, p.ended, p.result = phaseDone, r.At, r.Result
	case PhaseFailed:
		p.state, p.ended, p.err = phaseFailed, r.At, r.Error
		return json.Unmarshal(r.Result, &p.failure)
	case PhaseUndone:
		p.state, p.ended = phaseUndone, r.At
	case Intent, Done, Observed:
		return p.applyStep(r)
	}
	return nil
}

// start opens the phase: a new attempt, or the same one taken up again after it
// was held.
func (p *phaseHistory) start(r Record) {
	if p.state != phaseFailed {
		p.attempt++
		p.do, p.undo, p.index = nil, nil, map[string]*step{}
	}
	p.state, p.started, p.ended, p.err, p.result = phaseOpen, r.At, 0, "", nil
}

func (p *phaseHistory) applyStep(r Record) error {
	steps := &p.do
	switch partOf(r.Step) {
	case partCheck, partVerify: // always looked at again
		return nil
	case partUndo:
		steps = &p.undo
	}
	s := p.index[stepKey(r.Step)]
	if s == nil {
		if r.Kind == Done {
			return fmt.Errorf("step %s has a result and no intent", r.Step)
		}
		s = &step{id: r.Step}
		*steps = append(*steps, s)
		if p.index == nil {
			p.index = map[string]*step{}
		}
		p.index[stepKey(r.Step)] = s
	}
	switch r.Kind {
	case Intent:
		*s = step{id: r.Step, builtin: r.Builtin, hash: r.Hash, where: r.Where, token: r.Token, seq: r.Seq, args: r.Args, inverse: r.Inverse, effect: true}
	case Observed:
		*s = step{id: r.Step, builtin: r.Builtin, hash: r.Hash, where: r.Where, seq: r.Seq, args: r.Args, settled: true, err: r.Error, result: r.Result}
	case Done:
		s.settled, s.err, s.result, s.absent = true, r.Error, r.Result, r.Text == didNotHappen
		if r.Error == "" {
			s.inverse = r.Inverse
		}
	}
	return nil
}

// partOf reads the part out of a step's id.
func partOf(id string) string {
	parts := strings.Split(id, "/")
	if len(parts) == 3 {
		return parts[1]
	}
	return partDo
}

// undoID is the id of the step that undoes an effect.
func undoID(effect, builtin string) string {
	phase, rest, _ := strings.Cut(effect, "/")
	n, _, _ := strings.Cut(rest, ":")
	return fmt.Sprintf("%s/%s/%s:%s", phase, partUndo, n, builtin)
}

// undoOf returns the step that undoes an effect automatically, if it has begun.
func (p *phaseHistory) undoOf(effect string) *step {
	return p.index[stepKey(undoID(effect, ""))]
}

// stepKey is a step's id without the builtin: phase/n or phase/undo/n.
func stepKey(id string) string {
	head, _, _ := strings.Cut(id, ":")
	return head
}

// held lists the effects of the phase that stand, oldest first. An effect whose
// outcome is not known counts.
func (p *phaseHistory) held(reg *Registry) []Held {
	if p.state == phaseUndone {
		return nil
	}
	var out []Held
	for _, s := range p.do {
		if !s.effect || s.absent || (s.ok() && len(s.inverse) == 0) {
			continue
		}
		if u := p.undoOf(s.id); u != nil && u.ok() {
			continue
		}
		h := Held{Phase: p.name, Step: s.id, Text: s.text(reg)}
		if u, err := parseUndo(s.inverse); err == nil && u != nil {
			h.Undo = u.Text
		}
		switch {
		case s.open():
			h.Text += " (outcome not known yet)"
		case s.err != "":
			h.Text += " (it failed and may have happened in part)"
		}
		out = append(out, h)
	}
	return out
}

func (s *step) text(reg *Registry) string {
	args, err := parseJournaled(s.args)
	b, ok := reg.Builtin(s.builtin)
	if err != nil || !ok {
		return s.builtin + "(" + string(s.args) + ")"
	}
	return describeCall(b, args)
}

func parseUndo(raw json.RawMessage) (*Undo, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var u struct {
		Builtin string          `json:"builtin"`
		Args    json.RawMessage `json:"args"`
		Text    string          `json:"text"`
	}
	if err := json.Unmarshal(raw, &u); err != nil {
		return nil, fmt.Errorf("read undo: %w", err)
	}
	args, err := parseJournaled(u.Args)
	return &Undo{u.Builtin, args, u.Text}, err
}

// final is the first phase that has begun and has no way back, or empty.
func (h *history) final() string {
	for _, name := range h.pinned.Final {
		if s := h.phase(name); s.state != phaseWaiting && s.state != phaseUndone && len(s.do) > 0 {
			return name
		}
	}
	return ""
}

// held lists all effects of the run that stand, in the order of its phases.
func (h *history) held(reg *Registry) []Held {
	var out []Held
	for _, name := range h.pinned.Phases {
		out = append(out, h.phase(name).held(reg)...)
	}
	return out
}
