package house

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent"
	"github.com/starferry/starferry/agent/cli"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/agent/embednats"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/estate"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/process"
	"github.com/starferry/starferry/replication"
)

const (
	patience = 40 * time.Second
	poll     = 10 * time.Millisecond
)

// house is two clusters, NATS and a configuration. What else lives in it is
// started by the tests.
type house struct {
	t         *testing.T
	id        string
	old, new  starferry.Cluster
	fakes     map[starferry.ClusterName]*kfake.Cluster // empty on real brokers
	dir, file string
	cfg       *config.Config
	server    *embednats.Server // nil: the agent runs NATS itself
	processes *process.Set
}

// build makes a house. More is text for the configuration's clusters.
func build(t *testing.T, more string) *house {
	h := empty(t)
	var err error
	h.server, err = embednats.Open(embednats.Options{Dir: filepath.Join(h.dir, "nats"), Listen: "127.0.0.1:0"})
	require.NoError(t, err)
	t.Cleanup(h.server.Close)
	h.configure("nats: {url: \""+h.server.URL()+"\"}", more)
	return h
}

// buildWithItsAgentsNATS makes a house whose agent runs the NATS server.
func buildWithItsAgentsNATS(t *testing.T) *house {
	h := empty(t)
	address, err := estate.FreeAddress()
	require.NoError(t, err)
	h.configure("nats: {listen: \""+address+"\"}", "")
	return h
}

// empty is a house with clusters alone. The clusters' names are its own: links,
// and with them transactional ids, are named after them, and real brokers are
// shared with other tests.
func empty(t *testing.T) *house {
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails
	h := &house{t: t, id: hex.EncodeToString(b[:]), dir: t.TempDir(), fakes: map[starferry.ClusterName]*kfake.Cluster{}}
	h.processes = process.NewSet(h.dir)
	t.Cleanup(h.processes.Close)
	oldName, newName := starferry.ClusterName("old-"+h.id), starferry.ClusterName("new-"+h.id)
	if kafkatest.Real() {
		h.old, h.new = kafkatest.Pair(t)
		h.old.Name, h.new.Name = oldName, newName
		return h
	}
	h.fakes[oldName], h.old = kafkatest.Fake(t, oldName, kfake.ClusterID(string(oldName)))
	h.fakes[newName], h.new = kafkatest.Fake(t, newName, kfake.ClusterID(string(newName)))
	return h
}

func (h *house) configure(natsLine, more string) {
	h.file = filepath.Join(h.dir, "starferry.yaml")
	text := "clusters:\n"
	for _, c := range []starferry.Cluster{h.old, h.new} {
		text += fmt.Sprintf("  %s: {brokers: [\"%s\"]}\n", c.Name, strings.Join(c.Brokers, `", "`))
	}
	text += more + natsLine + "\ndata_dir: data\nshards: {buckets: 4}\n"
	require.NoError(h.t, os.WriteFile(h.file, []byte(text), 0o600))
	var err error
	h.cfg, err = config.Load(h.file, os.Getenv)
	require.NoError(h.t, err)
}

// logger shows what the parts say if the environment asks for it.
func logger(who string) *slog.Logger {
	if os.Getenv("STARFERRY_TEST_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("who", who)
}

func (h *house) connect() *nats.Conn {
	h.t.Helper()
	nc, err := agent.Connect(h.cfg.NATS, "test", nil)
	require.NoError(h.t, err)
	h.t.Cleanup(nc.Close)
	return nc
}

// agent starts an agent in this process.
func (h *house) agent() *agent.Agent {
	h.t.Helper()
	a, err := agent.Open(h.t.Context(), h.cfg, logger("agent"))
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = a.Close() }) // what it does without NATS is the story of one test
	return a
}

// agentProcess starts an agent that can be killed.
func (h *house) agentProcess() *process.Process {
	h.t.Helper()
	p := h.start("agent", []string{"agent", "--config", h.file}, roleVariable+"="+roleProgram)
	require.Eventually(h.t, func() bool { return h.starferry("runs").exit == 0 }, patience, 50*time.Millisecond, "the agent does not answer")
	return p
}

func (h *house) start(name string, args []string, env ...string) *process.Process {
	h.t.Helper()
	self, err := os.Executable()
	require.NoError(h.t, err)
	p, err := h.processes.Start(process.Spec{Name: name, Path: self, Args: args, Env: env, Dir: h.dir})
	require.NoError(h.t, err)
	return p
}

// shards starts n shards.
func (h *house) shards(n int) []*replication.Shard {
	h.t.Helper()
	var all []*replication.Shard
	for i := range n {
		id := fmt.Sprintf("shard-%d", i+1)
		s, err := agent.OpenShard(context.WithoutCancel(h.t.Context()), h.cfg, h.connect(), replication.ShardID(id), logger(id))
		require.NoError(h.t, err)
		h.t.Cleanup(func() { _ = s.Close() }) // killed, or without NATS, in some stories
		all = append(all, s)
	}
	return all
}

// said is what a command line printed, and its exit code.
type said struct {
	exit     int
	out, err string
}

// starferry is the command line.
func (h *house) starferry(args ...string) said {
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*patience)
	defer cancel()
	var out, problems bytes.Buffer
	exit := cli.Main(ctx, append(args, "--config", h.file), cli.IO{
		In: strings.NewReader(""), Out: &out, Err: &problems, Getenv: os.Getenv, Version: "test",
	})
	return said{exit, out.String(), problems.String()}
}

// script writes a script and returns its path. OLD and NEW are the clusters.
func (h *house) script(name, text string) string {
	text = strings.NewReplacer("OLD", `"`+string(h.old.Name)+`"`, "NEW", `"`+string(h.new.Name)+`"`).Replace(text)
	path := filepath.Join(h.dir, name)
	require.NoError(h.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// run runs a script to its end.
func (h *house) run(name, text string, params ...string) said {
	return h.starferry(append([]string{"run", h.script(name, text)}, params...)...)
}

// moveArguments are those of the shipped script that moves a group.
func (h *house) moveArguments(g starferry.Group) []string {
	return []string{"run", filepath.Join("..", "..", "scripts", "move_group.star"),
		"-p", "group=" + string(g), "-p", "source=" + string(h.old.Name), "-p", "target=" + string(h.new.Name), "-p", "max_lag=400"}
}

// inBackground runs a command line beside the story.
func (h *house) inBackground(args ...string) <-chan said {
	answer := make(chan said, 1)
	go func() { answer <- h.starferry(args...) }()
	return answer
}

// runName finds the name of a group's run, by its script.
func (h *house) runName(script string) string {
	h.t.Helper()
	for _, line := range strings.Split(h.starferry("runs").out, "\n") {
		if name, _, _ := strings.Cut(line, " "); strings.HasPrefix(name, strings.TrimSuffix(script, ".star")+"-") {
			return name
		}
	}
	require.Fail(h.t, "no run of "+script, h.starferry("runs").out)
	return ""
}

// says asserts that an operator was told all of these, and the exit code.
func (h *house) says(s said, exit int, words ...string) {
	h.t.Helper()
	h.t.Logf("exit %d\n%s%s", s.exit, s.out, s.err)
	require.Equal(h.t, exit, s.exit)
	for _, w := range words {
		require.Contains(h.t, s.out+s.err, w)
	}
}

// phases tells every phase that the placement of a group comes to, as soon as
// it stands there.
func (h *house) phases(g starferry.Group) <-chan control.Phase {
	h.t.Helper()
	store, err := desired.Open(h.t.Context(), h.connect(), desired.Options{})
	require.NoError(h.t, err)
	seen := make(chan control.Phase, 100)
	ctx, cancel := context.WithCancel(h.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		last := control.Phase("")
		_ = store.WatchGroup(ctx, g, func(u desired.Update) { // ends with the test
			if u.Placement != nil && u.Placement.Phase != last {
				last = u.Placement.Phase
				seen <- last
			}
		})
	}()
	h.t.Cleanup(func() { cancel(); <-done })
	return seen
}

// heard waits until the group's instances, n of them, have seen the newest
// order.
func (h *house) heard(g starferry.Group, n int) {
	h.t.Helper()
	store, err := desired.Open(h.t.Context(), h.connect(), desired.Options{})
	require.NoError(h.t, err)
	_, revision, err := store.Placement(h.t.Context(), g)
	require.NoError(h.t, err)
	require.Eventually(h.t, func() bool {
		leases, err := store.Leases(h.t.Context(), g)
		return err == nil && len(leases) == n && !slices.ContainsFunc(leases, func(l control.Lease) bool { return l.Revision < revision })
	}, patience, time.Millisecond, "the order never came to all instances")
}

// await waits until the switch of a run has come to a phase.
func (h *house) await(seen <-chan control.Phase, want control.Phase, run <-chan said) {
	h.t.Helper()
	limit := time.After(patience)
	for {
		select {
		case p := <-seen:
			if p == want {
				return
			}
		case s := <-run:
			require.Fail(h.t, "the run ended before its switch came to "+string(want), s.out+s.err)
		case <-limit:
			require.Fail(h.t, "the switch never came to "+string(want))
		}
	}
}
