package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/starferry/starferry/internal/chaos"
	"github.com/starferry/starferry/internal/kafkatest"
)

// settings are the flags of a campaign.
type settings struct {
	world    chaos.Options
	campaign chaos.Campaign
	plant    bool
	keep     bool
}

// common adds the flags of all worlds in which groups are switched.
func (s *settings) common(flags *flag.FlagSet) {
	flags.StringVar(&s.world.Binary, "starferry", "bin/starferry", "the program")
	flags.StringVar(&s.world.Script, "script", "scripts/move_group.star", "the migration that moves a group there")
	flags.StringVar(&s.world.Kafka, "kafka", "", "version of real brokers, such as 4.3.1; empty: in-process ones")
	flags.StringVar(&s.world.Jars, "jars", ".kafka", "where the brokers' jars are")
	flags.IntVar(&s.world.Rate, "rate", 300, "records produced per second for each group")
	flags.BoolVar(&s.keep, "keep", false, "keep logs and data")
}

func (s *settings) parse(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected %q; flags only", flags.Arg(0))
	}
	for _, path := range []*string{&s.world.Script, &s.world.Jars} {
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = absolute
	}
	if s.world.Kafka != "" && !kafkatest.Fetched(s.world.Kafka, s.world.Jars) {
		return fmt.Errorf("there are no jars of Kafka %s in %s; run make kafka KAFKA=%s first", s.world.Kafka, s.world.Jars, s.world.Kafka)
	}
	return nil
}

func parseTrials(args []string) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("chaos", flag.ExitOnError)
	s.common(flags)
	flags.IntVar(&s.campaign.Trials, "trials", 0, "valid trials to make; 0: as many as there is time for")
	flags.DurationVar(&s.campaign.For, "for", 0, "time for all of them; 0: no end")
	flags.Uint64Var(&s.campaign.Seed, "seed", uint64(time.Now().UnixNano()), "of the faults")
	flags.StringVar(&s.campaign.Only, "only", "", "the name of the only fault")
	at := flags.String("at", "any", "strike only at this step: prepare, drain, translate, seed, decide, announce")
	flags.BoolVar(&s.plant, "plant", false, "plant a bug (commit before handling) and expect the checker to find it")
	if err := s.parse(flags, args); err != nil {
		return s, err
	}
	if *at != "any" {
		s.campaign.At, s.campaign.Aimed = chaos.Aim(*at), true
	}
	if s.campaign.Trials == 0 && s.campaign.For == 0 {
		s.campaign.Trials = 20
	}
	if s.plant {
		s.world.Early, s.campaign.Only = 300*time.Millisecond, "kill -9"
	}
	return s, nil
}

func runTrials(ctx context.Context, args []string) error {
	s, err := parseTrials(args)
	if err != nil {
		return err
	}
	s.campaign.Out = os.Stderr
	return s.within(ctx, func(w *chaos.World) error {
		fmt.Fprintln(os.Stderr, "seed", s.campaign.Seed)
		summary, err := s.campaign.Run(ctx, w)
		summary.Report(os.Stdout)
		if err != nil {
			return err
		}
		return judge(summary, s.plant)
	})
}

// within opens a world for f, and keeps what is left of it if f fails.
func (s settings) within(ctx context.Context, f func(*chaos.World) error) (err error) {
	if s.world.Dir, err = os.MkdirTemp("", "starferry-chaos-"); err != nil {
		return err
	}
	if s.world.Self == "" {
		if s.world.Self, err = os.Executable(); err != nil {
			return err
		}
	}
	s.world.Out = os.Stderr
	good := false
	defer func() {
		if s.keep || !good {
			fmt.Fprintln(os.Stderr, "logs and data are in", s.world.Dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(s.world.Dir))
	}()
	w, err := chaos.Open(ctx, s.world)
	if err != nil {
		return err
	}
	defer w.Close()
	err = f(w)
	good = err == nil
	return err
}

// judge turns a summary into an exit code. With a planted bug, finding nothing
// is the failure.
func judge(s chaos.Summary, planted bool) error {
	switch found := !s.OK(); {
	case planted && !found:
		return errors.New("a bug was planted and the checker found nothing")
	case planted:
		fmt.Println("the planted bug was found:", s.First())
		return nil
	case found:
		return errors.New("the checker found what must not be: " + s.First())
	case s.Valid == 0:
		return errors.New("no trial was valid")
	}
	return nil
}
