package handover

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// Request asks for the producers of a topic to be moved. Times are milliseconds.
type Request struct {
	Topic          starferry.Topic
	Source, Target starferry.ClusterName
	Link           starferry.LinkName
	Prepare        int64 // how long producers may take to be ready, and dead ones to be forgotten
	HoldLimit      int64 // how long they may hold until the decision; then they go on where they were
	HoldDeadline   int64 // after which each finds out by itself; more than HoldLimit
	By, Why, Token string
}

// Scene is what a Driver needs to know to begin.
type Scene struct {
	Placement *control.TopicPlacement
	Revision  uint64
	// Home is where the topic lives, by what Kafka says, and since which epoch.
	Home   starferry.ClusterName
	Epoch  starferry.Epoch
	Leases []control.ProducerLease
}

// Fact is what a Driver is told.
type Fact interface{ fact() }

// The facts.
type (
	// Looked is the answer to Look.
	Looked struct{ Scene Scene }
	// SessionOpened: nobody else's decision is possible any more. Home is what
	// Kafka said afterwards.
	SessionOpened struct {
		Home  starferry.ClusterName
		Epoch starferry.Epoch
	}
	// Written: the placement stands. Lost: somebody else has written.
	Written struct {
		Revision uint64
		Lost     bool
	}
	// Leases are the live producers now. Fresh: read after Passed was told.
	Leases struct {
		Leases []control.ProducerLease
		Fresh  bool
	}
	// Passed: the copy has passed the ends of the log that were read after CopyPast
	// was asked. Behind is how much it still lacks.
	Passed struct{ Behind int64 }
	// Decided: the decision stands, or it never will.
	Decided struct{ Moved bool }
	// Trouble: an effect failed in a way that repeating does not mend.
	Trouble struct{ Why string }
	// Clock: time has passed.
	Clock struct{}
)

func (Looked) fact()        {}
func (SessionOpened) fact() {}
func (Written) fact()       {}
func (Leases) fact()        {}
func (Passed) fact()        {}
func (Decided) fact()       {}
func (Trouble) fact()       {}
func (Clock) fact()         {}

// Deed is what a Driver wants done.
type Deed interface{ deed() }

// The deeds. Each is answered by one fact.
type (
	Look        struct{} // Looked
	OpenSession struct{} // SessionOpened: take the transactional id on Source, then read
	Write       struct { // Written
		Placement control.TopicPlacement
		Expect    uint64
	}
	CopyPast  struct{} // Passed: read the ends of Source's log, wait for the copy
	LookAgain struct{} // Leases, Fresh
	Decide    struct { // Decided
		Epoch starferry.Epoch
		With  []string
	}
	// End: the switch is over.
	End struct{ Report Report }
)

func (Look) deed()        {}
func (OpenSession) deed() {}
func (Write) deed()       {}
func (CopyPast) deed()    {}
func (LookAgain) deed()   {}
func (Decide) deed()      {}
func (End) deed()         {}

// Report is how a switch ended.
type Report struct {
	Moved   bool // the topic lives on Target
	Changed bool // by this switch
	Epoch   starferry.Epoch
	Failure string // why it did not go; what stands is said
	// Producers took part; Left were gone when it was decided.
	Producers []starferry.InstanceID
	Left      []starferry.InstanceID
	// Late had not said by the end that they write on Target.
	Late []starferry.InstanceID
}

// Step names where a Driver is.
type Step string

// The steps in order.
const (
	AtLook     Step = "look"
	AtSession  Step = "session"
	AtPrepare  Step = "prepare"
	AtHold     Step = "hold"
	AtCut      Step = "cut"
	AtConfirm  Step = "confirm"
	AtDecide   Step = "decide"
	AtAnnounce Step = "announce"
	AtSteady   Step = "steady"
	AtUndo     Step = "undo"
	AtEnd      Step = "end"
)

// Driver moves the producers of one topic.
type Driver struct {
	q        Request
	step     Step
	since    int64
	epoch    starferry.Epoch
	revision uint64 // that stands
	ordered  uint64 // of the order that is being answered
	writing  bool

	expected map[string]control.ProducerLease // by boot
	present  map[string]control.ProducerLease
	with     []string              // whose records the copy has passed
	home     starferry.ClusterName // by what Kafka says
	why      string
	report   Report
}

// NewDriver makes a driver, and says what it wants first.
func NewDriver(q Request) (*Driver, []Deed) {
	return &Driver{q: q, step: AtLook, expected: map[string]control.ProducerLease{}, present: map[string]control.ProducerLease{}}, []Deed{Look{}}
}

// At is the step it is at.
func (d *Driver) At() Step { return d.step }

// Waits says in words what it waits for.
func (d *Driver) Waits() string {
	switch d.step {
	case AtPrepare, AtHold, AtAnnounce, AtUndo:
		return strings.Join(d.missing(), "; ")
	case AtCut:
		return "the copy to pass what was written"
	}
	return ""
}

// Step takes a fact at a time in milliseconds.
func (d *Driver) Step(now int64, f Fact) []Deed {
	if d.step == AtEnd {
		return nil
	}
	switch f := f.(type) {
	case Looked:
		return d.looked(now, f.Scene)
	case SessionOpened:
		return d.opened(now, f)
	case Written:
		return d.written(now, f)
	case Leases:
		return d.heard(now, f)
	case Passed:
		return d.passed(now, f)
	case Decided:
		return d.decided(now, f)
	case Trouble:
		return d.trouble(now, f.Why)
	}
	return d.advance(now)
}

func (d *Driver) become(now int64, s Step) { d.step, d.since = s, now }

func (d *Driver) end(r Report) []Deed {
	d.step = AtEnd
	r.Epoch = d.epoch
	return []Deed{End{r}}
}

func (d *Driver) looked(now int64, s Scene) []Deed {
	d.revision, d.epoch = s.Revision, s.Epoch
	if s.Placement != nil {
		d.epoch = max(d.epoch, s.Placement.Epoch)
	}
	behind := false
	for _, l := range s.Leases {
		d.epoch = max(d.epoch, l.Epoch, l.Held)
		behind = behind || l.Home == d.q.Source && !l.Closed
	}
	announced := s.Placement == nil || s.Placement.Phase == control.Steady && s.Placement.Active == s.Home
	switch {
	case s.Home != d.q.Target && s.Home != d.q.Source:
		return d.end(Report{Failure: fmt.Sprintf("the topic lives on %s, neither on %s nor on %s", s.Home, d.q.Source, d.q.Target)})
	case s.Home == d.q.Target && !behind && announced:
		return d.end(Report{Moved: true})
	}
	d.remember(s.Leases)
	d.become(now, AtSession)
	return []Deed{OpenSession{}}
}

func (d *Driver) opened(now int64, f SessionOpened) []Deed {
	if d.step != AtSession {
		return nil
	}
	d.epoch, d.home = max(d.epoch, f.Epoch)+1, f.Home
	d.become(now, AtPrepare)
	return d.write(control.Prepare, d.q.Source)
}

func (d *Driver) write(p control.Phase, active starferry.ClusterName) []Deed {
	v := control.TopicPlacement{Topic: d.q.Topic, Epoch: d.epoch, Phase: p, Active: active, HoldDeadlineMS: d.q.HoldDeadline, Link: d.q.Link,
		By: d.q.By, Why: d.q.Why, Token: d.q.Token}
	if v.Open() {
		v.Target = d.q.Target
	}
	if active == d.q.Target {
		v.With = d.with
	}
	d.writing = true
	return []Deed{Write{v, d.revision}}
}

func (d *Driver) written(now int64, f Written) []Deed {
	d.writing = false
	if f.Lost {
		if d.step == AtAnnounce || d.step == AtSteady { // Kafka has decided; whoever wrote will read that
			return d.finish()
		}
		return d.end(Report{Failure: "somebody else moves these producers; look again when that has ended"})
	}
	d.revision, d.ordered = f.Revision, f.Revision
	if d.step == AtSteady {
		return d.finish()
	}
	return d.advance(now)
}

// remember takes in who is there. Whoever was seen once is expected until it has
// closed, or its lease has run out.
func (d *Driver) remember(leases []control.ProducerLease) {
	clear(d.present)
	for _, l := range leases {
		if l.Closed {
			delete(d.expected, l.Boot)
			continue
		}
		d.present[l.Boot] = l
		d.expected[l.Boot] = l
	}
}

func (d *Driver) heard(now int64, f Leases) []Deed {
	d.remember(f.Leases)
	if d.step != AtConfirm || !f.Fresh {
		return d.advance(now)
	}
	cut := d.with
	d.with = d.holders()
	if len(d.missing()) > 0 || slices.ContainsFunc(d.with, func(boot string) bool { return !slices.Contains(cut, boot) }) {
		d.step = AtHold // somebody came after the ends were read, or went on by itself
		return d.advance(now)
	}
	d.become(now, AtDecide)
	return []Deed{Decide{d.epoch, d.with}}
}

// holders are the boots of those that hold for this epoch with nothing under way.
func (d *Driver) holders() []string {
	var out []string
	for _, l := range sorted(d.present) {
		if l.Held == d.epoch {
			out = append(out, l.Boot)
		}
	}
	return out
}

// missing says whom the step waits for.
func (d *Driver) missing() []string {
	var out []string
	for _, l := range sorted(d.present) {
		var what string
		switch {
		case l.Revision < d.ordered:
			what = "has not answered"
		case d.step == AtAnnounce && l.Home != d.q.Target && l.Epoch < d.epoch:
			what = "writes on " + string(l.Home)
		case d.step == AtAnnounce || d.step == AtUndo && l.Held == 0 || l.Home == d.q.Target:
		case d.step == AtUndo:
			what = "still holds"
		case l.Refusal != "":
			what = l.Refusal
		case d.step == AtPrepare && l.Ready != d.epoch:
			what = "is not ready for " + string(d.q.Target)
		case d.step != AtPrepare && l.Held != d.epoch:
			what = "has records under way"
		}
		if what != "" {
			out = append(out, fmt.Sprintf("%s (%s): %s", l.Instance, cmp.Or(l.Host, "host unknown"), what))
		}
	}
	return out
}

func sorted(m map[string]control.ProducerLease) []control.ProducerLease {
	var out []control.ProducerLease
	for _, l := range m {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b control.ProducerLease) int {
		return cmp.Or(cmp.Compare(a.Instance, b.Instance), cmp.Compare(a.Boot, b.Boot))
	})
	return out
}

func (d *Driver) advance(now int64) []Deed {
	if d.writing {
		return nil
	}
	switch waits := d.missing(); d.step {
	case AtPrepare:
		if len(waits) == 0 {
			d.become(now, AtHold)
			return d.write(control.HoldSends, d.q.Source)
		}
		if now-d.since > d.q.Prepare {
			return d.undo(now, "not ready: "+strings.Join(waits, "; "))
		}
	case AtHold:
		if now-d.since > d.q.HoldLimit {
			return d.undo(now, "held too long: "+cmp.Or(strings.Join(waits, "; "), "the copy did not come near"))
		}
		if len(waits) == 0 {
			d.step, d.with = AtCut, d.holders() // since stays that of the hold
			return []Deed{CopyPast{}}
		}
	case AtAnnounce:
		if len(waits) == 0 || now-d.since > d.q.Prepare {
			d.report.Late = d.late()
			d.become(now, AtSteady)
			return d.write(control.Steady, d.q.Target)
		}
	case AtUndo:
		if len(waits) == 0 || now-d.since > d.q.Prepare {
			return d.end(Report{Failure: d.why})
		}
	}
	return nil
}

func (d *Driver) late() []starferry.InstanceID {
	var out []starferry.InstanceID
	for _, l := range sorted(d.present) {
		if l.Home != d.q.Target {
			out = append(out, l.Instance)
		}
	}
	return out
}

func (d *Driver) passed(now int64, f Passed) []Deed {
	if d.step != AtCut {
		return nil
	}
	if f.Behind > 0 {
		if now-d.since > d.q.HoldLimit {
			return d.undo(now, fmt.Sprintf("held too long: the copy is %d records behind", f.Behind))
		}
		return []Deed{CopyPast{}}
	}
	d.step = AtConfirm
	return []Deed{LookAgain{}}
}

func (d *Driver) decided(now int64, f Decided) []Deed {
	if d.step != AtDecide {
		return nil
	}
	if !f.Moved {
		return d.undo(now, "a producer had held too long and went on where it was")
	}
	d.become(now, AtAnnounce)
	return d.write(control.Announce, d.q.Target)
}

func (d *Driver) finish() []Deed {
	r := d.report
	r.Moved, r.Changed = true, true
	for _, l := range sorted(d.expected) {
		if _, here := d.present[l.Boot]; here {
			r.Producers = append(r.Producers, l.Instance)
		} else {
			r.Left = append(r.Left, l.Instance)
		}
	}
	return d.end(r)
}

// undo lets producers go on where they were, also those that were to be taken
// along to where the topic lives by now. No decision of this epoch was asked
// for, or it is known that it will never stand.
func (d *Driver) undo(now int64, why string) []Deed {
	d.why, d.with = why, nil
	d.become(now, AtUndo)
	return d.write(control.Steady, d.home)
}

func (d *Driver) trouble(now int64, why string) []Deed {
	switch d.step {
	case AtPrepare, AtHold, AtCut, AtConfirm:
		return d.undo(now, why)
	case AtAnnounce, AtSteady:
		return d.finish()
	}
	return d.end(Report{Failure: why})
}
