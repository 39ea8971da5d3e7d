package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/control/consumer/metrics"
)

// What docs/consumer.md shows is written here, so that it compiles.

func bill(context.Context, []byte, []byte) error { return nil }

// A service of its own names its group and its topics.
func ExampleOpen() {
	err := func() error {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		nc, err := nats.Connect(os.Getenv("NATS_URL"), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1))
		if err != nil {
			return err
		}
		defer nc.Close()

		c, err := consumer.Open(ctx, consumer.Config{
			Group:  "billing",
			Topics: []starferry.Topic{"orders"},
			Clusters: []starferry.Cluster{ // all that the group may ever live on
				{Name: "dc1", Brokers: []string{"kafka-1.dc1:9092"}},
				{Name: "dc2", Brokers: []string{"kafka-1.dc2:9092"}},
			},
			Homes:    control.Homes{Rules: []control.HomeRule{{Cluster: "dc1"}}}, // as long as no commit says anything else
			NATS:     nc,                                                         // nil: nobody can move or steer the group
			Instance: starferry.InstanceID(os.Getenv("HOSTNAME")),
			Labels:   map[string]string{"dc": "one", "sla": "gold"}, // what operators choose services by
			Start:    consumer.Earliest,                             // of a partition nobody has ever committed
			Logger:   slog.Default(),
		}, func(ctx context.Context, r consumer.Record) error {
			return bill(ctx, r.Key, r.Value)
		})
		if err != nil {
			return err
		}
		<-ctx.Done()
		closing, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		return c.Close(closing) // finishes what is in hand, commits, leaves the group
	}()
	fmt.Println(err)
}

// Several records of a partition at once, those of one key in order; what keeps
// failing goes through retry topics to a dead-letter topic.
func ExampleOpen_failure() {
	cfg := consumer.Config{
		Parallelism: 16,
		Failure: consumer.Failure{
			Attempts:   5,
			Retries:    []consumer.Retry{{Topic: "billing.retry-1m", After: time.Minute}, {Topic: "billing.retry-1h", After: time.Hour}},
			DeadLetter: "billing.dead",
		},
	}
	_ = cfg
}

// A batch is what is there of one partition, in order.
func ExampleOpenBatches() {
	c, err := consumer.OpenBatches(context.Background(), consumer.Config{BatchMax: 1000}, func(ctx context.Context, rs []consumer.Record) error {
		for _, r := range rs {
			if err := bill(ctx, r.Key, r.Value); err != nil {
				return err // the whole batch comes again
			}
		}
		return nil
	})
	_, _ = c, err
}

// Probes for whoever watches the process, and metrics for Prometheus.
func ExampleConsumer_Health() {
	var c *consumer.Consumer
	prometheus.MustRegister(metrics.New(c))
	http.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if err := c.Health(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
}

// Every line of code in docs/consumer.md stands in this file.
func TestTheDocsCodeCompiles(t *testing.T) {
	doc, err := os.ReadFile("../../docs/consumer.md")
	require.NoError(t, err)
	own, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	words := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	written := map[string]bool{}
	for _, line := range strings.Split(string(own), "\n") {
		written[words(line)] = true
	}
	blocks := strings.Split(string(doc), "```go\n")[1:]
	require.NotEmpty(t, blocks)
	for _, b := range blocks {
		code, _, closed := strings.Cut(b, "```")
		require.True(t, closed, errors.New("a block of code has no end"))
		for _, line := range strings.Split(code, "\n") {
			require.True(t, written[words(line)], "docs/consumer.md: %q is not in example_test.go", line)
		}
	}
}
