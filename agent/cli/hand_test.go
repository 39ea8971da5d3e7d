package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/kafkatest"
)

// newLiveDesk is a command line with an agent, and a group of one instance whose
// handler is stuck at offset 2 of partition 0.
func newLiveDesk(t *testing.T) (*desk, starferry.TopicPartition) {
	old, target := kafkatest.Pair(t)
	tp := starferry.TopicPartition{Topic: kafkatest.Topic(t, old, 1, nil)}
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
	d := &desk{}
	d.cli = cli{configFile: file, IO: IO{In: &bytes.Buffer{}, Out: &d.out, Err: &d.err, Getenv: func(string) string { return "" }}}

	nc, err := agent.Connect(a.NATS(), "service", nil)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	for i := range 5 {
		kafkatest.Produce(t, old, tp.Topic, 0, kafka.Message{Key: []byte("k"), Value: fmt.Appendf(nil, "v%d\x1b[2J", i)})
	}
	c, err := consumer.Open(t.Context(), consumer.Config{
		Group: "billing", Topics: []starferry.Topic{tp.Topic}, Clusters: []starferry.Cluster{old, target}, Home: old.Name, NATS: nc, Instance: "i1",
		Start: consumer.Earliest, CommitInterval: 20 * time.Millisecond,
	}, func(ctx context.Context, r consumer.Record) error {
		if r.Offset == 2 {
			<-ctx.Done()
		}
		return ctx.Err()
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		require.NoError(t, c.Close(ctx))
	})
	return d, tp
}

// does calls a command and returns what it prints.
func (d *desk) does(t *testing.T, args ...string) string {
	t.Helper()
	d.out.Reset()
	d.err.Reset()
	require.Zero(t, d.calls(t, args...), "%v: %s%s", args, d.err.String(), d.out.String())
	return d.out.String()
}

// An operator finds a blocked record, looks at it, passes it, and reads in the
// trail what was done.
func TestAnOperatorGetsAGroupGoing(t *testing.T) {
	d, tp := newLiveDesk(t)
	var s builtins.GroupState
	require.Eventually(t, func() bool {
		if d.out.Reset(); d.calls(t, "state", "billing", "--json") != 0 {
			return false
		}
		return json.Unmarshal(d.out.Bytes(), &s) == nil && len(s.Partitions) == 1 && s.Partitions[0].Blocked == 2
	}, 30*time.Second, 100*time.Millisecond, "%s", d.err.String())
	at := tp.String() + "@2"

	shown := d.does(t, "peek", "--group", "billing")
	require.Contains(t, shown, at)
	require.Contains(t, shown, `v2\x1b[2J`, "a record does not act on the terminal")
	require.Contains(t, d.does(t, "top", "billing", "--times", "2", "--every", "100ms"), "2 for ")
	completed := func(args ...string) string {
		d.out.Reset()
		require.Zero(t, Main(t.Context(), append([]string{"__complete", "--config", d.configFile, "skip"}, args...), d.IO), d.err.String())
		return d.out.String()
	}
	require.Equal(t, "billing\n:4\n", completed("--group", ""))
	require.Contains(t, completed("--group", "billing", "--at", ""), at+"\tblocked on i1")

	var peeked []builtins.PeekedRecord
	require.NoError(t, json.Unmarshal([]byte(d.does(t, "peek", "--group", "billing", "--json")), &peeked))
	require.NotZero(t, d.calls(t, "skip", "--group", "billing", "--at", at, "--expect", "no such digest", "--reason", "INC-1"))
	require.Contains(t, d.err.String(), peeked[0].Digest)
	after := d.does(t, "skip", "--group", "billing", "--at", at, "--expect", peeked[0].Digest, "--reason", "INC-1")
	require.Contains(t, after, "BEFORE")
	require.Regexp(t, `skips set +0 +1`, after)
	require.Eventually(t, func() bool {
		return strings.Contains(d.does(t, "state", "billing"), "5")
	}, 20*time.Second, 50*time.Millisecond)

	require.Regexp(t, `paused +- +all`, d.does(t, "pause", "--group", "billing", "--for", "10m", "--reason", "INC-1"))
	require.Regexp(t, `paused +all +-`, d.does(t, "resume", "--group", "billing", "--reason", "fixed"))
	require.Regexp(t, `limit +no limit +500/s, 4 at once`, d.does(t, "throttle", "--group", "billing", "--rate", "500/s", "--parallelism", "4", "--for", "1h", "--reason", "INC-1"))
	d.does(t, "rewind", "--group", "billing", "--to", tp.String()+"@3", "--reason", "INC-1")

	var events []desired.Event
	require.NoError(t, json.Unmarshal([]byte(d.does(t, "audit", "billing", "--json")), &events))
	var what []string
	for _, e := range events {
		what = append(what, e.What)
	}
	require.Equal(t, []string{"skip", "skip acknowledged", "pause", "pause acknowledged", "resume", "resume acknowledged", "throttle", "throttle acknowledged",
		"rewind", "rewind acknowledged", "rewound", "rewound acknowledged"}, what)
	require.Contains(t, events[1].Instances, starferry.InstanceID("i1"))
	require.Contains(t, events[0].Why, "INC-1")
	require.Contains(t, d.does(t, "audit", "billing", "--instances"), "has revision")
}
