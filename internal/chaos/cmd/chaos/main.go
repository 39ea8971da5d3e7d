// Command chaos lets everything fail while consumer groups move between two
// clusters, or, as `chaos copy`, around a copy, and checks that nothing was lost
// or doubled. As `chaos switches` it moves a busy group to and fro without any
// fault, and as `chaos hand` it redistributes, skips, throttles and moves producers
// as well. It ends with 0 only if enough trials were valid and the checker found
// nothing.
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

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/chaos"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	role, args := "", os.Args[1:]
	if len(args) > 0 {
		role = args[0]
	}
	var err error
	switch role {
	case "kafkas":
		err = runKafkas(ctx, args[1:])
	case "nats":
		err = runNATS(ctx, args[1:])
	case "copy":
		err = runCrossing(ctx, args[1:])
	case "plants":
		err = runPlants(ctx, args[1:])
	case "switches":
		err = runSwitches(ctx, args[1:])
	case "service":
		err = runService(ctx, args[1:])
	case "hand":
		err = runHand(ctx, args[1:])
	case "writer":
		err = runWriter(ctx, args[1:])
	default:
		err = runTrials(ctx, args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

func runKafkas(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("kafkas", flag.ExitOnError)
	clean := flags.Duration("clean", 0, "how often cleaners run; 0: hardly ever")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return chaos.RunKafkas(ctx, os.Stdout, *clean)
}

func runNATS(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("nats", flag.ExitOnError)
	listen := flags.String("listen", "127.0.0.1:4222", "address")
	dir := flags.String("dir", "", "store")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return chaos.RunNATS(ctx, *listen, *dir)
}

func runService(ctx context.Context, args []string) error {
	o := chaos.ServiceOptions{Session: chaos.Session,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	flags := flag.NewFlagSet("service", flag.ExitOnError)
	before := flags.String("old", "", "address of the cluster named old")
	after := flags.String("new", "", "address of the cluster named new")
	topics := flags.String("topics", "orders", "what it reads, separated by commas")
	group := flags.String("group", "orders", "consumer group")
	instance := flags.String("instance", "", "name of this process")
	flags.StringVar(&o.NATS, "nats", "", "URL of NATS")
	flags.StringVar(&o.Out, "out", "", "file for the records handled")
	flags.DurationVar(&o.Early, "early", 0, "planted bug: commit this long before handling")
	flags.DurationVar(&o.Work, "work", 0, "a record takes")
	if err := flags.Parse(args); err != nil {
		return err
	}
	for _, t := range strings.Split(*topics, ",") {
		o.Topics = append(o.Topics, starferry.Topic(t))
	}
	o.Group, o.Instance = starferry.Group(*group), starferry.InstanceID(*instance)
	o.Clusters = []starferry.Cluster{{Name: "old", Brokers: []string{*before}}, {Name: "new", Brokers: []string{*after}}}
	return chaos.RunService(ctx, o)
}
