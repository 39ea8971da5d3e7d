package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
)

func (c *cli) topCommand() *cobra.Command {
	var every time.Duration
	var times int
	cmd := &cobra.Command{
		Use: "top GROUP", GroupID: "hand", Short: "a live view of a group: partitions, rates, lag with trend, what is blocked", Args: cobra.ExactArgs(1),
		Long: `Top shows a group again and again until Ctrl-C: each partition with who has it,
how many records a second are committed, its lag and how that changes, and the
record a handler is busy with. It asks the clusters and NATS, and needs no agent.`,
		Example: "  starferry top billing\n  starferry top billing --every 5s --times 1",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.top(cmd.Context(), starferry.Group(args[0]), max(every, 100*time.Millisecond), times)
		},
	}
	cmd.Flags().DurationVar(&every, "every", 2*time.Second, "how often it looks")
	cmd.Flags().IntVar(&times, "times", 0, "end after `N` views; 0: never")
	return cmd
}

func (c *cli) top(ctx context.Context, g starferry.Group, every time.Duration, times int) error {
	hand, done, err := c.openHand(ctx)
	if err != nil {
		return err
	}
	defer done()
	tick := time.NewTicker(every)
	defer tick.Stop()
	var before *glance
	for n := 1; ; n++ {
		look, cancel := context.WithTimeout(ctx, lookWithin)
		s, err := hand.State(look, g)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		now := &glance{standing{s}, time.Now()}
		if terminal(c.Out) {
			fmt.Fprint(c.Out, "\x1b[H\x1b[2J") // home, and clear
		}
		if err := now.show(c.Out, before); err != nil {
			return err
		}
		if before = now; n == times {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// glance is how a group stood at a time.
type glance struct {
	standing
	at time.Time
}

func (g *glance) show(w io.Writer, before *glance) error {
	var rate, change float64
	var rows [][]string
	for i, p := range g.Partitions {
		row := g.partitions()[i]
		r, d := g.since(before, p)
		if rate, change = rate+r, change+d; before == nil {
			rows = append(rows, append(row, "-", "-"))
			continue
		}
		rows = append(rows, append(row, fmt.Sprintf("%.1f", r), trend(d)))
	}
	fmt.Fprintf(w, "%s  %s  on %s, epoch %d  %d instances  lag %d%s  %.1f/s\n", g.at.Format(time.TimeOnly), g.Group, g.Home, g.Epoch,
		len(g.Instances), g.Lag, strings.TrimSuffix(" "+trend(change), " -"), rate)
	fmt.Fprintf(w, "limit %s  paused %s  skips %d  redistributed %s\n\n", g.limits(), g.paused(), len(g.Settings.Skips), g.Settings.Redistribution)
	for _, i := range g.Instances {
		if i.Refusal != "" {
			fmt.Fprintf(w, "%s refuses: %s\n", i.Name, i.Refusal)
		}
	}
	return table(w, append(partitionHeadings(), "rate/s", "lag trend/s"), rows)
}

// since is how many records a second were committed, and by how many a second
// the lag grew.
func (g *glance) since(before *glance, p builtins.PartitionState) (rate, growth float64) {
	if before == nil {
		return 0, 0
	}
	span := g.at.Sub(before.at).Seconds()
	for _, was := range before.Partitions {
		if was.Partition == p.Partition && before.Home == g.Home && span > 0 {
			return max(0, float64(p.Committed-was.Committed)) / span, float64(p.Lag-was.Lag) / span
		}
	}
	return 0, 0
}

func trend(perSecond float64) string {
	switch {
	case perSecond > 0.05:
		return fmt.Sprintf("▲ %.1f", perSecond)
	case perSecond < -0.05:
		return fmt.Sprintf("▼ %.1f", -perSecond)
	}
	return "-"
}
