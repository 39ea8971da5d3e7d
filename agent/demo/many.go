package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent"
	"github.com/starferry/starferry/agent/api"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/scripting"
	"github.com/starferry/starferry/scripts"
)

const (
	// topicsPerGroup are its own; it reads one more, its neighbour's first.
	topicsPerGroup = 2
	// sharedBy is how many instances share a connection to NATS.
	sharedBy    = 25
	startAtOnce = 16
	manyLimit   = 20 * time.Minute
	maxGroups   = 2000
)

// many is the estate of the story of many groups.
type many struct {
	*stage
	groups    []starferry.Group
	reads     map[starferry.Group][]starferry.Topic
	labels    map[starferry.Group]map[string]string
	recorders map[starferry.Group]*recorder
	consumers []*consumer.Consumer
}

// ManyReport is how the story of many groups ended.
type ManyReport struct {
	Groups     int   `json:"groups"`
	Topics     int   `json:"topics"`
	Produced   int64 `json:"produced"`
	Handled    int64 `json:"handled"` // calls of handlers, of all groups
	Lost       int64 `json:"lost"`
	Twice      int64 `json:"twice"`
	OutOfOrder int64 `json:"out_of_order"`
	// Victim is the group that could not be moved at first.
	Victim    starferry.Group `json:"victim"`
	AtStop    int             `json:"moved_at_stop"` // groups that had moved when the run stopped
	Untouched int             `json:"untouched_at_stop"`
	Stopped   string          `json:"stopped"` // what the run said
	Waves     []waveTold      `json:"waves"`
	// Seconds: until all groups were at work, until the stop, and of the rest.
	Start  float64 `json:"start_s"`
	First  float64 `json:"until_stop_s"`
	Second float64 `json:"after_resume_s"`
	Back   float64 `json:"rollback_s,omitempty"`
}

type waveTold struct {
	Title  string `json:"title"`
	Groups int    `json:"groups"`
	Done   int    `json:"done"`
}

// Clean reports whether nothing was lost, doubled or out of order.
func (r *ManyReport) Clean() bool { return r.Lost == 0 && r.Twice == 0 && r.OutOfOrder == 0 }

// Print writes the report for people.
func (r *ManyReport) Print(w io.Writer) error {
	fmt.Fprintf(w, "%d groups over %d topics\n\nthe run stopped at group %s after %.1f s: %d groups had moved, %d were not touched\n%s\n\n",
		r.Groups, r.Topics, r.Victim, r.First, r.AtStop, r.Untouched, r.Stopped)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "WAVE\tGROUPS\tDONE")
	for _, v := range r.Waves {
		fmt.Fprintf(t, "%s\t%d\t%d\n", v.Title, v.Groups, v.Done)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print report: %w", err)
	}
	fmt.Fprintf(w, "\nall at work after %.1f s, stopped after %.1f s, the rest moved in %.1f s", r.Start, r.First, r.Second)
	if r.Back > 0 {
		fmt.Fprintf(w, ", all back in %.1f s", r.Back)
	}
	_, err := fmt.Fprintf(w, "\nrecords produced %d, handled %d\nlost %d, handled twice %d, out of order %d\n", r.Produced, r.Handled, r.Lost, r.Twice, r.OutOfOrder)
	return err
}

// RunMany tells the story of many groups: they are moved in waves while records
// flow, one of them cannot be moved and stops its wave, the cause is mended and
// the run goes on to the end.
func RunMany(ctx context.Context, o Options) (_ *ManyReport, err error) {
	if o, err = o.checked(); err != nil {
		return nil, err
	}
	if o.Groups < 4 || o.Groups > maxGroups || o.Source != "" || o.Keep {
		return nil, &scripting.UsageError{Text: fmt.Sprintf("demo: want --groups from 4 to %d, on the demo's own clusters, without --keep", maxGroups)}
	}
	remove, err := o.folder()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	m := newMany(o)
	defer func() { err = errors.Join(err, m.close()) }()
	began := time.Now()
	if err := m.start(ctx); err != nil {
		return nil, err
	}
	r := &ManyReport{Groups: len(m.groups), Topics: len(m.n.topics), Start: time.Since(began).Seconds()}
	return r, m.tell(ctx, r)
}

func newMany(o Options) *many {
	m := &many{
		stage: &stage{o: o, n: o.names(), recorder: newRecorder()},
		reads: map[starferry.Group][]starferry.Topic{}, labels: map[starferry.Group]map[string]string{}, recorders: map[starferry.Group]*recorder{},
	}
	m.n.topics = nil
	topic := func(i int) starferry.Topic {
		return starferry.Topic(fmt.Sprintf("topic-%04d", i%(topicsPerGroup*o.Groups)))
	}
	for i := range topicsPerGroup * o.Groups {
		m.n.topics = append(m.n.topics, topicPlan{topic(i), 1, i%7 == 0})
	}
	for i := range o.Groups {
		g := starferry.Group(fmt.Sprintf("group-%04d", i))
		m.groups = append(m.groups, g)
		for k := range topicsPerGroup + 1 { // the last is its neighbour's first
			m.reads[g] = append(m.reads[g], topic(topicsPerGroup*i+k))
		}
		m.labels[g] = map[string]string{"sla": []string{"bronze", "silver", "gold"}[i%3], "dc": []string{"dc1", "dc2"}[i%2]}
		m.recorders[g] = newRecorder()
	}
	return m
}

func (m *many) start(ctx context.Context) error {
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"clusters", m.openClusters}, {"agent and NATS", m.openAgent}, {fmt.Sprintf("%d topics", len(m.n.topics)), m.createMany},
		{fmt.Sprintf("%d shards", shards), m.openShards}, {fmt.Sprintf("a producer, %g records/s", m.o.Rate), m.openProducer},
		{fmt.Sprintf("%d groups", len(m.groups)), m.openGroups},
		{"work", func(ctx context.Context) error { return m.allOn(ctx, m.n.source, len(m.groups)) }},
	} {
		began := time.Now()
		limited, cancel := context.WithTimeout(ctx, phaseLimit)
		err := step.do(limited)
		cancel()
		if err != nil {
			return fmt.Errorf("start %s of the demo: %w", step.what, err)
		}
		m.o.Say("started %s (%v)", step.what, time.Since(began).Round(time.Millisecond))
	}
	return nil
}

func (m *many) createMany(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(startAtOnce)
	for _, t := range m.n.topics {
		g.Go(func() error { return m.createTopic(ctx, t) })
	}
	return g.Wait()
}

// openGroups starts one light instance of each group.
func (m *many) openGroups(ctx context.Context) error {
	var conns []*nats.Conn
	for i := 0; i < len(m.groups); i += sharedBy {
		nc, err := m.connect(fmt.Sprintf("services %d", len(conns)+1))
		if err != nil {
			return err
		}
		conns = append(conns, nc)
	}
	m.closers.add(m.closeGroups)
	for i, group := range m.groups {
		c, err := consumer.Open(ctx, consumer.Config{
			Group: group, Topics: m.reads[group], Labels: m.labels[group], Instance: starferry.InstanceID("i-" + string(group)),
			Clusters: m.cfg.All(), Home: m.n.source, Start: consumer.Earliest, NATS: conns[i/sharedBy], Logger: m.o.Log.With("process", group),
			SessionTimeout: 30 * time.Second, HeartbeatInterval: 3 * time.Second, CommitInterval: time.Second, FetchWait: 2 * time.Second,
		}, func(_ context.Context, r consumer.Record) error {
			m.recorders[group].handled(r.Cluster, r.TopicPartition(), r.Value, time.Now())
			return nil
		})
		if err != nil {
			return err
		}
		m.consumers = append(m.consumers, c)
		// Services of an estate do not start all at once.
		if n := len(m.consumers); n%sharedBy == 0 {
			if err := m.until(ctx, fmt.Sprintf("%d groups at work", n), phaseLimit, func() bool { return m.on(m.n.source) >= n-sharedBy }); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *many) closeGroups() error {
	ctx, cancel := context.WithTimeout(context.Background(), phaseLimit)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(4 * startAtOnce)
	for _, c := range m.consumers {
		g.Go(func() error { return c.Close(ctx) })
	}
	return g.Wait()
}

// on counts the groups of which every topic's newest record came from a cluster.
func (m *many) on(c starferry.ClusterName) int {
	n := 0
	for _, g := range m.groups {
		if m.recorders[g].lanesOn(c) == topicsPerGroup+1 {
			n++
		}
	}
	return n
}

func (m *many) allOn(ctx context.Context, c starferry.ClusterName, want int) error {
	return m.until(ctx, fmt.Sprintf("records of %d groups from %s", want, c), phaseLimit, func() bool { return m.on(c) >= want })
}

// tell is the story itself.
func (m *many) tell(ctx context.Context, r *ManyReport) error {
	ctx, cancel := context.WithTimeout(ctx, manyLimit)
	defer cancel()
	// The victim is of the second kind: bronze goes first, then silver.
	r.Victim = m.groups[len(m.groups)/6*3+1]
	intruder, err := intrude(ctx, m.source, r.Victim)
	if err != nil {
		return err
	}
	run, err := m.moveUntilItStops(ctx, r)
	if err != nil {
		return errors.Join(err, intruder.leave(ctx))
	}
	if err := intruder.leave(ctx); err != nil {
		return err
	}
	m.o.Say("the stranger has left %s; resuming run %s", r.Victim, run)
	began := time.Now()
	if err := m.perform(ctx, run, func(ctx context.Context) error { return m.client.Resume(ctx, run, "demo") }); err != nil {
		return err
	}
	r.Second = time.Since(began).Seconds()
	if err := m.allOn(ctx, m.n.target, len(m.groups)); err != nil {
		return err
	}
	if err := m.told(ctx, run, r); err != nil {
		return err
	}
	if m.o.Back {
		began = time.Now()
		if err := m.perform(ctx, run, func(ctx context.Context) error { return m.client.Rollback(ctx, run, "demo") }); err != nil {
			return err
		}
		r.Back = time.Since(began).Seconds()
	}
	return m.count(ctx, r)
}

// moveUntilItStops runs the shipped script and looks at what it leaves.
func (m *many) moveUntilItStops(ctx context.Context, r *ManyReport) (string, error) {
	q, err := agent.Pack(scripting.FS(scripts.Files), "move_groups.star", map[string]string{
		"match": "group-*", "source": string(m.n.source), "target": string(m.n.target), "by": "sla", "order": "bronze,silver,gold",
		"wave": fmt.Sprint(max(4, len(m.groups)/12)), "at_once": fmt.Sprint(m.o.atOnce()), "pause": "0s", "gate": "none", "max_lag": "10000",
		"patience": scripting.FormatDuration(m.o.patience), "standby": "1m",
	})
	if err != nil {
		return "", fmt.Errorf("load the shipped script: %w", err)
	}
	q.By, q.Run = "demo", api.NewRunName(q.File)
	m.o.Say("running move_groups.star as %s; %s has a member that nobody knows", q.Run, r.Victim)
	began := time.Now()
	err = m.perform(ctx, q.Run, func(ctx context.Context) error {
		_, err := m.client.Start(ctx, q)
		return err
	})
	r.First = time.Since(began).Seconds()
	var stop *api.RemoteError
	if !errors.As(err, &stop) || stop.Exit != scripting.ExitUnmet {
		return q.Run, fmt.Errorf("the run should have stopped at group %s with exit code %d: %w", r.Victim, scripting.ExitUnmet, cmpError(err))
	}
	r.Stopped = stop.Text
	status, err := m.client.Status(ctx, q.Run)
	if err != nil {
		return q.Run, err
	}
	for _, p := range status.Phases {
		for _, f := range p.Forks {
			r.AtStop += f.Count("done")
		}
	}
	// What the handlers saw must be what the run says.
	if err := m.allOn(ctx, m.n.target, r.AtStop); err != nil {
		return q.Run, err
	}
	if n := m.on(m.n.target); n != r.AtStop {
		return q.Run, fmt.Errorf("the run says that %d groups have moved, and %d have", r.AtStop, n)
	}
	r.Untouched = m.on(m.n.source)
	if r.AtStop+r.Untouched != len(m.groups) {
		return q.Run, fmt.Errorf("%d groups moved and %d at home: %d are neither", r.AtStop, r.Untouched, len(m.groups)-r.AtStop-r.Untouched)
	}
	m.o.Say("the run stopped: %d groups have moved, %d are where they were", r.AtStop, r.Untouched)
	return q.Run, nil
}

func cmpError(err error) error {
	if err == nil {
		return errors.New("it ended well")
	}
	return err
}

// told reads the waves out of the run's status.
func (m *many) told(ctx context.Context, run string, r *ManyReport) error {
	status, err := m.client.Status(ctx, run)
	if err != nil {
		return err
	}
	for _, p := range status.Phases {
		for _, f := range p.Forks {
			r.Waves = append(r.Waves, waveTold{f.Title, len(f.Branches), f.Count("done")})
		}
	}
	return nil
}

// count stops the producer, waits until everything is handled, and counts group
// by group.
func (m *many) count(ctx context.Context, r *ManyReport) error {
	produced, err := m.producer.finish(ctx)
	if err != nil {
		return err
	}
	lost := func() (n int64) {
		for _, g := range m.groups {
			n += m.recorders[g].tally().lost(m.of(g, produced))
		}
		return n
	}
	waited := m.until(ctx, "everything to be handled", phaseLimit, func() bool { return lost() == 0 })
	if ctx.Err() != nil {
		return waited
	}
	for _, n := range produced {
		r.Produced += n
	}
	r.Lost = lost()
	var wrong []string
	for _, g := range m.groups {
		t := m.recorders[g].tally()
		r.Handled += t.handled
		r.Twice += t.twice
		r.OutOfOrder += t.disorder
		if t.twice+t.disorder+t.alien > 0 {
			wrong = append(wrong, string(g))
		}
	}
	if len(wrong) > 0 {
		m.o.Say("not clean: %s", strings.Join(wrong, ", "))
	}
	return nil
}

// of are the records of the topics that a group reads.
func (m *many) of(g starferry.Group, produced map[starferry.TopicPartition]int64) map[starferry.TopicPartition]int64 {
	out := map[starferry.TopicPartition]int64{}
	for _, t := range m.reads[g] {
		tp := starferry.TopicPartition{Topic: t}
		out[tp] = produced[tp]
	}
	return out
}
