package scripting

import "time"

// Plan is what a run would do now.
type Plan struct {
	Name   string            `json:"name"`
	File   string            `json:"file"`
	Params map[string]string `json:"params"`
	Locks  []string          `json:"locks"`
	Phases []PlanPhase       `json:"phases"`
	Counts map[Verdict]int   `json:"counts"`
}

// PlanPhase is one phase of a plan.
type PlanPhase struct {
	Name  string     `json:"name"`
	Lines []PlanLine `json:"lines"`
	// Undo says how the phase would be undone.
	Undo string `json:"undo"`
}

// PlanLine is one call, or one remark, of a plan.
type PlanLine struct {
	Part    string        `json:"part"` // check, do, verify
	Builtin string        `json:"builtin,omitempty"`
	Where   string        `json:"where,omitempty"`
	Verdict Verdict       `json:"verdict"`
	Text    string        `json:"text"`
	Class   Class         `json:"class,omitempty"`
	AtMost  time.Duration `json:"at_most,omitempty"`
}

// String renders the plan for people.
func (p *Plan) String() string { return p.Name }
