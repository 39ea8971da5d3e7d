package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/internal/kafkatest"
)

func TestMain(m *testing.M) { kafkatest.Main(m) }

// The service handles what there is, answers probes, and ends gracefully.
func TestTheServiceWorks(t *testing.T) {
	cluster := kafkatest.One(t)
	topic := kafkatest.Topic(t, cluster, 2, nil)
	kafkatest.Produce(t, cluster, topic, 0, kafkatest.Values("v", 20)...)
	out := filepath.Join(t.TempDir(), "lines")
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := probe.Addr().String()
	require.NoError(t, probe.Close())

	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{
			"-clusters", string(cluster.Name) + "=" + strings.Join(cluster.Brokers, "+"), "-group", string(kafkatest.Group(t)), "-topics", string(topic),
			"-parallelism", "4", "-labels", "dc=one", "-work", "1ms", "-listen", address, "-out", out,
		})
	}()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) (int, string) {
		resp, err := client.Get("http://" + address + path)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return 0, err.Error()
		}
		return resp.StatusCode, string(body)
	}
	require.Eventually(t, func() bool {
		text, _ := os.ReadFile(out)
		code, _ := get("/healthz")
		return strings.Count(string(text), "\n") == 20 && code == http.StatusOK
	}, 30*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		_, text := get("/metrics")
		return strings.Contains(text, "starferry_consumer_healthy{") && strings.Contains(text, "starferry_consumer_handled_records_total{")
	}, 30*time.Second, 10*time.Millisecond)
	_, text := get("/state")
	require.Contains(t, text, `"labels":{"dc":"one"}`)
	stop()
	require.NoError(t, <-ended)
}

func TestWrongOptionsAreNamed(t *testing.T) {
	for want, args := range map[string][]string{
		"-clusters: none is named":        {},
		`"a" is not name=value`:           {"-clusters", "a"},
		`read -retry: "r=soon"`:           {"-clusters", "a=x:1", "-retry", "r=soon"},
		"set Instance to a name":          {"-clusters", "a=x:1", "-static"},
		"need Attempts":                   {"-clusters", "a=x:1", "-dead-letter", "d"},
		"password without a user":         {"-clusters", "a=x:1", "-nats", "nats://x:1", "-nats-password-file", "main_test.go"},
		"read -nats-token-file":           {"-clusters", "a=x:1", "-nats", "nats://x:1", "-nats-token-file", "/nowhere/token"},
		`home "b" is none of the cluster`: {"-clusters", "a=x:1", "-home", "b"},
	} {
		require.ErrorContains(t, run(t.Context(), args), want)
	}
}
