package cli

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/api"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/agent/world"
	"github.com/starferry/starferry/control/desired"
)

// completeWithin bounds what a shell waits for names. Without NATS there are
// none.
const completeWithin = 2 * time.Second

// namer lists names of one kind that live now.
type namer func(ctx context.Context, cfg *config.Config, nc *nats.Conn) ([]string, error)

// completions has shells complete the first argument of commands with names that
// live now.
func (c *cli) completions(root *cobra.Command) {
	for path, kinds := range map[string][]namer{
		"where": {groupNames, topicNames}, "consumers": {groupNames}, "report": {groupNames, runNames},
		"state": {groupNames}, "top": {groupNames}, "audit": {groupNames},
		"fence": {groupNames}, "fence lift": {fencedNames},
		"status": {runNames}, "watch": {runNames}, "journal": {runNames}, "resume": {runNames}, "rollback": {runNames},
		"links": {linkNames}, "link": {linkNames}, "verify": {linkNames}, "translate": {linkNames},
		"map export": {linkNames}, "map import": {linkNames},
	} {
		cmd, _, err := root.Find(strings.Fields(path))
		if err != nil {
			panic("completions: no command " + path) // a mistake of ours, found by any test of the command line
		}
		words := cmd.ValidArgs
		cmd.ValidArgs = nil
		cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			switch {
			case len(args) == 0:
				return c.names(begun, kinds), cobra.ShellCompDirectiveNoFileComp
			case len(args) == 1 && len(words) > 0:
				return fitting(words, begun), cobra.ShellCompDirectiveNoFileComp
			case path == "map import":
				return nil, cobra.ShellCompDirectiveDefault // a file
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		if cmd.Flags().Lookup("cluster") != nil {
			_ = cmd.RegisterFlagCompletionFunc("cluster", c.clusterNames) // the flag is there
		}
	}
}

// names asks NATS. Whoever presses a key wants names or nothing, and no errors.
func (c *cli) names(begun string, kinds []namer) []string {
	ctx, cancel := context.WithTimeout(context.Background(), completeWithin)
	defer cancel()
	cfg, nc, err := c.connect()
	if err != nil {
		return nil
	}
	defer nc.Close()
	var all []string
	for _, list := range kinds {
		if some, err := list(ctx, cfg, nc); err == nil {
			all = append(all, some...)
		}
	}
	return fitting(all, begun)
}

func fitting(all []string, begun string) []string {
	out := slices.DeleteFunc(slices.Clone(all), func(s string) bool { return !strings.HasPrefix(s, begun) })
	slices.Sort(out)
	return slices.Compact(out)
}

func (c *cli) clusterNames(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	cfg, err := c.config()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return fitting(textsOf(cfg.Names()), begun), cobra.ShellCompDirectiveNoFileComp
}

func groupNames(ctx context.Context, _ *config.Config, nc *nats.Conn) ([]string, error) {
	store, err := desired.Open(ctx, nc, desired.Options{})
	if err != nil {
		return nil, err
	}
	stored, err := store.Groups(ctx)
	if err != nil {
		return nil, err
	}
	live, err := store.LiveGroups(ctx)
	return textsOf(append(stored, live...)), err
}

func fencedNames(ctx context.Context, _ *config.Config, nc *nats.Conn) (names []string, err error) {
	store, err := desired.Open(ctx, nc, desired.Options{})
	if err != nil {
		return nil, err
	}
	fences, err := store.AllFences(ctx)
	for _, f := range fences {
		if len(f.On) > 0 {
			names = append(names, string(f.Group))
		}
	}
	return names, err
}

// topicNames are those that live instances read, and those that were imported.
func topicNames(ctx context.Context, _ *config.Config, nc *nats.Conn) ([]string, error) {
	store, err := desired.Open(ctx, nc, desired.Options{})
	if err != nil {
		return nil, err
	}
	all := map[starferry.Topic]bool{}
	leases, _, err := store.AllLeases(ctx)
	for _, ls := range leases {
		for _, l := range ls {
			for _, t := range l.Topics {
				all[t] = true
			}
		}
	}
	if err != nil {
		return nil, err
	}
	homes, _, err := store.Homes(ctx)
	for t := range homes.Topics {
		all[t] = true
	}
	return textsOf(slices.Collect(maps.Keys(all))), err
}

func linkNames(ctx context.Context, cfg *config.Config, nc *nats.Conn) ([]string, error) {
	links := world.NewLinks(cfg, nc, slog.New(slog.DiscardHandler))
	defer func() { _ = links.Close() }() // nothing was written
	names, err := links.All(ctx)
	return textsOf(names), err
}

func runNames(ctx context.Context, cfg *config.Config, nc *nats.Conn) (names []string, err error) {
	runs, err := (&api.Client{Conn: nc, Operator: cfg.NATS.Operator}).Runs(ctx)
	for _, r := range runs {
		names = append(names, r.Run)
	}
	return names, err
}
