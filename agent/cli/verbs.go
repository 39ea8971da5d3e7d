package cli

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/api"
	"github.com/starferry/starferry/agent/world"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/scripting"
)

// verbs are the builtins that are commands of their own, with what helps people
// to use them.
func verbs() []verb {
	return []verb{
		{"skip", "pass records that a group cannot handle, and keep them", `  starferry skip --group billing --at orders/7@184223 --reason INC-4411
  starferry skip --group billing --partition orders/7 --to end --force --reason INC-4411
  starferry skip --group billing --at orders/7@184223 --expect 3f9a1c22d0e4b871 --reason INC-4411`},
		{"unskip", "take a skip back", "  starferry unskip --group billing --id skip-3f9a1c --reason \"INC-4411 is fixed\""},
		{"throttle", "limit how fast a group handles records, or one partition of it", `  starferry throttle --group billing --rate 500/s --for 30m --reason INC-4411
  starferry throttle --group billing --parallelism 8 --reason INC-4411
  starferry throttle --group billing --rate 0/s --reason "INC-4411 is fixed"`},
		{"pause", "have a group hand out nothing, for a time or until it is resumed", `  starferry pause --group billing --for 10m --reason INC-4411
  starferry pause --group billing --on orders/7 --reason INC-4411`},
		{"rewind", "take a running group back to an offset or a time", `  starferry rewind --group billing --to 2026-01-31T18:00:00Z --reason INC-4411
  starferry rewind --group billing --to orders/7@184223 --reason INC-4411`},
		{"redistribute", "spread a hot partition's backlog over all instances of its group", `  starferry redistribute --group billing --partition orders/7 --reason INC-4411
  starferry redistribute --group billing --partition orders/7 --order none --to billing-1,billing-2
  starferry redistribute --group billing --partition orders/7 --stop --reason "INC-4411 is fixed"`},
		{"replay", "put back what skips have kept, for one group alone", "  starferry replay --group billing --skip skip-3f9a1c --reason \"INC-4411 is fixed\""},
	}
}

type verb struct{ name, short, example string }

// flagOf is a parameter's name on the command line.
func flagOf(p scripting.Param) string {
	return strings.ReplaceAll(strings.TrimRight(p.Name, "_"), "_", "-")
}

// verbFlags are the flags of a builtin's parameters.
func (c *cli) verbFlags(cmd *cobra.Command, b *scripting.Builtin, already ...string) {
	for _, p := range b.Params {
		name := flagOf(p)
		if slices.Contains(already, name) {
			continue
		}
		doc := p.Doc
		if p.Required {
			doc += " (needed)"
		}
		switch {
		case p.Type.Name == "bool":
			cmd.Flags().Bool(name, false, strings.TrimPrefix(doc, "True: "))
		case p.Type.Name == "list":
			cmd.Flags().StringSlice(name, nil, doc)
		default:
			cmd.Flags().Var(&argument{kind: p.Type.Name}, name, doc)
		}
		if p.Complete != "" {
			c.complete(cmd, name, p.Complete)
		}
	}
}

// argument is a flag's text, of a type of scripts.
type argument struct{ text, kind string }

func (a *argument) String() string     { return a.text }
func (a *argument) Set(s string) error { a.text = s; return nil }
func (a *argument) Type() string       { return a.kind }

// snippet is the call that the flags ask for.
func snippet(flags *pflag.FlagSet, b *scripting.Builtin) (string, error) {
	var args, missing []string
	for _, p := range b.Params {
		f := flags.Lookup(flagOf(p))
		switch {
		case f == nil || !f.Changed && !p.Required:
		case !f.Changed:
			missing = append(missing, "--"+f.Name)
		case f.Value.Type() == "bool":
			if f.Value.String() == "true" {
				args = append(args, p.Name+" = True")
			}
		case f.Value.Type() == "stringSlice":
			list, err := flags.GetStringSlice(f.Name)
			if err != nil {
				return "", err
			}
			for i, s := range list {
				list[i] = strconv.Quote(s)
			}
			args = append(args, p.Name+" = ["+strings.Join(list, ", ")+"]")
		default:
			if _, err := p.Type.Parse(f.Value.String()); err != nil {
				return "", &scripting.UsageError{Text: fmt.Sprintf("%s: --%s %q: %v", b.Name, f.Name, f.Value, err)}
			}
			args = append(args, p.Name+" = "+strconv.Quote(f.Value.String()))
		}
	}
	if len(missing) > 0 {
		return "", &scripting.UsageError{Text: fmt.Sprintf("%s: %s missing; see starferry %s --help", b.Name, strings.Join(missing, ", "), b.Name)}
	}
	return b.Name + "(" + strings.Join(args, ", ") + ")", nil
}

func (c *cli) verbCommand(v verb) *cobra.Command {
	b := builtinOf(v.name)
	var f runFlags
	cmd := &cobra.Command{
		Use: v.name + " --group GROUP", GroupID: "hand", Short: v.short, Example: v.example, Args: cobra.NoArgs,
		Long: b.Doc + `

It is carried out by an agent as a run of its own: on a terminal the plan and how
the group stands are shown, and you are asked; the run is journaled, and where
there is a way back starferry rollback takes it.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.carryOut(cmd, b, f) },
	}
	c.verbFlags(cmd, b)
	cmd.Flags().BoolVarP(&f.auto, "auto-approve", "y", false, "do not show the plan and ask")
	f.add(cmd)
	return cmd
}

// carryOut has an agent carry out the call that the flags ask for.
func (c *cli) carryOut(cmd *cobra.Command, b *scripting.Builtin, f runFlags) error {
	text, err := snippet(cmd.Flags(), b)
	if err != nil {
		return err
	}
	reg, err := builtins.Registry(builtins.Ports{})
	if err != nil {
		return err
	}
	if _, err := scripting.LoadExec(text, reg); err != nil {
		return err
	}
	r := api.RunRequest{Snippet: text, By: c.by()}
	if f.json || f.detach {
		return c.runRequest(cmd.Context(), r, f)
	}
	group := cmd.Flag("group").Value.String()
	before, _ := c.stands(cmd.Context(), starferry.Group(group)) //nolint:errcheck // the table is a favour; the call says what is wrong
	if !f.auto && terminal(c.In) && before != nil {
		if err := table(c.Err, []string{"", "now"}, before.rows(nil)); err != nil {
			return err
		}
		fmt.Fprintln(c.Err)
	}
	if err := c.runRequest(cmd.Context(), r, f); err != nil {
		return err
	}
	after, err := c.stands(cmd.Context(), starferry.Group(group))
	if b.Name == "skip" {
		after, err = c.freed(cmd.Context(), before, after, err)
	}
	if err != nil || before == nil {
		return nil //nolint:nilerr // it is done; what follows is a favour
	}
	return table(c.Out, []string{"", "before", "after"}, before.rows(after))
}

func builtinOf(name string) *scripting.Builtin {
	reg, err := builtins.Registry(builtins.Ports{})
	if err != nil {
		return &scripting.Builtin{Name: name}
	}
	b, ok := reg.Builtin(name)
	if !ok {
		return &scripting.Builtin{Name: name}
	}
	return b
}

// freedWithin is how long a skip may take to show.
const freedWithin = 2 * time.Second

// freed looks again while the same records block a group as before a skip: the
// instances say a moment later that they are past them.
func (c *cli) freed(ctx context.Context, before, after *standing, err error) (*standing, error) {
	limit := time.NewTimer(freedWithin)
	defer limit.Stop()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for err == nil && before != nil && len(after.blocked()) > 0 && slices.Equal(before.blocked(), after.blocked()) {
		select {
		case <-ctx.Done():
			return after, nil
		case <-limit.C:
			return after, nil
		case <-again.C:
			after, err = c.stands(ctx, after.Group)
		}
	}
	return after, err
}

// withHand reaches clusters and NATS for a look that needs no agent.
func (c *cli) withHand(ctx context.Context, do func(context.Context, builtins.Ports, *desired.Store) error) error {
	cfg, nc, err := c.connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	store, err := desired.Open(ctx, nc, desired.Options{})
	if err != nil {
		return err
	}
	f, closeAll, err := world.OpenView(cfg, nc, store, c.log(slog.LevelError))
	if err != nil {
		return err
	}
	defer func() { _ = closeAll() }() // nothing was written
	hand := world.NewHand(f)
	return do(ctx, builtins.Ports{Hand: hand, Remote: hand}, store)
}

func (c *cli) stands(ctx context.Context, g starferry.Group) (*standing, error) {
	var s standing
	err := c.withHand(ctx, func(ctx context.Context, p builtins.Ports, _ *desired.Store) (err error) {
		s.GroupState, err = p.Remote.State(ctx, g)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &s, nil
}

// standing is how a group stands, for a table.
type standing struct{ builtins.GroupState }

// rows are how a group stands; beside how it stands later, if that is given.
func (s *standing) rows(later *standing) [][]string {
	rows := s.column()
	if later == nil {
		return rows
	}
	for i, r := range later.column() {
		rows[i] = append(rows[i], r[1])
	}
	return rows
}

// limits are those in force.
func (s *standing) limits() string {
	limits := s.Settings.Limit.String()
	for tp, l := range s.Settings.Limits {
		limits += fmt.Sprintf("; %s: %s", tp, l)
	}
	return limits
}

// paused is what is paused now.
func (s *standing) paused() string {
	var paused []string
	for _, h := range s.Settings.Holds {
		if h.Until == 0 || h.Until > time.Now().UnixMilli() {
			paused = append(paused, or(h.On, "all"))
		}
	}
	return or(strings.Join(paused, ", "), "-")
}

// blocked are the records that handlers have long been busy with.
func (s *standing) blocked() (records []string) {
	for _, p := range s.Partitions {
		if p.Blocked >= 0 {
			records = append(records, fmt.Sprintf("%s@%d", p.Partition, p.Blocked))
		}
	}
	return records
}

func (s *standing) column() [][]string {
	var skipped int64
	for _, p := range s.Partitions {
		skipped += p.Skipped
	}
	return [][]string{
		{"group", string(s.Group)},
		{"home", fmt.Sprintf("%s, epoch %d, %s", s.Home, s.Epoch, s.Phase)},
		{"instances", strconv.Itoa(len(s.Instances))},
		{"settings", fmt.Sprintf("revision %d", s.Settings.Revision)},
		{"limit", s.limits()},
		{"paused", s.paused()},
		{"skips set", strconv.Itoa(len(s.Settings.Skips))},
		{"records skipped", strconv.FormatInt(skipped, 10)},
		{"redistributed", s.Settings.Redistribution.String()},
		{"blocked", or(strings.Join(s.blocked(), ", "), "-")},
		{"lag", strconv.FormatInt(s.Lag, 10)},
	}
}
