package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/kafkatest"
)

// night is an estate with the group that docs/on-call.md tells of: three
// instances, a topic of three partitions, and a handler that fails at what is no
// order and takes its time over what is slow.
type night struct {
	*desk
	t     *testing.T
	old   starferry.Cluster
	topic starferry.Topic
	group starferry.Group
	skip  string // what the last skip is called
	// mended: the handler can do what is no order, too.
	mended atomic.Bool
}

func newNight(t *testing.T) *night {
	old, target := kafkatest.Pair(t)
	n := &night{desk: &desk{}, t: t, old: old, topic: "orders", group: "billing"}
	kafkatest.MakeTopic(t, old, n.topic, 3, nil)
	cfg := config.Config{
		Clusters: map[starferry.ClusterName]starferry.Cluster{old.Name: old, target.Name: target},
		NATS:     config.NATS{Listen: "127.0.0.1:0"}, DataDir: t.TempDir(), Shards: config.Shards{Buckets: 1},
	}
	a, err := agent.Open(t.Context(), &cfg, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, a.Close()) })
	file := filepath.Join(t.TempDir(), "starferry.yaml")
	text := fmt.Sprintf("clusters:\n  %s: {brokers: [%q]}\n  %s: {brokers: [%q]}\nnats: {listen: %q}\n", old.Name, old.Brokers[0], target.Name, target.Brokers[0], a.NATS().Listen)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	n.cli = cli{configFile: file, IO: IO{In: &bytes.Buffer{}, Out: &n.out, Err: &n.err, Getenv: func(string) string { return "" }}}
	nc, err := agent.Connect(a.NATS(), "service", nil)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	for p := range 3 {
		n.writes(p, 5, "an order")
	}
	for i := range 3 {
		c, err := consumer.Open(t.Context(), consumer.Config{
			Group: n.group, Topics: []starferry.Topic{n.topic}, Clusters: []starferry.Cluster{old, target}, Home: old.Name, NATS: nc,
			Instance: starferry.InstanceID(fmt.Sprintf("billing-%d", i+1)), Start: consumer.Earliest, CommitInterval: 20 * time.Millisecond,
			HeartbeatInterval: 100 * time.Millisecond, SessionTimeout: 6 * time.Second,
		}, func(ctx context.Context, r consumer.Record) error {
			switch string(r.Value) {
			case "{{ORDER}}":
				if !n.mended.Load() {
					return errors.New("no order")
				}
			case "slow":
				select { // what such a handler does
				case <-time.After(3 * time.Millisecond):
				case <-ctx.Done():
				}
			}
			return ctx.Err()
		})
		require.NoError(t, err)
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			require.NoError(t, c.Close(ctx))
		})
	}
	return n
}

func (n *night) writes(partition, count int, value string) {
	var batch []kafka.Message
	for i := range count {
		batch = append(batch, kafka.Message{Key: fmt.Appendf(nil, "customer-%d", i%40), Value: []byte(value)})
	}
	kafkatest.Produce(n.t, n.old, n.topic, starferry.Partition(partition), batch...)
}

// happens is what begins a chapter of the page.
func (n *night) happens(chapter string) {
	switch chapter {
	case "A record blocks a partition":
		n.writes(1, 1, "{{ORDER}}")
		n.writes(1, 20, "an order")
	case "One partition lags":
		n.writes(0, 1500, "slow")
	case "A group overloads its database":
		n.writes(2, 200, "an order")
	default:
		require.Fail(n.t, "nothing is told of chapter "+chapter)
	}
}

// step is one command of the page and what it printed there.
type step struct {
	command string
	shown   []string
}

// chapters are the commands of the page's console blocks, by heading.
func chapters(t *testing.T) (names []string, steps map[string][]step) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "on-call.md"))
	require.NoError(t, err)
	steps = map[string][]step{}
	chapter, inside := "", false
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimRight(line, " \n")
		command, isCommand := strings.CutPrefix(line, "$ starferry ")
		at := len(steps[chapter]) - 1
		switch {
		case strings.HasPrefix(line, "## "):
			chapter = strings.TrimPrefix(line, "## ")
			names = append(names, chapter)
		case strings.HasPrefix(line, "```"):
			inside = line == "```console"
		case inside && isCommand:
			steps[chapter] = append(steps[chapter], step{command: command})
		case inside && line != "" && at >= 0:
			steps[chapter][at].shown = append(steps[chapter][at].shown, line)
		}
	}
	return names, steps
}

// arguments are those of a command of the page, in this estate.
func (n *night) arguments(command string) []string {
	n.t.Helper()
	command = strings.NewReplacer("orders/", string(n.topic)+"/", "--to orders", "--to "+string(n.topic), "billing", string(n.group)).Replace(command)
	if n.skip != "" {
		command = regexp.MustCompile(`skip-[a-z0-9-]+`).ReplaceAllString(command, n.skip)
	}
	var args []string
	for _, word := range regexp.MustCompile(`"[^"]*"|\S+`).FindAllString(command, -1) {
		args = append(args, strings.Trim(word, `"`))
	}
	return args
}

// told is a printed line without what differs from night to night: names,
// times, numbers and the width of columns.
func (n *night) told(line string) string {
	line = strings.NewReplacer(string(n.topic), "orders", string(n.group), "billing", string(n.old.Name), "old").Replace(line)
	for _, r := range []struct{ what, by string }{
		{`\b[a-z]+(-[a-z]+)*-[0-9a-f]{6}\b`, "RUN"}, {`skip-[a-z0-9-]+`, "SKIP"}, {`pause-[a-z0-9-]+`, "PAUSE"}, {`overflow-[a-z0-9]+`, "OVERFLOW"},
		{`^\d\d:\d\d:\d\d\s+`, ""}, {`\S+@\S+`, "WHO"}, {`(▲|▼) `, ""}, {`\d{4}-\d\d-\d\dT[0-9:.]+Z`, "TIME"}, {`billing-\d`, "billing-N"}, {`\d+(\.\d+)?(m?s)?`, "N"}, {`(^|\s)-(\s|$)`, "${1}N$2"}, {`\s+`, " "},
	} {
		line = regexp.MustCompile(r.what).ReplaceAllString(line, r.by)
	}
	return strings.TrimSpace(line)
}

// missing are the lines of the page that a command did not print.
func (n *night) missing(s step) (lines []string) {
	printed := map[string]bool{}
	for line := range strings.Lines(n.out.String() + n.err.String()) {
		printed[n.told(line)] = true
	}
	for _, want := range s.shown {
		if !printed[n.told(want)] {
			lines = append(lines, want)
		}
	}
	return lines
}

// Every command of the page does what the page says, in its order, and prints
// the lines that the page shows.
func TestThePageForThoseOnCall(t *testing.T) {
	if kafkatest.Real() {
		t.Skip("it is about what is printed, under the page's own names; what the commands do on real brokers others try")
	}
	n := newNight(t)
	names, steps := chapters(t)
	require.Len(t, names, 3)
	for _, chapter := range names {
		n.happens(chapter)
		require.NotEmpty(t, steps[chapter])
		for _, s := range steps[chapter] {
			n.does(s)
		}
	}
}

// does gives a command. One that only looks is given again until it shows what
// the page shows: the estate takes its time.
func (n *night) does(s step) {
	n.t.Helper()
	verb, _, _ := strings.Cut(s.command, " ")
	n.mended.Store(verb == "replay" || n.mended.Load())
	looks := map[string]bool{"top": true, "peek": true, "state": true, "audit": true}[verb]
	try := func() bool {
		n.out.Reset()
		n.err.Reset()
		exit := n.calls(n.t, n.arguments(s.command)...)
		return exit == 0 && len(n.missing(s)) == 0
	}
	if looks {
		deadline := time.Now().Add(30 * time.Second)
		for !try() && time.Now().Before(deadline) {
			n.pause()
		}
	} else {
		try()
	}
	n.t.Logf("$ starferry %s\n%s%s", s.command, n.out.String(), n.err.String())
	require.Empty(n.t, n.missing(s), "not printed by starferry %s", s.command)
	if verb == "skip" {
		n.skip = regexp.MustCompile(`skip-[a-z0-9-]+`).FindString(n.out.String() + n.err.String())
	}
}

// pause is between two looks.
func (n *night) pause() {
	select {
	case <-time.After(100 * time.Millisecond):
	case <-n.t.Context().Done():
	}
}
