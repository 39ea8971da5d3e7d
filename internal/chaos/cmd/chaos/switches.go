package main

import (
	"context"
	"flag"
	"os"

	"github.com/starferry/starferry/internal/chaos"
)

// runSwitches moves a group to and fro without any fault.
func runSwitches(ctx context.Context, args []string) error {
	var s settings
	flags := flag.NewFlagSet("chaos switches", flag.ExitOnError)
	s.common(flags)
	n := flags.Int("n", 1000, "switches, there and back counted")
	if err := s.parse(flags, args); err != nil {
		return err
	}
	s.world.Crews, s.world.Direct = 1, true
	return s.within(ctx, func(w *chaos.World) error {
		sum, err := chaos.Switches{Times: *n, Out: os.Stderr}.Run(ctx, w)
		sum.Report(os.Stdout)
		if err != nil {
			return err
		}
		return sum.Judge(*n)
	})
}
