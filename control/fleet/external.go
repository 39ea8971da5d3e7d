package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/switchover"
)

// ExternalOrder asks for a group to be moved whose clients know nothing of
// starferry. They are stopped by others; the order waits for that.
type ExternalOrder struct {
	SwitchOrder
	// Ranges and Missing are choices of [switchover.ExternalRequest]; empty means
	// to refuse.
	Ranges, Missing string
	// Stop and Start are what people are told to do at either end; empty: in
	// general words.
	Stop, Start string
	// Started is how long to wait for members on Target after the decision; 0:
	// not at all.
	Started time.Duration
}

// ExternalReport is what a switch of such a group leaves behind.
type ExternalReport struct {
	switchover.Report
	// Again counts the offsets that are read a second time, by partition.
	Again map[starferry.TopicPartition]int64
	// Fenced is the cluster that is kept free of the group's clients.
	Fenced starferry.ClusterName
	// Members are those who had begun on Target when it was reported.
	Members []string
}

const (
	externalWithin = 10 * time.Minute
	externalPoll   = 100 * time.Millisecond
	// externalUndo is how long the way back may take: fences may have to be waited
	// for.
	externalUndo = 3 * fenceJoin
)

// SwitchExternal moves a group whose clients know nothing of starferry. It waits
// until they have left Source, holds the group there under a fence, and returns
// when its place on Target is committed, read back and decided, and clients may
// start there. Before the decision every failure leads back to Source as it was
// found; it is told by a [switchover.Failure].
func (f *Fleet) SwitchExternal(ctx context.Context, o ExternalOrder) (ExternalReport, error) {
	fail := func(err error) (ExternalReport, error) {
		return ExternalReport{}, fmt.Errorf("switch %s: %w", o.Group, err)
	}
	x, err := f.newOuting(ctx, o)
	if err != nil {
		return fail(err)
	}
	if err := f.allowed(ctx, x.o.SwitchOrder, true); err != nil {
		return fail(err)
	}
	event := desired.Event{Group: o.Group, Who: o.By, Why: o.Why, Token: x.o.Token, When: f.c.Now().UnixMilli()}
	event.What, event.Detail = "switch", fmt.Sprintf("from %s to %s over link %s, clients without the library", o.Source, o.Target, x.o.Link)
	event.Data, _ = json.Marshal(ordered{o.Source, o.Target}) // plain data: it cannot fail
	if err := f.c.Store.Audit(ctx, event); err != nil {
		return fail(err)
	}
	report, err := x.run(ctx)
	event.When, event.Data = f.c.Now().UnixMilli(), nil
	if err != nil {
		event.What, event.Detail = "switch failed", err.Error()
	} else {
		event.What, event.Detail = "switched", fmt.Sprintf("from %s to %s, epoch %d, %d partitions; %s is fenced", o.Source, o.Target, report.Epoch, len(report.Cut), report.Fenced)
		event.Data, _ = json.Marshal(report) // plain data: it cannot fail
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	if aerr := f.c.Store.Audit(late, event); aerr != nil {
		f.log.Warn("the outcome of a switch is not in the audit trail", "group", o.Group, "outcome", event.What, "error", aerr)
	}
	return report, err
}

// outing is one switch of a group without the library under way: the eyes and
// hands of [switchover.NextExternal].
type outing struct {
	f   *Fleet
	o   ExternalOrder
	dir starferry.Direction
	req switchover.ExternalRequest

	p   control.Placement
	rev uint64

	fences  map[starferry.ClusterName]*fence
	unclear map[starferry.ClusterName]bool
	passes  map[starferry.ClusterName]pass // of the last look

	answer  *switchover.Scene // only its Translation and Asked
	again   map[starferry.TopicPartition]int64
	drives  int64 // since when, Unix nanoseconds
	undo    string
	failure *switchover.Failure
	waits   string
	rows    []switchover.Wait
	told    teller
	began   int64 // Unix milliseconds, as since, when the phase began
	since   int64
	phase   string
	cut     starferry.Cut
	exact   int
	seeds   starferry.Cut
	moved   bool
	fatal   error
}

func (f *Fleet) newOuting(ctx context.Context, o ExternalOrder) (*outing, error) {
	if o.Ranges == "" {
		o.Ranges = switchover.RangesRefuse
	}
	if o.Missing == "" {
		o.Missing = switchover.MissingRefuse
	}
	if !slices.Contains([]string{switchover.RangesRefuse, switchover.RangesRepeat}, o.Ranges) {
		return nil, fmt.Errorf("on_ranges = %q is no choice; say %q or %q", o.Ranges, switchover.RangesRefuse, switchover.RangesRepeat)
	}
	if !slices.Contains([]string{switchover.MissingRefuse, switchover.MissingEarliest, switchover.MissingLatest}, o.Missing) {
		return nil, fmt.Errorf("on_missing = %q is no choice; say %q, %q or %q", o.Missing, switchover.MissingRefuse, switchover.MissingEarliest, switchover.MissingLatest)
	}
	if o.Within <= 0 {
		o.Within = externalWithin
	}
	r, err := f.newRun(ctx, o.SwitchOrder)
	if err != nil {
		return nil, err
	}
	o.SwitchOrder = r.o
	return &outing{f: f, o: o, dir: r.dir, phase: string(control.Prepare), began: f.c.Now().UnixMilli(), drives: time.Now().UnixNano(),
		req:    switchover.ExternalRequest{Group: o.Group, Source: o.Source, Target: o.Target, Ranges: o.Ranges, Missing: o.Missing},
		fences: map[starferry.ClusterName]*fence{}, unclear: map[starferry.ClusterName]bool{}, passes: map[starferry.ClusterName]pass{}}, nil
}

// run takes step after step to the end.
func (x *outing) run(asked context.Context) (ExternalReport, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(asked))
	defer cancel()
	defer func() { // before ctx ends
		for c, h := range x.fences {
			x.f.handOver(ctx, c, h)
		}
	}()
	if err := x.begin(asked); err != nil {
		return ExternalReport{}, err
	}
	deadline := time.NewTimer(x.o.Within)
	defer deadline.Stop()
	gone := asked.Done()
	var over <-chan time.Time
	for {
		last, err := x.turn(ctx)
		switch {
		case x.fatal != nil:
			return ExternalReport{}, x.fatal
		case last != nil:
			return x.end(asked, *last)
		case err != nil:
			x.say(err.Error(), x.rows...)
		}
		wait := time.After(0)
		if err != nil {
			wait = time.After(externalPoll)
		}
		select {
		case <-wait:
			continue
		case <-gone:
			x.stop(context.Cause(asked).Error())
		case <-deadline.C:
			x.stop(fmt.Sprintf("not done within %v", x.o.Within))
		case <-over:
			return ExternalReport{}, fmt.Errorf("switch %s: %s, and the way back is stuck: %s; fences fall within %v, and nothing was decided unless the commits on %s say moved; ask again with token %s to finish it",
				x.o.Group, x.undo, x.waits, fenceSession, x.o.Source, x.o.Token)
		}
		if gone = nil; over == nil {
			limit := time.NewTimer(externalUndo)
			defer limit.Stop()
			over = limit.C
		}
	}
}

// stop asks for the way back. The first reason counts.
func (x *outing) stop(why string) {
	if x.undo != "" {
		return
	}
	found := x.waits
	if found == "" {
		found = "nothing in the way"
	}
	x.undo = why
	x.failure = &switchover.Failure{Group: x.o.Group, Phase: x.phase, Expected: fmt.Sprintf("the group to move from %s to %s", x.o.Source, x.o.Target),
		Found: []string{why, "it waited for " + found}, Do: "mend that and ask again"}
}

// begin finds the epoch of this switch, and refuses groups it is not made for.
func (x *outing) begin(ctx context.Context) error {
	p, rev, err := x.f.c.Store.Placement(ctx, x.o.Group)
	if err != nil && !errors.Is(err, desired.ErrNotFound) {
		return fmt.Errorf("switch %s: %w", x.o.Group, err)
	}
	x.p, x.rev = p, rev
	if p.Open() && (!p.External || p.Token != x.o.Token) {
		return fmt.Errorf("switch %s: %w", x.o.Group, openElsewhere(p))
	}
	leases, err := x.f.c.Store.Leases(ctx, x.o.Group)
	if err != nil {
		return fmt.Errorf("switch %s: %w", x.o.Group, err)
	}
	if len(leases) > 0 {
		return fmt.Errorf(`switch %s: it has %d live instances of the consumer library (%s on %s, …), which move without being stopped; leave out mode = "external"`, x.o.Group, len(leases), leases[0].Instance, leases[0].Host)
	}
	e, marks := p.Epoch, map[starferry.ClusterName]switchover.Found{}
	for _, c := range []starferry.ClusterName{x.o.Source, x.o.Target} {
		if err := x.f.suitable(ctx, c, x.o.Group); err != nil {
			return fmt.Errorf("switch %s: %w", x.o.Group, err)
		}
	}
	for _, c := range x.f.names() {
		found, err := x.f.found(ctx, c, x.o.Group)
		if err != nil {
			if c == x.o.Source || c == x.o.Target {
				return fmt.Errorf("switch %s: %w", x.o.Group, err)
			}
			continue // a third cluster that is away; the placement knows its epochs
		}
		marks[c] = found
		for _, k := range found {
			if k.Mark != nil {
				e = max(e, k.Mark.Epoch)
			}
		}
	}
	switch home, at, moved := switchover.Truth(marks); {
	case home == x.o.Target && moved:
		x.req.Epoch, x.cut, x.seeds = at, p.Cut, p.Seeds // only what comes after the decision is left
	case p.Open():
		x.req.Epoch = p.Epoch
	default:
		x.req.Epoch = e + 1
	}
	return nil
}

// openElsewhere says that another switch of the group is open.
func openElsewhere(p control.Placement) error {
	return fmt.Errorf("a switch to %s is open (%s, epoch %d, asked for by %s, token %s); finish that one first: resume or roll back its run", p.Target, p.Phase, p.Epoch, p.By, p.Token)
}

// turn looks and takes one step. It returns the last one, or an error that says
// what is waited for.
func (x *outing) turn(ctx context.Context) (*switchover.Over, error) {
	x.rows = nil
	s, err := x.look(ctx)
	if err != nil {
		return nil, err
	}
	switch n := switchover.NextExternal(x.req, s).(type) {
	case switchover.AwaitEmpty:
		return nil, errors.New(x.leaving(n))
	case switchover.TakeFence:
		return nil, x.take(ctx, n)
	case switchover.LiftFence:
		return nil, x.lift(ctx, n)
	case switchover.NewGeneration:
		return nil, x.renew(ctx, n.Cluster)
	case switchover.CommitFenced:
		return nil, x.commit(ctx, n)
	case switchover.AskTranslation:
		return nil, x.translate(ctx, n.Cut)
	case switchover.AwaitCopy:
		x.answer = nil
		return nil, fmt.Errorf("the copy to pass the cut in %d partitions", len(n.Behind))
	case switchover.Refuse:
		if x.undo == "" {
			x.stop(n.Expected)
			x.failure = &switchover.Failure{Group: x.o.Group, Phase: x.phase, Expected: n.Expected, Found: n.Found, Do: n.Do}
			x.say("")
		}
		return nil, nil
	case switchover.Over:
		return &n, nil
	}
	return nil, nil
}

// leaving says who is waited for to leave.
func (x *outing) leaving(n switchover.AwaitEmpty) string {
	var who []string
	for _, m := range n.Members[:min(10, len(n.Members))] {
		who = append(who, m.String())
		x.rows = append(x.rows, switchover.Wait{Member: m.String(), Cluster: n.Cluster, What: fmt.Sprintf("to leave %s", n.Cluster)})
	}
	if more := len(n.Members) - len(who); more > 0 {
		who = append(who, fmt.Sprintf("%d more", more))
	}
	todo := x.o.Stop
	if todo == "" || n.Cluster != x.o.Source {
		todo = fmt.Sprintf("stop the clients of %s on %s", x.o.Group, n.Cluster)
	}
	return fmt.Sprintf("members to leave %s: %s (%s)", n.Cluster, strings.Join(who, ", "), todo)
}

// say tells what is waited for when that changes, and now and then.
func (x *outing) say(waits string, rows ...switchover.Wait) {
	now := x.f.c.Now().UnixMilli()
	if x.phase != x.told.last.Phase {
		x.since = now
	}
	if x.phase == x.told.last.Phase && waits == x.waits {
		if p, ok := x.told.again(now); ok && x.o.Watch != nil {
			x.o.Watch(p)
		}
		return
	}
	x.waits = waits
	x.f.log.Debug("switch of a group without the library", "group", x.o.Group, "phase", x.phase, "waits", waits)
	if x.o.Progress != nil {
		x.o.Progress(x.phase, waits)
	}
	p := x.told.hear(x.f.c.Now(), switchover.Say{Phase: x.phase, Waits: waits, Rows: rows, Began: x.began, Since: x.since})
	if x.o.Watch != nil {
		x.o.Watch(p)
	}
}

// look reads the scene. A fence counts if it stood in one and the same
// generation before and after the commits were read.
func (x *outing) look(ctx context.Context) (switchover.Scene, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*readTimeout)
	defer cancel()
	s := switchover.Scene{Undo: x.undo}
	if x.answer != nil {
		s.Translation, s.Asked = x.answer.Translation, x.answer.Asked
	}
	for c, at := range map[starferry.ClusterName]*switchover.Standing{x.o.Source: &s.Source, x.o.Target: &s.Target} {
		before, held := x.held(c)
		if h := x.fences[c]; h != nil && !held && !h.fallen() {
			return s, fmt.Errorf("the fence on %s to settle, or another agent that drives this switch to end", c)
		}
		seen, err := x.f.describe(ctx, c, x.o.Group)
		if err != nil {
			return s, fmt.Errorf("%s to tell who is in the group: %w", c, err)
		}
		if !fencing(seen) {
			at.Members = seen.Members
		}
		if at.Commits, err = x.f.kept(ctx, c, x.o.Group); err != nil {
			return s, fmt.Errorf("%s to tell its commits: %w", c, err)
		}
		after, still := x.held(c)
		at.Fenced = held && still && before == after
		x.passes[c] = after
		if !still && x.fences[c] == nil {
			delete(x.unclear, c) // no member of ours is left whose commit could be accepted
		}
		at.Unclear = x.unclear[c]
		if held != still || before != after {
			return s, fmt.Errorf("the fence on %s to settle", c)
		}
	}
	var err error
	s.Spans, err = x.f.spans(ctx, x.o.Source, s.Source.Commits)
	if err != nil {
		return s, fmt.Errorf("%s to tell what its partitions hold: %w", x.o.Source, err)
	}
	return s, nil
}

func (x *outing) held(c starferry.ClusterName) (pass, bool) {
	if h := x.fences[c]; h != nil {
		return h.pass()
	}
	return pass{}, false
}

// end reports.
func (x *outing) end(ctx context.Context, over switchover.Over) (ExternalReport, error) {
	home := x.o.Source
	if over.Moved {
		home = x.o.Target
	}
	if err := x.settle(context.WithoutCancel(ctx), home); err != nil {
		return ExternalReport{}, fmt.Errorf("switch %s: it lives on %s by its commits, but %w; ask again with token %s to finish it", x.o.Group, home, err, x.o.Token)
	}
	if !over.Moved {
		fail := switchover.Failure{Group: x.o.Group, Phase: x.phase, Expected: "a switch"}
		if x.failure != nil {
			fail = *x.failure
		}
		fail.Stands = fmt.Sprintf("the group lives on %s and may start there again", x.o.Source)
		if len(over.Notes) > 0 {
			fail.Stands += "; " + strings.Join(over.Notes, "; ")
		}
		return ExternalReport{}, fail
	}
	r := ExternalReport{Fenced: x.o.Source, Again: x.again, Members: []string{}, Report: switchover.Report{
		Group: x.o.Group, Source: x.o.Source, Target: x.o.Target, Epoch: x.p.Epoch, Cut: x.cut, Seeds: x.seeds, Exact: x.exact,
		Pauses: map[starferry.TopicPartition]float64{}, Instances: []string{}, Notes: over.Notes, Attempts: 1,
		Began: x.began, Ended: x.f.c.Now().UnixMilli(), By: x.o.By, Why: x.o.Why}}
	for _, tp := range slices.SortedFunc(maps.Keys(x.again), starferry.TopicPartition.Compare) {
		r.Repeats = append(r.Repeats, fmt.Sprintf("%s: %d offsets from %d on", tp, x.again[tp], x.seeds[tp].Next))
	}
	return r, x.started(ctx, &r)
}

// started tells people to go on, and waits for members if that is asked for.
// That none come is a note and no failure: the group has moved.
func (x *outing) started(ctx context.Context, r *ExternalReport) error {
	x.phase = "start"
	todo := x.o.Start
	if todo == "" {
		todo = fmt.Sprintf("start %s on %s now", x.o.Group, x.o.Target)
	}
	x.say(todo)
	if x.o.Started <= 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, x.o.Started)
	defer cancel()
	for {
		seen, err := x.f.describe(ctx, x.o.Target, x.o.Group)
		if err == nil && !fencing(seen) && len(seen.Members) > 0 {
			for _, m := range seen.Members {
				r.Members = append(r.Members, m.String())
			}
			return nil
		}
		select {
		case <-ctx.Done():
			r.Notes = append(r.Notes, fmt.Sprintf("no member had come to %s within %v: %s", x.o.Target, x.o.Started, todo))
			return nil
		case <-time.After(externalPoll):
		}
	}
}
