package conformance

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
)

// envKind, set in a process of this test's own program, makes it a client.
const envKind = "STARFERRY_TEST_CLIENT"

func TestMain(m *testing.M) {
	kind := os.Getenv(envKind)
	if kind == "" {
		kafkatest.Main(m)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := clients()[kind](ctx, log); err != nil {
		log.Error("client", "error", err)
		os.Exit(1)
	}
}

// try plays scenarios with a client of a kind.
func try(t *testing.T, kind string, only ...string) []Result {
	if kafkatest.Real() {
		t.Skip("clusters of its own are always embedded ones; TestClustersCanBeGiven runs on real brokers")
	}
	me, err := os.Executable()
	require.NoError(t, err)
	results, err := Run(t.Context(), Options{Command: []string{"env", envKind + "=" + kind, me}, Only: only, AtOnce: 8,
		Tell: func(r Result) { t.Log(r.String()) }})
	require.NoError(t, err)
	return results
}

// TestTheLibraryKeepsTheProtocol in all scenarios.
func TestTheLibraryKeepsTheProtocol(t *testing.T) {
	t.Parallel()
	for _, r := range try(t, "good") {
		assert.True(t, r.OK, r.String())
	}
}

// TestClustersCanBeGiven, and NATS: scenarios leave no topics there.
func TestClustersCanBeGiven(t *testing.T) {
	source, target := kafkatest.Pair(t)
	_, url := kafkatest.NATS(t)
	me, err := os.Executable()
	require.NoError(t, err)
	results, err := Run(t.Context(), Options{Command: []string{"env", envKind + "=good", me}, Only: []string{"skip", "back", "orders"}, AtOnce: 3,
		Old: source.Brokers, New: target.Brokers, NATS: url, Patience: time.Minute, Tell: func(r Result) { t.Log(r.String()) }})
	require.NoError(t, err)
	require.Len(t, results, 3)
	for _, r := range results {
		assert.True(t, r.OK, r.String())
	}
	for _, c := range []starferry.Cluster{source, target} {
		client := kafkatest.Open(t, c).Client()
		require.Eventually(t, func() bool { // a topic goes a moment after it was deleted
			md, err := client.Metadata(t.Context(), &kafka.MetadataRequest{})
			return err == nil && !slices.ContainsFunc(md.Topics, func(t kafka.Topic) bool { return strings.HasPrefix(t.Name, "conformance") })
		}, 30*time.Second, 50*time.Millisecond, "topics are left on %s", c.Name)
	}
}

// TestMistakesAreFound: each client makes one mistake, and fails the scenario
// that is about it, with the section that says so.
func TestMistakesAreFound(t *testing.T) {
	for _, tc := range []struct{ kind, scenario, section, expected, seen string }{
		{"obedient", "older", "6", "nobody to obey it", "draining e=1"},
		{"talkative", "switch", "2 and 6", "the decision to stand on old", "home e=1"},
		{"boastful", "throttle", "8", "at most 60 records a second", "in "},
		{"bare", "join", "3", "every commit to bear a mark", "offsets of mine"},
		{"sloppy", "join", "5 and 7", "every lease to fit its schema", "boot"},
		{"garrulous", "join", "Trying a client", "lines of the form", "Welcome!"},
		{"short", "join", "Trying a client", "the client to run", "ended by itself"},
		{"unwilling", "stop", "Trying a client", "a to end with code 0", "exit status 7"},
	} {
		t.Run(tc.kind, func(t *testing.T) {
			t.Parallel()
			r := try(t, tc.kind, tc.scenario)[0]
			require.False(t, r.OK)
			require.NotNil(t, r.Unmet, r.Error)
			assert.Equal(t, tc.section, r.Unmet.Section)
			assert.Contains(t, r.Unmet.Expected, tc.expected)
			assert.Contains(t, r.Unmet.Seen, tc.seen)
		})
	}
}

func TestScenariosAreChosenByName(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Scenarios() {
		require.False(t, seen[s[0]], s[0])
		require.NotEmpty(t, s[1])
		seen[s[0]] = true
	}
	require.True(t, seen["switch"])
	_, err := Run(t.Context(), Options{Command: []string{"true"}, Only: []string{"dance"}})
	require.ErrorContains(t, err, `there is no scenario "dance"; there are crash-prepare,`)
	_, err = Run(t.Context(), Options{})
	require.ErrorContains(t, err, "no command")
	_, err = Run(t.Context(), Options{Command: []string{"true"}, Old: []string{"127.0.0.1:1"}})
	require.ErrorContains(t, err, "the brokers of both clusters, or of neither")
}

// TestThePageSaysWhatAClientIsTold, by the names of all variables.
func TestThePageSaysWhatAClientIsTold(t *testing.T) {
	page, err := os.ReadFile("../../docs/protocol.md")
	require.NoError(t, err)
	for _, v := range (Assignment{}).environ() {
		name, _, _ := strings.Cut(v, "=")
		assert.Contains(t, string(page), "`"+name+"`")
	}
}

func TestAClientThatCannotBeStartedIsNamed(t *testing.T) {
	results, err := Run(t.Context(), Options{Command: []string{"/no/such/client"}, Only: []string{"join"}})
	require.NoError(t, err)
	require.Contains(t, results[0].String(), "/no/such/client")
	require.Contains(t, results[0].String(), "give the command that starts your client")
}

func TestAnAssignmentIsReadAsItWasGiven(t *testing.T) {
	a := Assignment{NATS: "nats://localhost:4222", Group: "g", Topics: []starferry.Topic{"a", "b"}, Instance: "i", Home: oldName,
		Clusters: []starferry.Cluster{{Name: oldName, Brokers: []string{"h:1", "h:2"}}, {Name: newName, Brokers: []string{"h:3"}}},
		Session:  2e9, Heartbeat: 1e8, Rebalance: 4e9, Commit: 5e7}
	getenv := func(name string) string {
		i := slices.IndexFunc(a.environ(), func(s string) bool { return len(s) > len(name) && s[:len(name)+1] == name+"=" })
		if i < 0 {
			return ""
		}
		return a.environ()[i][len(name)+1:]
	}
	got, err := ReadAssignment(getenv)
	require.NoError(t, err)
	require.Equal(t, a, got)
	_, err = ReadAssignment(func(string) string { return "" })
	require.ErrorContains(t, err, "STARFERRY_NATS is not set")
	_, err = ReadAssignment(func(name string) string {
		if name == envSession {
			return "soon"
		}
		return getenv(name)
	})
	require.ErrorContains(t, err, `STARFERRY_SESSION_MS is "soon"; want milliseconds`)

	h, err := parseLine("orders 3 14 new")
	require.NoError(t, err)
	require.Equal(t, "orders 3 14 new", h.String())
	for _, text := range []string{"", "orders 3 14", "orders three 14 new", "orders 3 -1 new"} {
		_, err := parseLine(text)
		require.ErrorContains(t, err, "want TOPIC PARTITION OFFSET CLUSTER", text)
	}
}
