package handover

import (
	"fmt"
	"slices"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// Event is what a Follower is told.
type Event interface{ event() }

// The events.
type (
	// Found: the home is this, by what Kafka says; the process is announced.
	Found struct {
		Home  starferry.ClusterName
		Epoch starferry.Epoch
	}
	// Order is the newest placement; nil if there is none, or none can be had. Wrote says whether
	// this process has written to its home since it entered it.
	Order struct {
		Placement *control.TopicPlacement
		Revision  uint64
		Wrote     bool
	}
	// Warmed: the target of an epoch is connected, or why not.
	Warmed struct {
		Epoch starferry.Epoch
		Err   string
	}
	// Flushed: nothing is under way since the hold of an epoch.
	Flushed struct{ Epoch starferry.Epoch }
	// Resolved: after the decision of the epoch had been made impossible, this
	// is where the topic lives. With says that there was one, and that it names
	// this process.
	Resolved struct {
		Epoch starferry.Epoch // of the hold that was resolved
		Home  starferry.ClusterName
		At    starferry.Epoch // of that home
		With  bool
		Wrote bool // as in Order
		Err   string
	}
	// Tick: time has passed.
	Tick struct{}
)

func (Found) event()    {}
func (Order) event()    {}
func (Warmed) event()   {}
func (Flushed) event()  {}
func (Resolved) event() {}
func (Tick) event()     {}

// Effect is what a Follower wants done.
type Effect interface{ effect() }

// The effects.
type (
	// Warm connects to a cluster and answers with Warmed.
	Warm struct {
		Cluster starferry.ClusterName
		Epoch   starferry.Epoch
	}
	// StopSending lets nothing new go out and answers with Flushed.
	StopSending struct{ Epoch starferry.Epoch }
	// Enter goes on at a cluster.
	Enter struct{ Cluster starferry.ClusterName }
	// Resolve takes the topic's transactional id on a cluster, reads, and answers
	// with Resolved.
	Resolve struct {
		Source starferry.ClusterName
		Epoch  starferry.Epoch // of the hold
		Since  starferry.Epoch // of the first hold since it last sent: decisions from there on may name it
	}
	// Publish tells how it stands.
	Publish struct{}
)

func (Warm) effect()        {}
func (StopSending) effect() {}
func (Enter) effect()       {}
func (Resolve) effect()     {}
func (Publish) effect()     {}

// Follower is one topic of one producer.
type Follower struct {
	boot     string
	deadline int64 // milliseconds, if an order does not say

	home     starferry.ClusterName
	epoch    starferry.Epoch // of home, or of the newest order that is done with
	entered  bool
	revision uint64
	ready    starferry.Epoch
	warming  starferry.Epoch

	holding   starferry.Epoch // 0: not
	since     starferry.Epoch // of the first hold since it last sent
	flushed   bool
	until     int64
	resolving bool
	refusal   string
}

// NewFollower makes a follower. Deadline is how long it holds, in milliseconds,
// if an order does not say.
func NewFollower(boot string, deadline int64) *Follower {
	return &Follower{boot: boot, deadline: deadline}
}

// Stands is what a lease says of a follower.
type Stands struct {
	Home     starferry.ClusterName
	Epoch    starferry.Epoch
	Revision uint64
	Ready    starferry.Epoch
	Held     starferry.Epoch // 0 unless it holds and nothing is under way
	Refusal  string
}

// Stands tells how it stands.
func (f *Follower) Stands() Stands {
	s := Stands{Home: f.home, Epoch: f.epoch, Revision: f.revision, Ready: f.ready, Refusal: f.refusal}
	if f.flushed {
		s.Held = f.holding
	}
	return s
}

// Step takes an event at a time in milliseconds.
func (f *Follower) Step(now int64, e Event) []Effect {
	switch e := e.(type) {
	case Found:
		f.home, f.epoch = e.Home, e.Epoch
		return []Effect{Publish{}}
	case Order:
		return f.order(now, e)
	case Warmed:
		if e.Epoch != f.warming {
			return nil
		}
		f.warming = 0
		if f.refusal = e.Err; e.Err == "" {
			f.ready = e.Epoch
		}
		return []Effect{Publish{}}
	case Flushed:
		if e.Epoch != f.holding || f.flushed {
			return nil
		}
		f.flushed = true
		return []Effect{Publish{}}
	case Resolved:
		return f.resolved(now, e)
	case Tick:
		if f.holding > 0 && !f.resolving && now >= f.until {
			f.resolving = true
			return []Effect{Resolve{f.home, f.holding, f.since}}
		}
	}
	return nil
}

func (f *Follower) order(now int64, e Order) []Effect {
	if f.home == "" {
		return nil
	}
	p := e.Placement
	if p == nil || p.Epoch < f.epoch || p.Epoch < f.holding {
		return f.begin()
	}
	f.revision = e.Revision
	if p.Epoch == f.epoch { // done with, or given up
		return append(f.begin(), Publish{})
	}
	switch p.Phase {
	case control.Prepare:
		return append(f.begin(), f.prepare(p)...)
	case control.HoldSends:
		return f.hold(now, p)
	}
	return append(f.settle(p, e.Wrote), Publish{})
}

// begin enters the home for the first time.
func (f *Follower) begin() []Effect {
	if f.entered || f.holding > 0 {
		return nil
	}
	f.entered = true
	return []Effect{Enter{f.home}}
}

func (f *Follower) prepare(p *control.TopicPlacement) []Effect {
	if f.home != p.Active || f.ready == p.Epoch || f.warming == p.Epoch {
		return []Effect{Publish{}}
	}
	f.warming = p.Epoch
	return []Effect{Publish{}, Warm{p.Target, p.Epoch}}
}

func (f *Follower) hold(now int64, p *control.TopicPlacement) []Effect {
	switch {
	case f.home == p.Target:
		return append(f.begin(), Publish{})
	case f.home != p.Active:
		f.refusal = fmt.Sprintf("writes on %s, and is asked to go from %s to %s", f.home, p.Active, p.Target)
		return append(f.begin(), Publish{})
	case f.holding == p.Epoch:
		return []Effect{Publish{}}
	}
	// The hold of an older epoch becomes this one's: whoever ordered this has made
	// the decision of that impossible before.
	again := f.holding > 0
	f.holding, f.resolving = p.Epoch, false
	f.until = now + f.deadline
	if p.HoldDeadlineMS > 0 {
		f.until = now + p.HoldDeadlineMS
	}
	if again && f.flushed {
		return []Effect{Publish{}}
	}
	f.flushed, f.since = false, p.Epoch
	return []Effect{StopSending{p.Epoch}} // the answer comes when it is flushed, mostly at once
}

// settle obeys an order that says where the topic lives.
func (f *Follower) settle(p *control.TopicPlacement, wrote bool) []Effect {
	switch {
	case p.Active == f.home:
		return f.enter(f.home, p.Epoch)
	case f.holding == p.Epoch && f.flushed && slices.Contains(p.With, f.boot), !wrote:
		return f.enter(p.Active, p.Epoch)
	case f.flushed && f.since < p.Epoch: // an earlier decision may name this process
		if f.resolving {
			return nil
		}
		f.resolving = true
		return []Effect{Resolve{f.home, f.holding, f.since}}
	}
	return f.stay(p.Active, p.Epoch)
}

// enter goes on at a cluster and is done with an epoch.
func (f *Follower) enter(c starferry.ClusterName, e starferry.Epoch) []Effect {
	there := f.home == c && f.entered && f.holding == 0
	f.home, f.epoch, f.entered = c, e, true
	f.holding, f.flushed, f.resolving, f.refusal, f.since = 0, false, false, "", 0
	if there {
		return nil
	}
	return []Effect{Enter{c}}
}

// stay goes on where it is though the topic has moved.
func (f *Follower) stay(moved starferry.ClusterName, e starferry.Epoch) []Effect {
	out := f.enter(f.home, e)
	f.refusal = fmt.Sprintf("the topic moved to %s without this process, which had records of its own on %s; switch the producers again, that takes it along", moved, f.home)
	return out
}

func (f *Follower) resolved(now int64, e Resolved) []Effect {
	if e.Epoch != f.holding || !f.resolving {
		return nil
	}
	f.resolving = false
	switch {
	case e.Err != "":
		f.refusal, f.until = e.Err, now+1000
		return []Effect{Publish{}}
	case e.At < f.since || e.Home == f.home:
		return append(f.enter(f.home, max(f.holding, e.At)), Publish{})
	case f.flushed && e.With, !e.Wrote:
		return append(f.enter(e.Home, e.At), Publish{})
	}
	return append(f.stay(e.Home, e.At), Publish{})
}
