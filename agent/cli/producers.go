package cli

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/world"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/scripting"
)

// producersView is what the producers command shows.
type producersView struct {
	Topic     starferry.Topic         `json:"topic"`
	Home      starferry.ClusterName   `json:"home"`
	Epoch     starferry.Epoch         `json:"epoch"`
	Producers []control.ProducerLease `json:"producers"`
	Writing   []fleet.Writing         `json:"writing"`
}

func (c *cli) producersCommand() *cobra.Command {
	var json bool
	var during time.Duration
	cmd := &cobra.Command{
		Use: "producers TOPIC", GroupID: "look", Short: "who writes a topic, and where",
		Long: `Producers shows where the producers of a topic write, what those that use the
producer library say, and, by watching the logs for a while, who else writes on
which cluster: links, transactional ids, and what nobody answers for.`,
		Example: "  starferry producers orders\n  starferry producers orders --for 30s --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, nc, err := c.connect()
			if err != nil {
				return err
			}
			defer nc.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), lookWithin+during)
			defer cancel()
			store, err := desired.Open(ctx, nc, desired.Options{})
			if err != nil {
				return err
			}
			f, closeAll, err := world.OpenView(cfg, nc, store, c.log(slog.LevelError))
			if err != nil {
				return err
			}
			defer func() { _ = closeAll() }() // nothing was written
			v := producersView{Topic: starferry.Topic(args[0])}
			h, err := f.ProducersHome(ctx, v.Topic)
			if err != nil {
				return err
			}
			v.Home, v.Epoch, v.Producers = h.Cluster, h.Epoch, h.Leases
			if v.Writing, err = f.Writing(ctx, v.Topic, during); err != nil {
				return err
			}
			if json {
				return asJSON(c.Out, v)
			}
			c.showProducers(v, during)
			return nil
		},
	}
	cmd.Flags().BoolVar(&json, "json", false, "print everything as JSON")
	cmd.Flags().DurationVar(&during, "for", 2*time.Second, "how long to watch the logs")
	return cmd
}

func (c *cli) showProducers(v producersView, during time.Duration) {
	fmt.Fprintf(c.Out, "%s is written on %s (epoch %d).\n\n", v.Topic, or(string(v.Home), "no cluster that anybody names"), v.Epoch)
	var rows [][]string
	for _, l := range v.Producers {
		rows = append(rows, []string{string(l.Instance), fmt.Sprintf("%s/%d", l.Host, l.PID), string(l.Home), fmt.Sprint(l.Acked), fmt.Sprint(l.Buffered),
			fmt.Sprintf("%.1f ms", l.HoldMS), or(l.Refusal, "-")})
	}
	if len(rows) > 0 {
		fmt.Fprintln(c.Out, scripting.Table(scripting.Width, []string{"producer", "process", "writes on", "written", "waiting", "last hold", "refuses"}, rows)+"\n")
	}
	rows = nil
	for _, w := range v.Writing {
		if w.Error != "" {
			rows = append(rows, []string{string(w.Cluster), "cannot be read: " + w.Error, "-", "-"})
			continue
		}
		if len(w.Writers) == 0 {
			rows = append(rows, []string{string(w.Cluster), "nobody", "-", "0"})
		}
		for _, x := range w.Writers {
			rows = append(rows, []string{string(w.Cluster), x.Who, x.Kind, fmt.Sprint(x.Records)})
		}
	}
	fmt.Fprintln(c.Out, scripting.Table(scripting.Width, []string{"cluster", "who wrote", "kind", "records in " + during.String()}, rows))
}
