package scripting

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	startime "go.starlark.net/lib/time"
	"go.starlark.net/starlark"
	"go.starlark.net/starlarkstruct"
	"go.starlark.net/syntax"
)

// UnknownError says that a plan needs something known only during the run.
type UnknownError struct{ What string }

func (e *UnknownError) Error() string { return e.What + ": known only during the run" }

// object is a JSON object in a script: frozen, with its fields as attributes
// and, where a field's name is no identifier, as keys.
type object struct {
	fields map[string]starlark.Value
	keys   []string // sorted
}

var (
	_ starlark.HasAttrs        = (*object)(nil)
	_ starlark.IterableMapping = (*object)(nil)
	_ starlark.Comparable      = (*object)(nil)
)

func newObject(fields map[string]starlark.Value) *object {
	return &object{fields: fields, keys: slices.Sorted(maps.Keys(fields))}
}

func (o *object) String() string {
	parts := make([]string, len(o.keys))
	for i, k := range o.keys {
		parts[i] = k + " = " + o.fields[k].String()
	}
	return "struct(" + strings.Join(parts, ", ") + ")"
}
func (o *object) Type() string          { return "struct" }
func (o *object) Freeze()               {}
func (o *object) Truth() starlark.Bool  { return len(o.keys) > 0 }
func (o *object) Hash() (uint32, error) { return 0, fmt.Errorf("unhashable: struct") }
func (o *object) Len() int              { return len(o.keys) }

// Attr gives a field; what a plan does not know raises.
func (o *object) Attr(name string) (starlark.Value, error) {
	if v, ok := o.fields[name]; ok {
		return v, knownOrRaise(v, "."+name)
	}
	switch name {
	case "keys", "values", "items":
		return o.method(name), nil
	}
	return nil, starlark.NoSuchAttrError(fmt.Sprintf("struct has no .%s field", name))
}

func (o *object) method(name string) starlark.Value {
	return starlark.NewBuiltin(name, func(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		if err := starlark.UnpackArgs(b.Name(), args, kwargs); err != nil {
			return nil, err
		}
		list := make([]starlark.Value, 0, len(o.keys))
		for _, item := range o.Items() {
			if name == "keys" {
				list = append(list, item[0])
				continue
			}
			if err := knownOrRaise(item[1], "."+name+"()"); err != nil {
				return nil, err
			}
			switch name {
			case "values":
				list = append(list, item[1])
			default:
				list = append(list, item)
			}
		}
		return starlark.NewList(list), nil
	})
}

func (o *object) AttrNames() []string { return o.keys }

// Get gives a field by key.
func (o *object) Get(k starlark.Value) (starlark.Value, bool, error) {
	s, ok := starlark.AsString(k)
	if !ok {
		if t, typed := k.(*typedValue); typed {
			s, ok = t.text, true
		}
	}
	v, found := o.fields[s]
	if !ok || !found {
		return nil, false, nil
	}
	return v, true, knownOrRaise(v, "["+strconv.Quote(s)+"]")
}

// Items implements starlark.IterableMapping.
func (o *object) Items() []starlark.Tuple {
	out := make([]starlark.Tuple, len(o.keys))
	for i, k := range o.keys {
		out[i] = starlark.Tuple{starlark.String(k), o.fields[k]}
	}
	return out
}

func (o *object) Iterate() starlark.Iterator {
	keys := make(starlark.Tuple, len(o.keys))
	for i, k := range o.keys {
		keys[i] = starlark.String(k)
	}
	return keys.Iterate()
}

// CompareSameType compares field by field.
func (o *object) CompareSameType(op syntax.Token, y starlark.Value, depth int) (bool, error) {
	other := y.(*object)
	if op != syntax.EQL && op != syntax.NEQ {
		return false, fmt.Errorf("struct %s struct is not defined", op)
	}
	equal := slices.Equal(o.keys, other.keys)
	for _, k := range o.keys {
		if !equal {
			break
		}
		if err := knownOrRaise(o.fields[k], "."+k); err != nil {
			return false, err
		}
		if err := knownOrRaise(other.fields[k], "."+k); err != nil {
			return false, err
		}
		eq, err := starlark.EqualDepth(o.fields[k], other.fields[k], depth-1)
		if err != nil {
			return false, err
		}
		equal = eq
	}
	return equal == (op == syntax.EQL), nil
}

// unknownValue is what a plan cannot know.
type unknownValue struct{}

func knownOrRaise(v starlark.Value, what string) error {
	if _, ok := v.(unknownValue); ok {
		return &UnknownError{what}
	}
	return nil
}

func (unknownValue) String() string        { return "(known only during the run)" }
func (unknownValue) Type() string          { return "unknown" }
func (unknownValue) Freeze()               {}
func (unknownValue) Truth() starlark.Bool  { return false }
func (unknownValue) Hash() (uint32, error) { return 0, &UnknownError{"value"} }
func (unknownValue) Attr(name string) (starlark.Value, error) {
	return nil, &UnknownError{"." + name}
}
func (unknownValue) AttrNames() []string { return nil }

// typedValue is a value of a Type with attributes; its text is what it is
// written as.
type typedValue struct {
	typ  *Type
	text string
}

var (
	_ starlark.HasAttrs   = (*typedValue)(nil)
	_ starlark.HasBinary  = (*typedValue)(nil)
	_ starlark.Comparable = (*typedValue)(nil)
)

func (t *typedValue) String() string       { return t.text }
func (t *typedValue) Type() string         { return t.typ.Name }
func (t *typedValue) Freeze()              {}
func (t *typedValue) Truth() starlark.Bool { return t.text != "" }
func (t *typedValue) Hash() (uint32, error) {
	return starlark.String(t.text).Hash()
}

func (t *typedValue) Attr(name string) (starlark.Value, error) {
	attrs := t.typ.Attrs(t.text)
	if v, ok := attrs[name]; ok {
		return plainValue(nil, v)
	}
	return nil, starlark.NoSuchAttrError(fmt.Sprintf("%s has no .%s", t.typ.Name, name))
}

func (t *typedValue) AttrNames() []string { return slices.Sorted(maps.Keys(t.typ.Attrs(t.text))) }

// Binary joins the text with strings, so that names can be built from it.
func (t *typedValue) Binary(op syntax.Token, y starlark.Value, side starlark.Side) (starlark.Value, error) {
	s, ok := y.(starlark.String)
	if op != syntax.PLUS || !ok {
		return nil, nil
	}
	if side == starlark.Left {
		return starlark.String(t.text) + s, nil
	}
	return s + starlark.String(t.text), nil
}

// CompareSameType compares texts for equality and the first numeric attribute
// for order.
func (t *typedValue) CompareSameType(op syntax.Token, y starlark.Value, depth int) (bool, error) {
	o := y.(*typedValue)
	if op == syntax.EQL || op == syntax.NEQ {
		return (t.text == o.text && t.typ.Name == o.typ.Name) == (op == syntax.EQL), nil
	}
	for _, name := range t.AttrNames() {
		a, err := t.Attr(name)
		b, err2 := o.Attr(name)
		if err == nil && err2 == nil && a.Type() != "string" {
			return starlark.CompareDepth(op, a, b, depth-1)
		}
	}
	return false, fmt.Errorf("%s %s %s is not defined", t.typ.Name, op, o.typ.Name)
}

// decodeValue turns journaled JSON into the value a script sees. Live results
// pass through it too, so that a replay sees the same.
func decodeValue(reg *Registry, raw json.RawMessage) (starlark.Value, error) {
	v, err := decodePlain(raw)
	if err != nil {
		return nil, err
	}
	return plainValue(reg, v)
}

func decodePlain(raw json.RawMessage) (any, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("decode result: %w", err)
	}
	return normalize(v), nil
}

// normalize gives numbers their Go types and typed values theirs.
func normalize(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = normalize(v[i])
		}
	case map[string]any:
		if t, ok := v["$type"].(string); ok {
			if t == "unknown" {
				return Unknown{}
			}
			text, _ := v["text"].(string)
			return Typed{t, text}
		}
		for k := range v {
			v[k] = normalize(v[k])
		}
	}
	return v
}

func plainValue(reg *Registry, v any) (starlark.Value, error) {
	switch v := v.(type) {
	case nil:
		return starlark.None, nil
	case bool:
		return starlark.Bool(v), nil
	case int64:
		return starlark.MakeInt64(v), nil
	case int:
		return starlark.MakeInt(v), nil
	case float64:
		return starlark.Float(v), nil
	case string:
		return starlark.String(v), nil
	case Unknown:
		return unknownValue{}, nil
	case Typed:
		return typedFrom(reg, v)
	case []any:
		list := make([]starlark.Value, len(v))
		for i, e := range v {
			x, err := plainValue(reg, e)
			if err != nil {
				return nil, err
			}
			list[i] = x
		}
		out := starlark.NewList(list)
		out.Freeze()
		return out, nil
	case map[string]any:
		fields := make(map[string]starlark.Value, len(v))
		for k, e := range v {
			x, err := plainValue(reg, e)
			if err != nil {
				return nil, err
			}
			fields[k] = x
		}
		return newObject(fields), nil
	}
	return nil, fmt.Errorf("convert %T to a script value: unknown type", v)
}

func typedFrom(reg *Registry, v Typed) (starlark.Value, error) {
	if v.Type == "time" {
		t, err := time.Parse(time.RFC3339Nano, v.Text)
		return startime.Time(t), err
	}
	if reg != nil {
		if t := reg.types[v.Type]; t != nil && t.Attrs != nil {
			return &typedValue{t, v.Text}, nil
		}
	}
	return starlark.String(v.Text), nil
}

// canonicalValue is the script's view of a parameter's canonical form.
func canonicalValue(reg *Registry, t *Type, v any) (starlark.Value, error) {
	if s, ok := v.(string); ok && t.Attrs != nil {
		return &typedValue{t, s}, nil
	}
	return plainValue(reg, v)
}

// maxNesting bounds values that leave a script: a list can hold itself.
const maxNesting = 100

// toPlain is the way out of Starlark: what Type.Parse and JSON take.
func toPlain(v starlark.Value) (any, error) { return toPlainWithin(v, maxNesting) }

func toPlainWithin(v starlark.Value, depth int) (any, error) {
	if depth < 0 {
		return nil, fmt.Errorf("a %s is nested more than %d deep; does it hold itself?", v.Type(), maxNesting)
	}
	switch v := v.(type) {
	case starlark.NoneType:
		return nil, nil
	case starlark.Bool:
		return bool(v), nil
	case starlark.Int:
		if n, ok := v.Int64(); ok {
			return n, nil
		}
		return nil, fmt.Errorf("the number %s is too large", v)
	case starlark.Float:
		if f := float64(v); !math.IsNaN(f) && !math.IsInf(f, 0) {
			return f, nil
		}
		return nil, fmt.Errorf("the number %s is not finite", v)
	case starlark.String:
		return string(v), nil
	case *typedValue:
		return Typed{v.typ.Name, v.text}, nil
	case startime.Time:
		return Typed{"time", time.Time(v).Format(time.RFC3339Nano)}, nil
	case unknownValue:
		return Unknown{}, nil
	case *starlarkstruct.Struct:
		d := starlark.StringDict{}
		v.ToStringDict(d)
		return plainFields(d, depth-1)
	case *object:
		return plainFields(v.fields, depth-1)
	case *starlark.Dict:
		d := starlark.StringDict{}
		for _, item := range v.Items() {
			k, ok := starlark.AsString(item[0])
			if !ok {
				return nil, fmt.Errorf("the key %s is no string", item[0])
			}
			d[k] = item[1]
		}
		return plainFields(d, depth-1)
	case starlark.Indexable: // lists, tuples
		out := make([]any, v.Len())
		for i := range out {
			e, err := toPlainWithin(v.Index(i), depth-1)
			if err != nil {
				return nil, err
			}
			out[i] = e
		}
		return out, nil
	}
	return nil, fmt.Errorf("a %s cannot be kept in the journal", v.Type())
}

func plainFields(d map[string]starlark.Value, depth int) (any, error) {
	out := make(map[string]any, len(d))
	for k, e := range d {
		p, err := toPlainWithin(e, depth)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k, err)
		}
		out[k] = p
	}
	return out, nil
}

// encodePlain writes plain values so that floats stay floats.
func encodePlain(v any) (json.RawMessage, error) {
	var keep func(v any) any
	keep = func(v any) any {
		switch v := v.(type) {
		case float64:
			if v == math.Trunc(v) && math.Abs(v) < 1e15 {
				return json.Number(strconv.FormatFloat(v, 'f', 1, 64))
			}
		case []any:
			out := make([]any, len(v))
			for i, e := range v {
				out[i] = keep(e)
			}
			return out
		case map[string]any:
			out := make(map[string]any, len(v))
			for k, e := range v {
				out[k] = keep(e)
			}
			return out
		}
		return v
	}
	return json.Marshal(keep(v))
}
