package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/consumer"
)

// options are what the command line says.
type options struct {
	consumer consumer.Config
	nats     natsFlags
	listen   string
	out      string
	work     time.Duration
	grace    time.Duration
}

func read(args []string) (options, error) {
	o := options{consumer: consumer.Config{Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}}
	cfg := &o.consumer
	flags := flag.NewFlagSet("orders", flag.ContinueOnError)
	flags.StringVar((*string)(&cfg.Group), "group", "orders", "consumer group")
	flags.StringVar((*string)(&cfg.Instance), "instance", os.Getenv("INSTANCE"), "name of this process (default: random)")
	flags.BoolVar(&cfg.Static, "static", false, "stay a member while restarting; -instance must be this process's own")
	home := flags.String("home", os.Getenv("HOME_CLUSTER"), "cluster of a group that has never moved (default: the first)")
	flags.StringVar((*string)(&cfg.Start), "start", "earliest", "where a partition without a commit begins: earliest, latest, or empty to refuse")
	flags.DurationVar(&cfg.SessionTimeout, "session", 10*time.Second, "session timeout of the group membership")
	flags.IntVar(&cfg.Parallelism, "parallelism", 1, "records of one partition handled at once; those of one key stay in order")
	flags.BoolVar(&cfg.CommitEach, "commit-each", false, "commit each record before the next")
	flags.IntVar(&cfg.Failure.Attempts, "attempts", 0, "how often a record is tried before it is put aside; 0: for ever")
	flags.StringVar((*string)(&cfg.Failure.DeadLetter), "dead-letter", "", "topic for records that are given up")
	retries := flags.String("retry", "", "retry topics as TOPIC=PAUSE, separated by commas")
	clusters := flags.String("clusters", os.Getenv("CLUSTERS"), "name=host:port[+host:port],name=…")
	topics := flags.String("topics", "orders", "topics, separated by commas")
	labels := flags.String("labels", os.Getenv("LABELS"), "what operators choose services by: name=value,…")
	o.nats.register(flags)
	flags.StringVar(&o.listen, "listen", "", "host:port of /healthz, /state and /metrics; empty: none")
	flags.DurationVar(&o.work, "work", 0, "time a record takes")
	flags.DurationVar(&o.grace, "grace", 20*time.Second, "time to finish when it is to end")
	flags.StringVar(&o.out, "out", "/dev/stdout", "file to append lines to")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	for _, t := range strings.Split(*topics, ",") {
		cfg.Topics = append(cfg.Topics, starferry.Topic(t))
	}
	if err := o.nats.finish(); err != nil {
		return o, err
	}
	err := pairs("clusters", *clusters, func(name, addresses string) error {
		cfg.Clusters = append(cfg.Clusters, starferry.Cluster{Name: starferry.ClusterName(name), Brokers: strings.Split(addresses, "+")})
		return nil
	})
	if err != nil {
		return o, err
	}
	if len(cfg.Clusters) == 0 {
		return o, errors.New("read -clusters: none is named: want name=host:port,…")
	}
	cfg.Labels = map[string]string{}
	if err := pairs("labels", *labels, func(name, value string) error { cfg.Labels[name] = value; return nil }); err != nil {
		return o, err
	}
	err = pairs("retry", *retries, func(topic, pause string) error {
		after, err := time.ParseDuration(pause)
		cfg.Failure.Retries = append(cfg.Failure.Retries, consumer.Retry{Topic: starferry.Topic(topic), After: after})
		return err
	})
	// A rule for the rest; an estate's own rules choose by name and label.
	rest := cfg.Clusters[0].Name
	if *home != "" {
		rest = starferry.ClusterName(*home)
	}
	cfg.Homes = control.Homes{Rules: []control.HomeRule{{Cluster: rest}}}
	return o, err
}

// pairs reads "name=value,name=value".
func pairs(flag, text string, f func(name, value string) error) error {
	if text == "" {
		return nil
	}
	for _, word := range strings.Split(text, ",") {
		name, value, ok := strings.Cut(word, "=")
		if !ok {
			return fmt.Errorf("read -%s: %q is not name=value", flag, word)
		}
		if err := f(name, value); err != nil {
			return fmt.Errorf("read -%s: %q: %w", flag, word, err)
		}
	}
	return nil
}
