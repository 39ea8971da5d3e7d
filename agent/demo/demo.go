// Package demo is the whole story on one machine: two Kafka clusters, shards, an
// agent, a producer that never stops and a service of three instances. The
// service's group moves to the other cluster, is rolled back, and moves again,
// by the same script and the same agent that production uses. At the end it
// says what was lost, handled twice or out of order.
//
// # Rules
//
//   - What is counted is what the producer saw acknowledged and what handlers
//     were handed; no other part of the program is believed.
//   - On clusters that are not its own it uses names of its own and removes
//     them at the end.
package demo

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

// DefaultRate is the producer's rate in records per second: comfortable on two
// shared cores with everything in one process.
const DefaultRate = 2000

const (
	instances  = 3
	shards     = 2
	partitions = 12
	// dwell is how long the group stays after each move, so that there is
	// traffic to count.
	dwell      = 1500 * time.Millisecond
	settle     = 30 * time.Second
	phaseLimit = 3 * time.Minute
	maxRecords = 1_000_000_000 // a partition's sequence numbers end at 2³¹
)

// Options are what the operator chooses.
type Options struct {
	// Source and Target are addresses of clusters (host:port, comma separated);
	// both empty: two embedded ones.
	Source, Target string
	Rate           float64 // records per second; 0 means DefaultRate
	Records        int64   // go on until at least so many are produced
	Keep           bool    // leave everything running until ctx ends
	// Groups, if not 0, tells the story of so many groups instead; see RunMany.
	// AtOnce are moved at once (0: 8); Back rolls the run back at the end.
	Groups, AtOnce int
	Back           bool
	DataDir        string // empty: a temporary folder, removed at the end
	Log            *slog.Logger
	// Say is told what happens, a line at a time; Event the events of runs.
	Say   func(format string, args ...any)
	Event func(scripting.Event)
	// dwell replaces the constant, in tests.
	dwell time.Duration
	// patience is that of each switch in the story of many groups.
	patience time.Duration
}

func (o Options) checked() (Options, error) {
	if (o.Source == "") != (o.Target == "") {
		return o, &scripting.UsageError{Text: "demo: --source and --target go together: give both clusters, or none for embedded ones"}
	}
	if o.Source != "" && o.Source == o.Target {
		return o, &scripting.UsageError{Text: "demo: --source and --target are the same cluster: give two"}
	}
	if o.Rate == 0 {
		o.Rate = DefaultRate
	}
	if !(o.Rate >= 1 && o.Rate <= 1e6) || o.Records < 0 || o.Records > maxRecords {
		return o, &scripting.UsageError{Text: fmt.Sprintf("demo: want a --rate from 1 to 1000000 records per second, and --records from 0 to %d", int64(maxRecords))}
	}
	if o.Say == nil {
		o.Say = func(string, ...any) {}
	}
	if o.Event == nil {
		o.Event = func(scripting.Event) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.dwell == 0 {
		o.dwell = dwell
	}
	if o.patience == 0 {
		o.patience = 15 * time.Second
	}
	return o, nil
}

// folder makes the data directory, and says how to remove it if it is temporary.
func (o *Options) folder() (remove func() error, err error) {
	if o.DataDir != "" {
		if err := os.MkdirAll(o.DataDir, 0o700); err != nil {
			return nil, fmt.Errorf("make the demo's folder: %w", err)
		}
		return func() error { return nil }, nil
	}
	if o.DataDir, err = os.MkdirTemp("", "starferry-demo-"); err != nil {
		return nil, fmt.Errorf("make the demo's folder: %w", err)
	}
	return func() error { return os.RemoveAll(o.DataDir) }, nil
}

func (o Options) atOnce() int {
	if o.AtOnce == 0 {
		return 8
	}
	return o.AtOnce
}

// enough is how long it may take to produce the records that are wanted.
func (o Options) enough() time.Duration {
	return phaseLimit + 2*time.Duration(float64(o.Records)/o.Rate*float64(time.Second))
}

// names are what the demo calls its things: plain words on clusters of its own,
// marked ones on clusters that others use.
type names struct {
	id             string
	source, target starferry.ClusterName
	group          starferry.Group
	topics         []topicPlan
	own            bool // the clusters are the demo's
}

func (o Options) names() names {
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails
	n := names{id: hex.EncodeToString(b[:]), source: "old", target: "new", group: "orders", own: o.Source == ""}
	prefix := ""
	if !n.own {
		// The cluster names too: a link's transactional ids are made of them,
		// and must not be those of a link that others run.
		prefix = "starferry-demo-" + n.id + "-"
		n.source, n.target = "old-"+starferry.ClusterName(n.id), "new-"+starferry.ClusterName(n.id)
		n.group = starferry.Group(prefix) + n.group
	}
	for _, t := range []topicPlan{{"orders", 6, false}, {"payments", 4, false}, {"clicks", 2, true}} {
		t.name = starferry.Topic(prefix) + t.name
		n.topics = append(n.topics, t)
	}
	return n
}

func (n names) topicNames() []starferry.Topic {
	out := make([]starferry.Topic, len(n.topics))
	for i, t := range n.topics {
		out[i] = t.name
	}
	return out
}

// Run tells the story and returns its report. The report is not nil if the
// story came to its end, whatever it says; see Report.Clean.
func Run(ctx context.Context, o Options) (_ *Report, err error) {
	o, err = o.checked()
	if err != nil {
		return nil, err
	}
	remove, err := o.folder()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	began := time.Now()
	s, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	report, err := s.story(ctx)
	if report != nil {
		report.Seconds = time.Since(began).Round(100 * time.Millisecond).Seconds()
	}
	return report, err
}

// keepHelp tells a second terminal how to join in.
func (s *stage) keepHelp(program string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Everything keeps running until Ctrl-C. In a second terminal:\n\n  export STARFERRY_CONFIG=%s\n", s.configFile)
	for _, line := range []string{
		"consumers " + string(s.n.group),
		"links",
		"runs",
		fmt.Sprintf(`exec -c 'throttle(group = "%s", rate = 500)'`, s.n.group),
		fmt.Sprintf(`exec -c 'throttle(group = "%s", rate = 0)'`, s.n.group),
		"rollback " + s.lastRun,
	} {
		fmt.Fprintf(&b, "  %s %s\n", program, line)
	}
	return b.String()
}

// program is how this binary was called.
func program() string {
	if len(os.Args) > 0 && os.Args[0] != "" {
		return os.Args[0]
	}
	return "starferry"
}

// closers closes what was opened, newest first.
type closers struct{ list []func() error }

func (c *closers) add(f func() error) { c.list = append(c.list, f) }

// Close implements io.Closer.
func (c *closers) Close() error {
	var errs []error
	for i := len(c.list) - 1; i >= 0; i-- {
		errs = append(errs, c.list[i]())
	}
	c.list = nil
	return errors.Join(errs...)
}
