package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/agent/api"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/agent/world"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/scripting"
)

func (c *cli) clustersCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "clusters", GroupID: "look", Short: "the configured clusters", Args: cobra.NoArgs, RunE: help}
	cmd.AddCommand(&cobra.Command{
		Use: "check", Short: "reach every cluster and say what it is",
		Long:    "Check connects to every cluster of the configuration with its TLS and SASL.\nExit code 3 if one cannot be reached.",
		Example: "  starferry clusters check", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.checkClusters(cmd.Context()) },
	})
	return cmd
}

func (c *cli) checkClusters(ctx context.Context) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	clusters := world.NewClusters(cfg)
	defer func() { _ = clusters.Close() }() // nothing was written
	var rows [][]string
	var problems []string
	for _, name := range cfg.Names() {
		one, cancel := context.WithTimeout(ctx, lookWithin)
		info, err := clusters.Describe(one, name)
		cancel()
		addresses := strings.Join(cfg.Clusters[name].Brokers, ",")
		if err != nil {
			rows = append(rows, []string{string(name), "no", addresses, "-", "-", "-"})
			problems = append(problems, err.Error())
			continue
		}
		rows = append(rows, []string{string(name), "yes", addresses, fmt.Sprint(info.Brokers), info.Version, info.ID})
	}
	if err := table(c.Out, []string{"cluster", "reached", "addresses", "brokers", "kafka", "id"}, rows); err != nil {
		return err
	}
	for _, p := range problems {
		fmt.Fprintln(c.Err, "starferry: "+p)
	}
	if len(problems) > 0 {
		return &exitError{scripting.ExitUnmet}
	}
	return nil
}

func (c *cli) configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", GroupID: "look", Short: "the configuration file",
		Long: `One file configures agents, shards and the command line. It is found by --config,
by the environment variable STARFERRY_CONFIG, or as ./starferry.yaml.`,
		Args: cobra.NoArgs, RunE: help}
	cmd.AddCommand(&cobra.Command{
		Use: "check", Short: "check the file and print what it means; connects to nothing", Args: cobra.NoArgs,
		Example: "  starferry config check --config starferry.yaml",
		RunE: func(*cobra.Command, []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			return c.showConfig(cfg)
		},
	}, &cobra.Command{
		Use: "example", Short: "print a file that shows every key", Args: cobra.NoArgs,
		Example: "  starferry config example > starferry.yaml",
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprint(c.Out, config.Example)
			return err
		},
	})
	return cmd
}

func (c *cli) showConfig(cfg *config.Config) error {
	var rows [][]string
	for _, name := range cfg.Names() {
		cl := cfg.Clusters[name]
		security := "plain text"
		if cl.TLS != nil {
			security = "TLS"
		}
		if cl.SASL != nil {
			security += ", " + cl.SASL.Mechanism + " as " + cl.SASL.Username
		}
		rows = append(rows, []string{string(name), strings.Join(cl.Brokers, ","), security})
	}
	if err := table(c.Out, []string{"cluster", "addresses", "security"}, rows); err != nil {
		return err
	}
	where := cfg.NATS.Redacted()
	if cfg.NATS.Embedded() {
		where += " (the agent's own)"
	}
	_, err := fmt.Fprintf(c.Out, "\nNATS            %s\ndata directory  %s\nbuckets a link  %d\n\n%s is fine.\n", where, cfg.DataDir, cfg.Shards.Buckets, cfg.File)
	return err
}

func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

func (c *cli) docCommand() *cobra.Command {
	return &cobra.Command{
		Use: "doc [BUILTIN]", GroupID: "look", Short: "what migration scripts can say",
		Long: `Doc lists the calls that scripts and exec can make, or explains one with its
parameters and an example. Classes: declare (top level of a script), read and
check (look only), wait (look until it is so), effect (change something, can be
undone), hold (an effect that may end by itself).`,
		Example: "  starferry doc\n  starferry doc switch_consumer", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			reg, err := builtins.Registry(builtins.Ports{})
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return c.listBuiltins(reg)
			}
			b, ok := reg.Builtin(args[0])
			if !ok {
				var names []string
				for _, b := range reg.Builtins() {
					names = append(names, b.Name)
				}
				return &scripting.UsageError{Text: fmt.Sprintf("no builtin %s%s; `starferry doc` lists them", args[0], config.Suggest(args[0], names))}
			}
			return c.showBuiltin(b)
		},
	}
}

func (c *cli) listBuiltins(reg *scripting.Registry) error {
	var rows [][]string
	for _, b := range reg.Builtins() {
		summary, _, _ := strings.Cut(b.Doc, "\n")
		rows = append(rows, []string{b.Name, string(b.Class), summary})
	}
	return table(c.Out, []string{"builtin", "class", "what it does"}, rows)
}

func (c *cli) showBuiltin(b *scripting.Builtin) error {
	var out strings.Builder
	var names []string
	for _, p := range b.Params {
		switch {
		case p.Required:
			names = append(names, p.Name)
		case p.Default == nil:
			names = append(names, p.Name+"=…")
		default:
			names = append(names, fmt.Sprintf("%s=%v", p.Name, p.Default))
		}
	}
	fmt.Fprintf(&out, "%s(%s)    %s\n\n%s\n", b.Name, strings.Join(names, ", "), b.Class, strings.TrimSpace(b.Doc))
	if len(b.Params) > 0 {
		out.WriteString("\n")
		for _, p := range b.Params {
			fmt.Fprintf(&out, "  %-12s %-10s %s\n", p.Name, p.Type.Name, p.Doc)
		}
	}
	if b.Returns != "" {
		fmt.Fprintf(&out, "\nReturns %s\n", strings.TrimSpace(b.Returns))
	}
	if b.Example != "" {
		fmt.Fprintf(&out, "\nExample:\n  %s\n", strings.ReplaceAll(strings.TrimSpace(b.Example), "\n", "\n  "))
	}
	_, err := fmt.Fprint(c.Out, out.String())
	return err
}

func (c *cli) runsCommand() *cobra.Command {
	var json bool
	cmd := &cobra.Command{
		Use: "runs", GroupID: "runs", Short: "all runs and where they stand",
		Long: `Runs lists all runs, oldest first. States: open (running, or its agent is gone),
finished, failed (stopped: resume it or roll it back), rolling_back (also one
that could not be undone to its end), rolled_back.`,
		Args: cobra.NoArgs, Example: "  starferry runs",
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			defer client.Conn.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), askWithin)
			defer cancel()
			runs, err := client.Runs(ctx)
			if err != nil {
				return err
			}
			if json {
				return asJSON(c.Out, runs)
			}
			if len(runs) == 0 {
				_, err := fmt.Fprintln(c.Out, "No runs yet. Start one with: starferry run scripts/move_group.star -p group=NAME")
				return err
			}
			var rows [][]string
			for _, r := range runs {
				rows = append(rows, []string{r.Run, r.Name, string(r.State), phaseOf(r), r.Started.Local().Format(time.DateTime), r.By})
			}
			return table(c.Out, []string{"run", "name", "state", "phase", "started", "by"}, rows)
		},
	}
	cmd.Flags().BoolVar(&json, "json", false, "print everything as JSON")
	return cmd
}

func phaseOf(s scripting.Status) string {
	for _, p := range s.Phases {
		if p.State == "open" || p.State == "failed" {
			return p.Name
		}
	}
	return "-"
}

func (c *cli) statusCommand() *cobra.Command {
	var json bool
	cmd := &cobra.Command{
		Use: "status [RUN]", GroupID: "runs", Short: "where a run stands, what is changed now, what to do next",
		Long:    "Status tells where a run stands, phase by phase, what it has changed and holds\nnow, and which commands come next; without a name, of the newest run.",
		Example: "  starferry status move-group-3f9a1c", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withRun(cmd, args, func(ctx context.Context, client *api.Client, run string) error {
				s, err := client.Status(ctx, run)
				if err != nil {
					return err
				}
				now := underWay(ctx, client, run)
				if json {
					return asJSON(c.Out, runStatus{s, now})
				}
				return c.showStatus(s, now)
			})
		},
	}
	cmd.Flags().BoolVar(&json, "json", false, "print everything as JSON")
	return cmd
}

func (c *cli) showStatus(s scripting.Status, now *scripting.Event) error {
	fmt.Fprintf(c.Out, "run      %s  (%s, %s)\nstate    %s\nstarted  %s by %s\n\n", s.Run, s.Name, s.File, s.State, s.Started.Local().Format(time.DateTime), s.By)
	var rows [][]string
	for _, p := range s.Phases {
		took := "-"
		if !p.Ended.IsZero() {
			took = p.Ended.Sub(p.Started).Round(time.Millisecond).String()
		}
		rows = append(rows, []string{p.Name, p.State, took, or(p.Error, "-")})
	}
	if err := table(c.Out, []string{"phase", "state", "took", "error"}, rows); err != nil {
		return err
	}
	c.showForks(s.Phases)
	if s.Open != "" {
		fmt.Fprintln(c.Out, "\nunder way, result not known yet:", s.Open)
	}
	if now != nil {
		c.showWaits(now)
	}
	if len(s.Held) > 0 {
		fmt.Fprintln(c.Out, "\nchanged and held now:")
		for _, h := range s.Held {
			fmt.Fprintf(c.Out, "  %s  %s\n", h.Step, h.Text)
		}
	}
	switch {
	case s.Refused != nil:
		fmt.Fprintln(c.Out, "\n"+s.Refused.Error())
	case s.Error != "":
		fmt.Fprintln(c.Out, "\n"+s.Error)
	}
	if len(s.Next) > 0 {
		fmt.Fprintln(c.Out, "\nnext:")
		for _, n := range s.Next {
			fmt.Fprintln(c.Out, "  "+n)
		}
	}
	return nil
}

// showForks prints what runs branch by branch: a line for each parallel, and the
// branches of those in which something failed or goes on.
func (c *cli) showForks(phases []scripting.PhaseStatus) {
	var rows [][]string
	var tables []string
	for _, p := range phases {
		for _, f := range p.Forks {
			title := or(f.Title, f.Step)
			rows = append(rows, []string{p.Name, title, f.Counts()})
			if !f.Calm() {
				tables = append(tables, title+":\n"+f.Table())
			}
		}
	}
	if len(rows) == 0 {
		return
	}
	fmt.Fprintln(c.Out, "\n"+scripting.Table(scripting.Width, []string{"phase", "in parallel", "branches"}, rows))
	for _, t := range tables {
		fmt.Fprintln(c.Out, "\n"+t)
	}
}

func (c *cli) journalCommand() *cobra.Command {
	var json bool
	cmd := &cobra.Command{
		Use: "journal RUN", GroupID: "runs", Short: "every step of a run, as its journal has it",
		Long:    "Journal prints what a run did, step by step and with results, whether it goes on\nor ended long ago.",
		Example: "  starferry journal move-group-3f9a1c", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withRun(cmd, args, func(ctx context.Context, client *api.Client, run string) error {
				events, err := client.History(ctx, run)
				if err != nil {
					return err
				}
				p := &progress{w: c.Out, colour: c.colour() && terminal(c.Out)}
				if json {
					p.json = c.Out
				}
				for _, e := range events {
					p.show(e)
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&json, "json", false, "print one JSON object a line")
	return cmd
}
