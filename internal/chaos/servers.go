package chaos

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/starferry/starferry/internal/estate"
	"github.com/starferry/starferry/internal/kafkatest"
)

// fakeBrokers is how many brokers each in-process Kafka has.
const fakeBrokers = 2

// RunKafkas serves two in-process Kafkas until ctx ends, and prints the address
// of each on a line of its own. Their cleaners run every so often; 0: hardly ever.
func RunKafkas(ctx context.Context, out io.Writer, clean time.Duration) error {
	for _, name := range []string{estate.Old, estate.New} {
		opts := []kfake.Opt{kfake.ClusterID("chaos-" + name), kfake.NumBrokers(fakeBrokers), kfake.GroupMinSessionTimeout(100 * time.Millisecond)}
		if clean > 0 {
			opts = append(opts, kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": strconv.FormatInt(clean.Milliseconds(), 10)}))
		}
		c, err := kfake.NewCluster(opts...)
		if err != nil {
			return fmt.Errorf("serve Kafka: %w", err)
		}
		defer c.Close()
		kafkatest.TellAborted(c)
		if _, err := fmt.Fprintln(out, c.ListenAddrs()[0]); err != nil {
			return fmt.Errorf("serve Kafka: %w", err)
		}
	}
	<-ctx.Done()
	return nil
}

// natsReady is how long the NATS server may take to recover its streams.
const natsReady = 20 * time.Second

// RunNATS serves NATS with JetStream at an address, every write durable, until
// ctx ends.
func RunNATS(ctx context.Context, address, dir string) error {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("serve NATS: %w", err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return fmt.Errorf("serve NATS: %w", err)
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "chaos", Host: host, Port: port, JetStream: true, StoreDir: dir, SyncAlways: true, NoSigs: true, NoLog: true,
	})
	if err != nil {
		return fmt.Errorf("serve NATS: %w", err)
	}
	s.Start()
	defer s.WaitForShutdown()
	defer s.Shutdown()
	if !s.ReadyForConnections(natsReady) {
		return fmt.Errorf("serve NATS: not ready at %s after %s", address, natsReady)
	}
	<-ctx.Done()
	return nil
}
