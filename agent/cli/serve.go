package cli

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/agent"
	"github.com/starferry/starferry/agent/world"
	"github.com/starferry/starferry/replication"
	"github.com/starferry/starferry/scripting"
)

// stopped takes what ended the start of a process. One that was told to stop
// while it waited has ended well.
func stopped(ctx context.Context, log *slog.Logger, err error) error {
	if ctx.Err() == nil {
		return err
	}
	log.Info("stopped before it was ready", "err", err)
	return nil
}

func (c *cli) agentCommand() *cobra.Command {
	return &cobra.Command{
		Use: "agent", GroupID: "serve", Short: "run scripts for others, until it is stopped",
		Long: `Agent carries out runs for the command line. Without nats.url in the
configuration it also runs the NATS server that shards, services and the
command line of this machine connect to; with it, it waits for that server.

Stopping an agent leaves its runs open in the journal; start one again and go
on with: starferry resume RUN`,
		Example: "  starferry agent --config starferry.yaml", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			log := c.log(slog.LevelInfo)
			a, err := agent.Open(cmd.Context(), cfg, log)
			if err != nil {
				return stopped(cmd.Context(), log, err)
			}
			log.Info("agent is ready", "nats", a.NATS().Redacted(), "clusters", len(cfg.Clusters), "data", cfg.DataDir)
			<-cmd.Context().Done()
			log.Info("agent is stopping")
			return a.Close()
		},
	}
}

func (c *cli) shardCommand() *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use: "shard", GroupID: "serve", Short: "copy topics, until it is stopped",
		Long: `Shard copies its share of all links (a link is what replicate() makes in a
script). Start as many as you need, each with an id of its own; they share the
work by themselves, and take over from each other. Started again under the same
id, a shard finds its offset maps below data_dir. It waits for NATS.`,
		Example: "  starferry shard --id shard-1", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`).MatchString(id) {
				return &scripting.UsageError{Text: "shard: the --id names a folder and a subject: letters, digits, - and _ only"}
			}
			cfg, err := c.config()
			if err != nil {
				return err
			}
			log := c.log(slog.LevelInfo)
			nc, err := agent.AwaitNATS(cmd.Context(), cfg.NATS, "starferry shard "+id, log)
			if err != nil {
				return stopped(cmd.Context(), log, err)
			}
			defer nc.Close()
			s, err := agent.OpenShard(cmd.Context(), cfg, nc, replication.ShardID(id), log)
			if err != nil {
				return stopped(cmd.Context(), log, err)
			}
			log.Info("shard is ready", "id", id, "nats", nc.ConnectedUrlRedacted())
			<-cmd.Context().Done()
			log.Info("shard is stopping", "id", id)
			return s.Close()
		},
	}
	host, err := os.Hostname()
	if err != nil {
		host = "shard"
	}
	cmd.Flags().StringVar(&id, "id", strings.ReplaceAll(host, ".", "-"), "`NAME` of this shard; one process at a time may bear it")
	return cmd
}

func (c *cli) linksCommand() *cobra.Command {
	var json bool
	cmd := &cobra.Command{
		Use: "links [LINK]", GroupID: "look", Short: "links and their lanes: state and lag of the copy",
		Long: `Links lists what is being copied; with a link, its lanes, one for each partition:
which shard copies it, how far, and what holds it up.`,
		Example: "  starferry links\n  starferry links old-new", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, nc, err := c.connect()
			if err != nil {
				return err
			}
			defer nc.Close()
			links := world.NewLinks(cfg, nc, c.log(slog.LevelError))
			defer func() { _ = links.Close() }() // nothing was written
			ctx, cancel := context.WithTimeout(cmd.Context(), lookWithin)
			defer cancel()
			all, err := links.Statuses(ctx, args)
			if err != nil {
				return err
			}
			switch {
			case json:
				return asJSON(c.Out, all)
			case len(all) == 0:
				_, err := fmt.Fprintln(c.Out, "No links. A script makes one with replicate().")
				return err
			case len(args) == 1:
				return c.showLink(all[0])
			}
			return c.showLinks(all)
		},
	}
	cmd.Flags().BoolVar(&json, "json", false, "print everything as JSON")
	return cmd
}

func (c *cli) showLinks(all []replication.LinkStatus) error {
	var rows [][]string
	for _, l := range all {
		state, reason := l.State()
		var lag, copied int64
		shards := map[replication.ShardID]bool{}
		for _, lane := range l.Lanes {
			lag += max(0, lane.Lag)
			copied += lane.Copied
			if lane.Owner != "" {
				shards[lane.Owner] = true
			}
		}
		rows = append(rows, []string{
			string(l.Spec.Name), string(l.Spec.Source), string(l.Spec.Target), string(state), fmt.Sprint(len(l.Spec.Topics)),
			fmt.Sprint(len(l.Lanes)), fmt.Sprint(len(shards)), fmt.Sprint(lag), fmt.Sprint(copied), perSecond(l.Rate()), or(reason, "-"),
		})
	}
	return table(c.Out, []string{"link", "source", "target", "state", "topics", "lanes", "shards", "lag", "copied", "rate", "reason"}, rows)
}

func (c *cli) showLanes(l replication.LinkStatus) error {
	var rows [][]string
	for _, lane := range worstFirst(l.Lanes) {
		lag := fmt.Sprint(lane.Lag)
		if lane.Lag < 0 {
			lag = "?"
		}
		rows = append(rows, []string{
			lane.Partition.String(), or(string(lane.Owner), "-"), string(lane.State), fmt.Sprint(lane.SourceNext), fmt.Sprint(lane.SourceEnd),
			fmt.Sprint(lane.TargetNext), lag, lostOf(lane), verified(lane.Proof), or(lane.Reason, "-"),
		})
	}
	return table(c.Out, []string{"lane", "shard", "state", "copied to", "source end", "target", "lag", "lost", "verified", "reason"}, rows)
}
