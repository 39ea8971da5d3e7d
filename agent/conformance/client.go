package conformance

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/consumer"
)

// RunClient is the Go library's own client: it consumes until ctx ends. It is
// what other clients may be compared with.
func RunClient(ctx context.Context, getenv func(string) string, out io.Writer, log *slog.Logger) error {
	a, err := ReadAssignment(getenv)
	if err != nil {
		return err
	}
	nc, err := nats.Connect(a.NATS, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(200*time.Millisecond))
	if err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	defer nc.Close()
	c, err := a.open(ctx, nc, out, log)
	if err != nil {
		return err
	}
	<-ctx.Done()
	return shut(c)
}

// open starts the library's consumer as it was assigned; nc may be nil.
func (a Assignment) open(ctx context.Context, nc *nats.Conn, out io.Writer, log *slog.Logger) (*consumer.Consumer, error) {
	return consumer.Open(ctx, consumer.Config{
		Group: a.Group, Topics: a.Topics, Clusters: a.Clusters, Home: a.Home, NATS: nc, Instance: a.Instance, Start: consumer.Earliest,
		SessionTimeout: a.Session, HeartbeatInterval: a.Heartbeat, RebalanceTimeout: a.Rebalance, CommitInterval: a.Commit, Logger: log,
	}, func(ctx context.Context, r consumer.Record) error {
		if string(r.Value) == block {
			<-ctx.Done()
			return ctx.Err()
		}
		line := handled{starferry.TopicPartition{Topic: r.Topic, Partition: r.Partition}, r.Offset, r.Cluster}
		_, err := fmt.Fprintln(out, line) // one write each, so that a kill leaves whole lines
		return err
	})
}

func shut(c *consumer.Consumer) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return c.Close(ctx)
}
