package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/switchover"
)

// SwitchOrder asks for a group to be moved. Zero durations mean the defaults of
// [switchover.Request].
type SwitchOrder struct {
	Group          starferry.Group
	Source, Target starferry.ClusterName
	Link           starferry.LinkName
	Within         time.Duration // bounds the time to the decision
	Standby        time.Duration // how long members stay on Source afterwards
	DrainDeadline  time.Duration // how long the group may stand still
	Patience       time.Duration // with members that are no live instance
	Verify         time.Duration // wait for first records on Target
	MaxLag         int64         // of each lane before the drain, in records
	// Fence has the agents keep everybody out of the group on Source, from the
	// end of Standby on.
	Fence bool
	// OnStraggler says what becomes of a frozen instance; EvictAfter how long it
	// is waited for before it is removed.
	OnStraggler switchover.OnStraggler
	EvictAfter  time.Duration
	By, Why     string
	// Token makes the order repeatable: given again, it continues the switch or
	// returns the report of what was done.
	Token string
	// Progress, if set, is told each phase and what it waits for. It must not
	// block.
	Progress func(phase, waits string)
	// Watch, if set, is told the same row by row, and again from time to time
	// while nothing changes. It must not block.
	Watch func(Progress)
}

// abandonLimit is how long a switch whose caller has gone may take to go back.
const abandonLimit = 20 * time.Second

// tick is how often the driver looks at its deadlines.
const tick = 20 * time.Millisecond

// Switch moves a group. It returns when the group lives on Target and every
// instance has said so, or a [switchover.Failure] that tells what stands now. If
// ctx ends before the decision, the switch is undone before Switch returns.
func (f *Fleet) Switch(ctx context.Context, o SwitchOrder) (switchover.Report, error) {
	s, err := f.newRun(ctx, o)
	if err != nil {
		return switchover.Report{}, fmt.Errorf("switch %s: %w", o.Group, err)
	}
	if err := f.allowed(ctx, s.o, false); err != nil {
		return switchover.Report{}, fmt.Errorf("switch %s: %w", o.Group, err)
	}
	event := desired.Event{Group: o.Group, Who: o.By, Why: o.Why, Token: s.o.Token, When: f.c.Now().UnixMilli()}
	event.What, event.Detail = "switch", fmt.Sprintf("from %s to %s over link %s", o.Source, o.Target, o.Link)
	event.Data, _ = json.Marshal(ordered{o.Source, o.Target}) // plain data: it cannot fail
	if err := f.c.Store.Audit(ctx, event); err != nil {
		return switchover.Report{}, fmt.Errorf("switch %s: %w", o.Group, err)
	}
	report, refence, err := f.carryOut(ctx, s)
	event.When = f.c.Now().UnixMilli()
	var failure switchover.Failure
	if errors.As(err, &failure) {
		event.Data, _ = json.Marshal(tell(s.o, report, &failure)) // plain data: it cannot fail
	} else {
		event.Data, _ = json.Marshal(tell(s.o, report, nil))
	}
	if err != nil {
		event.What, event.Detail, report = "switch failed", err.Error(), switchover.Report{}
	} else {
		event.What, event.Detail = "switched", fmt.Sprintf("from %s to %s, epoch %d, %d instances", o.Source, o.Target, report.Epoch, len(report.Instances))
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	switch {
	case err == nil && o.Fence:
		if ferr := f.fenceOff(late, s.o); ferr != nil {
			report.Notes = append(report.Notes, fmt.Sprintf("%s will not be fenced: %v", o.Source, ferr))
		}
	case errors.As(err, &failure) && !failure.Moved:
		refence(late)
	}
	if aerr := f.c.Store.Audit(late, event); aerr != nil {
		f.log.Warn("the outcome of a switch is not in the audit trail", "group", o.Group, "outcome", event.What, "error", aerr)
	}
	return report, err
}

// carryOut makes the switch, once nothing is in an overflow and the target is
// free. refence puts a fence back that was lifted for it.
func (f *Fleet) carryOut(ctx context.Context, s *run) (_ switchover.Report, refence func(context.Context), err error) {
	refence = func(context.Context) {}
	if err := f.afterOverflow(ctx, s); err != nil {
		return switchover.Report{}, refence, err
	}
	if refence, err = f.unfence(ctx, s.o); err != nil {
		return switchover.Report{}, func(context.Context) {}, fmt.Errorf("switch %s: %w", s.o.Group, err)
	}
	report, err := s.loop(ctx)
	return report, refence, err
}

// ordered is what the audit entry of an order keeps for programs.
type ordered struct {
	Source starferry.ClusterName `json:"source"`
	Target starferry.ClusterName `json:"target"`
}

// mover is the token of the last order to switch a group, if that led to where
// the group lives. It tells whose switch it was after the placement is lost.
func (f *Fleet) mover(ctx context.Context, h Home) (string, error) {
	events, err := f.c.Store.AuditLog(ctx, desired.AuditFilter{Group: h.Group})
	if err != nil {
		return "", err
	}
	for _, e := range slices.Backward(events) {
		var o ordered
		if e.What != "switch" {
			continue
		}
		if json.Unmarshal(e.Data, &o) == nil && o.Target == h.Cluster {
			return e.Token, nil
		}
		return "", nil
	}
	return "", nil
}

// run is one switch under way.
type run struct {
	f   *Fleet
	o   SwitchOrder
	dir starferry.Direction
	d   *switchover.Driver

	answers chan switchover.Answers
	pending sync.WaitGroup
	news    []switchover.News

	drainAt time.Time // when the instances were told to stand still
	control time.Duration
	report  *switchover.Report
	failure *switchover.Failure
	fatal   error
	teller  teller
	lost    time.Time             // since when NATS does not answer
	reread  bool                  // the placement is to be read again
	unread  atomic.Pointer[error] // why leases cannot be read; nil: all can be
}

func (f *Fleet) newRun(ctx context.Context, o SwitchOrder) (*run, error) {
	for _, c := range []starferry.ClusterName{o.Source, o.Target} {
		if _, err := f.cluster(c); err != nil {
			return nil, err
		}
	}
	if o.Source == o.Target {
		return nil, fmt.Errorf("source and target are both %s; name two clusters", o.Source)
	}
	if o.Group == "" {
		return nil, errors.New("the group has no name")
	}
	switch o.OnStraggler {
	case "", switchover.Abort, switchover.Evict:
	default:
		return nil, fmt.Errorf("on_straggler is %q; want %q or %q", o.OnStraggler, switchover.Abort, switchover.Evict)
	}
	from, to, err := f.c.Copies.Ends(ctx, o.Link)
	if err != nil {
		return nil, fmt.Errorf("find link %q: %w", o.Link, err)
	}
	dir := starferry.Forward
	switch {
	case from == o.Source && to == o.Target:
	case from == o.Target && to == o.Source:
		// With a link that leads where the group goes, the way back is a way
		// forward: its copy has to come along, like any other.
		opposite, err := f.c.Copies.Opposite(ctx, o.Link)
		if err != nil {
			return nil, fmt.Errorf("look for a link that leads from %s to %s: %w", o.Source, o.Target, err)
		}
		if dir = starferry.Back; opposite != "" {
			o.Link, dir = opposite, starferry.Forward
		}
	default:
		return nil, fmt.Errorf("link %q leads from %s to %s, not between %s and %s; name the link that copies the group's topics", o.Link, from, to, o.Source, o.Target)
	}
	o.Token = token(o.Token)
	s := &run{f: f, o: o, dir: dir, answers: make(chan switchover.Answers, 4)}
	s.d = s.driver()
	return s, nil
}

// driver is one that has heard nothing yet.
func (s *run) driver() *switchover.Driver {
	o := s.o
	return switchover.NewDriver(switchover.Request{
		Group: o.Group, Source: o.Source, Target: o.Target, Link: o.Link, Direction: s.dir,
		Within: o.Within.Milliseconds(), DrainDeadline: o.DrainDeadline.Milliseconds(), Patience: o.Patience.Milliseconds(),
		Standby: o.Standby.Milliseconds(), MaxLag: o.MaxLag, Verify: o.Verify.Milliseconds(),
		OnStraggler: o.OnStraggler, EvictAfter: o.EvictAfter.Milliseconds(), By: o.By, Why: o.Why, Token: o.Token,
	})
}

// loop is the driver's eyes and hands until its last order.
func (s *run) loop(asked context.Context) (switchover.Report, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(asked))
	leases := make(chan []control.Lease, 1)
	s.pending.Go(func() { s.watch(ctx, leases) })
	defer func() { cancel(); s.pending.Wait() }()

	began := s.f.c.Now()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	gone := asked.Done()
	var over <-chan time.Time
	s.step(ctx, switchover.Passed{})
	for s.report == nil && s.failure == nil {
		select {
		case <-gone:
			gone = nil
			limit := time.NewTimer(abandonLimit)
			defer limit.Stop()
			over = limit.C
			s.step(ctx, switchover.Abandon{Reason: context.Cause(asked).Error()})
		case <-over:
			return switchover.Report{}, s.stuck(context.Cause(asked))
		case l := <-leases:
			s.step(ctx, switchover.LeasesSeen{Leases: l})
		case a := <-s.answers:
			s.step(ctx, a)
		case <-ticker.C:
			if s.reread {
				s.reread = false
				s.readStored(ctx)
			}
			s.step(ctx, switchover.Passed{})
			if p, ok := s.teller.again(s.f.c.Now().UnixMilli()); ok && s.o.Watch != nil {
				s.o.Watch(p)
			}
		}
		if s.fatal != nil {
			return switchover.Report{}, s.fatal
		}
		if !s.lost.IsZero() && s.f.c.Now().Sub(s.lost) > abandonLimit {
			return switchover.Report{}, s.stuck(errors.New("NATS does not answer"))
		}
	}
	now := s.f.c.Now()
	s.teller.enter(now, "")
	if s.failure != nil {
		s.blameUnread()
		return switchover.Report{Began: began.UnixMilli(), Ended: now.UnixMilli(), Phases: s.teller.phases}, *s.failure
	}
	s.report.Began, s.report.Ended, s.report.Phases = began.UnixMilli(), now.UnixMilli(), s.teller.phases
	s.report.ControlMS = float64(s.control.Microseconds()) / 1000
	return *s.report, nil
}

// blameUnread adds to a refusal what of the leases could not be read: an instance
// of a newer version looks like a member without one.
func (s *run) blameUnread() {
	err := s.unread.Load()
	if err == nil {
		return
	}
	r := switchover.Row{Subject: "lease", What: "cannot be read", Why: (*err).Error(), Do: "bring instances and agents to one version of the protocol: agents first"}
	s.failure.Rows, s.failure.Found = append(s.failure.Rows, r), append(s.failure.Found, r.String())
	if s.failure.Do != "" {
		r.Do += "; or " + s.failure.Do
	}
	s.failure.Do = r.Do
}

// stuck is the error of a switch that is left as it stands: instances that stand
// still take the way out by themselves when their deadline passes.
func (s *run) stuck(why error) error {
	p, rev := s.d.Placement()
	return fmt.Errorf("switch %s: %w; it was left in phase %q (epoch %d, revision %d). Instances that stand still go back to work by themselves within %v; ask again with token %s to finish it",
		s.o.Group, why, p.Phase, p.Epoch, rev, time.Duration(p.DrainDeadlineMS)*time.Millisecond, s.o.Token)
}

// watch hands the newest leases to the loop, never more than one set behind.
func (s *run) watch(ctx context.Context, out chan []control.Lease) {
	err := s.f.c.Store.WatchLeases(ctx, s.o.Group, func(ls []control.Lease, err error) {
		if s.unread.Store(nil); err != nil {
			s.f.log.Warn("a lease cannot be read", "group", s.o.Group, "error", err)
			s.unread.Store(&err)
		}
		for {
			select {
			case out <- ls:
				return
			default:
			}
			select { // the older set is of no use any more
			case <-out:
			default:
			}
		}
	})
	if ctx.Err() == nil {
		s.f.log.Error("watch of leases ended", "group", s.o.Group, "error", err)
	}
}

// step gives the driver a piece of news and carries out what it orders.
func (s *run) step(ctx context.Context, n switchover.News) {
	s.news = append(s.news, n)
	for len(s.news) > 0 {
		next := s.news[0]
		s.news = s.news[1:]
		for _, o := range s.d.Step(s.f.c.Now().UnixMilli(), next) {
			s.obey(ctx, o)
		}
	}
}

func (s *run) obey(ctx context.Context, o switchover.Order) {
	switch o := o.(type) {
	case switchover.ReadStored:
		s.readStored(ctx)
	case switchover.Write:
		s.write(ctx, o)
	case switchover.Ask:
		s.pending.Go(func() {
			a := s.answer(ctx, o)
			select {
			case s.answers <- a:
			case <-ctx.Done():
			}
		})
	case switchover.Say:
		s.f.log.Debug("switch", "group", s.o.Group, "phase", o.Phase, "waits", o.Waits)
		if s.o.Progress != nil {
			s.o.Progress(o.Phase, o.Waits)
		}
		if p := s.teller.hear(s.f.c.Now(), o); s.o.Watch != nil {
			s.o.Watch(p)
		}
	case switchover.EvictMembers:
		s.pending.Go(func() { s.evict(ctx, o) })
	case switchover.Finished:
		s.report = &o.Report
	case switchover.Failed:
		s.failure = &o.Failure
	}
}

// readStored tells the driver what is stored; while NATS does not answer, it
// tries again with every tick.
func (s *run) readStored(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	p, rev, err := s.f.c.Store.Placement(ctx, s.o.Group)
	switch {
	case err == nil:
		s.news = append(s.news, switchover.Stored{Placement: &p, Revision: rev})
	case errors.Is(err, desired.ErrNotFound):
		s.news = append(s.news, switchover.Stored{})
	case rev != 0:
		s.fatal = fmt.Errorf("switch %s: %w", s.o.Group, err) // it is there and cannot be read
		return
	default:
		s.noAnswer(err)
		s.reread = true
		return
	}
	s.lost = time.Time{}
}

func (s *run) write(ctx context.Context, w switchover.Write) {
	wctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	switch w.Placement.Phase {
	case control.Drain:
		if s.drainAt.IsZero() {
			s.drainAt = s.f.c.Now()
		}
	case control.Announce:
		if !s.drainAt.IsZero() {
			s.control = s.f.c.Now().Sub(s.drainAt)
		}
	}
	rev, err := s.f.c.Store.PutPlacement(wctx, w.Placement, w.Expect)
	if err != nil {
		if !errors.Is(err, desired.ErrConflict) {
			s.noAnswer(err)
		}
		s.news = append(s.news, switchover.WriteLost{Detail: err.Error()})
		return
	}
	s.lost = time.Time{}
	s.news = append(s.news, switchover.Written{Revision: rev})
}

func (s *run) noAnswer(err error) {
	if s.lost.IsZero() {
		s.lost = s.f.c.Now()
		s.f.log.Warn("NATS does not answer in the middle of a switch", "group", s.o.Group, "error", err)
	}
}
