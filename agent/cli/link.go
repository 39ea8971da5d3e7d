package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/world"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/replication"
	"github.com/starferry/starferry/scripting"
)

// The deeds of the link command.
const (
	pauseLink  = "pause"
	resumeLink = "resume"
	drainLink  = "drain"
	stopLink   = "stop"
)

func (c *cli) linkCommand() *cobra.Command {
	var within time.Duration
	deeds := []string{pauseLink, resumeLink, drainLink, stopLink}
	cmd := &cobra.Command{
		Use: "link LINK [pause|resume|drain|stop]", GroupID: "look", Short: "one link: look at it, pause, resume, drain or stop it",
		Long: `Without a deed, link shows the link: what it does, and its lanes, worst first.

  pause   nothing more is copied; translations are still answered
  resume  goes on where the copy stands
  drain   copies what the source holds now, then pauses
  stop    ends the link; what was copied stays, and a link of the same name and
          settings goes on where this one ended

Retention of the source goes on while a link is paused.`,
		Example:   "  starferry link old-new\n  starferry link old-new drain --within 10m\n  starferry link old-new resume",
		ValidArgs: deeds, Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			deed := ""
			if len(args) == 2 {
				deed = args[1]
			}
			if deed != "" && !slices.Contains(deeds, deed) {
				return &scripting.UsageError{Text: fmt.Sprintf("link: cannot %q a link; want pause, resume, drain or stop", deed)}
			}
			return c.link(cmd.Context(), starferry.LinkName(args[0]), deed, within)
		},
	}
	cmd.Flags().DurationVar(&within, "within", 0, "give up after this `TIME`; 30s if left out, but for drain, which takes as long as the copy does")
	return cmd
}

func (c *cli) link(ctx context.Context, name starferry.LinkName, deed string, within time.Duration) error {
	cfg, nc, err := c.connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	links := world.NewLinks(cfg, nc, c.log(slog.LevelError))
	defer func() { _ = links.Close() }() // nothing is left to write
	if within == 0 && deed != drainLink {
		within = 30 * time.Second
	}
	if within > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, within, fmt.Errorf("it was given %s", scripting.FormatDuration(within)))
		defer cancel()
	}
	var s replication.LinkStatus
	switch deed {
	case "":
		if s, err = links.Status(ctx, name); err != nil {
			return err
		}
		drift, err := links.Drift(ctx, name)
		if err != nil {
			fmt.Fprintln(c.Err, "starferry: "+err.Error())
		}
		c.showDrift(s.Spec, drift)
		return c.showLink(s)
	case pauseLink:
		if s, err = links.Pause(ctx, name); err == nil {
			_, err = fmt.Fprintf(c.Out, "link %s is paused at lag %d; go on with: starferry link %s resume\n", name, lagOf(s), name)
		}
	case resumeLink:
		if s, err = links.Resume(ctx, name); err == nil {
			_, err = fmt.Fprintf(c.Out, "link %s copies again, lag %d\n", name, lagOf(s))
		}
	case drainLink:
		if s, err = links.Drain(ctx, name, c.draining()); err == nil {
			_, err = fmt.Fprintf(c.Out, "link %s has copied all that its source held, in %d lanes, and is paused; go on with: starferry link %s resume\n", name, len(s.Lanes), name)
		}
	case stopLink:
		if _, err = links.Status(ctx, name); errors.Is(err, builtins.ErrNotFound) {
			return err
		}
		if err = links.Stop(ctx, name); err == nil { // also if its clusters cannot be reached
			_, err = fmt.Fprintf(c.Out, "link %s is stopped; what it copied stays\n", name)
		}
	}
	return err
}

// draining tells now and then how much is left.
func (c *cli) draining() func(replication.Drained) {
	var told time.Time
	return func(d replication.Drained) {
		if d.Left == 0 || time.Since(told) < time.Second {
			return
		}
		told = time.Now()
		fmt.Fprintf(c.Err, "%d of %d lanes are not at the end yet, %d offsets are left, worst %s\n", d.Left, d.Lanes, d.Records, d.Worst)
	}
}

func lagOf(s replication.LinkStatus) (lag int64) {
	for _, l := range s.Lanes {
		lag += max(0, l.Lag)
	}
	return lag
}

// showLink says what a link does, and shows its lanes.
func (c *cli) showLink(s replication.LinkStatus) error {
	state, reason := s.State()
	fmt.Fprintf(c.Out, "link %s: %s to %s, %s", s.Spec.Name, s.Spec.Source, s.Spec.Target, state)
	if s.Rate() > 0 {
		fmt.Fprintf(c.Out, " %s", perSecond(s.Rate()))
	}
	if reason != "" {
		fmt.Fprintf(c.Out, ": %s", reason)
	}
	fmt.Fprintln(c.Out)
	for _, t := range sortedKeys(s.Problems) {
		fmt.Fprintf(c.Out, "  topic %s is not copied: %s\n", t, s.Problems[t])
	}
	for _, w := range settingsOf(s.Spec) {
		fmt.Fprintf(c.Out, "  %s\n", w)
	}
	return c.showLanes(s)
}

// maxDrift bounds how many differences are shown.
const maxDrift = 20

// showDrift tells how topics and their copies differ in settings.
func (c *cli) showDrift(s replication.LinkSpec, drift []replication.TopicDrift) {
	shown, more := 0, 0
	tell := func(format string, args ...any) {
		if shown == maxDrift {
			more++
			return
		}
		shown++
		fmt.Fprintf(c.Out, format+"\n", args...)
	}
	for _, d := range drift {
		if d.Problem != "" {
			tell("topic %s: %s", d.Topic, d.Problem)
			continue
		}
		if d.SourcePartitions != d.TargetPartitions {
			tell("topic %s has %d partitions on %s, and %s has %d on %s", d.Topic, d.SourcePartitions, s.Source, d.Target, d.TargetPartitions, s.Target)
		}
		for _, k := range d.Differs {
			tell("topic %s: %s is %s on %s and %s on %s; it is told, not changed", d.Topic, k.Name, k.Source, s.Source, k.Target, s.Target)
		}
		for _, k := range d.Left {
			tell("topic %s: %s = %s stays on %s: %s", d.Topic, k.Name, k.Value, s.Source, k.Why)
		}
	}
	if more > 0 {
		fmt.Fprintf(c.Out, "and %d more differences in settings\n", more)
	}
}

func sortedKeys(m map[starferry.Topic]string) []starferry.Topic {
	out := make([]starferry.Topic, 0, len(m))
	for t := range m {
		out = append(out, t)
	}
	slices.Sort(out)
	return out
}

// settingsOf lists what a link does beside copying.
func settingsOf(s replication.LinkSpec) (out []string) {
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, p := range s.Patterns {
		add("copies what matches %s", p)
	}
	if len(s.Rename) > 0 {
		add("renames %s", s.Rename)
	}
	if s.From != "" {
		add("from %s", s.From)
	}
	if s.Until != "" {
		add("until %s", s.Until)
	}
	if s.Sample > 0 {
		add("a sample of %v%%", s.Sample*100)
	}
	if len(s.Scrub) > 0 {
		add("scrubs %v", s.Scrub)
	}
	if s.OnLoss != "" {
		add("on loss: %s", s.OnLoss)
	}
	if s.RateBytes > 0 {
		add("at most %s/s on each shard", scripting.FormatSize(s.RateBytes))
	}
	return out
}

// perSecond writes a rate to two digits or more.
func perSecond(bytes int64) string {
	if bytes <= 0 {
		return "-"
	}
	for _, unit := range []int64{1e9, 1e6, 1e3} {
		if bytes >= 10*unit {
			bytes -= bytes % unit
			break
		}
	}
	return scripting.FormatSize(bytes) + "/s"
}

// worstFirst puts first what needs somebody, then what lags most.
func worstFirst(lanes []replication.LaneStatus) []replication.LaneStatus {
	order := []replication.LaneState{replication.Stopped, replication.Unowned, replication.Stalled, replication.Recovering, replication.Copying, replication.Paused, replication.Done}
	out := slices.Clone(lanes)
	slices.SortStableFunc(out, func(a, b replication.LaneStatus) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.State), slices.Index(order, b.State)), cmp.Compare(b.Lag, a.Lag), a.Partition.Compare(b.Partition))
	})
	return out
}

// lostOf is how many source offsets a lane had to leave out.
func lostOf(l replication.LaneStatus) string {
	if l.Lost == 0 {
		return "-"
	}
	return fmt.Sprint(l.Lost)
}
