// Command chaos kills processes while a consumer group moves between two
// clusters, or, as `chaos copy`, lets everything fail around a copy, and checks
// that nothing was lost or doubled. It ends with 0 only if enough trials were
// valid and the checker found nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/chaos"
	"github.com/starferry/starferry/internal/kafkatest"
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
	case "service":
		err = runService(ctx, args[1:])
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
	o := chaos.ServiceOptions{Topics: []starferry.Topic{"orders", "payments"}, Session: 3 * time.Second,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	flags := flag.NewFlagSet("service", flag.ExitOnError)
	before := flags.String("old", "", "address of the cluster named old")
	after := flags.String("new", "", "address of the cluster named new")
	group := flags.String("group", "orders", "consumer group")
	instance := flags.String("instance", "", "name of this process")
	flags.StringVar(&o.NATS, "nats", "", "URL of NATS")
	flags.StringVar(&o.Out, "out", "", "file for the records handled")
	flags.DurationVar(&o.Early, "early", 0, "planted bug: commit this long before handling")
	if err := flags.Parse(args); err != nil {
		return err
	}
	o.Group, o.Instance = starferry.Group(*group), starferry.InstanceID(*instance)
	o.Clusters = []starferry.Cluster{{Name: "old", Brokers: []string{*before}}, {Name: "new", Brokers: []string{*after}}}
	return chaos.RunService(ctx, o)
}

// settings are the flags of a campaign.
type settings struct {
	world    chaos.Options
	campaign chaos.Campaign
	plant    bool
	keep     bool
}

func parse(args []string) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("chaos", flag.ExitOnError)
	flags.StringVar(&s.world.Binary, "starferry", "bin/starferry", "the program")
	flags.StringVar(&s.world.Script, "script", "scripts/move_group.star", "the migration that is run")
	flags.StringVar(&s.world.Kafka, "kafka", "", "version of real brokers, such as 4.3.1; empty: in-process ones")
	flags.StringVar(&s.world.Jars, "jars", ".kafka", "where the brokers' jars are")
	flags.IntVar(&s.world.Rate, "rate", 500, "records produced per second")
	flags.IntVar(&s.campaign.Trials, "trials", 20, "valid trials to make")
	flags.DurationVar(&s.campaign.Budget, "budget", 0, "time for all of them; 0: none")
	flags.Uint64Var(&s.campaign.Seed, "seed", uint64(time.Now().UnixNano()), "of the faults")
	flags.BoolVar(&s.plant, "plant", false, "plant a bug (commit before handling) and expect the checker to find it")
	flags.BoolVar(&s.keep, "keep", false, "keep logs and data")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("unexpected %q; flags only", flags.Arg(0))
	}
	for _, path := range []*string{&s.world.Script, &s.world.Jars} {
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return s, err
		}
		*path = absolute
	}
	if s.world.Kafka != "" && !kafkatest.Fetched(s.world.Kafka, s.world.Jars) {
		return s, fmt.Errorf("there are no jars of Kafka %s in %s; run make kafka KAFKA=%s first", s.world.Kafka, s.world.Jars, s.world.Kafka)
	}
	if s.plant {
		s.world.Early, s.campaign.Services = 300*time.Millisecond, true
	}
	return s, nil
}

func runTrials(ctx context.Context, args []string) (err error) {
	s, err := parse(args)
	if err != nil {
		return err
	}
	if s.world.Dir, err = os.MkdirTemp("", "starferry-chaos-"); err != nil {
		return err
	}
	if s.world.Self, err = os.Executable(); err != nil {
		return err
	}
	s.world.Out, s.campaign.Out = os.Stderr, os.Stderr
	good := false
	defer func() {
		if s.keep || !good {
			fmt.Fprintln(os.Stderr, "logs and data are in", s.world.Dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(s.world.Dir))
	}()
	fmt.Fprintln(os.Stderr, "seed", s.campaign.Seed)
	w, err := chaos.Open(ctx, s.world)
	if err != nil {
		return err
	}
	defer w.Close()
	summary, err := s.campaign.Run(ctx, w)
	summary.Report(os.Stdout)
	if err != nil {
		return err
	}
	err = judge(summary, s.plant, os.Stdout)
	good = err == nil
	return err
}

// judge turns a summary into an exit code. With a planted bug, finding nothing
// is the failure.
func judge(s chaos.Summary, planted bool, out io.Writer) error {
	switch found := !s.Verdict.OK(); {
	case planted && !found:
		return errors.New("a bug was planted and the checker found nothing")
	case planted:
		fmt.Fprintln(out, "the planted bug was found")
		return nil
	case found:
		return errors.New("the checker found what must not be")
	}
	return nil
}
