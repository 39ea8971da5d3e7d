package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/handover"
	"github.com/starferry/starferry/control/homebook"
	"github.com/starferry/starferry/internal/wire"
)

// ProducerOrder asks for the producers of a topic to be moved. Zero durations
// mean the defaults.
type ProducerOrder struct {
	Topic          starferry.Topic
	Source, Target starferry.ClusterName
	// Link leads from Source to Target, or is the opposite of the one that does.
	Link   starferry.LinkName
	Within time.Duration // until all are ready; 0 means 30 s
	Hold   time.Duration // the longest hold; 0 means 5 s
	// OneWay does without a link that brings records of Target back to Source.
	OneWay  bool
	By, Why string
	Token   string
	// Watch, if set, is told each step and what it waits for. It must not block.
	Watch func(step, waits string)
}

// ProducerReport is what a switch of producers leaves behind.
type ProducerReport struct {
	handover.Report
	Topic          starferry.Topic
	Source, Target starferry.ClusterName
	// HoldMS is how long each producer held; ControlMS the time from the order to
	// hold to the announcement.
	HoldMS       map[starferry.InstanceID]float64
	ControlMS    float64
	Began, Ended int64 // Unix milliseconds
}

// copyWait is how long one question to the copy waits for it.
const copyWait = 100 * time.Millisecond

// SwitchProducers moves the producers of a topic. It returns when all write on
// Target, or an error that tells what stands now. If ctx ends before the decision
// the switch is undone before it returns.
func (f *Fleet) SwitchProducers(ctx context.Context, o ProducerOrder) (ProducerReport, error) {
	r, err := f.producerRun(ctx, o)
	if err == nil {
		err = f.c.Store.Audit(ctx, desired.Event{Group: r.audited(), What: "switch producers", Who: o.By, Why: o.Why, Token: o.Token,
			Detail: fmt.Sprintf("from %s to %s over link %s", o.Source, o.Target, r.o.Link)})
	}
	if err != nil {
		return ProducerReport{}, fmt.Errorf("switch producers of %s: %w", o.Topic, err)
	}
	report, err := r.loop(ctx)
	event := desired.Event{Group: r.audited(), What: "producers switched", Who: o.By, Why: o.Why, Token: o.Token,
		Detail: fmt.Sprintf("from %s to %s, epoch %d, %d producers", o.Source, o.Target, report.Epoch, len(report.Producers))}
	event.Data, _ = json.Marshal(report) // plain data: it cannot fail
	if err != nil {
		err = fmt.Errorf("switch producers of %s: %w", o.Topic, err)
		event.What, event.Detail = "switch of producers failed", err.Error()
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	if aerr := f.c.Store.Audit(late, event); aerr != nil {
		f.log.Warn("the outcome of a switch is not in the audit trail", "topic", o.Topic, "outcome", event.What, "error", aerr)
	}
	return report, err
}

// producerRun is one switch under way.
type producerRun struct {
	f       *Fleet
	o       ProducerOrder
	store   *desired.Producing
	old     *wire.Cluster
	new     *wire.Cluster
	driver  *handover.Driver
	session *homebook.Session
	begin   sync.WaitGroup                                // of the decision; until it is done the session is not used
	tps     []starferry.TopicPartition                    // of the topic, as they were when the hold was ordered
	ends    map[starferry.TopicPartition]starferry.Offset // nil: to be read
	leases  []control.ProducerLease                       // as last heard
	held    time.Time
	said    string
	report  ProducerReport
}

func (f *Fleet) producerRun(ctx context.Context, o ProducerOrder) (*producerRun, error) {
	if o.Within <= 0 {
		o.Within = 30 * time.Second
	}
	if o.Hold <= 0 {
		o.Hold = 5 * time.Second
	}
	r := &producerRun{f: f, o: o, store: f.c.Store.Producing()}
	var err error
	if r.old, err = f.cluster(o.Source); err != nil {
		return nil, err
	}
	if r.new, err = f.cluster(o.Target); err != nil {
		return nil, err
	}
	if o.Source == o.Target {
		return nil, fmt.Errorf("source and target are both %s; name two clusters", o.Source)
	}
	if r.o.Link, err = f.linkBetween(ctx, o); err != nil {
		return nil, err
	}
	h, err := f.c.Copies.Health(ctx, r.o.Link, []starferry.Topic{o.Topic})
	if err != nil {
		return nil, err
	}
	for tp, why := range h.Stopped {
		return nil, fmt.Errorf("the copy of %s by link %s has stopped: %s", tp, r.o.Link, why)
	}
	if len(h.Lag) == 0 {
		return nil, fmt.Errorf("link %s does not copy %s; replicate it first", r.o.Link, o.Topic)
	}
	return r, nil
}

// linkBetween is the link from source to target. Records that will be written on
// the target must come back, unless nobody wants to return.
func (f *Fleet) linkBetween(ctx context.Context, o ProducerOrder) (starferry.LinkName, error) {
	from, to, err := f.c.Copies.Ends(ctx, o.Link)
	if err != nil {
		return "", err
	}
	other, err := f.c.Copies.Opposite(ctx, o.Link, o.Topic)
	switch {
	case err != nil:
		return "", err
	case from == o.Source && to == o.Target && (other != "" || o.OneWay):
		return o.Link, nil
	case from == o.Target && to == o.Source && other != "":
		return other, nil
	case from == o.Source && to == o.Target:
		return "", fmt.Errorf("no link leads back from %s to %s: what is written on %s would never come to the consumers on %s, and nobody could return; replicate %s from %s to %s first, or ask for one_way", o.Target, o.Source, o.Target, o.Source, o.Topic, o.Target, o.Source)
	case from == o.Target && to == o.Source:
		return "", fmt.Errorf("link %s leads from %s to %s, and no link leads the other way; replicate %s from %s to %s first", o.Link, from, to, o.Topic, o.Source, o.Target)
	}
	return "", fmt.Errorf("link %s leads from %s to %s, not between %s and %s", o.Link, from, to, o.Source, o.Target)
}

// audited is the name under which the audit trail keeps a topic's producers. No
// group has a space in front.
func (r *producerRun) audited() starferry.Group { return starferry.Group("producers of " + r.o.Topic) }

// loop lets the driver drive.
func (r *producerRun) loop(ctx context.Context) (ProducerReport, error) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	leases, done := make(chan []control.ProducerLease, 1), make(chan struct{})
	go func() {
		defer close(done)
		_ = r.store.WatchLeases(work, r.o.Topic, func(l []control.ProducerLease, err error) { // ends with work
			if err != nil {
				r.f.log.Warn("a producer's lease cannot be read", "topic", r.o.Topic, "error", err)
			}
			select {
			case <-leases: // only the newest counts
			default:
			}
			leases <- l
		})
	}()
	defer func() { cancel(); <-done }()
	var deeds []handover.Deed
	r.report = ProducerReport{Topic: r.o.Topic, Source: r.o.Source, Target: r.o.Target, Began: r.now(), HoldMS: map[starferry.InstanceID]float64{}}
	r.driver, deeds = handover.NewDriver(handover.Request{
		Topic: r.o.Topic, Source: r.o.Source, Target: r.o.Target, Link: r.o.Link, By: r.o.By, Why: r.o.Why, Token: r.o.Token,
		Prepare: r.o.Within.Milliseconds(), HoldLimit: r.o.Hold.Milliseconds(), HoldDeadline: 2 * r.o.Hold.Milliseconds(),
	})
	clock := time.NewTicker(tick)
	defer clock.Stop()
	stop := ctx.Done()
	for {
		for len(deeds) > 0 {
			if end, over := deeds[0].(handover.End); over {
				return r.end(work, end.Report)
			}
			began := r.f.c.Now()
			fact := r.do(work, deeds[0])
			r.f.log.Debug("switch of producers", "topic", r.o.Topic, "did", fmt.Sprintf("%T", deeds[0]), "took", r.f.c.Now().Sub(began))
			deeds = append(deeds[1:], r.driver.Step(r.now(), fact)...)
			r.tell()
		}
		select {
		case l := <-leases:
			r.leases = l
			deeds = r.driver.Step(r.now(), handover.Leases{Leases: l})
		case <-clock.C:
			deeds = r.driver.Step(r.now(), handover.Clock{})
		case <-stop:
			stop = nil
			deeds = r.driver.Step(r.now(), handover.Trouble{Why: "it was told to stop"})
		}
		r.tell()
	}
}

func (r *producerRun) now() int64 { return r.f.c.Now().UnixMilli() }

func (r *producerRun) tell() {
	step, waits := string(r.driver.At()), r.driver.Waits()
	if said := step + waits; said != r.said {
		r.said = said
		r.f.log.Debug("switch of producers", "topic", r.o.Topic, "step", step, "waits", waits)
		if r.o.Watch != nil {
			r.o.Watch(step, waits)
		}
	}
}

// do carries a deed out.
func (r *producerRun) do(ctx context.Context, d handover.Deed) handover.Fact {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var fact handover.Fact
	var err error
	switch d := d.(type) {
	case handover.Look:
		fact, err = r.look(ctx)
	case handover.OpenSession:
		fact, err = r.open(ctx)
	case handover.Write:
		fact, err = r.write(ctx, d)
	case handover.CopyPast:
		fact, err = r.copyPast(ctx)
	case handover.LookAgain:
		var l []control.ProducerLease
		l, err = r.store.Leases(ctx, r.o.Topic)
		fact = handover.Leases{Leases: l, Fresh: true}
	case handover.Decide:
		fact, err = r.decide(ctx, d), nil
	}
	if err != nil {
		return handover.Trouble{Why: err.Error()}
	}
	return fact
}

func (r *producerRun) home(ctx context.Context) (homebook.Home, error) {
	return homebook.Find(ctx, r.f.c.Clusters, r.o.Topic, r.o.Source)
}

func (r *producerRun) look(ctx context.Context) (handover.Fact, error) {
	var s handover.Scene
	h, err := r.home(ctx)
	if err != nil {
		return nil, err
	}
	s.Home, s.Epoch = h.Cluster, h.Epoch
	p, rev, err := r.store.Placement(ctx, r.o.Topic)
	if err == nil {
		s.Placement, s.Revision = &p, rev
	} else if !errors.Is(err, desired.ErrNotFound) {
		return nil, err
	}
	if s.Leases, err = r.store.Leases(ctx, r.o.Topic); err != nil {
		return nil, err
	}
	for _, l := range s.Leases {
		if h.Epoch == 0 && l.Home != "" && l.Home != r.o.Source {
			return nil, fmt.Errorf("no move of it is known, and producer %s (%s) writes on %s, not on %s: give the clusters as they are, or the same rules to all producers", l.Instance, l.Host, l.Home, r.o.Source)
		}
	}
	return handover.Looked{Scene: s}, nil
}

func (r *producerRun) open(ctx context.Context) (handover.Fact, error) {
	for _, w := range []*wire.Cluster{r.old, r.new} {
		if err := homebook.Ensure(ctx, w); err != nil {
			return nil, err
		}
	}
	var err error
	if r.session, err = homebook.OpenFor(ctx, r.old, r.o.Topic, 2*r.o.Hold); err != nil {
		return nil, err
	}
	// What the hold will ask for again: that connects to all who lead a partition.
	if err = r.partitions(ctx); err == nil {
		_, err = r.old.Offsets(ctx, r.tps, wire.Latest)
	}
	if err != nil {
		return nil, err
	}
	h, err := r.home(ctx)
	return handover.SessionOpened{Home: h.Cluster, Epoch: h.Epoch}, err
}

func (r *producerRun) write(ctx context.Context, d handover.Write) (handover.Fact, error) {
	d.Placement.At = r.now()
	if d.Placement.Phase == control.HoldSends {
		r.held, r.ends = r.f.c.Now(), nil
	}
	if d.Placement.Phase == control.Announce {
		r.report.ControlMS = float64(r.f.c.Now().Sub(r.held).Microseconds()) / 1000
	}
	rev, err := r.store.Put(ctx, d.Placement, d.Expect)
	if errors.Is(err, desired.ErrConflict) {
		return handover.Written{Lost: true}, nil
	}
	if err == nil && d.Placement.Phase == control.HoldSends {
		r.begin.Go(func() { r.beginDecision(ctx) })
	}
	return handover.Written{Revision: rev}, err
}

// beginDecision does, while the producers flush, what would keep them waiting
// later. If it fails, the decision begins when it is written.
func (r *producerRun) beginDecision(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	if err := r.session.Begin(ctx); err != nil {
		r.f.log.Debug("a decision could not be begun ahead", "topic", r.o.Topic, "error", err)
	}
}

// partitions reads which the topic has.
func (r *producerRun) partitions(ctx context.Context) error {
	m, err := r.old.Metadata(ctx, r.o.Topic)
	if err != nil {
		return err
	}
	if err := m.Topics[r.o.Topic].Err; err != nil {
		return fmt.Errorf("describe %s on %s: %w", r.o.Topic, r.o.Source, err)
	}
	r.tps = nil
	for _, p := range m.Topics[r.o.Topic].Partitions {
		r.tps = append(r.tps, starferry.TopicPartition{Topic: r.o.Topic, Partition: p.Partition})
	}
	return nil
}

// complete reads the partitions again if they were not read, or a producer has
// written to one that was added since.
func (r *producerRun) complete(ctx context.Context) error {
	known := len(r.tps) > 0
	for _, l := range r.leases {
		for tp := range l.Ends {
			known = known && slices.Contains(r.tps, tp)
		}
	}
	if known {
		return nil
	}
	return r.partitions(ctx)
}

// copyPast lets the copy pass the ends of the log, as they were when it was first
// asked for them.
func (r *producerRun) copyPast(ctx context.Context) (handover.Fact, error) {
	if r.ends == nil {
		if err := r.complete(ctx); err != nil {
			return nil, err
		}
		ends, err := r.old.Offsets(ctx, r.tps, wire.Latest)
		if err != nil {
			return nil, err
		}
		r.ends = ends
	}
	left, err := r.f.c.Copies.Passed(ctx, r.o.Link, r.ends, copyWait)
	if err != nil {
		return nil, err
	}
	behind := int64(0)
	for _, n := range left {
		behind += n
	}
	if behind == 0 {
		r.ends = nil // the next time they are read again
	}
	return handover.Passed{Behind: behind}, nil
}

// decide writes the decision. If that was not answered, it makes it impossible
// first and then reads, for as long as it takes.
func (r *producerRun) decide(ctx context.Context, d handover.Decide) handover.Fact {
	r.begin.Wait()
	err := r.session.Write(ctx, homebook.Entry{Epoch: d.Epoch, Home: r.o.Target, With: d.With, By: r.o.By, At: r.now()})
	if err == nil {
		return handover.Decided{Moved: true}
	}
	r.f.log.Warn("the decision was not answered; finds out what stands", "topic", r.o.Topic, "error", err)
	for {
		again, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
		_, err := homebook.Open(again, r.old, r.o.Topic)
		var entries []homebook.Entry
		if err == nil {
			entries, err = homebook.Read(again, r.old, r.o.Topic)
		}
		cancel()
		if err == nil {
			return handover.Decided{Moved: slices.ContainsFunc(entries, func(e homebook.Entry) bool { return e.Epoch == d.Epoch })}
		}
		r.f.log.Error("whether the topic has moved cannot be read; tries again", "topic", r.o.Topic, "error", err)
		t := time.NewTimer(tick)
		<-t.C
	}
}

// end makes a report, and sees to it that the target's own book says that the
// topic lives there: the source may be switched off some day.
func (r *producerRun) end(ctx context.Context, rep handover.Report) (ProducerReport, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	r.report.Report, r.report.Ended = rep, r.now()
	if !rep.Moved {
		if r.begin.Wait(); r.session != nil {
			if err := r.session.Abort(ctx); err != nil { // it ends by itself
				r.f.log.Debug("a decision that was begun is left open", "topic", r.o.Topic, "error", err)
			}
		}
		return r.report, errors.New(rep.Failure)
	}
	leases, err := r.store.Leases(ctx, r.o.Topic)
	if err != nil {
		r.f.log.Warn("how long producers held is not known", "topic", r.o.Topic, "error", err)
	}
	for _, l := range leases {
		if slices.Contains(rep.Producers, l.Instance) {
			r.report.HoldMS[l.Instance] = l.HoldMS
		}
	}
	if err := r.sign(ctx); err != nil {
		return r.report, fmt.Errorf("it has moved, and the book on %s does not say so yet: %w; run it again", r.o.Target, err)
	}
	return r.report, nil
}

func (r *producerRun) sign(ctx context.Context) error {
	h, err := r.home(ctx)
	if err != nil || h.Cluster != r.o.Target || h.Epoch == 0 {
		return err
	}
	entries, err := homebook.Read(ctx, r.new, r.o.Topic)
	if err != nil || len(entries) > 0 && entries[len(entries)-1].Epoch >= h.Epoch {
		return err
	}
	s, err := homebook.Open(ctx, r.new, r.o.Topic)
	if err != nil {
		return err
	}
	return s.Write(ctx, homebook.Entry{Epoch: h.Epoch, Home: r.o.Target, By: r.o.By, At: r.now()})
}
