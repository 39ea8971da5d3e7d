package builtins

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

// ErrNotFound is what ports answer about a link they do not know.
var ErrNotFound = errors.New("not found")

// Ports are the world that builtins act on.
type Ports struct {
	Clusters Clusters
	Times    Times
	Copier   Copier
	Hand     Hand
	Remote   Remote
	Prover   Prover
	Census   Census
	Fencer   Fencer
	Spreader Spreader
	// Producers may be nil where no script speaks of them.
	Producers Producers
}

// Registry returns everything scripts can say, over the given world. Nil ports
// are fine for loading, checking and documenting scripts.
func Registry(p Ports) (*scripting.Registry, error) {
	t := newTypes(p.Clusters)
	return scripting.NewRegistry([]*scripting.Type{t.cluster, t.group, t.link, t.position, labelsType()}, []*scripting.Builtin{
		clusterEntry(t),
		describeEntry(p, t),
		homeEntry(p, t),
		topicsOfEntry(p, t),
		groupsOfEntry(p, t),
		wavesEntry(t),
		sleepEntry(t),
		replicateEntry(p, t),
		stopReplicationEntry(p, t),
		translateOffsetEntry(p, t),
		switchConsumerEntry(p, t),
		switchProducerEntry(p, t),
		watchProducersEntry(p, t),
		assertProducersEntry(p, t),
		fenceEntry(p, t, true),
		fenceEntry(p, t, false),
		assertLagEntry(p, t),
		assertTopicsEntry(p, t),
		verifyCopyEntry(p, t),
		expectEntry(),
		skipEntry(p, t),
		unskipEntry(p, t),
		throttleEntry(p, t),
		pauseEntry(p, t),
		resumeEntry(p, t),
		rewindEntry(p, t),
		replayEntry(p, t),
		stateEntry(p, t),
		peekEntry(p, t),
		redistributeEntry(p, t),
	})
}

// typeSet are the types that know of Kafka.
type typeSet struct {
	cluster, group, link, position *scripting.Type

	text, whole, yes, list, rate, duration *scripting.Type
}

func newTypes(c Clusters) typeSet {
	return typeSet{
		cluster:  clusterType(c),
		group:    scripting.NamedType("group", "a consumer group", "billing"),
		link:     scripting.NamedType("link", "a link, by name or as replicate returned it", "old-new"),
		position: positionType(),
		text:     scripting.StringType(), whole: scripting.IntType(), yes: scripting.BoolType(),
		list: scripting.ListType(), rate: scripting.RateType(), duration: scripting.DurationType(),
	}
}

// clusterType takes names of configured clusters and says which there are.
func clusterType(c Clusters) *scripting.Type {
	t := scripting.NamedType("cluster", "a cluster of the configuration", "old")
	t.Check = func(v any) error {
		if c == nil {
			return nil
		}
		names := c.Names()
		for _, n := range names {
			if string(n) == v {
				return nil
			}
		}
		return fmt.Errorf("no cluster %q in the configuration; there are %v", v, names)
	}
	t.Attrs = func(v any) map[string]any { return map[string]any{"name": v} }
	return t
}

func positionType() *scripting.Type {
	return scripting.TextType("position", "one record: topic/partition@offset", "orders/7@184223", func(s string) (string, error) {
		p, err := starferry.ParsePosition(s)
		return p.String(), err
	}, func(s string) map[string]any {
		p, err := starferry.ParsePosition(s)
		if err != nil {
			return nil
		}
		return map[string]any{"topic": string(p.Topic), "partition": int64(p.Partition), "offset": int64(p.Offset)}
	})
}

func clusterArg(c scripting.Call, name string) starferry.ClusterName {
	return starferry.ClusterName(c.Args.Text(name))
}

func groupArg(c scripting.Call) starferry.Group { return starferry.Group(c.Args.Text("group")) }

func topicsArg(c scripting.Call) []starferry.Topic {
	var out []starferry.Topic
	for _, t := range c.Args.Strings("topics") {
		out = append(out, starferry.Topic(t))
	}
	return out
}

// typedCluster is a cluster in a result, equal to what cluster("old") gives.
func typedCluster(c starferry.ClusterName) scripting.Typed {
	return scripting.Typed{Type: "cluster", Text: string(c)}
}

// fields turns a port's answer into a script's struct, clusters typed, and adds
// more fields.
func fields(v any, more map[string]any) (map[string]any, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode result: %w", err)
	}
	out := map[string]any{}
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, fmt.Errorf("encode result: %w", err)
	}
	for _, k := range []string{"source", "target", "cluster"} {
		if s, ok := out[k].(string); ok {
			out[k] = typedCluster(starferry.ClusterName(s))
		}
	}
	for k, v := range more {
		out[k] = v
	}
	return out, nil
}

// planned reports whether an earlier call of the plan would do something to
// what the argument names.
func planned(c scripting.Call, builtin, arg, value string) bool {
	for _, e := range c.Earlier {
		if e.Builtin == builtin && e.Verdict == scripting.WillDo && e.Args.Text(arg) == value {
			return true
		}
	}
	return false
}

// why is the reason for audit trails: the operator's words and the run.
func why(c scripting.Call) string {
	if r := c.Args.Text("reason"); r != "" {
		return r + " (" + c.Why() + ")"
	}
	return c.Why()
}
