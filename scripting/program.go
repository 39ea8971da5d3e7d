package scripting

import (
	"go.starlark.net/starlark"
)

// Program is a loaded script. It does not change.
type Program struct {
	registry *Registry
	file     string
	files    map[string]string // every file read, by path below the root
	doc      string
	params   []Param
	name     string
	locks    []string
	phases   []*phase
	exec     bool
}

// phase is one declared step of a migration.
type phase struct {
	name         string
	check        starlark.Callable
	do           starlark.Callable
	verify       starlark.Callable
	undo         starlark.Callable
	onFail       string
	irreversible bool
	where        string
}

// Doc is the module's docstring, trimmed.
func (p *Program) Doc() string { return p.doc }

// Phases are the names of the phases in order.
func (p *Program) Phases() []string {
	var out []string
	for _, ph := range p.phases {
		out = append(out, ph.name)
	}
	return out
}
