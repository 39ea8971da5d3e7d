package cli

import (
	"context"
	"log/slog"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/starferry/starferry/agent/api"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/agent/world"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/scripting"
)

// sight is what commands see without an agent: the desired state in NATS and the
// clusters, which are reached when they are first asked.
type sight struct {
	cfg   *config.Config
	nc    *nats.Conn
	store *desired.Store
	fleet *fleet.Fleet
	close func() error
}

// look opens a sight.
func (c *cli) look(ctx context.Context) (*sight, error) {
	cfg, nc, err := c.connect()
	if err != nil {
		return nil, err
	}
	s := &sight{cfg: cfg, nc: nc}
	if s.store, err = desired.Open(ctx, nc, desired.Options{}); err == nil {
		s.fleet, s.close, err = world.OpenView(cfg, nc, s.store, c.log(slog.LevelError))
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return s, nil
}

// Close ends all connections. Nothing is left to write.
func (s *sight) Close() {
	_ = s.close()
	s.nc.Close()
}

// withRun hands f an agent and the run that is named, or the newest, and bounds
// what f asks.
func (c *cli) withRun(cmd *cobra.Command, args []string, f func(ctx context.Context, client *api.Client, run string) error) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	defer client.Conn.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), askWithin)
	defer cancel()
	if len(args) > 0 {
		return f(ctx, client, args[0])
	}
	runs, err := client.Runs(ctx)
	if err != nil {
		return err
	}
	if len(runs) == 0 {
		return &scripting.UsageError{Text: "there are no runs yet; start one with: starferry run scripts/move_group.star -p group=NAME"}
	}
	return f(ctx, client, runs[len(runs)-1].Run)
}
