package agent_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent"
	"github.com/starferry/starferry/agent/api"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/agent/embednats"
	"github.com/starferry/starferry/internal/kafkatest"
)

// An agent ends when it is told to, also if NATS has gone while a run writes to
// its journal. Its run stays open there.
func TestAnAgentEndsWithoutNATS(t *testing.T) {
	kafkatest.Waits(t)
	server, err := embednats.Open(embednats.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	require.NoError(t, err)
	defer server.Close()
	cfg := config.Config{
		Clusters: map[starferry.ClusterName]starferry.Cluster{"old": {Name: "old", Brokers: []string{"127.0.0.1:1"}}},
		NATS:     config.NATS{URL: server.URL()}, DataDir: t.TempDir(), Shards: config.Shards{Buckets: 1},
	}
	a, err := agent.Open(t.Context(), &cfg, nil)
	require.NoError(t, err)
	_, err = a.Start(t.Context(), api.RunRequest{File: "busy.star", Files: map[string]string{"busy.star": `
def look(m):
    for i in range(1000000):
        expect(True, "all is well")

m = migration(name = "busy", phases = [phase("look", do = look)])
`}})
	require.NoError(t, err)
	server.Close()

	closed := make(chan struct{})
	go func() {
		_ = a.Close() // NATS cannot be told
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		t.Fatal("the agent waits for NATS to come back")
	}
}
