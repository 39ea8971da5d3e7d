package scripting

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
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
	locks   []string // taken on the way
	phases  map[string]*phaseHistory
}

// scope is a row of calls that follow each other: those of a phase, or of one
// branch of a parallel.
type scope struct {
	path    string // phase, or phase/n[key]
	branch  string // path below the phase; empty for the phase itself
	within  string // the attempt of what it is part of
	state   string
	attempt int
	started int64
	ended   int64
	err     string
	failure failure // of PhaseFailed and BranchFailed
	result  json.RawMessage
	do      []*step
	undo    []*step
	index   map[string]*step // of both, by stepKey
}

// life names the attempt under way: tokens are made of it.
func (s *scope) life() string {
	if s.within == "" {
		return strconv.Itoa(s.attempt)
	}
	return s.within + "." + strconv.Itoa(s.attempt)
}

// phaseHistory is a phase with the branches of its parallels.
type phaseHistory struct {
	scope
	name     string
	branches map[string]*scope // by path below the phase
}

// part returns the phase's own scope, or that of a branch.
func (p *phaseHistory) part(branch string) *scope {
	if branch == "" {
		return &p.scope
	}
	b := p.branches[branch]
	if b == nil {
		b = &scope{path: p.name + "/" + branch, branch: branch, state: phaseWaiting}
		if p.branches == nil {
			p.branches = map[string]*scope{}
		}
		p.branches[branch] = b
	}
	return b
}

// around is the scope that a branch was forked from.
func (p *phaseHistory) around(branch string) *scope {
	outer := ""
	if i := strings.LastIndexByte(branch, '/'); i >= 0 && branch[:i] != partUndo {
		outer = branch[:i]
	}
	return p.part(outer)
}

// lockGivenBack marks the Locked record of locks that another run turned out to hold.
const lockGivenBack = "given back"

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
	fork    *forked // of a parallel
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
		p = &phaseHistory{scope: scope{path: name, state: phaseWaiting}, name: name}
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
		if p.state != phaseFailed {
			p.branches = nil
		}
		p.start(r)
	case BranchStarted:
		sc := p.part(r.Branch)
		sc.within = p.around(r.Branch).life()
		if sc.state != phaseFailed {
			maps.DeleteFunc(p.branches, func(b string, _ *scope) bool { return strings.HasPrefix(b, r.Branch+"/") })
		}
		sc.start(r)
	case PhaseDone, BranchDone:
		sc := p.part(r.Branch)
		sc.state, sc.ended, sc.result = phaseDone, r.At, r.Result
	case PhaseFailed, BranchFailed:
		sc := p.part(r.Branch)
		sc.state, sc.ended, sc.err = phaseFailed, r.At, r.Error
		return json.Unmarshal(r.Result, &sc.failure)
	case PhaseUndone, BranchUndone:
		sc := p.part(r.Branch)
		sc.state, sc.ended = phaseUndone, r.At
	case Locked:
		return h.lock(r)
	case Intent, Done, Observed, Forked:
		return p.part(r.Branch).applyStep(r)
	}
	return nil
}

// start opens the scope: a new attempt, or the same one taken up again after it
// was held.
func (s *scope) start(r Record) {
	if s.state != phaseFailed {
		s.attempt++
		s.do, s.undo, s.index = nil, nil, map[string]*step{}
	}
	s.state, s.started, s.ended, s.err, s.result = phaseOpen, r.At, 0, "", nil
}

func (sc *scope) applyStep(r Record) error {
	steps := &sc.do
	switch rest, _, below := strings.Cut(strings.TrimPrefix(r.Step, sc.path+"/"), "/"); {
	case !below:
	case rest == partUndo:
		steps = &sc.undo
	default: // check and verify always look again
		return nil
	}
	s := sc.index[stepKey(r.Step)]
	if s == nil {
		if r.Kind == Done {
			return fmt.Errorf("step %s has a result and no intent", r.Step)
		}
		s = &step{id: r.Step}
		*steps = append(*steps, s)
		if sc.index == nil {
			sc.index = map[string]*step{}
		}
		sc.index[stepKey(r.Step)] = s
	}
	switch r.Kind {
	case Intent:
		*s = step{id: r.Step, builtin: r.Builtin, hash: r.Hash, where: r.Where, token: r.Token, seq: r.Seq, args: r.Args, inverse: r.Inverse, effect: true}
	case Observed:
		*s = step{id: r.Step, builtin: r.Builtin, hash: r.Hash, where: r.Where, seq: r.Seq, args: r.Args, settled: true, err: r.Error, result: r.Result}
	case Forked:
		*s = step{id: r.Step, builtin: r.Builtin, hash: r.Hash, where: r.Where, seq: r.Seq, fork: &forked{}}
		return json.Unmarshal(r.Args, s.fork)
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
	for _, p := range strings.Split(id, "/")[1:] {
		if p == partCheck || p == partVerify || p == partUndo {
			return p
		}
	}
	return partDo
}

// undoID is the id of the step that undoes an effect.
func undoID(effect, builtin string) string {
	i := strings.LastIndexByte(effect, '/')
	n, _, _ := strings.Cut(effect[i+1:], ":")
	return fmt.Sprintf("%s/%s/%s:%s", effect[:i], partUndo, n, builtin)
}

// undoOf returns the step that undoes an effect automatically, if it has begun.
func (s *scope) undoOf(effect string) *step {
	return s.index[stepKey(undoID(effect, ""))]
}

// stepKey is a step's id without the builtin: phase/n or phase/undo/n.
func stepKey(id string) string {
	head, _, _ := strings.Cut(id, ":")
	return head
}

// held lists the effects of the phase that stand, oldest first. An effect whose
// outcome is not known counts.
func (p *phaseHistory) held(reg *Registry) []Held { return p.heldIn(reg, &p.scope) }

func (p *phaseHistory) heldIn(reg *Registry, sc *scope) []Held {
	if sc.state == phaseUndone {
		return nil
	}
	var out []Held
	for _, s := range sc.do {
		if s.fork != nil {
			for _, b := range p.forkedFrom(sc, s) {
				out = append(out, p.heldIn(reg, b)...)
			}
			continue
		}
		if !s.effect || s.absent || (s.ok() && len(s.inverse) == 0) {
			continue
		}
		if u := sc.undoOf(s.id); u != nil && u.ok() {
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
	if s.fork != nil {
		return s.fork.String()
	}
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

// lock adds the locks that a run took on its way.
func (h *history) lock(r Record) error {
	var names []string
	if err := json.Unmarshal(r.Args, &names); err != nil {
		return fmt.Errorf("locks: %w", err)
	}
	if r.Text == lockGivenBack {
		h.locks = slices.DeleteFunc(h.locks, func(l string) bool { return slices.Contains(names, l) })
		return nil
	}
	for _, n := range names {
		if !slices.Contains(h.locks, n) {
			h.locks = append(h.locks, n)
		}
	}
	return nil
}

// allLocks are those that the script declares and those it took on its way.
func (h *history) allLocks() []string { return slices.Concat(h.pinned.Locks, h.locks) }

// held lists all effects of the run that stand, in the order of its phases.
func (h *history) held(reg *Registry) []Held {
	var out []Held
	for _, name := range h.pinned.Phases {
		out = append(out, h.phase(name).held(reg)...)
	}
	return out
}
