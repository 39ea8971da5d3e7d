// Command orders is a service that reads topics with starferry's consumer
// library: it writes down each record it handles, as one line
// "nanos topic partition offset key value", where nanos is the time of writing in
// Unix nanoseconds. Run it as often as you like with the same group; a
// termination signal closes it gracefully.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
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
	cfg := consumer.Config{Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	flag.StringVar((*string)(&cfg.Group), "group", "orders", "consumer group")
	flag.StringVar((*string)(&cfg.Instance), "instance", os.Getenv("INSTANCE"), "name of this process (default: random)")
	flag.StringVar((*string)(&cfg.Home), "home", os.Getenv("HOME_CLUSTER"), "cluster of a group that has never moved (default: the first)")
	flag.StringVar((*string)(&cfg.Start), "start", "earliest", "where a partition without a commit begins: earliest, latest, or empty to refuse")
	flag.DurationVar(&cfg.SessionTimeout, "session", 10*time.Second, "session timeout of the group membership")
	clusters := flag.String("clusters", os.Getenv("CLUSTERS"), "name=host:port[+host:port],name=…")
	topics := flag.String("topics", "orders", "topics, separated by commas")
	address := flag.String("nats", os.Getenv("NATS_URL"), "NATS server; empty: without")
	work := flag.Duration("work", 0, "time a record takes")
	out := flag.String("out", "/dev/stdout", "file to append lines to")
	flag.Parse()

	for _, t := range strings.Split(*topics, ",") {
		cfg.Topics = append(cfg.Topics, starferry.Topic(t))
	}
	for _, c := range strings.Split(*clusters, ",") {
		name, addresses, ok := strings.Cut(c, "=")
		if !ok {
			return fmt.Errorf("read -clusters: %q is not name=host:port", c)
		}
		cfg.Clusters = append(cfg.Clusters, starferry.Cluster{Name: starferry.ClusterName(name), Brokers: strings.Split(addresses, "+")})
	}
	if cfg.Home == "" {
		cfg.Home = cfg.Clusters[0].Name
	}
	if *address != "" { // a service does not wait for NATS
		nc, err := nats.Connect(*address, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(250*time.Millisecond))
		if err != nil {
			return fmt.Errorf("connect to NATS: %w", err)
		}
		defer nc.Close()
		cfg.NATS = nc
	}
	lines, err := os.OpenFile(*out, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer lines.Close()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := consumer.Open(ctx, cfg, func(_ context.Context, r consumer.Record) error {
		time.Sleep(*work)
		_, err := fmt.Fprintf(lines, "%d %s %d %d %s %s\n", time.Now().UnixNano(), r.Topic, r.Partition, r.Offset, r.Key, r.Value)
		return err // one write a line, so lines of several partitions do not mix
	})
	if err != nil {
		return err
	}
	<-ctx.Done()
	closing, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return c.Close(closing)
}
