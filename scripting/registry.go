package scripting

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
)

// Registry is everything scripts can say: types and builtins by name. It does
// not change after NewRegistry.
type Registry struct {
	types    map[string]*Type
	builtins map[string]*Builtin
}

// NewRegistry checks the entries and puts the words every script has (migration,
// phase, params, param) beside them. The types are added to Types().
func NewRegistry(types []*Type, builtins []*Builtin) (*Registry, error) {
	r := &Registry{types: map[string]*Type{}, builtins: map[string]*Builtin{}}
	for _, t := range slices.Concat(Types(), types) {
		if r.types[t.Name] != nil {
			return nil, fmt.Errorf("registry type %s: there are two", t.Name)
		}
		r.types[t.Name] = t
	}
	for _, b := range slices.Concat(declarations(), builtins) {
		if r.builtins[b.Name] != nil {
			return nil, fmt.Errorf("registry entry %s: there are two", b.Name)
		}
		if err := r.checkEntry(b); err != nil {
			return nil, fmt.Errorf("registry entry %s: %w", b.Name, err)
		}
		r.builtins[b.Name] = b
	}
	return r, nil
}

func (r *Registry) checkEntry(b *Builtin) error {
	name := regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	switch {
	case !name.MatchString(b.Name):
		return fmt.Errorf("a name is lower case letters, digits and _")
	case b.Doc == "":
		return fmt.Errorf("no documentation")
	case b.Class != Declare && b.Class != Flow && b.Run == nil:
		return fmt.Errorf("no Run")
	case b.Class.Changes() && b.Plan == nil:
		return fmt.Errorf("an effect without Plan could not be planned")
	case b.Class.Changes() && b.Reconcile == nil:
		return fmt.Errorf("an effect without Reconcile could not be resumed")
	case b.Class.Changes() && b.Inverse == nil && b.InverseOf == nil:
		return fmt.Errorf("an effect without Inverse could not be undone")
	}
	seen := map[string]bool{}
	for _, p := range b.Params {
		switch {
		case !name.MatchString(p.Name) || seen[p.Name]:
			return fmt.Errorf("parameter %q: wrong or double name", p.Name)
		case p.Type == nil || p.Doc == "":
			return fmt.Errorf("parameter %s: needs a type and a documentation", p.Name)
		case p.Default != nil:
			if _, err := p.Type.Parse(p.Default); err != nil {
				return fmt.Errorf("parameter %s: default: %w", p.Name, err)
			}
		}
		seen[p.Name] = true
	}
	return nil
}

// Builtin returns an entry by name.
func (r *Registry) Builtin(name string) (*Builtin, bool) {
	b, ok := r.builtins[name]
	return b, ok
}

// Builtins returns all entries in order of name.
func (r *Registry) Builtins() []*Builtin {
	var out []*Builtin
	for _, n := range slices.Sorted(maps.Keys(r.builtins)) {
		out = append(out, r.builtins[n])
	}
	return out
}

// Types returns all types in order of name.
func (r *Registry) Types() []*Type {
	var out []*Type
	for _, n := range slices.Sorted(maps.Keys(r.types)) {
		out = append(out, r.types[n])
	}
	return out
}
