package scripting

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.starlark.net/starlark"
)

// The values of phase's on_fail.
const (
	onFailUndo     = "undo_phase"
	onFailHold     = "hold"
	onFailRollback = "rollback"
)

// declared is a value that only the runtime reads: a migration, phase or param.
type declared struct{ kind string }

func (d declared) String() string        { return d.kind + "(...)" }
func (d declared) Type() string          { return d.kind }
func (d declared) Freeze()               {}
func (d declared) Truth() starlark.Bool  { return true }
func (d declared) Hash() (uint32, error) { return 0, fmt.Errorf("unhashable: %s", d.kind) }

type migrationValue struct {
	declared
	name   string
	locks  []string
	phases []*phase
}

type phaseValue struct {
	declared
	phase *phase
}

type paramValue struct {
	declared
	param Param
}

// declare carries out a declaration while a file is loaded.
func declare(l *loader, b *Builtin, where string, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	if b.Name == "params" {
		return starlark.None, l.declareParams(args, kwargs)
	}
	got, err := bind(b, args, kwargs)
	if err != nil {
		return nil, err
	}
	plain := map[string]any{}
	for _, p := range b.Params {
		v, ok := got[p.Name]
		if !ok || p.Type.Name == "any" {
			continue
		}
		if plain[p.Name], err = toPlain(v); err != nil {
			return nil, fmt.Errorf("%s: argument %s: %w", b.Name, p.Name, err)
		}
	}
	parsed, err := b.parse(plain)
	if err != nil {
		return nil, err
	}
	switch b.Name {
	case "migration":
		return newMigration(parsed, got["phases"])
	case "phase":
		return newPhase(parsed, got, where)
	case "param":
		return l.newParam(parsed, got)
	}
	return nil, fmt.Errorf("%s: a declaration that the runtime does not know", b.Name)
}

func newMigration(a Args, phases starlark.Value) (starlark.Value, error) {
	list, ok := phases.(starlark.Indexable)
	if !ok || phases.Type() == "string" {
		return nil, fmt.Errorf("migration: argument phases: want a list of phase(...), got %s", phases.Type())
	}
	m := &migrationValue{declared: declared{"migration"}, name: a.Text("name"), locks: a.Strings("lock")}
	seen := map[string]bool{}
	for i := range list.Len() {
		p, ok := list.Index(i).(*phaseValue)
		if !ok {
			return nil, fmt.Errorf("migration: phases[%d]: want phase(...), got %s", i, list.Index(i).Type())
		}
		if seen[p.phase.name] {
			return nil, fmt.Errorf("migration: two phases are named %s; m.out.%s could not tell them apart", p.phase.name, p.phase.name)
		}
		seen[p.phase.name] = true
		m.phases = append(m.phases, p.phase)
	}
	if len(m.phases) == 0 {
		return nil, fmt.Errorf("migration: no phases")
	}
	return m, nil
}

func newPhase(a Args, got map[string]starlark.Value, where string) (starlark.Value, error) {
	p := &phase{name: a.Text("name"), onFail: a.Text("on_fail"), irreversible: a.Bool("irreversible"), where: where}
	if !regexp.MustCompile(`^[a-z][a-z0-9_]*$`).MatchString(p.name) {
		return nil, fmt.Errorf("phase: the name %q is no identifier of lower case letters, digits and _; m.out.NAME needs one", p.name)
	}
	if a.Has("approve") {
		return nil, fmt.Errorf("phase %s: this version cannot wait for an approval; leave approve= out, and let a person start the next part as a script of its own", p.name)
	}
	modes := []string{onFailUndo, onFailHold, onFailRollback}
	if !slices.Contains(modes, p.onFail) {
		return nil, fmt.Errorf("phase %s: on_fail %q%s: want one of %s", p.name, p.onFail, suggestion(p.onFail, modes), strings.Join(modes, ", "))
	}
	for name, into := range map[string]*starlark.Callable{"check": &p.check, "do": &p.do, "verify": &p.verify, "undo": &p.undo} {
		v, ok := got[name]
		if !ok {
			continue
		}
		f, ok := v.(*starlark.Function)
		if !ok {
			return nil, fmt.Errorf("phase %s: %s: want a function of m, got %s; write its name without calling it", p.name, name, v.Type())
		}
		if f.NumParams()-f.NumKwonlyParams() != 1 && !f.HasVarargs() {
			return nil, fmt.Errorf("phase %s: %s: %s takes %d parameters, want one, m", p.name, name, f.Name(), f.NumParams())
		}
		*into = f
	}
	if p.irreversible && p.undo != nil {
		return nil, fmt.Errorf("phase %s: irreversible and undo exclude each other", p.name)
	}
	return &phaseValue{declared{"phase"}, p}, nil
}

func (l *loader) newParam(a Args, got map[string]starlark.Value) (starlark.Value, error) {
	var t *Type
	if f, ok := got["type"].(*starlark.Builtin); ok {
		t = l.program.registry.types[f.Name()]
	}
	if t == nil || t.Name == "any" {
		var names []string
		for _, t := range l.program.registry.Types() {
			if t.Name != "any" {
				names = append(names, t.Name)
			}
		}
		return nil, fmt.Errorf("param: %s is no type of parameters; there are %s", got["type"], strings.Join(names, ", "))
	}
	p := Param{Type: t, Doc: a.Text("doc"), Required: a.Bool("required")}
	if v, ok := got["default"]; ok {
		plain, err := toPlain(v)
		if err == nil {
			p.Default, err = t.Parse(plain)
		}
		if err != nil {
			return nil, fmt.Errorf("param: default: %w", err)
		}
		if p.Required {
			return nil, fmt.Errorf("param: required and a default exclude each other")
		}
	}
	return &paramValue{declared{"param"}, p}, nil
}

func (l *loader) declareParams(args starlark.Tuple, kwargs []starlark.Tuple) error {
	if len(args) > 0 {
		return fmt.Errorf(`params: parameters have names: params(group = param(string, "billing", "group to move"))`)
	}
	for _, kw := range kwargs {
		name := string(kw[0].(starlark.String))
		v, ok := kw[1].(*paramValue)
		if !ok {
			return fmt.Errorf("params: %s: want param(type, default, doc), got %s", name, kw[1].Type())
		}
		if l.program.param(name) != nil {
			return fmt.Errorf("params: %s is declared twice", name)
		}
		p := v.param
		p.Name = name
		l.program.params = append(l.program.params, p)
	}
	return nil
}

func (p *Program) param(name string) *Param { return findParam(p.params, name) }

// bindParams brings text into the canonical form of the script's parameters.
func (p *Program) bindParams(text map[string]string) (Args, error) {
	names := paramNames(p.params)
	for name := range text {
		if p.param(name) == nil {
			return nil, usagef("script %s: no parameter %s%s; it has: %s", p.file, name, suggestion(name, names), strings.Join(names, ", "))
		}
	}
	out := Args{}
	for _, d := range p.params {
		given, ok := text[d.Name]
		switch {
		case ok:
			v, err := d.Type.take(given)
			if err != nil {
				return nil, usagef("script %s: parameter %s: %v", p.file, d.Name, err)
			}
			out[d.Name] = v
		case d.Required:
			return nil, usagef("script %s: parameter %s (%s) is required: give it with -p %s=%s", p.file, d.Name, d.Doc, d.Name, d.Type.Example)
		case d.Default != nil:
			if _, err := d.Type.take(d.Default); err != nil {
				return nil, usagef("script %s: parameter %s: its default does not fit: %v; give it with -p %s=...", p.file, d.Name, err, d.Name)
			}
			out[d.Name] = d.Default
		}
	}
	return out, nil
}

// paramText writes canonical parameters as text that bindParams reads.
func paramText(params Args) map[string]string {
	out := map[string]string{}
	for name, v := range params {
		switch v := v.(type) {
		case string:
			out[name] = v
		case []any:
			var parts []string
			for _, e := range v {
				parts = append(parts, fmt.Sprint(e))
			}
			out[name] = strings.Join(parts, ",")
		default:
			out[name] = Literal(v)
		}
	}
	return out
}

// fillIn replaces {param} in a template. With nil values it only checks names.
func fillIn(template string, declared []Param, values Args) (string, error) {
	var wrong error
	text := paramText(values)
	out := regexp.MustCompile(`\{([^{}]*)\}`).ReplaceAllStringFunc(template, func(m string) string {
		name := m[1 : len(m)-1]
		names := paramNames(declared)
		if !slices.Contains(names, name) {
			wrong = fmt.Errorf("%q: no parameter %s%s", template, name, suggestion(name, names))
		}
		return text[name]
	})
	return out, wrong
}
