package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/scripting"
)

// toldSwitch is a switch as the report command gives it to programs.
type toldSwitch struct {
	fleet.Story
	Places []fleet.Place `json:"places"`
}

func (c *cli) reportCommand() *cobra.Command {
	var json, all bool
	var partitions int
	cmd := &cobra.Command{
		Use: "report GROUP|RUN", GroupID: "runs", Short: "what a switch did: cut, places, pauses, who took part",
		Long: `Report shows the last switch of a group, or the switches of a run, as the audit
trail has them: those that were made, and why others were not.`,
		Example: "  starferry report orders\n  starferry report move-group-3f9a1c --json", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), lookWithin)
			defer cancel()
			see, err := c.look(ctx)
			if err != nil {
				return err
			}
			defer see.Close()
			stories, err := storiesOf(ctx, see.store, args[0], all)
			if err != nil {
				return err
			}
			if json {
				told := []toldSwitch{}
				for _, s := range stories {
					t := toldSwitch{s, s.Places()}
					t.Positions = nil // the places say it
					told = append(told, t)
				}
				return asJSON(c.Out, told)
			}
			for i, s := range stories {
				if i > 0 {
					fmt.Fprintln(c.Out)
				}
				showStory(c.Out, s, partitions)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&json, "json", false, "print everything as JSON")
	cmd.Flags().BoolVar(&all, "all", false, "all switches of the group, oldest first")
	cmd.Flags().IntVar(&partitions, "partitions", 20, "show at most `N` partitions of each")
	return cmd
}

// storiesOf finds the switches of a run, or the last one of a group.
func storiesOf(ctx context.Context, store *desired.Store, name string, all bool) ([]fleet.Story, error) {
	events, err := store.AuditLog(ctx, desired.AuditFilter{Group: starferry.Group(name)})
	if err != nil {
		return nil, err
	}
	stories, err := fleet.Stories(events)
	if err != nil {
		return nil, err
	}
	if len(stories) > 0 {
		if !all {
			stories = stories[len(stories)-1:]
		}
		return stories, nil
	}
	if events, err = store.AuditLog(ctx, desired.AuditFilter{}); err != nil {
		return nil, err
	}
	events = slices.DeleteFunc(events, func(e desired.Event) bool { return !strings.HasPrefix(e.Why, "run "+name+",") })
	if stories, err = fleet.Stories(events); err != nil {
		return nil, err
	}
	if len(stories) == 0 {
		return nil, &scripting.UsageError{Text: fmt.Sprintf("no switch of a group or run %q is in the audit trail; see starferry consumers for groups, starferry runs for runs", name)}
	}
	return stories, nil
}

func showStory(w io.Writer, s fleet.Story, partitions int) {
	outcome := fmt.Sprintf("moved to %s, epoch %d", s.Target, s.Epoch)
	if s.Failure != nil {
		outcome = "not moved"
	}
	fmt.Fprintf(w, "group     %s\nswitch    %s -> %s: %s\n", s.Group, s.Source, s.Target, outcome)
	if s.Began > 0 {
		began := time.UnixMilli(s.Began).Local()
		fmt.Fprintf(w, "when      %s, took %s\n", began.Format(time.DateTime), time.Duration(s.Ended-s.Began)*time.Millisecond)
	}
	fmt.Fprintf(w, "asked by  %s\n", or(s.By, "-"))
	if s.Why != "" {
		fmt.Fprintf(w, "why       %s\n", s.Why)
	}
	showPhases(w, s)
	if s.Failure != nil {
		r := scripting.RefusedError{Op: or(s.Failure.Phase, "switch"), Expected: s.Failure.Expected, Stands: s.Failure.Stands, Do: s.Failure.Do}
		for _, row := range s.Failure.Rows {
			r.Rows = append(r.Rows, scripting.Row(row))
		}
		fmt.Fprintf(w, "\n%s\n", r.Error())
		return
	}
	showMembers(w, s)
	showPlaces(w, s, partitions)
	showList(w, "may have been handled twice", s.Repeats)
	showList(w, "notes", s.Notes)
}

func showPhases(w io.Writer, s fleet.Story) {
	var parts []string
	for _, p := range s.Phases {
		text := fmt.Sprintf("%s %.0f ms", p.Phase, p.MS)
		if p.Times > 1 {
			text += fmt.Sprintf(" (%d times)", p.Times)
		}
		parts = append(parts, text)
	}
	if len(parts) > 0 {
		fmt.Fprintln(w, "phases    "+strings.Join(parts, ", "))
	}
	if s.Failure == nil && s.Partitions > 0 {
		fmt.Fprintf(w, "pause     %.0f ms (p50), %.0f ms (longest) between records of a partition; %.0f ms from drain to decision\n",
			s.PauseP50MS, s.PauseMaxMS, s.ControlMS)
	}
}

func showMembers(w io.Writer, s fleet.Story) {
	var rows [][]string
	for _, m := range s.Members {
		row := []string{string(m.Instance), or(m.Host, "-"), m.Boot, "-", "-", "-"}
		if m.Old != nil {
			row[3] = fmt.Sprintf("generation %d", m.Old.Generation)
		}
		if m.New != nil {
			row[4], row[5] = fmt.Sprintf("generation %d", m.New.Generation), fmt.Sprint(m.New.Partitions)
		}
		rows = append(rows, row)
	}
	if len(rows) > 0 {
		fmt.Fprintln(w, "\n"+scripting.Table(scripting.Width, []string{"instance", "host", "boot", "on " + string(s.Source), "on " + string(s.Target), "partitions"}, rows))
	}
	rows = nil
	for _, e := range s.Evicted {
		perhaps := []string{}
		for _, x := range e.Perhaps {
			perhaps = append(perhaps, fmt.Sprintf("%s [%d, %d)", x.Partition, x.Range.From, x.Range.To))
		}
		what := or(strings.Join(perhaps, ", "), "nothing")
		if !e.Known {
			what = "not known: from its commits on"
		}
		rows = append(rows, []string{string(e.Instance), string(e.Cluster), e.Phase, e.Member, what})
	}
	if len(rows) > 0 {
		fmt.Fprintln(w, "\n"+scripting.Table(scripting.Width, []string{"evicted", "from", "in", "member", "perhaps handled"}, rows))
	}
}

func showPlaces(w io.Writer, s fleet.Story, most int) {
	places := s.Places()
	var rows [][]string
	for _, p := range places[:min(len(places), max(most, 0))] {
		how, pause := "exact", "-"
		if !p.Exact {
			how = "behind a marker or hole"
		}
		if p.PauseMS != nil {
			pause = fmt.Sprintf("%.0f ms", *p.PauseMS)
		}
		rows = append(rows, []string{p.Partition.String(), fmt.Sprint(p.Source), fmt.Sprint(p.Target), how, pause})
	}
	if len(rows) > 0 {
		fmt.Fprintln(w, "\n"+scripting.Table(scripting.Width, []string{"partition", "next on " + string(s.Source), "next on " + string(s.Target), "place", "pause"}, rows))
	}
	if n := s.Partitions - len(rows); n > 0 {
		fmt.Fprintf(w, "and %d more partitions: --partitions, or --json\n", n)
	}
}

func showList(w io.Writer, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintln(w, "\n"+title+":")
	for _, l := range lines {
		fmt.Fprintln(w, "  "+l)
	}
}
