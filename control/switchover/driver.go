package switchover

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// Driver is the agent's half of the switch: it takes a group from prepare to
// steady, each step behind a barrier, or takes it back. It is a pure state
// machine: Step takes one piece of news and returns ordered orders.
//
// It keeps nothing that could not be learned again from the stored placement,
// the leases and what Kafka says, so a Driver of another agent finishes or
// undoes what a dead one has begun.
type Driver struct {
	req Request
	now int64
	out []Order

	p       control.Placement // as stored, if stored
	rev     uint64
	stored  bool
	known   bool // the placement has been read
	reading bool
	writing *Write

	leases     []control.Lease
	leasesSeen bool

	round   int64
	asked   *Ask     // under way
	answers *Answers // to asked
	retryAt int64

	step      step
	began     int64 // of the request
	phaseAt   int64 // when the present step was entered
	drainAt   int64 // when the instances were first told to stand still; 0: not yet
	beatAt    int64 // when the placement was last written or seen to change
	firstRev  uint64
	strangeAt int64 // since when members without a lease are there
	strangers []stranger
	bareAt    int64 // since when everyone stands on the target and partitions are held by nobody there
	slowAt    int64 // since when the copy is found too slow to drain; 0: it is not

	gone    map[starferry.InstanceID]control.Lease // last words, if stragglers are evicted
	silent  map[place]int64                        // memberships without a lease, since when
	evicted []Evicted
	evictAt int64

	trial starferry.Cut // what prepare tries to translate; nil: not yet

	decideGen starferry.Generation // of the last order to decide; 0: none was given
	failing   *Failure             // why it is being undone
	undoOther bool                 // it is somebody else's switch that is being undone
	quit      string               // why it was asked to stop
	decidedAt int64
	attempts  int
	exact     int
	behind    []starferry.TopicPartition
	own       starferry.Epoch // of the switch that this request has opened; 0: none
	recalled  bool            // a lost cut has been looked for in vain
	notes     []string        // for the report
	waits     string
	rows      []Wait
	ended     bool
}

// step is what the driver is doing.
type step string

const (
	looking    step = "look"
	preparing  step = "prepare"
	draining   step = "drain"
	seeding    step = "seed"
	deciding   step = "decide"
	announcing step = "announce"
	verifying  step = "verify"
	undoing    step = "undo"
)

// How long the driver waits, in milliseconds.
const (
	retryEvery  = 50     // after a barrier that did not hold
	closeCopy   = 25     // the copy's delay with which a drain begins at once
	slowLimit   = 5_000  // how long a slower copy is waited for
	undoLimit   = 30_000 // for the instances to come back to the old home
	settleLimit = 30_000 // for the instances to apply a decision
)

// NewDriver returns a driver that waits for its first news.
func NewDriver(r Request) *Driver {
	return &Driver{req: r.filled(), step: looking, began: -1}
}

// Ended reports whether the last order has been given.
func (d *Driver) Ended() bool { return d.ended }

// Placement returns the placement as the driver knows it, and its revision.
func (d *Driver) Placement() (control.Placement, uint64) { return d.p, d.rev }

// Step takes one piece of news at a time given in Unix milliseconds and returns
// what is to be done, in order.
func (d *Driver) Step(now int64, n News) []Order {
	d.now, d.out = now, nil
	if d.ended {
		return nil
	}
	if d.began < 0 {
		d.began, d.phaseAt = now, now
	}
	switch n := n.(type) {
	case Stored:
		d.onStored(n)
	case Written:
		d.onWritten(n.Revision)
	case WriteLost:
		d.reading = true
		d.do(ReadStored{})
	case LeasesSeen:
		d.keep(n.Leases)
		d.leases, d.leasesSeen = n.Leases, true
	case Answers:
		if d.asked != nil && n.Round == d.asked.Round && d.answers == nil {
			d.answers = &n
		}
	case Abandon:
		d.quit = cmpOr(n.Reason, "no reason given")
	case Passed:
	}
	d.advance()
	return d.out
}

func (d *Driver) do(o Order) { d.out = append(d.out, o) }

// advance takes the step as far as what is known allows.
func (d *Driver) advance() {
	for range 8 { // a step may hand over to the next one at once
		if d.ended || d.writing != nil || d.reading {
			return
		}
		if !d.known {
			d.reading = true
			d.do(ReadStored{})
			return
		}
		if !d.leasesSeen || d.late() || d.abandoned() {
			return
		}
		before := d.step
		d.dispatch()
		if d.step == before {
			break
		}
	}
	d.beat()
}

func (d *Driver) dispatch() {
	switch d.step {
	case looking:
		d.look()
	case preparing:
		d.prepare()
	case draining:
		d.drain()
	case seeding:
		d.seed()
	case deciding:
		d.decide()
	case announcing:
		d.announce()
	case verifying:
		d.verify()
	case undoing:
		d.undo()
	}
}

// enter begins a step with nothing asked.
func (d *Driver) enter(s step) {
	d.step, d.phaseAt = s, d.now
	d.drop()
	d.trial = nil
	d.retryAt, d.strangeAt, d.strangers, d.bareAt, d.slowAt, d.waits = 0, 0, nil, 0, 0, ""
	d.rows = nil
	d.do(Say{Phase: string(s), Began: d.began, Since: d.phaseAt})
}

// late ends what has taken too long. It reports whether it did.
func (d *Driver) late() bool {
	undecided := d.step == preparing || d.step == draining || d.step == seeding || d.step == deciding
	switch {
	case (undecided || d.step == looking) && d.now-d.began > d.req.Within:
		d.fail(Failure{Expected: fmt.Sprintf("to decide within %d ms", d.req.Within), Found: []string{d.waiting()}, Rows: d.missing(),
			Do: "remove what it waits for, or allow more time with within="})
	case undecided && d.drainAt != 0 && d.now > d.standLimit():
		d.fail(Failure{Expected: fmt.Sprintf("to decide within %d ms of the order to drain", d.req.DrainDeadline), Found: []string{d.waiting()}, Rows: d.missing(),
			Do: "remove what it waits for, then switch again"})
	case d.step == undoing && d.now-d.phaseAt > undoLimit:
		d.undone(fmt.Sprintf("the order to stay on %s is stored, but not everyone has answered it: %s", d.p.Active, d.waiting()))
	case d.step == announcing && d.now-d.phaseAt > settleLimit:
		d.end(Failure{Expected: fmt.Sprintf("every instance to live on %s", d.p.Active), Found: []string{d.waiting()}, Rows: d.missing(), Moved: true,
			Stands: fmt.Sprintf("the group's home is %s (epoch %d)", d.p.Active, d.p.Epoch),
			Do:     "restart the instances named; the decision stands and each will read it. Ask again with the same token for the report"})
	default:
		return false
	}
	return true
}

func (d *Driver) waiting() string {
	if d.waits == "" {
		return "nothing yet"
	}
	return d.waits
}

// abandoned undoes the switch if that was asked for and can still be done.
func (d *Driver) abandoned() bool {
	if d.quit == "" {
		return false
	}
	switch d.step {
	case looking, preparing, draining, seeding, deciding:
		d.fail(Failure{Expected: "to go on", Found: []string{"asked to stop: " + d.quit}, Do: "switch again when wanted"})
		return true
	}
	return false
}

// beat extends the drain deadline, and shows other agents that this one lives.
func (d *Driver) beat() {
	if d.ended || d.writing != nil || d.reading || !d.stored || !d.p.Open() || d.now-d.beatAt < d.req.DrainDeadline/3 {
		return
	}
	switch d.step {
	case preparing, draining, seeding, deciding:
		p := d.p
		p.Beat++
		d.write(p)
	}
}

// write stores a placement; the driver goes on when it is stored.
func (d *Driver) write(p control.Placement) {
	p.Version, p.Group, p.At = control.ProtocolVersion, d.req.Group, d.now
	w := Write{Placement: p, Expect: d.rev}
	d.writing = &w
	d.do(w)
}

func (d *Driver) onWritten(rev uint64) {
	if d.writing == nil {
		return
	}
	old := d.p
	d.p, d.rev, d.stored, d.beatAt = d.writing.Placement, rev, true, d.now
	d.writing = nil
	if old.Beat != d.p.Beat && old.Phase == d.p.Phase && old.Epoch == d.p.Epoch {
		return // the same order, said again
	}
	d.firstRev = rev
	d.follow()
}

// follow takes the step that the stored placement stands for.
func (d *Driver) follow() {
	if d.p.Open() && d.mine() {
		d.own = d.p.Epoch
	}
	switch d.p.Phase {
	case control.Prepare:
		d.enter(preparing)
	case control.Drain:
		d.attempts++
		d.stand()
		d.enter(draining)
	case control.Seed:
		d.stand()
		d.enter(seeding)
	case control.Decide:
		d.stand()
		if d.p.Actor != nil {
			d.decideGen = d.p.Actor.Generation
		}
		d.enter(deciding)
	case control.Announce:
		d.enter(announcing)
	case control.Steady:
		switch {
		case d.failing != nil || d.undoOther:
			d.enter(undoing)
		case d.step == announcing:
			d.enter(verifying)
		default:
			d.enter(looking)
		}
	}
}

// stand notes when the instances were first told to stand still.
func (d *Driver) stand() {
	if d.drainAt == 0 {
		d.drainAt = d.now
	}
}

// onStored takes what is stored as the truth of KV.
func (d *Driver) onStored(n Stored) {
	d.reading = false
	if w := d.writing; w != nil {
		d.afterLostWrite(w, n)
		return
	}
	if d.known && n.Revision != d.rev {
		d.beatAt = d.now
	}
	d.take(n)
}

func (d *Driver) take(n Stored) {
	if !d.known || n.Revision != d.rev {
		d.firstRev = n.Revision
		d.beatAt = d.now
	}
	d.known, d.rev, d.stored, d.p = true, n.Revision, n.Placement != nil, control.Placement{}
	if n.Placement != nil {
		d.p = *n.Placement
	}
}

// afterLostWrite finds out what became of a write.
func (d *Driver) afterLostWrite(w *Write, n Stored) {
	switch {
	case n.Placement != nil && samePlacement(*n.Placement, w.Placement):
		d.onWritten(n.Revision) // it was stored, only the answer was lost
	case n.Revision == w.Expect:
		d.do(*w) // it was not stored
	case n.Placement == nil:
		// Everything is gone. The order that was to be written may rest on what
		// nobody remembers; Kafka still knows, so it is looked at again.
		d.writing = nil
		lost := d.p
		d.take(n)
		d.lostKV(lost)
	default:
		d.writing = nil
		d.take(n)
		d.end(Failure{Conflict: true, Expected: "to be the only one that drives this group",
			Found:  []string{fmt.Sprintf("a placement of somebody else: phase %s, epoch %d, by %q", d.p.Phase, d.p.Epoch, d.p.By)},
			Stands: "that one stands",
			Do:     "wait for it, or ask again with its token; starferry audit shows who it is"})
	}
}

// lostKV goes on after the placement has vanished in the middle of a switch.
func (d *Driver) lostKV(lost control.Placement) {
	if !lost.Open() {
		d.enter(looking)
		return
	}
	if d.failing == nil {
		d.failing = &Failure{Group: d.req.Group, Phase: string(d.step), Expected: "the placement to stay stored",
			Found: []string{"the bucket was emptied, or restored from a backup"},
			Do:    "find out who did that, then switch again"}
	}
	d.write(control.Placement{Epoch: lost.Epoch, Phase: control.Steady, Active: lost.Active, Link: lost.Link,
		By: lost.By, Why: lost.Why})
}

func samePlacement(a, b control.Placement) bool {
	return a.Phase == b.Phase && a.Epoch == b.Epoch && a.Active == b.Active && a.Target == b.Target &&
		a.Beat == b.Beat && a.Token == b.Token && a.At == b.At && a.Cut.Equal(b.Cut) && reflect.DeepEqual(a.Actor, b.Actor)
}

// fail gives the switch up: what has been opened is undone first.
func (d *Driver) fail(f Failure) {
	f.Group, f.Phase = d.req.Group, cmpOr(f.Phase, string(d.step))
	if !d.stored || !d.p.Open() || !d.mine() {
		f.Stands = cmpOr(f.Stands, "nothing has been changed")
		d.end(f)
		return
	}
	d.failing = &f
	d.drop()
	d.write(d.steadyBack())
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// steadyBack is the placement that takes the open switch back.
func (d *Driver) steadyBack() control.Placement {
	return control.Placement{Epoch: d.p.Epoch, Phase: control.Steady, Active: d.p.Active, Link: d.p.Link, By: d.p.By, Why: d.p.Why}
}

// mine reports whether the stored placement belongs to this request.
func (d *Driver) mine() bool { return d.p.Token == d.req.Token && d.p.Target == d.req.Target }

// end gives the last order of a switch that was not made.
func (d *Driver) end(f Failure) {
	f.Group, f.Phase = d.req.Group, cmpOr(f.Phase, string(d.step))
	d.ended = true
	d.do(Failed{f})
}

// say tells people what is waited for, once.
func (d *Driver) say(waits ...Wait) {
	text := list(texts(waits), 5)
	if text != d.waits || !slices.Equal(d.rows, waits) {
		d.waits, d.rows = text, waits
		d.do(Say{Phase: string(d.step), Waits: text, Rows: waits[:min(len(waits), maxWaits)], More: max(0, len(waits)-maxWaits), Began: d.began, Since: d.phaseAt})
	}
}

// facts asks and returns the answers once they are there; nil until then. Each
// answer is used once.
func (d *Driver) facts(a Ask) *Answers {
	if d.asked != nil {
		if d.answers == nil {
			return nil
		}
		asked, got := d.asked, d.answers
		got.settled = asked.settled
		d.asked, d.answers = nil, nil
		if !asked.Translate.Equal(a.Translate) || !slices.Equal(asked.Commits, a.Commits) {
			d.drop() // the question has changed meanwhile
			return d.facts(a)
		}
		if len(got.Failed) > 0 {
			d.say(unread(got.Failed)...)
			d.retryAt = d.now + 4*retryEvery
			return nil
		}
		return got
	}
	if d.now < d.retryAt {
		return nil
	}
	d.round++
	a.Round = d.round
	d.asked = &a
	d.do(a)
	return nil
}

// drop forgets what was asked; a late answer is void.
func (d *Driver) drop() { d.asked, d.answers = nil, nil }

// again waits a moment before the barrier is tried anew.
func (d *Driver) again(waits ...Wait) {
	d.say(waits...)
	d.retryAt = d.now + retryEvery
}

// highest is the largest epoch that anything has heard of.
func (d *Driver) highest(commits map[starferry.ClusterName]Found) starferry.Epoch {
	e := d.p.Epoch
	for _, f := range commits {
		for _, c := range f {
			if c.Mark != nil {
				e = max(e, c.Mark.Epoch)
			}
		}
	}
	for _, l := range d.leases {
		e = max(e, l.Epoch, l.HomeEpoch, l.Drained)
	}
	return e
}

// Truth is what Kafka says of the group's home: the highest epoch counts, and
// at equal epochs a decision beats everything. "" if no mark says anything.
func Truth(commits map[starferry.ClusterName]Found) (home starferry.ClusterName, e starferry.Epoch, moved bool) {
	rank := map[control.State]int{control.Moved: 3, control.Home: 2, control.Draining: 1}
	best := 0
	for _, c := range slices.Sorted(maps.Keys(commits)) {
		for _, f := range commits[c] {
			if f.Mark == nil || rank[f.Mark.State] == 0 {
				continue
			}
			if home == "" || f.Mark.Epoch > e || f.Mark.Epoch == e && rank[f.Mark.State] > best {
				home, e, best = c, f.Mark.Epoch, rank[f.Mark.State]
				if f.Mark.State == control.Moved {
					home = f.Mark.Cluster
				}
			}
		}
	}
	return home, e, best == 3
}
