package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/agent"
	"github.com/starferry/starferry/agent/api"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/scripting"
)

// askWithin bounds requests that an agent answers at once.
const askWithin = 60 * time.Second

type runFlags struct {
	params []string
	auto   bool
	detach bool
	json   bool
}

func (f *runFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.detach, "detach", false, "print the name of the run and do not wait for its end")
	cmd.Flags().BoolVar(&f.json, "json", false, "print events and the outcome as JSON, one object a line; does not ask")
}

func (c *cli) runCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use: "run SCRIPT", GroupID: "runs", Short: "run a migration script",
		Long: `Run hands a script, and what it loads, to an agent, and follows the run. On a
terminal it shows the plan first and asks; elsewhere it begins at once.
Ctrl-C detaches; the run goes on with the agent. Parameters and their defaults
stand at the top of the script.`,
		Example: `  starferry run scripts/move_group.star -p group=orders
  starferry run scripts/move_group.star -p group=orders --auto-approve --detach`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := c.request(args[0], f.params)
			if err != nil {
				return err
			}
			return c.runRequest(cmd.Context(), r, f)
		},
	}
	cmd.Flags().StringArrayVarP(&f.params, "param", "p", nil, "parameter of the script as `NAME=VALUE`; may be repeated")
	cmd.Flags().BoolVarP(&f.auto, "auto-approve", "y", false, "do not show the plan and ask")
	f.add(cmd)
	return cmd
}

func (c *cli) execCommand() *cobra.Command {
	var f runFlags
	var snippet string
	cmd := &cobra.Command{
		Use: "exec -c 'CALL'", GroupID: "runs", Short: "carry out one line of a script",
		Long: `Exec carries out one call as a run of its own: on a terminal it is planned and
confirmed first; it is journaled, and rolled back like any other run.
starferry doc lists the calls there are.`,
		Example: `  starferry exec -c 'throttle(group = "orders", rate = "500/s")'
  starferry exec -c 'skip(group = "orders", at = "orders/7@184223", reason = "INC-1")'
  starferry doc throttle`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if strings.TrimSpace(snippet) == "" {
				return &scripting.UsageError{Text: "exec: nothing to carry out: give a call with -c, such as -c 'throttle(group = \"orders\", rate = 500)'"}
			}
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
	cmd.Flags().StringVarP(&snippet, "command", "c", "", "the `CALL` to carry out, as it would stand in a script")
	cmd.Flags().BoolVarP(&f.auto, "auto-approve", "y", false, "do not show the plan and ask")
	f.add(cmd)
	return cmd
}

func (c *cli) planCommand() *cobra.Command {
	var flags []string
	var json bool
	cmd := &cobra.Command{
		Use: "plan SCRIPT", GroupID: "runs", Short: "show what a script would do now; writes nothing",
		Long: `Plan goes through the script: it really looks, and predicts what each change
would do. It writes nothing anywhere. Exit code 3 if a check fails now.`,
		Example: `  starferry plan scripts/move_group.star -p group=orders`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := c.request(args[0], flags)
			if err != nil {
				return err
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			defer client.Conn.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), askWithin)
			defer cancel()
			plan, err := client.Plan(ctx, r)
			if err != nil {
				return err
			}
			if json {
				err = asJSON(c.Out, plan.Plan)
			} else {
				_, err = fmt.Fprintln(c.Out, strings.TrimRight(plan.Text, "\n"))
			}
			if err != nil {
				return err
			}
			if plan.Plan.Counts[scripting.FailsNow] > 0 {
				return &exitError{scripting.ExitUnmet}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVarP(&flags, "param", "p", nil, "parameter of the script as `NAME=VALUE`; may be repeated")
	cmd.Flags().BoolVar(&json, "json", false, "print the plan as JSON")
	return cmd
}

// request reads a script and everything it loads, so that wrong scripts are
// found before any agent is asked.
func (c *cli) request(file string, flags []string) (api.RunRequest, error) {
	values, err := params(flags)
	if err != nil {
		return api.RunRequest{}, err
	}
	if _, err := os.Stat(file); err != nil {
		return api.RunRequest{}, &scripting.UsageError{Text: fmt.Sprintf("script %s: %v: give the path of a .star file", file, errors.Unwrap(err))}
	}
	r, err := agent.Pack(scripting.Dir(filepath.Dir(file)), filepath.Base(file), values)
	r.By = c.by()
	return r, err
}

func (c *cli) runRequest(ctx context.Context, r api.RunRequest, f runFlags) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	defer client.Conn.Close()
	if !f.auto && !f.json && terminal(c.In) {
		if err := c.confirm(ctx, client, r); err != nil {
			return err
		}
	}
	r.Run = api.NewRunName(r.File)
	return c.follow(ctx, client, r.Run, f, func(ctx context.Context) error {
		_, err := client.Start(ctx, r)
		return err
	})
}

// confirm shows the plan and asks.
func (c *cli) confirm(ctx context.Context, client *api.Client, r api.RunRequest) error {
	asked, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	plan, err := client.Plan(asked, r)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.Err, "%s\n\nCarry this out? [y/N] ", strings.TrimRight(plan.Text, "\n"))
	if !c.yes(ctx) {
		fmt.Fprintln(c.Err, "Nothing was done.")
		return &exitError{scripting.ExitError}
	}
	return nil
}

// yes reads an answer. Ctrl-C is a no.
func (c *cli) yes(ctx context.Context) bool {
	answers := make(chan string, 1)
	go func() { // a read from a terminal cannot be called off: it ends with the process
		line, err := bufio.NewReader(c.In).ReadString('\n')
		if err != nil {
			line = ""
		}
		answers <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(c.Err)
		return false
	case answer := <-answers:
		return answer == "y" || answer == "yes"
	}
}

func (c *cli) resumeCommand() *cobra.Command {
	cmd := c.reopenCommand("resume RUN", "go on with an interrupted or stopped run; with --group, end pauses of a group",
		"Resume takes up a run whose agent died, and tries a run again that stopped.\nWhat is done is not done again. A run that was rolling back goes on with that.\n\nWith --group it ends pauses: one by its --id, those of just one topic or partition\nby --on, or all of the group.",
		func(ctx context.Context, client *api.Client, run string) error {
			return client.Resume(ctx, run, c.by())
		})
	b, run := builtinOf("resume"), cmd.RunE
	cmd.Example += "\n  starferry resume --group billing --reason \"INC-4411 is fixed\""
	var f runFlags
	cmd.Flags().BoolVarP(&f.auto, "auto-approve", "y", false, "with --group: do not show the plan and ask")
	c.verbFlags(cmd, b)
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("group") {
			return cobra.NoArgs(cmd, args)
		}
		return cobra.ExactArgs(1)(cmd, args)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !cmd.Flags().Changed("group") {
			return run(cmd, args)
		}
		f.json, f.detach = cmd.Flag("json").Value.String() == "true", cmd.Flag("detach").Value.String() == "true"
		return c.carryOut(cmd, b, f)
	}
	return cmd
}

func (c *cli) rollbackCommand() *cobra.Command {
	return c.reopenCommand("rollback RUN", "undo a run, newest effect first",
		"Rollback undoes whatever a run has changed, newest first, whether it finished or\nstopped half way. It does not ask. Call it again if it is interrupted. A run is\nrefused if its script says that there is no way back.",
		func(ctx context.Context, client *api.Client, run string) error {
			return client.Rollback(ctx, run, c.by())
		})
}

func (c *cli) reopenCommand(use, short, long string, do func(context.Context, *api.Client, string) error) *cobra.Command {
	var f runFlags
	verb, _, _ := strings.Cut(use, " ")
	cmd := &cobra.Command{
		Use: use, GroupID: "runs", Short: short, Long: long, Args: cobra.ExactArgs(1),
		Example: "  starferry runs\n  starferry " + verb + " move-group-3f9a1c",
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			defer client.Conn.Close()
			return c.follow(cmd.Context(), client, args[0], f, func(ctx context.Context) error { return do(ctx, client, args[0]) })
		},
	}
	f.add(cmd)
	return cmd
}

// follow shows a run until it ends. If begin is given it is called once events
// can be seen.
func (c *cli) follow(ctx context.Context, client *api.Client, run string, f runFlags, begin func(context.Context) error) error {
	follower, err := client.Follow(run)
	if err != nil {
		return err
	}
	defer func() { _ = follower.Close() }() // the connection closes next
	if begin != nil {
		asked, cancel := context.WithTimeout(ctx, askWithin)
		defer cancel()
		if err := begin(asked); err != nil {
			if ctx.Err() != nil {
				fmt.Fprintf(c.Err, "detached; the run may have begun. Look with: starferry status %s\n", run)
				return &exitError{scripting.ExitError}
			}
			return err
		}
	}
	if f.detach && f.json {
		return asJSONLine(c.Out, map[string]any{"run": run})
	}
	if f.detach {
		_, err := fmt.Fprintln(c.Out, run)
		return err
	}
	p := c.progress(f.json)
	if !f.json {
		fmt.Fprintf(c.Err, "run %s\n", run)
	}
	end, err := follower.Wait(ctx, p.show)
	p.end()
	if ctx.Err() != nil {
		fmt.Fprintf(c.Err, "detached; the run goes on. Look with: starferry status %s\n", run)
		return &exitError{scripting.ExitError}
	}
	if err != nil {
		return err
	}
	return c.ended(run, end, f)
}

func (c *cli) ended(run string, end *api.Ending, f runFlags) error {
	if f.json {
		if err := asJSONLine(c.Out, endOf(run, end)); err != nil {
			return err
		}
	} else if end.Text != "" {
		fmt.Fprintln(c.Err, end.Text)
	} else if end.Outcome != nil {
		fmt.Fprintln(c.Out, outcomeText(run, end.Outcome))
	}
	if end.Exit != 0 {
		return &exitError{end.Exit}
	}
	return nil
}

// endOf is the last line of JSON about a run.
func endOf(run string, end *api.Ending) map[string]any {
	last := map[string]any{"run": run, "exit": end.Exit, "error": end.Text, "outcome": end.Outcome}
	if end.Refused != nil {
		last["refused"] = end.Refused
	}
	return last
}

// outcomeText is the last line about a run that ended well. Runs that did not
// end with an error that says what is held and what to do.
func outcomeText(run string, o *scripting.Outcome) string {
	switch {
	case o.State == scripting.StateRolledBack && len(o.Undone) == 0:
		return fmt.Sprintf("run %s is rolled back: it had changed nothing, and nothing is left to undo", run)
	case o.State == scripting.StateRolledBack:
		return fmt.Sprintf("run %s is rolled back: %s undone, nothing is left to undo", run, effects(len(o.Undone)))
	case len(o.Held) == 0:
		return fmt.Sprintf("run %s is %s; nothing to take back", run, o.State)
	case o.Final != "":
		return fmt.Sprintf("run %s is %s; there is no way back from its phase %s", run, o.State, o.Final)
	}
	return fmt.Sprintf("run %s is %s; take it back with: starferry rollback %s", run, o.State, run)
}

func effects(n int) string {
	if n == 1 {
		return "1 effect"
	}
	return fmt.Sprintf("%d effects", n)
}
