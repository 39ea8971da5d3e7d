package cli

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/world"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/scripting"
)

func (c *cli) translateCommand() *cobra.Command {
	var group, at string
	var topics []string
	var back, json bool
	cmd := &cobra.Command{
		Use: "translate LINK [TOPIC/PARTITION@OFFSET…]", GroupID: "look", Short: "where records went over a link, and where they came from",
		Long: `Translate asks the shards where single offsets, a group's committed place, or the
first records of a time are on the other side of a link. It changes nothing.

Statuses: exact; in_hole (not copied, for the reason given: the place is that of
the next record that is); at_end (the copy has to go on first, by BEHIND);
before_start (older than what the map remembers); unknown (cannot be proven).
Exit code 3 if a partition has no final place.`,
		Example: `  starferry translate old-new orders/7@184223
  starferry translate old-new --group billing
  starferry translate old-new --at 2026-01-02T03:04:05Z --topic orders
  starferry translate old-new --back --group billing`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := builtins.TranslateRequest{Link: starferry.LinkName(args[0]), Group: starferry.Group(group), Back: back}
			for _, t := range topics {
				q.Topics = append(q.Topics, starferry.Topic(t))
			}
			for _, s := range args[1:] {
				p, err := starferry.ParsePosition(s)
				if err != nil {
					return &scripting.UsageError{Text: err.Error()}
				}
				q.Offsets = append(q.Offsets, p)
			}
			if at != "" {
				t, err := builtins.ParseTime(at)
				if err != nil {
					return &scripting.UsageError{Text: "--at: " + err.Error()}
				}
				q.At = t
			}
			return c.translate(cmd.Context(), q, json)
		},
	}
	cmd.Flags().StringVar(&group, "group", "", "the place that `GROUP` has committed")
	cmd.Flags().StringVar(&at, "at", "", "the first records of `TIME` (RFC 3339, or milliseconds since 1970) or later")
	cmd.Flags().StringArrayVar(&topics, "topic", nil, "only this `TOPIC`, with --group or --at; may be repeated")
	cmd.Flags().BoolVar(&back, "back", false, "from the link's target to its source")
	cmd.Flags().BoolVar(&json, "json", false, "print everything as JSON")
	return cmd
}

func (c *cli) translate(ctx context.Context, q builtins.TranslateRequest, json bool) error {
	cfg, nc, err := c.connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	links := world.NewLinks(cfg, nc, c.log(slog.LevelError))
	defer func() { _ = links.Close() }() // nothing was written
	clusters := world.NewClusters(cfg)
	defer func() { _ = clusters.Close() }() // nothing was written
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	a, err := builtins.Ports{Clusters: clusters, Times: clusters, Copier: links}.Translate(ctx, q)
	if err != nil {
		return err
	}
	if json {
		err = asJSON(c.Out, a)
	} else {
		err = c.showTranslation(a)
	}
	if err == nil && !a.Exact {
		return &exitError{scripting.ExitUnmet}
	}
	return err
}

func (c *cli) showTranslation(a builtins.TranslateAnswer) error {
	if len(a.Asked) == 0 {
		_, err := fmt.Fprintln(c.Out, "Nothing to translate: there is no such place on the side that was asked (does the group have commits there?).")
		return err
	}
	var rows [][]string
	for _, p := range a.Places {
		across, to, behind := "-", "-", "-"
		if p.To != nil {
			across, to = p.Across.String(), placeText(*p.To)
		}
		if p.Behind > 0 {
			behind = strconv.FormatInt(p.Behind, 10)
		}
		why := or(p.Missing, or(string(p.Reason), "-"))
		rows = append(rows, []string{p.Partition.String(), placeText(p.From), across, to, or(string(p.Status), "-"), behind, why})
	}
	return table(c.Out, []string{"partition", "at", "across", "at", "status", "behind", "why"}, rows)
}

// placeText is an offset, and how many records above it are handled already.
func placeText(p starferry.Place) string {
	text := strconv.FormatInt(int64(p.Next), 10)
	var n int64
	for _, r := range p.Handled {
		n += int64(r.To - r.From)
	}
	if n > 0 {
		text += fmt.Sprintf(" (+%d handled)", n)
	}
	return text
}
