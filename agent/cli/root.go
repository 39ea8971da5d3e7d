// Package cli is the command line: flags, tables and exit codes. What commands
// do is in the packages below agent; this one only asks and shows.
//
// # Rules
//
//   - Results go to standard output, everything else to standard error.
//   - Exit codes tell scripts what happened; see the root command's help.
//   - Ctrl-C detaches from a run. It never aborts one.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"os/user"
	"strings"
	"syscall"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/starferry/starferry/agent"
	"github.com/starferry/starferry/agent/api"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/scripting"
)

// IO is the outside world of the command line.
type IO struct {
	In       io.Reader
	Out, Err io.Writer
	Getenv   func(string) string
	Version  string
}

// Main runs one command line and returns the exit code.
func Main(ctx context.Context, args []string, world IO) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	c := &cli{IO: world}
	root := c.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var quiet *exitError
	if errors.As(err, &quiet) {
		return quiet.code
	}
	fmt.Fprintln(world.Err, "starferry: "+err.Error())
	if !c.begun {
		return scripting.ExitUsage
	}
	return scripting.ExitCode(err)
}

// exitError ends the program with a code after everything has been said.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

type cli struct {
	IO
	configFile string
	verbose    bool
	begun      bool // false: the command line itself is wrong
}

const rootHelp = `starferry moves Kafka consumer groups from one cluster to another while
records flow, and takes them back the same way: nothing lost, nothing handled
twice, with a pause of milliseconds.

Start here:
  starferry demo                 the whole story on this machine, nothing installed
  starferry config example       a configuration file with every key; keep what you need
  starferry doc                  what migration scripts can say

On your clusters, once the configuration names them:
  starferry clusters check       are they reached?
  starferry agent                carries out scripts; one process, or several
  starferry shard --id shard-1   copies topics; as many as you need
  starferry sidecar              consumes for a service in any language
  starferry plan  scripts/move_group.star -p group=orders
  starferry run   scripts/move_group.star -p group=orders
  starferry rollback RUN         undoes it; run prints the name of its RUN

Exit codes: 0 done; 1 error; 2 wrong usage; 3 the expected state was not
reached; 4 failed and rolled back; 5 rollback incomplete; 7 script error;
8 journal and script differ; 10 locked by another run.`

const firstSteps = `starferry moves live Kafka consumer groups between clusters, and back.

Begin with these three:
  starferry demo                              watch it on this machine, nothing installed
  starferry config example > starferry.yaml   has every key: keep what your clusters need
  starferry clusters check                    see that they are reached

After that an agent and a shard run (starferry agent, starferry shard), and
scripts move groups (starferry plan, run, rollback): starferry --help tells all.
`

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use: "starferry", Short: "move live Kafka consumer groups between clusters, and back", Long: rootHelp,
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRun: func(*cobra.Command, []string) { c.begun = true },
		Args:             cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprint(c.Out, firstSteps)
			return err
		},
	}
	root.SetIn(c.In)
	root.SetOut(c.Out)
	root.SetErr(c.Err)
	root.PersistentFlags().StringVar(&c.configFile, "config", "", "configuration `FILE` (default: what "+config.EnvFile+" names, or ./"+config.DefaultFile+")")
	root.PersistentFlags().BoolVarP(&c.verbose, "verbose", "v", false, "tell more about what goes on, on standard error")
	root.AddGroup(
		&cobra.Group{ID: "runs", Title: "Migrations:"},
		&cobra.Group{ID: "hand", Title: "A hand on running groups:"},
		&cobra.Group{ID: "look", Title: "Looking around:"},
		&cobra.Group{ID: "serve", Title: "Processes:"},
	)
	root.AddCommand(c.runCommand(), c.planCommand(), c.execCommand(), c.resumeCommand(), c.rollbackCommand(), c.runsCommand(), c.statusCommand(), c.watchCommand(), c.journalCommand(), c.reportCommand())
	root.AddCommand(c.consumersCommand(), c.producersCommand(), c.whereCommand(), c.homesCommand(), c.fenceCommand(), c.linksCommand(), c.linkCommand(), c.verifyCommand(), c.translateCommand(), c.mapCommand(), c.clustersCommand(), c.kafkaCommand(), c.configCommand(), c.docCommand())
	for _, v := range verbs() {
		root.AddCommand(c.verbCommand(v))
	}
	root.AddCommand(c.peekCommand(), c.stateCommand(), c.topCommand(), c.auditCommand(), c.natsCommand())
	root.AddCommand(c.conformanceCommand(), c.clientCommand())
	root.AddCommand(c.demoCommand(), c.agentCommand(), c.shardCommand(), c.sidecarCommand(), c.versionCommand())
	c.completions(root)
	return root
}

// log returns the logger of a command: warnings, or everything if asked.
func (c *cli) log(normal slog.Level) *slog.Logger {
	level := normal
	if c.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(c.Err, &slog.HandlerOptions{Level: level}))
}

func (c *cli) config() (*config.Config, error) {
	return config.Load(config.Find(c.configFile, c.Getenv), c.Getenv)
}

// connect reaches NATS as the configuration says.
func (c *cli) connect() (*config.Config, *nats.Conn, error) {
	cfg, err := c.config()
	if err != nil {
		return nil, nil, err
	}
	nc, err := agent.Connect(cfg.NATS, "starferry command line", c.log(slog.LevelError))
	return cfg, nc, err
}

// client reaches an agent.
func (c *cli) client() (*api.Client, error) {
	cfg, nc, err := c.connect()
	if err != nil {
		return nil, err
	}
	return &api.Client{Conn: nc, Operator: cfg.NATS.Operator, Hint: "start one with `starferry agent --config " + cfg.File + "`"}, nil
}

// by names whoever runs the command, for journals and audit trails.
func (c *cli) by() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	name := c.Getenv("USER")
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return name + "@" + host
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(c.Out, "starferry "+c.Version)
			return err
		},
	}
}

// params parses -p NAME=VALUE flags.
func params(flags []string) (map[string]string, error) {
	out := map[string]string{}
	for _, f := range flags {
		name, value, ok := strings.Cut(f, "=")
		if !ok || name == "" {
			return nil, &scripting.UsageError{Text: fmt.Sprintf("parameter %q: want NAME=VALUE, such as -p group=orders", f)}
		}
		if _, twice := out[name]; twice {
			return nil, &scripting.UsageError{Text: fmt.Sprintf("parameter %s is given twice", name)}
		}
		out[name] = value
	}
	return out, nil
}
