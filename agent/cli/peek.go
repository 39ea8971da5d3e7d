package cli

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/world"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/scripting"
)

func (c *cli) peekCommand() *cobra.Command {
	b := builtinOf("peek")
	var json bool
	cmd := &cobra.Command{
		Use: "peek", GroupID: "hand", Short: "look at records: at an offset, or those that block a group",
		Long: b.Doc + "\n\nIt needs no agent. Key and value are shown as text where they are; else as base64.",
		Example: `  starferry peek --group billing
  starferry peek --group billing --at orders/7@184223 --before 2 --count 3
  starferry peek --on old --at orders/7@184223 --json > poison.json`, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			args := scripting.Args{}
			for _, p := range b.Params {
				f := cmd.Flags().Lookup(flagOf(p))
				var v any = p.Default
				if f.Changed {
					v = f.Value.String()
				}
				if v == nil {
					continue
				}
				parsed, err := p.Type.Parse(v)
				if err != nil {
					return &scripting.UsageError{Text: fmt.Sprintf("peek: --%s: %v", f.Name, err)}
				}
				args[p.Name] = parsed
			}
			return c.peek(cmd.Context(), args, json)
		},
	}
	c.verbFlags(cmd, b)
	cmd.Flags().BoolVar(&json, "json", false, "print everything as JSON")
	return cmd
}

func (c *cli) peek(ctx context.Context, args scripting.Args, json bool) error {
	return c.withHand(ctx, func(ctx context.Context, p builtins.Ports, _ *desired.Store) error {
		reg, err := builtins.Registry(p)
		if err != nil {
			return err
		}
		b, _ := reg.Builtin("peek")
		got, err := b.Run(ctx, scripting.Call{Args: args, By: c.by()})
		if err != nil {
			return err
		}
		records, _ := got.([]builtins.PeekedRecord)
		if json {
			return asJSON(c.Out, records)
		}
		return c.showRecords(records)
	})
}

func (c *cli) showRecords(records []builtins.PeekedRecord) error {
	if len(records) == 0 {
		_, err := fmt.Fprintln(c.Out, "No record: nothing stands there, or nothing is blocked.")
		return err
	}
	for i, r := range records {
		if i > 0 {
			fmt.Fprintln(c.Out)
		}
		fmt.Fprintf(c.Out, "%s  %s  %d bytes  digest %s\n", r.Position, r.Time, r.Bytes, r.Digest)
		if r.Blocks != "" {
			fmt.Fprintf(c.Out, "  blocks   %s\n", r.Blocks)
		}
		encoded := ""
		if r.Binary {
			encoded = " (base64)"
		}
		fmt.Fprintf(c.Out, "  key%s      %s\n", encoded, printable(r.Key))
		for k, v := range r.Headers {
			fmt.Fprintf(c.Out, "  header   %s = %s\n", printable(k), printable(v))
		}
		fmt.Fprintf(c.Out, "  value%s    %s\n", encoded, printable(r.Value))
	}
	return nil
}

// printable keeps what a record holds from acting on a terminal.
func printable(s string) string {
	quoted := strconv.Quote(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

func (c *cli) stateCommand() *cobra.Command {
	var json bool
	cmd := &cobra.Command{
		Use: "state GROUP", GroupID: "hand", Short: "how a group stands: what is set for it, its instances, each partition", Args: cobra.ExactArgs(1),
		Long:    "State shows what scripts see with state(GROUP): its home, its settings, and each\npartition with its position, its lag, and the record that is blocked.",
		Example: "  starferry state billing\n  starferry state billing --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := c.stands(cmd.Context(), starferry.Group(args[0]))
			if err != nil {
				return err
			}
			if json {
				return asJSON(c.Out, s.GroupState)
			}
			if err := table(c.Out, []string{"", "now"}, s.rows(nil)); err != nil {
				return err
			}
			fmt.Fprintln(c.Out)
			return table(c.Out, partitionHeadings(), s.partitions())
		},
	}
	cmd.Flags().BoolVar(&json, "json", false, "print everything as JSON")
	return cmd
}

func partitionHeadings() []string {
	return []string{"partition", "instance", "next", "committed", "lag", "blocked", "held", "skipped"}
}

func (s *standing) partitions() [][]string {
	var rows [][]string
	for _, p := range s.Partitions {
		blocked := "-"
		if p.Blocked >= 0 {
			blocked = fmt.Sprintf("%d for %.1fs", p.Blocked, float64(p.BusyMS)/1000)
		}
		next := "-"
		if p.Position >= 0 {
			next = fmt.Sprint(p.Position)
		}
		rows = append(rows, []string{p.Partition, or(string(p.Instance), "nobody"), next, fmt.Sprint(p.Committed), fmt.Sprint(p.Lag), blocked, or(p.Held, "-"), fmt.Sprint(p.Skipped)})
	}
	return rows
}

// openHand keeps clusters and NATS open for a view that goes on; closed by its
// second result.
func (c *cli) openHand(ctx context.Context) (*world.Hand, func(), error) {
	cfg, nc, err := c.connect()
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	store, err := desired.Open(ctx, nc, desired.Options{})
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	f, closeAll, err := world.OpenView(cfg, nc, store, c.log(slog.LevelError))
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return world.NewHand(f), func() { _ = closeAll(); nc.Close() }, nil // nothing was written
}
