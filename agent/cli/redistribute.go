package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/agent/api"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/scripting"
)

func (c *cli) redistributeCommand() *cobra.Command {
	var f runFlags
	var group, partition, order, reason string
	var to []string
	var stop bool
	cmd := &cobra.Command{
		Use: "redistribute --group GROUP --partition TOPIC/N", GroupID: "hand", Short: "spread a hot partition's backlog over all instances of its group",
		Long: `Redistribute moves what a group has not handled of one partition into a topic of
the group's own, which all its instances read, and waits until it is handled.
Other groups see nothing of it. Handlers see every record as it was: its topic,
partition, offset, time and headers.

With --order key each key stays in order, and the partition's later records wait
until the backlog is handled. With --order none they go on at once.

It goes on if this command or the agent ends. Given again, it is waited for;
with --stop no more is moved.`,
		Example: `  starferry redistribute --group billing --partition orders/7 --reason INC-4411
  starferry redistribute --group billing --partition orders/7 --order none --to billing-1,billing-2`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if group == "" || partition == "" {
				return &scripting.UsageError{Text: "redistribute: say which, such as --group billing --partition orders/7"}
			}
			args := []string{strconv.Quote(group), "partition = " + strconv.Quote(partition), "order = " + strconv.Quote(order)}
			if len(to) > 0 {
				var names []string
				for _, i := range to {
					names = append(names, strconv.Quote(i))
				}
				args = append(args, "to = ["+strings.Join(names, ", ")+"]")
			}
			if stop {
				args = append(args, "stop = True")
			}
			if reason != "" {
				args = append(args, "reason = "+strconv.Quote(reason))
			}
			snippet := fmt.Sprintf("redistribute(%s)", strings.Join(args, ", "))
			reg, err := builtins.Registry(builtins.Ports{})
			if err != nil {
				return err
			}
			if _, err := scripting.LoadExec(snippet, reg); err != nil {
				return err
			}
			return c.runRequest(cmd.Context(), api.RunRequest{Snippet: snippet, By: c.by()}, f)
		},
	}
	cmd.Flags().StringVar(&group, "group", "", "the consumer `GROUP`")
	cmd.Flags().StringVar(&partition, "partition", "", "the hot partition, such as `orders/7`")
	cmd.Flags().StringVar(&order, "order", "key", "key or none: which `ORDER` is kept")
	cmd.Flags().StringSliceVar(&to, "to", nil, "the `INSTANCES` that get the backlog (default: all)")
	cmd.Flags().BoolVar(&stop, "stop", false, "move no more of one under way; what is moved is handled, the rest stays")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit trail")
	cmd.Flags().BoolVarP(&f.auto, "auto-approve", "y", false, "do not show the plan and ask")
	f.add(cmd)
	return cmd
}
