package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starferry/starferry/internal/chaos/crossing"
	"github.com/starferry/starferry/internal/kafkatest"
)

// crossingSettings are the flags of `chaos copy`.
type crossingSettings struct {
	world    crossing.Options
	campaign crossing.Campaign
	variant  crossing.Variant
	plants   bool
	soak     bool
	root     string
	keep     bool
}

func parseCrossing(args []string) (s crossingSettings, err error) {
	names := strings.Join(slices.Sorted(maps.Keys(crossing.Variants())), ", ")
	flags := flag.NewFlagSet("chaos copy", flag.ExitOnError)
	flags.StringVar(&s.world.Binary, "starferry", "bin/starferry", "the program")
	flags.StringVar(&s.world.Kafka, "kafka", "", "version of real brokers, such as 4.3.1; empty: in-process ones")
	flags.StringVar(&s.world.Jars, "jars", ".kafka", "where the brokers' jars are")
	flags.StringVar(&s.root, "root", ".", "the module, of which variants are built")
	variant := flags.String("variant", "", "build and run the program with other lines: "+names+"; those with a planted bug expect it to be found")
	flags.BoolVar(&s.plants, "plants", false, "run all variants with a planted bug, two at a time; those that only real brokers show, with -kafka")
	flags.BoolVar(&s.soak, "soak", false, "no faults: as much as goes through, and what the shards hold must be flat (with -variant soak)")
	flags.DurationVar(&s.campaign.For, "for", time.Minute, "how long, in all")
	flags.DurationVar(&s.campaign.Trial, "trial", 15*time.Second, "how long faults happen until it is checked what is left")
	flags.StringVar(&s.campaign.Only, "only", "", "the name of the only fault")
	flags.Uint64Var(&s.campaign.Seed, "seed", uint64(time.Now().UnixNano()), "of the faults")
	flags.BoolVar(&s.keep, "keep", false, "keep logs and data")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("unexpected %q; flags only", flags.Arg(0))
	}
	if s.world.Jars, err = filepath.Abs(s.world.Jars); err != nil {
		return s, err
	}
	if s.world.Kafka != "" && !kafkatest.Fetched(s.world.Kafka, s.world.Jars) {
		return s, fmt.Errorf("there are no jars of Kafka %s in %s; run make kafka KAFKA=%s first", s.world.Kafka, s.world.Jars, s.world.Kafka)
	}
	s.variant = crossing.Product()
	if *variant != "" {
		var ok bool
		if s.variant, ok = crossing.Variants()[*variant]; !ok {
			return s, fmt.Errorf("no variant is called %q; there are %s", *variant, names)
		}
		if s.variant.Real && s.world.Kafka == "" {
			return s, fmt.Errorf("only real brokers show what variant %s does; name a version with -kafka", *variant)
		}
	}
	s.campaign.Only = cmp.Or(s.campaign.Only, s.variant.Only)
	s.world.Lease, s.world.Soak = s.variant.Lease, s.soak
	return s, nil
}

func runCrossing(ctx context.Context, args []string) error {
	s, err := parseCrossing(args)
	if err != nil {
		return err
	}
	if s.world.Self, err = os.Executable(); err != nil {
		return err
	}
	if !s.plants {
		return s.run(ctx)
	}
	var group errgroup.Group
	group.SetLimit(2)
	if s.world.Kafka != "" {
		group.SetLimit(1)
	}
	for _, v := range crossing.Variants() {
		if v.Bug == "" {
			continue
		}
		if v.Real && s.world.Kafka == "" {
			fmt.Fprintf(os.Stderr, "left out: only real brokers (-kafka) show %s: %s\n", v.Name, v.Bug)
			continue
		}
		one := s
		one.variant, one.campaign.Only, one.world.Lease = v, v.Only, v.Lease
		group.Go(func() error { return one.run(ctx) })
	}
	return group.Wait()
}

// run makes one campaign with the variant.
func (s crossingSettings) run(ctx context.Context) (err error) {
	if s.world.Dir, err = os.MkdirTemp("", "starferry-chaos-"); err != nil {
		return err
	}
	good := false
	defer func() {
		if s.keep || !good {
			fmt.Fprintln(os.Stderr, "logs and data are in", s.world.Dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(s.world.Dir))
	}()
	if s.variant.Name != crossing.Product().Name {
		if s.world.Binary, err = s.variant.Build(ctx, s.root, s.world.Dir); err != nil {
			return err
		}
	}
	s.world.Out, s.campaign.Out = os.Stderr, os.Stderr
	fmt.Fprintf(os.Stderr, "seed %d, program %s\n", s.campaign.Seed, s.variant.Name)
	w, err := crossing.Open(ctx, s.world)
	if err != nil {
		return err
	}
	defer w.Close()
	if s.soak {
		err = crossing.Soak{For: s.campaign.For, Every: s.campaign.For / 30, Out: os.Stdout}.Run(ctx, w)
		good = err == nil
		return err
	}
	summary, err := s.campaign.Run(ctx, w)
	if err != nil {
		return err
	}
	err = s.judge(summary)
	good = err == nil
	return err
}

// judge reports and turns a summary into an exit code. With a planted bug,
// finding nothing is the failure.
func (s crossingSettings) judge(summary crossing.Summary) error {
	if s.variant.Bug != "" && !summary.OK() {
		fmt.Printf("the planted bug was found after %d faults and %.0f s: %s: %s\n", summary.Total(), summary.Took.Seconds(), s.variant.Bug, summary.First())
		return nil
	}
	summary.Report(os.Stdout)
	switch {
	case s.variant.Bug != "":
		return fmt.Errorf("a bug was planted (%s) and nothing was found", s.variant.Bug)
	case !summary.OK():
		return errors.New("the checker found what must not be")
	case summary.Valid == 0:
		return errors.New("no trial was valid")
	}
	return nil
}
