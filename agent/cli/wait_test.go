package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/agent/cli"
	"github.com/starferry/starferry/agent/embednats"
)

// early is a process that is started before its NATS is there.
type early struct {
	t       *testing.T
	address string // of the NATS to come
	cancel  context.CancelFunc
	exit    chan int

	mu  sync.Mutex
	log bytes.Buffer
}

func (e *early) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.log.Write(p)
}

func (e *early) said() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.log.String()
}

// says waits for words in the log.
func (e *early) says(words string) {
	e.t.Helper()
	require.Eventually(e.t, func() bool { return strings.Contains(e.said(), words) }, 30*time.Second, 10*time.Millisecond, words)
}

// startEarly runs a command with a configuration whose NATS does not exist.
func startEarly(t *testing.T, nats string, command ...string) *early {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	e := &early{t: t, address: l.Addr().String(), exit: make(chan int, 1)}
	require.NoError(t, l.Close())
	file := filepath.Join(t.TempDir(), "starferry.yaml")
	text := fmt.Sprintf("clusters:\n  old: {brokers: [\"127.0.0.1:1\"]}\nnats: {%s%s}\n", nats, e.address)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	e.cancel = cancel
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.exit <- cli.Main(ctx, append(command, "--config", file), cli.IO{
			In: strings.NewReader(""), Out: e, Err: e, Getenv: func(string) string { return "" }, Version: "test",
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return e
}

func (e *early) startsNATS() {
	e.t.Helper()
	server, err := embednats.Open(embednats.Options{Dir: e.t.TempDir(), Listen: e.address})
	require.NoError(e.t, err)
	e.t.Cleanup(server.Close)
}

// ends stops the process as a supervisor does.
func (e *early) ends(exit int) {
	e.t.Helper()
	e.cancel()
	require.Equal(e.t, exit, <-e.exit, e.said())
}

func TestAShardWaitsForNATS(t *testing.T) {
	shard := startEarly(t, "listen: ", "shard", "--id", "s1")
	shard.says("waiting for NATS at nats://" + shard.address)
	shard.says("start the agent or check nats.url")
	shard.startsNATS()
	shard.says("shard is ready")
	require.Equal(t, 1, strings.Count(shard.said(), "waiting for NATS"), "said more often than every 10 s")
	shard.ends(0)
}

func TestAnAgentWaitsForTheNATSItIsGiven(t *testing.T) {
	agent := startEarly(t, "url: nats://ann:s3cret@", "agent")
	agent.says("waiting for NATS at nats://" + agent.address)
	agent.says("check nats.url")
	agent.startsNATS()
	agent.says("agent is ready")
	agent.ends(0)
	require.NotContains(t, agent.said(), "s3cret")
}

// A server that is up and has no JetStream yet is waited for too.
func TestJetStreamIsWaitedFor(t *testing.T) {
	for _, command := range [][]string{{"shard", "--id", "s1"}, {"agent"}} {
		t.Run(command[0], func(t *testing.T) {
			e := startEarly(t, "url: nats://", command...)
			e.says("waiting for NATS")
			host, port, err := net.SplitHostPort(e.address)
			require.NoError(t, err)
			number, err := strconv.Atoi(port)
			require.NoError(t, err)
			bare, err := server.NewServer(&server.Options{Host: host, Port: number, NoLog: true, NoSigs: true})
			require.NoError(t, err)
			bare.Start()
			require.Eventually(t, func() bool { return bare.NumClients() == 1 }, 30*time.Second, 10*time.Millisecond)
			e.says("no responders available for request")
			require.NotContains(t, e.said(), "is ready")
			bare.Shutdown()
			bare.WaitForShutdown()
			e.startsNATS()
			e.says("is ready")
			e.ends(0)
		})
	}
}

func TestWaitingForNATSEndsWhenToldTo(t *testing.T) {
	shard := startEarly(t, "listen: ", "shard", "--id", "s1")
	shard.says("waiting for NATS")
	shard.ends(0)
	shard.says("stopped before it was ready")
}
