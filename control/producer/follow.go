package producer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/handover"
	"github.com/starferry/starferry/control/homebook"
	"github.com/starferry/starferry/internal/acl"
	"github.com/starferry/starferry/internal/wire"
)

const (
	natsWithin    = 2 * time.Second // how long a first order is waited for
	resolveWithin = 15 * time.Second
)

// follow is a line's follower and what carries it out.
type follow struct {
	machine *handover.Follower
	mail    chan func()
	store   *desired.Producing // nil: no NATS yet
	stands  atomic.Pointer[handover.Stands]
	enter   starferry.ClusterName // to be entered, and not yet done
	known   bool                  // a home was found
}

// post runs f on the line's own goroutine.
func (l *line) post(f func()) {
	select {
	case l.f.mail <- f:
	case <-l.p.ctx.Done():
	}
}

// follow finds the home of the topic and keeps to it, until ctx ends.
func (l *line) follow(ctx context.Context) {
	l.p.spawn(func() { l.find(ctx) })
	tick, lease := time.NewTicker(50*time.Millisecond), time.NewTicker(leaseEvery)
	defer tick.Stop()
	defer lease.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-l.f.mail:
			f()
		case <-tick.C:
			if l.f.enter != "" {
				l.enter(l.f.enter)
			}
			l.step(handover.Tick{})
		case <-lease.C:
			if l.f.known {
				l.publish()
			}
		}
	}
}

// leaseEvery is a third of the time to live that leases have by default.
const leaseEvery = 2 * time.Second

// find asks Kafka where the topic lives, announces the process, and only then
// looks for orders: so nobody writes who has not been seen.
func (l *line) find(ctx context.Context) {
	var store *desired.Producing
	opened := make(chan struct{})
	if l.p.cfg.NATS != nil {
		l.p.spawn(func() { store = l.connect(ctx); close(opened) })
	}
	home := l.where(ctx)
	if ctx.Err() != nil {
		return
	}
	var has bool
	if l.p.cfg.NATS != nil {
		select {
		case <-opened:
			has = true
		case <-time.After(natsWithin):
			l.log.Warn("NATS does not answer; goes on by what Kafka says", "home", home.Cluster)
		case <-ctx.Done():
			return
		}
	}
	l.post(func() {
		if has {
			l.f.store = store
		}
		l.f.known = true
		l.step(handover.Found{Home: home.Cluster, Epoch: home.Epoch})
		l.firstOrder(ctx)
	})
	if l.p.cfg.NATS == nil {
		return
	}
	select {
	case <-opened:
	case <-ctx.Done():
		return
	}
	if store == nil {
		return
	}
	l.post(func() { l.f.store = store; l.publish() })
	err := store.Watch(ctx, l.topic, func(p *control.TopicPlacement, rev uint64, err error) {
		if err != nil {
			l.log.Error("an order cannot be read; goes on as it is", "error", err)
			return
		}
		l.post(func() { l.step(handover.Order{Placement: p, Revision: rev, Wrote: l.wrote()}) })
	})
	if ctx.Err() == nil {
		l.log.Error("follows no orders any more", "error", err)
	}
}

// where asks until there is an answer.
func (l *line) where(ctx context.Context) (h homebook.Home) {
	for ctx.Err() == nil {
		var err error
		if h, err = homebook.Find(ctx, l.p.wires, l.topic, l.p.cfg.homeOf(l.topic)); err == nil {
			return h
		}
		l.refuse(err.Error())
		l.sleep(ctx, lastPause)
	}
	return h
}

func (l *line) sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// connect opens the store, as soon as NATS lets it.
func (l *line) connect(ctx context.Context) *desired.Producing {
	for ctx.Err() == nil {
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		s, err := desired.OpenService(short, l.p.cfg.NATS, desired.Options{Logger: l.p.cfg.Logger})
		cancel()
		if err == nil {
			return s.Producing()
		}
		l.log.Debug("open desired state", "error", err)
		l.sleep(ctx, lastPause)
	}
	return nil
}

// firstOrder reads the order that stands now.
func (l *line) firstOrder(ctx context.Context) {
	var o handover.Order
	if l.f.store != nil {
		short, cancel := context.WithTimeout(ctx, natsWithin)
		defer cancel()
		if p, rev, err := l.f.store.Placement(short, l.topic); err == nil {
			o = handover.Order{Placement: &p, Revision: rev}
		}
	}
	l.step(o)
}

// step asks the machine and does what it says.
func (l *line) step(e handover.Event) {
	for _, effect := range l.f.machine.Step(time.Now().UnixMilli(), e) {
		l.act(effect)
	}
	s := l.f.machine.Stands()
	l.f.stands.Store(&s)
}

func (l *line) act(e handover.Effect) {
	switch e := e.(type) {
	case handover.Publish:
		l.publish()
	case handover.Warm:
		l.p.spawn(func() { l.warm(e) })
	case handover.StopSending:
		l.log.Info("holds", "epoch", e.Epoch)
		l.hold(func() {
			l.p.spawn(func() { l.post(func() { l.step(handover.Flushed(e)) }) })
		})
	case handover.Enter:
		l.enter(e.Cluster)
	case handover.Resolve:
		l.log.Warn("has held for too long without a word; finds out where the topic lives", "epoch", e.Epoch)
		l.p.spawn(func() { l.resolve(e) })
	}
}

func (l *line) warm(e handover.Warm) {
	ctx, cancel := context.WithTimeout(l.p.ctx, resolveWithin)
	defer cancel()
	out := handover.Warmed{Epoch: e.Epoch}
	s, err := l.side(e.Cluster)
	if err == nil {
		var n int
		n, err = s.warm(ctx)
		l.mu.Lock()
		if have := len(l.lanes); err == nil && have > 0 && n != have {
			err = fmt.Errorf("the topic has %d partitions on %s and %d where it is written: keys would change their partition; give both the same", n, e.Cluster, have)
		}
		l.mu.Unlock()
	}
	if err == nil {
		err = l.allowed(ctx, s)
	}
	if err != nil {
		out.Err = err.Error()
	}
	l.post(func() { l.step(out) })
}

// allowed asks before the topic moves for what is needed only then: that it may
// be written there, and that a hold can be ended here without anybody's word.
func (l *line) allowed(ctx context.Context, s *side) error {
	l.mu.Lock()
	home := l.home
	l.mu.Unlock()
	err := s.w.May(ctx, wire.WantTopics([]starferry.Topic{l.topic}, acl.Write)...)
	var denied *wire.DeniedError
	switch {
	case errors.As(err, &denied):
		return denied
	case home == nil:
		return nil
	}
	return home.w.MayTransact(ctx, homebook.TransactionalID(l.topic))
}

// resolve makes the decision of the hold impossible, then reads whether there is one.
func (l *line) resolve(e handover.Resolve) {
	ctx, cancel := context.WithTimeout(l.p.ctx, resolveWithin)
	defer cancel()
	out := handover.Resolved{Epoch: e.Epoch, Home: e.Source}
	w := l.p.wires[e.Source]
	_, err := homebook.Open(ctx, w, l.topic)
	var entries []homebook.Entry
	if err == nil {
		entries, err = homebook.Read(ctx, w, l.topic)
	}
	for _, x := range entries {
		if x.Epoch > out.At {
			out.At, out.Home = x.Epoch, x.Home
		}
		out.With = out.With || x.Epoch >= e.Since && slices.Contains(x.With, l.p.boot)
	}
	if err != nil {
		out.Err = err.Error()
	}
	l.post(func() { out.Wrote = l.wrote(); l.step(out) })
}

// enter goes on at a cluster; what hinders it is tried again.
func (l *line) enter(c starferry.ClusterName) {
	l.f.enter = c
	s, err := l.side(c)
	if err == nil {
		n := s.partitions()
		if n == 0 {
			ctx, cancel := context.WithTimeout(l.p.ctx, resolveWithin)
			n, err = s.warm(ctx)
			cancel()
		}
		if err == nil {
			err = l.resume(s, n)
		}
	}
	if err != nil {
		l.refuse(err.Error())
		return
	}
	l.f.enter = ""
}

// publish tells how the line stands.
func (l *line) publish() {
	if l.f.store == nil || !l.p.cfg.NATS.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(l.p.ctx, natsWithin)
	defer cancel()
	if err := l.f.store.PutLease(ctx, l.lease()); err != nil && l.p.ctx.Err() == nil {
		l.log.Warn("the lease was not renewed", "error", err)
	}
}

func (l *line) lease() control.ProducerLease {
	s := l.f.machine.Stands()
	out := control.ProducerLease{
		Topic: l.topic, Instance: l.p.cfg.Instance, Boot: l.p.boot, Host: l.p.host, PID: os.Getpid(), At: time.Now().UnixMilli(),
		Home: s.Home, Epoch: s.Epoch, Revision: s.Revision, Ready: s.Ready, Held: s.Held, Refusal: s.Refusal,
		Buffered: l.buffered.Load(), Acked: l.acked.Load(), Failed: l.failed.Load(), HoldMS: float64(l.lastHold.Load()) / 1000,
		Writers: map[starferry.ClusterName][]int64{}, Closed: l.p.closed.Load(),
	}
	if s.Held > 0 {
		out.Ends = l.ends()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if out.Refusal == "" {
		out.Refusal = l.refusal
	}
	for c, side := range l.sides {
		ids := []int64{}
		if id := side.own(); id != (identity{}) {
			ids = append(ids, id.id)
		}
		for _, k := range l.lanes {
			if q := k.at[c]; q != nil && !slices.Contains(ids, q.id.id) {
				ids = append(ids, q.id.id)
			}
		}
		out.Writers[c] = ids
	}
	return out
}

// leave says that the line ends in good order.
func (l *line) leave(ctx context.Context) {
	done := make(chan struct{})
	l.post(func() { l.publish(); close(done) })
	select {
	case <-done:
	case <-ctx.Done():
	case <-l.p.ctx.Done():
	}
}

// wrote reports whether a record was sent to the home since it was entered.
func (l *line) wrote() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent
}

func (l *line) refuse(why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refusal != why && why != "" {
		l.log.Warn("cannot go on", "reason", why)
	}
	l.refusal = why
}

func (l *line) why() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refusal == "" {
		return "it is being asked for"
	}
	return l.refusal
}

func (l *line) state() LineState {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := LineState{Topic: l.topic, Holding: l.holding, HoldMS: float64(l.lastHold.Load()) / 1000,
		Buffered: l.buffered.Load(), Acked: l.acked.Load(), Failed: l.failed.Load(), Refusal: l.refusal}
	if l.home != nil {
		s.Home = l.home.w.Name()
	}
	if at := l.f.stands.Load(); at != nil {
		s.Epoch = at.Epoch
		if s.Refusal == "" {
			s.Refusal = at.Refusal
		}
	}
	return s
}
