package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/scripting"
)

func (c *cli) auditCommand() *cobra.Command {
	var group string
	var since time.Duration
	var last int
	var json, instances bool
	cmd := &cobra.Command{
		Use: "audit [GROUP]", GroupID: "hand", Short: "who asked for what, when and why, and what each instance said",
		Long: `Audit reads the audit trail: every order to a group was put there before it was
carried out, and who acknowledged it afterwards.`,
		Example: "  starferry audit billing\n  starferry audit --since 24h --instances", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				group = args[0]
			}
			filter := desired.AuditFilter{Group: starferry.Group(group), Last: last}
			if since > 0 {
				filter.Since = time.Now().Add(-since)
			}
			_, nc, err := c.connect()
			if err != nil {
				return err
			}
			defer nc.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), lookWithin)
			defer cancel()
			store, err := desired.Open(ctx, nc, desired.Options{})
			if err != nil {
				return err
			}
			events, err := store.AuditLog(ctx, filter)
			if err != nil {
				return err
			}
			if json {
				if events == nil {
					events = []desired.Event{}
				}
				return asJSON(c.Out, events)
			}
			return c.showAudit(events, instances)
		},
	}
	cmd.Flags().StringVar(&group, "group", "", "only of this `GROUP`")
	cmd.Flags().DurationVar(&since, "since", 0, "only what is younger than this, such as 24h")
	cmd.Flags().IntVar(&last, "last", 50, "only the last `N`; 0: all")
	cmd.Flags().BoolVar(&instances, "instances", false, "show what each instance said")
	cmd.Flags().BoolVar(&json, "json", false, "print everything as JSON")
	c.complete(cmd, "group", "groups")
	return cmd
}

func (c *cli) showAudit(events []desired.Event, instances bool) error {
	if len(events) == 0 {
		_, err := fmt.Fprintln(c.Out, "Nothing is on record.")
		return err
	}
	var rows [][]string
	for _, e := range events {
		rows = append(rows, []string{time.UnixMilli(e.When).Local().Format(time.DateTime), string(e.Group), e.What, or(e.Who, "-"), or(e.Why, "-"), or(e.Detail, "-")})
		if !instances {
			continue
		}
		for _, i := range slices.Sorted(maps.Keys(e.Instances)) {
			rows = append(rows, []string{"", "", "", string(i), "", e.Instances[i]})
		}
	}
	_, err := fmt.Fprintln(c.Out, scripting.Table(columns(c.Out), []string{"when", "group", "what", "who", "why", "detail"}, rows))
	return err
}
