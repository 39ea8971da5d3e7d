package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/agent/api"
	"github.com/starferry/starferry/scripting"
)

// runStatus is a run's status with what it waits for at this moment.
type runStatus struct {
	scripting.Status
	Waits *scripting.Event `json:"waits,omitempty"`
}

// underWay is what a run waits for now, as the agent says that carries it out;
// nil if none does, or it does not wait.
func underWay(ctx context.Context, client *api.Client, run string) *scripting.Event {
	p, err := api.Owner(ctx, client.Conn, run)
	if err != nil || !p.Running {
		return nil
	}
	return p.Last
}

// showWaits prints what a run waits for, one thing a row.
func (c *cli) showWaits(e *scripting.Event) {
	d, ok := switchProgress(*e)
	if !ok || len(d.Rows) == 0 {
		fmt.Fprintln(c.Out, "\nwaits now:", e.Text)
		return
	}
	ago := time.Since(e.At)
	fmt.Fprintf(c.Out, "\nwaits now: group %s, %s for %s, asked for %s ago\n", d.Group, d.Phase, span(d.PhaseMS, ago), span(d.ElapsedMS, ago))
	var rows [][]string
	for _, w := range d.Rows {
		partition := "-"
		if w.Partition.Topic != "" {
			partition = w.Partition.String()
		}
		who := or(string(w.Instance), or(w.Member, "-"))
		rows = append(rows, []string{who, partition, w.What, span(w.WaitedMS, ago)})
	}
	fmt.Fprintln(c.Out, scripting.Table(scripting.Width, []string{"who", "partition", "has", "since"}, rows))
	if d.More > 0 {
		fmt.Fprintf(c.Out, "and %d more\n", d.More)
	}
}

// span is how long something has lasted that had lasted ms when it was told.
func span(ms int64, ago time.Duration) string {
	d := time.Duration(ms)*time.Millisecond + max(0, ago)
	return d.Round(100 * time.Millisecond).String()
}

func (c *cli) watchCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use: "watch [RUN]", GroupID: "runs", Short: "follow a run that is under way",
		Long: `Watch shows a run while it goes on, with what it waits for, and ends with it; without
a name, the newest. Ctrl-C leaves the run alone. The exit code is that of the run.`,
		Example: "  starferry watch move-group-3f9a1c", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withRun(cmd, args, func(ctx context.Context, client *api.Client, run string) error {
				s, err := client.Status(ctx, run)
				if err != nil {
					return err
				}
				p, err := api.Owner(ctx, client.Conn, run)
				if err != nil || !p.Running {
					fmt.Fprintln(c.Err, "nobody carries this run out now")
					return c.showStatus(s, nil)
				}
				return c.follow(cmd.Context(), client, run, f, nil)
			})
		},
	}
	cmd.Flags().BoolVar(&f.json, "json", false, "print events and the outcome as JSON, one object a line")
	return cmd
}
