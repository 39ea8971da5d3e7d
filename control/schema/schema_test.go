package schema_test

import (
	"encoding"
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/homebook"
	"github.com/starferry/starferry/control/schema"
)

// payloads are what each schema is of.
func payloads() map[string]any {
	return map[string]any{
		"placement": control.Placement{}, "settings": control.Settings{}, "fences": control.Fences{}, "homes": control.Homes{},
		"lease": control.Lease{}, "topic_placement": control.TopicPlacement{}, "producer_lease": control.ProducerLease{},
		"audit_event": desired.Event{}, "producers_entry": homebook.Entry{},
	}
}

// texts are the schemas of what is no JSON object.
func texts() []string { return []string{"commit_metadata", "user_data"} }

func TestEveryPayloadHasItsSchema(t *testing.T) {
	want := append(slices.Collect(maps.Keys(payloads())), texts()...)
	require.ElementsMatch(t, want, schema.Names())
	_, err := schema.Text("leese")
	require.ErrorContains(t, err, `there is no schema "leese"; there are audit_event,`)
}

func TestThePageNamesEverySchema(t *testing.T) {
	page, err := os.ReadFile("../../docs/protocol.md")
	require.NoError(t, err)
	for _, name := range schema.Names() {
		assert.Contains(t, string(page), "control/schema/"+name+".json")
	}
}

// TestSchemasAndTypesHaveTheSameFields: what one of them has and the other has
// not is a client in another language that does not understand us.
func TestSchemasAndTypesHaveTheSameFields(t *testing.T) {
	for name, v := range payloads() {
		t.Run(name, func(t *testing.T) {
			w := &walker{t: t, root: parsed(t, name), file: "control/schema/" + name + ".json"}
			w.same(reflect.TypeOf(v), w.root, "")
		})
	}
}

// walker compares a Go type with a schema.
type walker struct {
	t    *testing.T
	root map[string]any
	file string
}

func parsed(t *testing.T, name string) map[string]any {
	text, err := schema.Text(name)
	require.NoError(t, err)
	var v map[string]any
	require.NoError(t, json.Unmarshal([]byte(text), &v))
	return v
}

// resolve follows a $ref within the file.
func (w *walker) resolve(s map[string]any) map[string]any {
	ref, ok := s["$ref"].(string)
	if !ok {
		return s
	}
	def, ok := w.root["$defs"].(map[string]any)[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
	require.True(w.t, ok, "%s: %s leads nowhere", w.file, ref)
	return def
}

// types are the JSON types a schema allows.
func types(s map[string]any) []string {
	switch v := s["type"].(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, t := range v {
			out = append(out, t.(string))
		}
		return out
	}
	return nil
}

func (w *walker) same(t reflect.Type, s map[string]any, at string) {
	s = w.resolve(s)
	if t == reflect.TypeFor[json.RawMessage]() {
		return
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	kind := map[reflect.Kind]string{
		reflect.String: "string", reflect.Bool: "boolean", reflect.Float64: "number", reflect.Slice: "array",
		reflect.Map: "object", reflect.Struct: "object", reflect.Int: "integer", reflect.Int32: "integer", reflect.Int64: "integer", reflect.Uint64: "integer",
	}[t.Kind()]
	if t.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
		kind = "string"
	}
	if at != ".v" {
		assert.Contains(w.t, types(s), kind, "%s: %s is a %s in Go; mend its type", w.file, at, kind)
	}
	switch {
	case kind == "array":
		w.same(t.Elem(), s["items"].(map[string]any), at+"[]")
	case t.Kind() == reflect.Map:
		w.same(t.Elem(), s["additionalProperties"].(map[string]any), at+"{}")
	case t.Kind() == reflect.Struct && kind == "object":
		w.fields(t, s, at)
	}
}

func (w *walker) fields(t reflect.Type, s map[string]any, at string) {
	properties, _ := s["properties"].(map[string]any)
	var have, need []string
	for _, f := range reflect.VisibleFields(t) {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || name == "-" {
			continue
		}
		have = append(have, name)
		if options == "" {
			need = append(need, name)
		}
		if p, ok := properties[name].(map[string]any); ok {
			w.same(f.Type, p, at+"."+name)
		}
	}
	assert.ElementsMatch(w.t, have, slices.Collect(maps.Keys(properties)), "%s: the fields of %s (%s) are not those in Go; add or remove them there", w.file, at, t)
	var required []string
	if r, ok := s["required"].([]any); ok {
		for _, v := range r {
			required = append(required, v.(string))
		}
	}
	assert.ElementsMatch(w.t, need, required, "%s: what %s (%s) always has is not what is required there", w.file, at, t)
}

func compiled(t require.TestingT, name string) *jsonschema.Schema {
	text, err := schema.Text(name)
	require.NoError(t, err)
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	require.NoError(t, err)
	c := jsonschema.NewCompiler()
	require.NoError(t, c.AddResource(name+".json", doc))
	s, err := c.Compile(name + ".json")
	require.NoError(t, err)
	return s
}

func valid(t require.TestingT, s *jsonschema.Schema, text []byte) error {
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	require.NoError(t, err)
	return s.Validate(v)
}

// TestWhatGoWritesFitsItsSchema fills values at random, all their fields or few.
func TestWhatGoWritesFitsItsSchema(t *testing.T) {
	for name, v := range payloads() {
		s := compiled(t, name)
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
			out := reflect.New(reflect.TypeOf(v)).Elem()
			fill(t, out)
			settle(out.Addr().Interface())
			text, err := json.Marshal(out.Interface())
			require.NoError(t, err)
			require.NoError(t, valid(t, s, text), "%s", text)
		}))
	}
}

// words are the values of types that have but a few.
func words(t reflect.Type) []string {
	switch t {
	case reflect.TypeFor[control.OverflowOrder]():
		return []string{string(control.KeyOrder), string(control.NoOrder)}
	case reflect.TypeFor[control.OverflowPhase]():
		return []string{string(control.OverflowPrepare), string(control.OverflowMove), string(control.OverflowClose)}
	}
	return nil
}

func fill(t *rapid.T, v reflect.Value) {
	switch v.Type() {
	case reflect.TypeFor[starferry.TopicPartition]():
		v.Set(reflect.ValueOf(starferry.TopicPartition{Topic: "orders", Partition: starferry.Partition(rapid.Int32Range(0, 9).Draw(t, "partition"))}))
		return
	case reflect.TypeFor[json.RawMessage]():
		v.SetBytes([]byte(`{"a":1}`))
		return
	}
	switch v.Kind() {
	case reflect.String:
		if all := words(v.Type()); all != nil {
			v.SetString(rapid.SampledFrom(all).Draw(t, "word"))
			return
		}
		v.SetString(rapid.SampledFrom([]string{"a", "b c", "ö"}).Draw(t, "text"))
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, "flag"))
	case reflect.Float64:
		v.SetFloat(rapid.Float64Range(0, 1e6).Draw(t, "number"))
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(rapid.Int64Range(0, 1<<30).Draw(t, "number"))
	case reflect.Uint64:
		v.SetUint(rapid.Uint64Range(0, 1<<30).Draw(t, "number"))
	case reflect.Pointer:
		if rapid.Bool().Draw(t, "there") {
			v.Set(reflect.New(v.Type().Elem()))
			fill(t, v.Elem())
		}
	case reflect.Slice:
		for range rapid.IntRange(0, 2).Draw(t, "length") {
			e := reflect.New(v.Type().Elem()).Elem()
			fill(t, e)
			v.Set(reflect.Append(v, e))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range rapid.IntRange(0, 2).Draw(t, "length") {
			k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(t, k)
			fill(t, e)
			v.SetMapIndex(k, e)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i))
		}
	}
}

// settle gives what chance must not choose: versions, phases and what belongs to
// them.
func settle(v any) {
	switch v := v.(type) {
	case *control.Placement:
		v.Version = control.ProtocolVersion
		v.Phase = []control.Phase{control.Steady, control.Prepare, control.Drain, control.Seed, control.Decide, control.Announce}[v.At%6]
		if v.Actor == nil || len(v.Cut)*len(v.Seeds) == 0 {
			v.External = true // only then an order is without them
		}
	case *control.TopicPlacement:
		v.Version = control.ProtocolVersion
		v.Phase = []control.Phase{control.Steady, control.Prepare, control.HoldSends, control.Announce}[v.At%4]
	case *control.Lease:
		v.Version = control.ProtocolVersion
		if v.Decided != nil {
			v.Decided.Result = []string{control.Accepted, control.Refused, control.Unclear}[v.At%3]
		}
	case *control.Settings:
		v.Version = control.ProtocolVersion
	case *control.Fences:
		v.Version = control.ProtocolVersion
	case *control.Homes:
		v.Version = control.ProtocolVersion
	case *control.ProducerLease:
		v.Version = control.ProtocolVersion
	case *homebook.Entry:
		v.Version = control.ProtocolVersion
	}
}

func TestSchemasRefuseWhatDoesNotFit(t *testing.T) {
	for _, tc := range []struct{ schema, text, want string }{
		{"placement", `{"v":2,"group":"g","epoch":1,"phase":"steady","active":"old","at":1}`, "'/v'"},
		{"placement", `{"v":1,"group":"g","epoch":1,"phase":"resting","active":"old","at":1}`, "'/phase'"},
		{"placement", `{"v":1,"group":"g","epoch":1,"phase":"drain","active":"old","at":1}`, "target"},
		{"placement", `{"v":1,"group":"g","epoch":1,"phase":"decide","active":"old","target":"new","at":1}`, "actor"},
		{"lease", `{"v":1,"group":"g"}`, "instance"},
		{"settings", `{"v":1,"group":"g","at":1,"throttle":{"rate":-1}}`, "/throttle/rate"},
		{"settings", `{"v":1,"group":"g","at":1,"throttles":{"orders-7":{"rate":1}}}`, "orders-7"},
		{"settings", `{"v":1,"group":"g","at":1,"holds":[{"id":"a","partition":1,"at":1}]}`, "/holds/0"},
		{"commit_metadata", `"starferry/1 moved e=3"`, "pattern"},
		{"commit_metadata", `"starferry/1 home e=3 c=a h=4"`, "pattern"},
		{"user_data", `"starferry boot=abc"`, "pattern"},
	} {
		assert.ErrorContains(t, valid(t, compiled(t, tc.schema), []byte(tc.text)), tc.want, tc.text)
	}
}

// TestMarksFitTheirPattern, and what fits it is understood.
func TestMarksFitTheirPattern(t *testing.T) {
	s, u := compiled(t, "commit_metadata"), compiled(t, "user_data")
	rapid.Check(t, func(t *rapid.T) {
		m := control.Mark{State: rapid.SampledFrom([]control.State{control.Home, control.Draining, control.Seeded, control.Moved}).Draw(t, "state"),
			Epoch: starferry.Epoch(rapid.Int64Range(0, 1<<40).Draw(t, "epoch")), Was: rapid.SampledFrom([]string{"", "x", "\x00ö?"}).Draw(t, "was")}
		if m.State == control.Moved || m.State == control.Seeded {
			m.Cluster = "dc-2"
		}
		at := starferry.Offset(0)
		for range rapid.IntRange(0, 4).Draw(t, "ranges") {
			at += starferry.Offset(rapid.IntRange(1, 99).Draw(t, "gap"))
			m.Handled = append(m.Handled, starferry.Range{From: at, To: at + 5})
			at += 5
		}
		text, err := json.Marshal(m.String())
		require.NoError(t, err)
		require.NoError(t, valid(t, s, text))
		text, err = json.Marshal(string(control.UserData(rapid.SampledFrom([]string{"", "b1"}).Draw(t, "boot"), int64(at))))
		require.NoError(t, err)
		require.NoError(t, valid(t, u, text))
	})
}
