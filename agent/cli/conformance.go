package cli

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/agent/conformance"
	"github.com/starferry/starferry/scripting"
)

// clientVerb is the Go library's own client, as conformance starts it.
const clientVerb = "conformance-client"

func (c *cli) conformanceCommand() *cobra.Command {
	var o conformance.Options
	var asked struct{ json, list bool }
	cmd := &cobra.Command{
		Use: "conformance [-- COMMAND…]", GroupID: "look", Short: "try whether a client of any language keeps the protocol",
		Long: `Conformance starts two embedded Kafkas, a NATS and an agent, then your client, a
process for each instance, and walks it through switches, crashes, orders that
are old, void or unreadable, skips, throttles, pauses and rewinds. Every message
the client publishes is held against its schema, every commit against its mark.

Each scenario is one line: ok, or what was expected, what was seen, and which
section of docs/protocol.md says so. That page also says what a client is told
by its environment and what it has to write to standard output.
Without a command the Go library itself is tried. Exit code 3 if anything failed.`,
		Example: "  starferry conformance -- python3 my_client.py\n  starferry conformance --only switch,crash-decide -- ./my-client\n  starferry conformance --list",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if asked.list {
				var rows [][]string
				for _, s := range conformance.Scenarios() {
					rows = append(rows, []string{s[0], s[1]})
				}
				return table(c.Out, []string{"scenario", "what"}, rows)
			}
			if o.Command = args; len(args) == 0 {
				me, err := os.Executable()
				if err != nil {
					return fmt.Errorf("find this program: %w", err)
				}
				o.Command = []string{me, clientVerb}
			}
			return c.conformance(cmd, o, asked.json)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringSliceVar(&o.Only, "only", nil, "only these `SCENARIOS`, separated by commas")
	f.BoolVar(&asked.list, "list", false, "list the scenarios")
	f.BoolVar(&asked.json, "json", false, "print one JSON object a scenario")
	f.IntVar(&o.AtOnce, "at-once", 0, "how many scenarios are played at the same time (default 4)")
	f.DurationVar(&o.Patience, "patience", 20*time.Second, "how long what is expected is waited for")
	f.StringSliceVar(&o.Old, "old", nil, "brokers of a cluster of yours to begin on, `host:port`; scenarios make topics and groups of their own there")
	f.StringSliceVar(&o.New, "new", nil, "brokers of a cluster of yours to go to, `host:port`")
	f.StringVar(&o.NATS, "nats", "", "a NATS of yours with JetStream, `URL`")
	return cmd
}

func (c *cli) conformance(cmd *cobra.Command, o conformance.Options, asJSON bool) error {
	o.Log = c.log(slog.LevelError)
	out := json.NewEncoder(c.Out)
	o.Tell = func(r conformance.Result) {
		if asJSON {
			_ = out.Encode(r) // plain data; a broken pipe shows in the end
			return
		}
		fmt.Fprintln(c.Out, r)
	}
	results, err := conformance.Run(cmd.Context(), o)
	if err != nil {
		return err
	}
	failed := 0
	for _, r := range results {
		if !r.OK {
			failed++
		}
	}
	fmt.Fprintf(c.Err, "%d of %d scenarios ok\n", len(results)-failed, len(results))
	if failed > 0 {
		return &exitError{scripting.ExitUnmet}
	}
	return nil
}

// clientCommand is what conformance runs where no client is given.
func (c *cli) clientCommand() *cobra.Command {
	return &cobra.Command{
		Use: clientVerb, Hidden: true, Short: "the Go library's own client, started by conformance", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return conformance.RunClient(cmd.Context(), c.Getenv, c.Out, c.log(slog.LevelWarn))
		},
	}
}
