// Command orders is a service that reads topics with starferry's consumer
// library: it writes down each record it handles, as one line
// "nanos topic partition offset key value", where nanos is the time of writing in
// Unix nanoseconds. Run it as often as you like with the same group and different
// instances; a termination signal closes it gracefully. While NATS is not there
// it says so and reads on as a plain consumer of its group.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/consumer"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "orders:", err)
		os.Exit(1)
	}
}

func run() error {
	clusters := flag.String("clusters", os.Getenv("CLUSTERS"), "name=host:port[+host:port],name=…")
	home := flag.String("home", os.Getenv("HOME_CLUSTER"), "cluster of a group that has never moved (default: the first)")
	natsURL := flag.String("nats", os.Getenv("NATS_URL"), "NATS server; empty: without")
	group := flag.String("group", "orders", "consumer group")
	topics := flag.String("topics", "orders", "topics, separated by commas")
	instance := flag.String("instance", os.Getenv("INSTANCE"), "name of this process (default: random)")
	start := flag.String("start", "earliest", "where a partition without a commit begins: earliest, latest, or empty to refuse")
	session := flag.Duration("session", 10*time.Second, "session timeout of the group membership")
	work := flag.Duration("work", 0, "time a record takes")
	out := flag.String("out", "", "file to append lines to (default: standard output)")
	flag.Parse()

	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	cfg := consumer.Config{
		Group: starferry.Group(*group), Instance: starferry.InstanceID(*instance), Start: consumer.Start(*start),
		SessionTimeout: *session, Logger: log,
	}
	for _, t := range strings.Split(*topics, ",") {
		cfg.Topics = append(cfg.Topics, starferry.Topic(t))
	}
	for _, c := range strings.Split(*clusters, ",") {
		name, addr, ok := strings.Cut(c, "=")
		if !ok {
			return fmt.Errorf("read -clusters: %q is not name=host:port", c)
		}
		cfg.Clusters = append(cfg.Clusters, starferry.Cluster{Name: starferry.ClusterName(name), Brokers: strings.Split(addr, "+")})
	}
	if cfg.Home = starferry.ClusterName(*home); *home == "" {
		cfg.Home = cfg.Clusters[0].Name
	}
	if *natsURL != "" {
		nc, err := nats.Connect(*natsURL, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(250*time.Millisecond))
		if err != nil {
			return fmt.Errorf("connect to NATS: %w", err)
		}
		defer nc.Close()
		defer sayWaiting(nc, *natsURL, log)()
		cfg.NATS = nc
	}
	var w io.Writer = os.Stdout
	if *out != "" {
		f, err := os.OpenFile(*out, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		defer f.Close()
		w = f
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var lines sync.Mutex
	c, err := consumer.Open(ctx, cfg, func(_ context.Context, r consumer.Record) error {
		time.Sleep(*work)
		lines.Lock()
		defer lines.Unlock()
		_, err := fmt.Fprintf(w, "%d %s %d %d %s %s\n", time.Now().UnixNano(), r.Topic, r.Partition, r.Offset, r.Key, r.Value)
		return err
	})
	if err != nil {
		return err
	}
	<-ctx.Done()
	closing, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return c.Close(closing)
}

// sayWaiting tells the log that the connection does not stand yet, at once and
// every 10 s. The instance handles records meanwhile.
func sayWaiting(nc *nats.Conn, address string, log *slog.Logger) (stop func()) {
	if u, err := url.Parse(address); err == nil {
		address = u.Redacted()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, connected := make(chan struct{}), nc.StatusChanged(nats.CONNECTED)
	go func() {
		defer close(done)
		for !nc.IsConnected() {
			log.Warn(fmt.Sprintf("waiting for NATS at %s; start the agent or check -nats", address), "meanwhile", "a plain consumer of the group")
			select {
			case <-ctx.Done():
				return
			case <-connected:
			case <-time.After(10 * time.Second):
			}
		}
	}()
	return func() { cancel(); <-done }
}
