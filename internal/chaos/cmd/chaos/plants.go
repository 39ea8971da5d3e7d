package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starferry/starferry/internal/chaos"
)

// runPlants builds the program with a bug in it, one after the other, and
// expects each to be found.
func runPlants(ctx context.Context, args []string) error {
	var s settings
	flags := flag.NewFlagSet("chaos plants", flag.ExitOnError)
	s.common(flags)
	root := flags.String("root", ".", "the module, of which the programs are built")
	only := flags.String("plants", "", "names of plants, separated by commas; empty: all")
	at := flags.Int("at-once", 2, "how many at a time")
	limit := flags.Duration("for", 2*time.Minute, "time for each to be found")
	hands := flags.Bool("hand", false, "only those that show when hands are laid on a group")
	flags.Uint64Var(&s.campaign.Seed, "seed", 1, "of the faults")
	if err := s.parse(flags, args); err != nil {
		return err
	}
	var names []string
	var group errgroup.Group
	group.SetLimit(*at)
	for _, p := range chaos.Plants() {
		names = append(names, p.Name)
		if (*only == "" || slices.Contains(strings.Split(*only, ","), p.Name)) && (p.Act != "" || !*hands) {
			group.Go(func() error { return s.find(ctx, p, *root, *limit) })
		}
	}
	for _, name := range strings.Split(*only, ",") {
		if name != "" && !slices.Contains(names, name) {
			return errors.Join(fmt.Errorf("no plant is called %q; there are %s", name, strings.Join(names, ", ")), group.Wait())
		}
	}
	return group.Wait()
}

// find has the harness look for one planted bug.
func (s settings) find(ctx context.Context, p chaos.Plant, root string, limit time.Duration) (err error) {
	dir, err := os.MkdirTemp("", "starferry-plant-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if s.world.Binary, s.world.Self, err = p.Build(ctx, root, dir); err != nil {
		return err
	}
	s.world.Work, s.world.Crews, s.world.Patience = p.Work, 1, 40*time.Second
	if p.Act != "" {
		s.world.Writers, s.world.Rate, s.world.Work = chaos.Writers, handRate, max(p.Work, handWork)
	}
	began := time.Now()
	return s.within(ctx, func(w *chaos.World) error {
		shown, trials, report, err := p.Find(ctx, w, s.campaign.Seed, limit)
		if shown == "" {
			report(os.Stdout)
			return errors.Join(err, fmt.Errorf("plant %s: %s, and nothing was found", p.Name, p.Bug))
		}
		fmt.Printf("plant %-18s found after %d trials and %.0f s: %s: %s\n", p.Name, trials, time.Since(began).Seconds(), p.Bug, firstLine(shown))
		return nil
	})
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
