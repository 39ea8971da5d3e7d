package cli

import (
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry/agent/demo"
	"github.com/starferry/starferry/scripting"
)

func (c *cli) demoCommand() *cobra.Command {
	var o demo.Options
	var json bool
	cmd := &cobra.Command{
		Use: "demo", GroupID: "serve", Short: "the whole story on one machine, with nothing installed",
		Long: `Demo starts two embedded Kafkas, an embedded NATS, two shards, an agent, a
producer that never stops and a service of three instances. It moves the
service's group to the other cluster with the script that ships, rolls it back,
and moves it again, and then says what was lost, handled twice or out of order.
Exit code 0 only if nothing was.

With --source and --target it tells the same story on two clusters of yours,
with topics and a group of its own names, which it removes at the end. What
stays on the target is the small topic starferry.state, which all links share.

With --groups N, N groups over 2 N topics move in waves; one of them cannot be
moved and stops its wave; the cause is mended and the run goes on to its end.`,
		Example: `  starferry demo
  starferry demo --keep                 then play with it from a second terminal
  starferry demo --groups 500 --at-once 20
  starferry demo --json --source localhost:19092 --target localhost:29092`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := c.progress(false)
			o.Log = c.log(slog.LevelError)
			o.Event = func(e scripting.Event) {
				if !json || terminal(c.Err) {
					p.show(e)
				}
			}
			o.Say = func(format string, args ...any) {
				p.end()
				fmt.Fprintf(c.Err, "%s  %s\n", p.paint(dim, time.Now().Format(time.TimeOnly)), fmt.Sprintf(format, args...))
			}
			if o.Groups != 0 {
				report, err := demo.RunMany(cmd.Context(), o)
				p.end()
				if report == nil {
					return err
				}
				return c.told(report, json, err)
			}
			report, err := demo.Run(cmd.Context(), o)
			p.end()
			if report == nil {
				return err
			}
			return c.told(report, json, err)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&json, "json", false, "print the figures as one JSON object at the end")
	f.StringVar(&o.Source, "source", "", "addresses of a cluster of yours to move from, `host:port[,host:port]`")
	f.StringVar(&o.Target, "target", "", "addresses of a cluster of yours to move to, `host:port[,host:port]`")
	f.Float64Var(&o.Rate, "rate", demo.DefaultRate, "records per second the producer writes")
	f.Int64Var(&o.Records, "records", 0, "go on until at least so many records are produced")
	f.IntVar(&o.Groups, "groups", 0, "tell the story of so many groups, over twice as many topics, instead: they move in waves")
	f.IntVar(&o.AtOnce, "at-once", 0, "with --groups: how many are moved at once (default 8)")
	f.BoolVar(&o.Back, "back", false, "with --groups: roll the run back at the end")
	f.BoolVar(&o.Keep, "keep", false, "leave everything running until Ctrl-C, to play with")
	f.StringVar(&o.DataDir, "data-dir", "", "where to keep data (default: a temporary folder, removed at the end)")
	return cmd
}

// report is how a story ended.
type report interface {
	Print(w io.Writer) error
	Clean() bool
}

// told prints how the story ended; what is not clean is an error.
func (c *cli) told(r report, json bool, err error) error {
	if json {
		if err := asJSONLine(c.Out, r); err != nil {
			return err
		}
	} else {
		fmt.Fprintln(c.Out)
		if err := r.Print(c.Out); err != nil {
			return err
		}
	}
	if err == nil && !r.Clean() {
		err = &exitError{scripting.ExitError}
	}
	return err
}
