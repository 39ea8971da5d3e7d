package cli

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/control/desired"
)

// complete has shells complete a flag by what lives now; partitions and positions
// are those of the group that is named already.
func (c *cli) complete(cmd *cobra.Command, flag, what string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) { // the flag is there
		var group starferry.Group
		if f := cmd.Flag("group"); f != nil {
			group = starferry.Group(f.Value.String())
		}
		kinds := map[string]namer{"groups": groupNames, "topics": topicNames, "partitions": partitionNames(group), "positions": positionNames(group)}
		switch list, ok := kinds[what]; {
		case what == "clusters":
			return c.clusterNames(cmd, nil, begun)
		case ok:
			return c.names(begun, []namer{list}), cobra.ShellCompDirectiveNoFileComp
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	})
}

// partitionNames are what the group's instances have.
func partitionNames(g starferry.Group) namer {
	return func(ctx context.Context, _ *config.Config, nc *nats.Conn) (names []string, err error) {
		store, err := desired.Open(ctx, nc, desired.Options{})
		if err != nil {
			return nil, err
		}
		leases, err := store.Leases(ctx, g)
		for _, l := range leases {
			for _, p := range l.Partitions {
				names = append(names, p.Partition.String())
			}
		}
		return names, err
	}
}

// positionNames are where the group is blocked, or stands.
func positionNames(g starferry.Group) namer {
	return func(ctx context.Context, _ *config.Config, nc *nats.Conn) (names []string, err error) {
		store, err := desired.Open(ctx, nc, desired.Options{})
		if err != nil {
			return nil, err
		}
		leases, err := store.Leases(ctx, g)
		for _, l := range leases {
			for _, p := range l.Partitions {
				if p.Blocked != nil {
					names = append(names, fmt.Sprintf("%s@%d\tblocked on %s", p.Partition, *p.Blocked, l.Instance))
				} else {
					names = append(names, fmt.Sprintf("%s@%d\tcommitted", p.Partition, p.Committed))
				}
			}
		}
		return names, err
	}
}
