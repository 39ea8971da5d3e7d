package scripting

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.starlark.net/starlark"
)

// bind assigns positional and keyword arguments to parameters by name.
func bind(b *Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (map[string]starlark.Value, error) {
	if len(args) > len(b.Params) {
		return nil, fmt.Errorf("%s: got %d arguments, want at most %d: %s", b.Name, len(args), len(b.Params), signature(b))
	}
	got := map[string]starlark.Value{}
	for i, v := range args {
		got[b.Params[i].Name] = v
	}
	names := paramNames(b.Params)
	for _, kw := range kwargs {
		name := string(kw[0].(starlark.String))
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("%s: unexpected keyword argument %s%s; it takes %s", b.Name, name, suggestion(name, names), strings.Join(names, ", "))
		}
		if _, twice := got[name]; twice {
			return nil, fmt.Errorf("%s: argument %s is given twice", b.Name, name)
		}
		got[name] = kw[1]
	}
	for _, p := range b.Params {
		if got[p.Name] == starlark.None {
			delete(got, p.Name)
		}
		if got[p.Name] == nil && p.Required {
			return nil, fmt.Errorf("%s: missing argument %s (%s): %s", b.Name, p.Name, p.Doc, signature(b))
		}
	}
	return got, nil
}

// unpack brings a script's arguments into their canonical form.
func unpack(b *Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (Args, error) {
	got, err := bind(b, args, kwargs)
	if err != nil {
		return nil, err
	}
	plain := map[string]any{}
	for name, v := range got {
		p, err := toPlain(v)
		if err != nil {
			return nil, fmt.Errorf("%s: argument %s: %w", b.Name, name, err)
		}
		if _, unknown := p.(Unknown); unknown && b.param(name).Type.Name != "any" {
			return nil, &UnknownError{b.Name + ": argument " + name}
		}
		plain[name] = p
	}
	return b.parse(plain)
}

// parse brings plain arguments into their canonical form and fills in defaults.
func (b *Builtin) parse(plain map[string]any) (Args, error) {
	out := Args{}
	for _, p := range b.Params {
		v, ok := plain[p.Name]
		if !ok || v == nil {
			v = p.Default
		}
		if v == nil {
			continue
		}
		c, err := p.Type.take(v)
		if err != nil {
			return nil, fmt.Errorf("%s: argument %s: %w", b.Name, p.Name, err)
		}
		out[p.Name] = c
	}
	return out, nil
}

func (b *Builtin) param(name string) *Param { return findParam(b.Params, name) }

func findParam(params []Param, name string) *Param {
	for i := range params {
		if params[i].Name == name {
			return &params[i]
		}
	}
	return nil
}

func paramNames(params []Param) []string {
	out := make([]string, len(params))
	for i, p := range params {
		out[i] = p.Name
	}
	return out
}

// signature writes how a builtin is called.
func signature(b *Builtin) string {
	var parts []string
	for _, p := range b.Params {
		s := p.Name
		if !p.Required {
			s += " = " + Literal(p.Default)
		}
		parts = append(parts, s)
	}
	return b.Name + "(" + strings.Join(parts, ", ") + ")"
}

// describeCall writes a call as a script would, secrets hidden.
func describeCall(b *Builtin, args Args) string {
	var parts []string
	for _, p := range b.Params {
		v, ok := args[p.Name]
		if !ok || isDefault(p, v) {
			continue
		}
		if p.Secret {
			v = "***"
		}
		parts = append(parts, p.Name+" = "+Literal(v))
	}
	return b.Name + "(" + strings.Join(parts, ", ") + ")"
}

func isDefault(p Param, v any) bool {
	if p.Default == nil {
		return false
	}
	d, err := p.Type.Parse(p.Default)
	return err == nil && Literal(d) == Literal(v)
}

// Literal writes a plain value as Starlark does.
func Literal(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case string:
		return strconv.Quote(v)
	case bool:
		if v {
			return "True"
		}
		return "False"
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = Literal(e)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case Typed:
		return strconv.Quote(v.Text)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

// journalArgs is what the journal keeps of arguments: secrets are left out.
func journalArgs(b *Builtin, args Args) (json.RawMessage, error) {
	kept := Args{}
	for name, v := range args {
		if p := b.param(name); p != nil && p.Secret {
			v = "***"
		}
		kept[name] = v
	}
	return json.Marshal(kept)
}

// parseJournaled is the way back of journalArgs.
func parseJournaled(raw json.RawMessage) (Args, error) {
	v, err := decodePlain(raw)
	if err != nil {
		return nil, err
	}
	m, _ := v.(map[string]any)
	return Args(m), nil
}
