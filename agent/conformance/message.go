package conformance

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/schema"
)

// compile reads the schema of a payload.
func compile(name string) (*jsonschema.Schema, error) {
	text, err := schema.Text(name)
	if err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("schema %s: %w", name, err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(name+".json", doc); err != nil {
		return nil, fmt.Errorf("schema %s: %w", name, err)
	}
	return c.Compile(name + ".json")
}

// ear hears every lease of a group, as it is published.
type ear struct {
	group  starferry.Group
	schema *jsonschema.Schema

	mu    sync.Mutex
	heard int
	wrong []string
}

// listen hears the group until the returned function is called.
func (e *ear) listen(nc *nats.Conn) (stop func(), err error) {
	token := desired.EncodeKey(string(e.group))
	var subs []*nats.Subscription
	stop = func() {
		for _, s := range subs {
			_ = s.Unsubscribe() // the connection may have gone
		}
	}
	for _, bucket := range []string{desired.LiveBucket, desired.LastBucket} {
		prefix := "$KV." + bucket + "."
		s, err := nc.Subscribe(prefix+token+".>", func(m *nats.Msg) {
			if m.Header.Get("KV-Operation") == "" { // else it is deleted
				e.hear(bucket, strings.TrimPrefix(m.Subject, prefix), m.Data)
			}
		})
		if err != nil {
			stop()
			return nil, fmt.Errorf("hear leases of %s: %w", e.group, err)
		}
		subs = append(subs, s)
	}
	return stop, nil
}

func (e *ear) hear(bucket, key string, data []byte) {
	wrong := e.judge(bucket, key, data)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heard++
	if wrong != "" && !slices.Contains(e.wrong, wrong) && len(e.wrong) < 5 {
		e.wrong = append(e.wrong, wrong)
	}
}

// judge says what is wrong with one lease.
func (e *ear) judge(bucket, key string, data []byte) string {
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(data)))
	if err != nil {
		return fmt.Sprintf("%s %s: no JSON: %v", bucket, key, err)
	}
	if err := e.schema.Validate(v); err != nil {
		return fmt.Sprintf("%s %s does not fit lease.json: %s", bucket, key, brief(err))
	}
	var l control.Lease
	if err := json.Unmarshal(data, &l); err != nil {
		return fmt.Sprintf("%s %s: %v", bucket, key, err)
	}
	want := desired.EncodeKey(string(l.Group)) + "." + desired.EncodeKey(string(l.Instance))
	if bucket == desired.LastBucket {
		want += "." + desired.EncodeKey(l.Boot)
	}
	if key != want {
		return fmt.Sprintf("%s %s says of itself that it is %s", bucket, key, want)
	}
	return ""
}

// brief is a validation's error in one line.
func brief(err error) string {
	lines := strings.Split(err.Error(), "\n")
	if len(lines) > 1 {
		lines = lines[1:] // the first names the schema
	}
	for i := range lines {
		lines[i] = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(lines[i]), "-"))
	}
	return strings.Join(lines, "; ")
}

// unfit is what was wrong with what was heard.
func (e *ear) unfit() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.wrong)
}
