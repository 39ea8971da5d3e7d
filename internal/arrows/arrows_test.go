package arrows

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	kafkaGo    = "github.com/segmentio/kafka-go"
	franz      = "github.com/twmb/franz-go"
	kfake      = "github.com/twmb/franz-go/pkg/kfake"
	nats       = "github.com/nats-io"
	natsServer = "github.com/nats-io/nats-server/v2"
	badger     = "github.com/dgraph-io/badger/v4"
	starlark   = "go.starlark.net"
)

// rule says what the packages of one room must not import, directly or (deep)
// through others.
type rule struct {
	room string
	not  []string
	deep bool
	why  string
}

func rules() []rule {
	return []rule{
		{room: "control", not: ours("replication", "scripting", "builtins", "agent", "examples", "internal/kafkatest", "internal/chaos", "internal/bench"), deep: true,
			why: "control and replication meet only in the agent"},
		{room: "replication", not: ours("control", "scripting", "builtins", "agent", "examples", "internal/kafkatest", "internal/chaos", "internal/bench"), deep: true,
			why: "control and replication meet only in the agent"},
		{room: "scripting", not: append(ours(""), kafkaGo, franz, nats, badger), deep: true,
			why: "the script runtime knows nothing of Kafka, NATS or the other rooms"},
		{room: "builtins", not: append(ours("control", "replication", "agent", "internal", "examples"), kafkaGo, franz, nats, badger), deep: true,
			why: "builtins speak to the interfaces they declare"},
		{room: "control/switchover", not: []string{"net", "time", "log", "log/slog", "os", "context", "sync", kafkaGo, franz, nats, module + "/internal"},
			why: "the switch protocol is pure: events in, effects out"},
		{room: "control/consumer", not: append(ours("agent", "replication", "scripting", "builtins", "control/fleet"), natsServer, badger, kfake, starlark), deep: true,
			why: "services embed this package; it must stay light"},
		{room: "control/handover", not: []string{"net", "time", "log", "log/slog", "os", "context", "sync", kafkaGo, franz, nats, module + "/internal"},
			why: "the protocol of producers is pure: events in, effects out"},
		{room: "control/producer", not: append(ours("agent", "replication", "scripting", "builtins", "control/fleet"), natsServer, badger, kfake, starlark), deep: true,
			why: "services embed this package; it must stay light"},
		{room: "examples", not: append(ours("agent", "replication", "scripting", "builtins", "control/fleet"), natsServer, badger, kfake, starlark), deep: true,
			why: "an example is what a service would be"},
		{room: "internal/wire", not: append(ours("control", "replication", "scripting", "builtins", "agent"), nats, badger, kfake, starlark), deep: true,
			why: "the wire connection serves both rooms and knows neither"},
	}
}

// TestArrows holds every room to its rule.
func TestArrows(t *testing.T) {
	g := load(t)
	for _, r := range rules() {
		t.Run(strings.ReplaceAll(r.room, "/", "_"), func(t *testing.T) {
			packages := g.in(r.room)
			require.NotEmpty(t, packages, "there is no package %s; mend the rule or the layout", r.room)
			for _, p := range packages {
				assert.Empty(t, violations(g, p, r), "%s imports what it must not: %s", p.ImportPath, r.why)
			}
		})
	}
}

// violations returns what of p's imports the rule forbids. A room may always
// import its own packages.
func violations(g graph, p pkg, r rule) []string {
	imports := p.Imports
	if r.deep {
		imports = p.Deps
	}
	var found []string
	for _, i := range imports {
		if below(i, module+"/"+r.room) {
			continue
		}
		for _, n := range r.not {
			// ours("") is the whole module, with the root package.
			if below(i, strings.TrimSuffix(n, "/")) {
				found = append(found, i)
			}
		}
	}
	return found
}

// TestOnlyTheAgentRunsServers: the embedded Kafka and the embedded NATS are
// linked by the program and by what tests it, never by a room.
func TestOnlyTheAgentRunsServers(t *testing.T) {
	for _, p := range load(t) {
		if allowed(p.ImportPath, "agent", "internal/kafkatest", "internal/chaos", "internal/bench") {
			continue
		}
		assert.Empty(t, forbidden(p.Imports, []string{kfake, natsServer}), "%s links a server; only the agent and internal tests may", p.ImportPath)
	}
}

// TestFranzIsACodec: kafka-go is the only Kafka client of the product; of
// franz-go it uses the message codec, never the client.
func TestFranzIsACodec(t *testing.T) {
	for _, p := range load(t) {
		if allowed(p.ImportPath, "internal/bench", "internal/chaos", "internal/kafkatest") {
			continue
		}
		for _, i := range p.Imports {
			client := below(i, franz+"/pkg/kgo") || below(i, franz+"/pkg/kadm")
			assert.False(t, client, "%s imports the client %s; the product's client is kafka-go", p.ImportPath, i)
		}
	}
}

// TestRootIsVocabulary: the root package imports nothing but the standard
// library, and nothing of it that does I/O.
func TestRootIsVocabulary(t *testing.T) {
	p := load(t)[module]
	for _, i := range p.Imports {
		assert.NotContains(t, strings.Split(i, "/")[0], ".", "the root package imports %s from outside the standard library", i)
	}
	assert.Empty(t, forbidden(p.Imports, []string{"net", "os", "context", "bufio"}), "the root package does I/O")
}

// TestThePureSwitchHasNoClock: what control/switchover reaches through our own
// packages is pure as well.
func TestThePureSwitchHasNoClock(t *testing.T) {
	g := load(t)
	for _, p := range g.in("control/switchover") {
		for _, d := range p.Deps {
			if own, ok := g[d]; ok {
				assert.Empty(t, forbidden(own.Imports, []string{"net", "time", kafkaGo, franz, nats}), "%s reaches a clock or the network through %s", p.ImportPath, d)
			}
		}
	}
}

func allowed(path string, dirs ...string) bool {
	for _, d := range ours(dirs...) {
		if below(path, d) {
			return true
		}
	}
	return false
}

// TestARuleCanFail proves that the rules see what they forbid.
func TestARuleCanFail(t *testing.T) {
	bad := pkg{ImportPath: module + "/scripting", Imports: []string{"fmt", module, kafkaGo + "/sasl"}, Deps: []string{module + "/control/desired", nats + "/nats.go", module + "/scripting/inner"}}
	shallow := rule{room: "scripting", not: append(ours(""), kafkaGo, nats)}
	assert.Equal(t, []string{module, kafkaGo + "/sasl"}, violations(graph{}, bad, shallow))
	shallow.deep = true
	assert.Equal(t, []string{module + "/control/desired", nats + "/nats.go"}, violations(graph{}, bad, shallow))
}
