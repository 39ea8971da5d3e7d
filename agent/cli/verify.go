package cli

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/world"
	"github.com/starferry/starferry/replication"
	"github.com/starferry/starferry/scripting"
)

// verifyFlags are the flags of verify as they were typed.
type verifyFlags struct {
	topics     []string
	partitions []int32
	span, rate string
	contents   bool
	hash       bool
	continuous bool
	json       bool
}

func (c *cli) verifyCommand() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use: "verify LINK", GroupID: "look", Short: "compare what a link copied with its source, record by record",
		Long: `Verify reads what a link has copied on both clusters and compares it along the
offset map: keys, values, headers and times of each record, and for what is not
copied that the source has no committed record there. The shards do it beside
the copy; nothing is changed. Records that others wrote to the target are passed
over and counted.

It says "N of N records identical", or where the first difference is; sizes and
hashes are shown, contents only with --contents.
Exit code 3 if anything differs or could not be compared.`,
		Example: "  starferry verify old-new\n  starferry verify old-new --topic orders --range 1000-2000 --rate 10MB/s\n  starferry verify old-new --continuous --rate 1MB/s",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return c.verify(cmd.Context(), args[0], f) },
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&f.topics, "topic", nil, "only this `TOPIC`, by its name on the source; may be repeated")
	flags.Int32SliceVar(&f.partitions, "partition", nil, "only partition `N` of the topics; may be repeated")
	flags.StringVar(&f.span, "range", "", "only source offsets `A-B`, B not among them; A- goes as far as the copy")
	flags.StringVar(&f.rate, "rate", "", "limit of what is read on both clusters, such as 10MB/s")
	flags.BoolVar(&f.contents, "contents", false, "show the beginning of what differs; it may be secret")
	flags.BoolVar(&f.hash, "hash", false, "print a SHA-256 of each side's records as well; takes longer")
	flags.BoolVar(&f.continuous, "continuous", false, "go on with what is copied meanwhile, until Ctrl-C")
	flags.BoolVar(&f.json, "json", false, "print everything as JSON")
	return cmd
}

// request reads the flags.
func (f verifyFlags) request() (q replication.VerifyRequest, err error) {
	q = replication.VerifyRequest{Contents: f.contents, Hash: f.hash, Continuous: f.continuous}
	for _, t := range f.topics {
		q.Topics = append(q.Topics, starferry.Topic(t))
	}
	for _, p := range f.partitions {
		q.Partitions = append(q.Partitions, starferry.Partition(p))
	}
	if f.span != "" {
		if q.Range, err = parseSpan(f.span); err != nil {
			return q, err
		}
	}
	if f.rate != "" {
		r, err := scripting.ParseRate(f.rate)
		if err != nil || !r.Bytes || r.PerSecond < 1 {
			return q, &scripting.UsageError{Text: fmt.Sprintf("--rate %s: want bytes per second, such as 10MB/s", f.rate)}
		}
		q.Rate = int64(r.PerSecond)
	}
	return q, nil
}

// parseSpan reads "A-B" or "A-".
func parseSpan(s string) (r starferry.Range, err error) {
	wrong := &scripting.UsageError{Text: fmt.Sprintf("--range %s: want A-B or A-, source offsets that ascend, such as 1000-2000", s)}
	from, to, ok := strings.Cut(s, "-")
	a, err := strconv.ParseInt(from, 10, 64)
	if !ok || err != nil {
		return r, wrong
	}
	r.From = starferry.Offset(a)
	if to == "" {
		return r, nil
	}
	b, err := strconv.ParseInt(to, 10, 64)
	if err != nil || b <= a {
		return r, wrong
	}
	r.To = starferry.Offset(b)
	return r, nil
}

func (c *cli) verify(ctx context.Context, link string, f verifyFlags) error {
	q, err := f.request()
	if err != nil {
		return err
	}
	cfg, nc, err := c.connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	links := world.NewLinks(cfg, nc, c.log(slog.LevelError))
	defer func() { _ = links.Close() }() // nothing was written
	q.Progress = world.Now(func(s string) { fmt.Fprintln(c.Err, s) })
	p, err := links.Prove(ctx, starferry.LinkName(link), q)
	if len(p.Lanes) == 0 && err != nil {
		return err
	}
	if shown := c.showProof(p, f); shown != nil {
		return shown
	}
	if err != nil {
		return err
	}
	if p.Verdict() != replication.Identical {
		return &exitError{scripting.ExitUnmet}
	}
	return nil
}

// showProof prints a table of the lanes and the answer below it.
func (c *cli) showProof(p replication.Proof, f verifyFlags) error {
	if f.json {
		return asJSON(c.Out, struct {
			Verdict replication.Verdict `json:"verdict"`
			replication.Proof
		}{p.Verdict(), p})
	}
	var rows [][]string
	for _, l := range p.Lanes {
		row := []string{l.Partition.String(), string(l.Verdict()), fmt.Sprintf("%d-%d", l.From, l.Next), fmt.Sprint(l.Identical), fmt.Sprint(l.Differences)}
		if f.hash {
			row = append(row, or(l.SourceHash, "-"), or(l.TargetHash, "-"))
		}
		rows = append(rows, append(row, or(l.Notes(), "-")))
	}
	headings := []string{"lane", "verdict", "source offsets", "identical", "different"}
	if f.hash {
		headings = append(headings, "source sha256", "target sha256")
	}
	if err := table(c.Out, append(headings, "besides"), rows); err != nil {
		return err
	}
	fmt.Fprintln(c.Out)
	for _, l := range p.Lanes {
		if l.First != nil {
			fmt.Fprintf(c.Out, "first difference in %s: %s\n", l.Partition, l.First)
		}
	}
	t := p.Total()
	_, err := fmt.Fprintf(c.Out, "%s: %d of %d records identical\n", p.Verdict(), t.Identical, t.Compared())
	return err
}

// verified says in a word how far a link's own proof is.
func verified(p *replication.LaneProof) string {
	switch {
	case p == nil:
		return "-"
	case p.First != nil:
		return fmt.Sprintf("%d differences, first: %s", p.Differences, p.First)
	case p.Error != "":
		return fmt.Sprintf("to %d, then %s", p.Next, p.Error)
	}
	return fmt.Sprintf("to %d", p.Next)
}
