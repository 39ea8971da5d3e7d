package switchover

import (
	"fmt"
	"slices"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// prepare waits until every member of both groups, as Kafka reports them, is a
// live instance at this revision, and the copy is near its end.
func (d *Driver) prepare() {
	for _, l := range d.leases {
		if l.Revision == d.rev && l.Refusal != "" {
			d.fail(*refusal("every instance to be able to join "+string(d.p.Target), "give that instance what it lacks, then switch again",
				Row{Subject: string(l.Instance), What: fmt.Sprintf("on %s says: %s", l.Host, l.Refusal), Do: "give it what it lacks"}))
			return
		}
	}
	if old := d.outdated(); old != nil {
		d.fail(*old)
		return
	}
	waits := d.heard(func(l control.Lease) string {
		if l.Home != d.p.Active {
			return fmt.Sprintf("to live on %s (it says %q)", d.p.Active, l.Home)
		}
		return ""
	})
	waits = append(append(waits, d.standing(d.p.Active, nil)...), d.standing(d.p.Target, nil)...)
	if len(waits) == 0 {
		if waits = d.covered(d.p.Target); d.bare(waits) {
			return
		}
	}
	if len(waits) > 0 {
		d.trial = nil
		d.hold(waits...)
		return
	}
	if d.trial != nil {
		d.try()
		return
	}
	clusters := []starferry.ClusterName{d.p.Active, d.p.Target}
	f := d.facts(Ask{Describe: clusters, Commits: clusters, Link: d.topics()})
	if f != nil {
		d.prepared(f)
	}
}

// prepared judges what prepare has asked for.
func (d *Driver) prepared(f *Answers) {
	if home, e, moved := Truth(f.Commits); moved && e >= d.p.Epoch {
		d.repair(home, e, "Kafka says moved")
		return
	}
	for _, c := range []starferry.ClusterName{d.p.Active, d.p.Target} {
		if refusal := foreignGroup(c, f.Groups[c]); refusal != nil {
			d.fail(*refusal)
			return
		}
	}
	if refusal := d.lanes(f.Link); refusal != nil {
		d.fail(*refusal)
		return
	}
	waits, strangers := d.members(f)
	if d.stranger(d.evict(strangers, f)) {
		return
	}
	if waits = append(waits, d.lagging(f.Link)...); len(waits) > 0 {
		d.again(waits...)
		return
	}
	if d.trial == nil {
		d.trial, _ = f.Commits[d.p.Active].places(d.partitions())
	}
	d.try()
}

// try translates what the group has committed by now, so that a place that
// cannot be proven shows before anything stands still, and measures the copy,
// whose delay adds to the pause one to one.
func (d *Driver) try() {
	ask := Ask{Translate: d.trial}
	if d.req.Direction == starferry.Forward {
		ask.Delay = d.partitions()
	}
	f := d.facts(ask)
	if f == nil {
		return
	}
	cut := d.trial
	d.trial = nil
	refusal := d.untranslatable(f.Translate, cut)
	switch {
	case refusal == nil && d.slow(f.DelayMS):
		d.again(thing("the copy to follow its source within %d ms (it takes %d ms)", closeCopy, f.DelayMS))
	case refusal == nil:
		d.write(d.ordered(control.Drain, nil, nil, nil))
	case d.now-d.phaseAt > d.req.Patience:
		d.fail(*refusal)
	default: // the group may read past it
		d.again(refusal.waits()...)
	}
}

// slow reports whether a drain should wait for the copy to come closer. A copy
// that never does is no reason to refuse: the pause is longer, that is all.
func (d *Driver) slow(delay int64) bool {
	if delay <= closeCopy {
		return false
	}
	if d.slowAt == 0 {
		d.slowAt = d.now
	}
	return d.now-d.slowAt < slowLimit
}

// stranger refuses a member without a lease once it has been there for longer
// than a dead member could be.
func (d *Driver) stranger(found []stranger) bool {
	if len(found) == 0 {
		d.strangeAt = 0
		return false
	}
	if d.strangeAt == 0 || !slices.ContainsFunc(found, func(s stranger) bool { return slices.Contains(d.strangers, s) }) {
		d.strangeAt = d.now // others than before
	}
	d.strangers = found
	if d.now-d.strangeAt < d.req.Patience {
		return false
	}
	var rows []Row
	for _, s := range found {
		rows = append(rows, s.row())
	}
	d.fail(*refusal("every member of the group to be a live instance", "", rows...))
	return true
}

// lagging names lanes that are too far from their end. Going back, nothing has
// to be copied first.
func (d *Driver) lagging(l *LinkSeen) []Wait {
	if d.req.Direction == starferry.Back || l == nil {
		return nil
	}
	var waits []Wait
	for _, tp := range d.partitions() {
		if lag := l.Lag[tp]; lag > d.req.MaxLag {
			waits = append(waits, lane(tp, d.p.Target, "to be copied to within %d records of its end (it is %d behind)", d.req.MaxLag, lag))
		}
	}
	return waits
}

// ordered is the placement of the open switch in another phase.
func (d *Driver) ordered(ph control.Phase, actor *control.Actor, cut, seeds starferry.Cut) control.Placement {
	p := d.p
	p.Phase, p.Actor, p.Cut, p.Seeds, p.DrainDeadlineMS = ph, actor, cut, seeds, d.req.DrainDeadline
	return p
}

// drain waits until all members of the old home have acknowledged this revision
// in one generation, and Kafka says what they say. That is the cut.
func (d *Driver) drain() {
	waits, cut := d.stillness()
	waits = append(waits, d.standing(d.p.Target, nil)...)
	if len(waits) == 0 {
		waits = d.covered(d.p.Target)
	}
	if len(waits) > 0 {
		d.hold(waits...)
		return
	}
	f := d.facts(Ask{Describe: []starferry.ClusterName{d.p.Active, d.p.Target}, Commits: []starferry.ClusterName{d.p.Active},
		Translate: cut, Wait: true, Skips: true})
	if f != nil {
		d.drained(f, cut)
	}
}

func (d *Driver) drained(f *Answers, cut starferry.Cut) {
	if d.decided(f) {
		return
	}
	waits, strangers := d.members(f)
	if d.stranger(d.evict(strangers, f)) {
		return
	}
	waits = append(waits, d.left(f.Commits[d.p.Active], cut)...)
	waits = append(waits, differences(d.p.Active, f.Commits[d.p.Active], cut, control.Mark{State: control.Draining, Epoch: d.p.Epoch})...)
	if refusal := d.untranslatable(f.Translate, cut); refusal != nil {
		d.fail(*refusal)
		return
	}
	if f.Translate != nil {
		for tp, n := range f.Translate.Behind {
			waits = append(waits, lane(tp, d.p.Target, "to be copied past the cut (%d to go)", n))
		}
	}
	actor := d.actor(d.p.Target)
	if actor == nil {
		waits = append(waits, thing("an instance that can seed %s", d.p.Target))
	}
	if len(waits) > 0 {
		slices.SortFunc(waits, Wait.compare)
		d.again(waits...)
		return
	}
	d.exact, d.behind = exactOf(f.Translate), behindOf(f.Translate)
	d.write(d.ordered(control.Seed, actor, cut, f.Translate.Cut))
}

// left names partitions of the group's topics that have a commit and are in
// nobody's part of the cut: their owner has gone, and what the others say is
// older than that.
func (d *Driver) left(found Found, cut starferry.Cut) []Wait {
	topics := d.topics()
	var waits []Wait
	for tp := range found {
		if _, ok := cut[tp]; !ok && slices.Contains(topics, tp.Topic) {
			waits = append(waits, lane(tp, d.p.Active, "to be owned by somebody on %s", d.p.Active))
		}
	}
	slices.SortFunc(waits, Wait.compare)
	return waits
}

// untranslatable refuses a cut with a place that cannot be proven, or that lies
// among records which were deleted before they were copied.
func (d *Driver) untranslatable(t *starferry.Translation, cut starferry.Cut) *Failure {
	if t == nil {
		return nil
	}
	var bad []Row
	refuse := func(tp starferry.TopicPartition, why, do string) {
		bad = append(bad, Row{Subject: tp.String(), What: fmt.Sprintf("at %d on %s", cut[tp].Next, d.p.Active), Why: why, Do: do})
	}
	const past = "let the group read past it, or set its offset there on purpose"
	for tp, why := range t.Missing {
		refuse(tp, why, past)
	}
	for _, tp := range cut.Partitions() {
		_, missing := t.Missing[tp]
		a, answered := t.Answers[tp]
		_, behind := t.Behind[tp]
		_, placed := t.Cut[tp]
		switch {
		case missing || behind:
		case a.Status == starferry.InHole && a.Reason == starferry.Deleted:
			refuse(tp, fmt.Sprintf("deleted on %s before it was copied", d.p.Active), past)
		case a.Status == starferry.BeforeStart:
			refuse(tp, "older than what the offset map remembers", past)
		case a.Status == starferry.Unknown:
			refuse(tp, "the offset map cannot prove its place", past)
		case !answered || !placed:
			refuse(tp, "the link gave no answer for it", "see that a shard owns its lane: starferry links")
		}
	}
	for tp, p := range t.Cut {
		m := control.Mark{State: control.Seeded, Epoch: d.p.Epoch, Cluster: d.p.Active, Handled: p.Handled}
		if n := len(m.String()); n > control.MaxMetadata {
			refuse(tp, fmt.Sprintf("%d handled ranges need %d bytes of commit metadata, more than %d", len(p.Handled), n, control.MaxMetadata),
				"let the links and the group catch up; that takes fewer ranges")
		}
	}
	if len(bad) == 0 {
		return nil
	}
	slices.SortStableFunc(bad, Row.compare)
	return refusal(fmt.Sprintf("an exact place on %s for every partition of the cut", d.p.Target), "", bad...)
}

// seed waits for the seeder's own word and for Kafka to say the same.
func (d *Driver) seed() {
	waits, cut := d.stillness()
	if len(waits) > 0 || !cut.Equal(d.p.Cut) {
		d.backToDrain("the old home changed", waits)
		return
	}
	if waits := d.standing(d.p.Target, nil); len(waits) > 0 {
		d.hold(waits...)
		return
	}
	l := d.lease(d.p.Actor)
	if m := membership(l, d.p.Target); m == nil || m.Generation != d.p.Actor.Generation || m.Member != d.p.Actor.Member {
		d.reseed()
		return
	}
	if l.Seeded < d.firstRev {
		d.hold(someone(l.Instance, d.p.Target, "to seed %s", d.p.Target))
		return
	}
	f := d.facts(Ask{Describe: []starferry.ClusterName{d.p.Target}, Commits: []starferry.ClusterName{d.p.Target}})
	if f != nil {
		d.seeded(f)
	}
}

// reseed names another seeder, in a new generation of the target only: in the
// old one the first seed might still arrive.
func (d *Driver) reseed() {
	next := d.actor(d.p.Target)
	if next == nil || next.Generation <= d.p.Actor.Generation {
		d.hold(thing("a new generation of %s, for its seeder %s is gone", d.p.Target, d.p.Actor.Instance))
		return
	}
	f := d.facts(Ask{Describe: []starferry.ClusterName{d.p.Target}})
	if f == nil {
		return
	}
	if waits, strangers := d.members(f); len(waits) > 0 {
		d.evict(strangers, f)
		d.again(waits...)
		return
	}
	d.write(d.ordered(control.Seed, next, d.p.Cut, d.p.Seeds))
}

func (d *Driver) seeded(f *Answers) {
	waits, strangers := d.members(f)
	d.evict(strangers, f)
	waits = append(waits, differences(d.p.Target, f.Commits[d.p.Target], d.p.Seeds,
		control.Mark{State: control.Seeded, Epoch: d.p.Epoch, Cluster: d.p.Active})...)
	actor := d.actor(d.p.Active)
	if actor == nil {
		waits = append(waits, thing("an instance that can decide on %s", d.p.Active))
	}
	if len(waits) > 0 {
		d.again(waits...)
		return
	}
	d.write(d.ordered(control.Decide, actor, d.p.Cut, d.p.Seeds))
}

func (d *Driver) backToDrain(why string, waits []Wait) {
	d.say(append([]Wait{thing("%s, so the drain begins again", why)}, waits...)...)
	d.write(d.ordered(control.Drain, nil, nil, nil))
}

// decided announces if the commits read say that the open switch is decided.
func (d *Driver) decided(f *Answers) bool {
	home, e, moved := Truth(map[starferry.ClusterName]Found{d.p.Active: f.Commits[d.p.Active]})
	if moved && e >= d.p.Epoch {
		d.repair(home, e, "Kafka says moved")
		return true
	}
	return false
}

// differences compares what Kafka says with what it should say.
func differences(c starferry.ClusterName, found Found, want starferry.Cut, mark control.Mark) []Wait {
	var diff []Wait
	for _, tp := range want.Partitions() {
		got, ok := found[tp]
		switch {
		case !ok:
			diff = append(diff, lane(tp, c, "on %s to say %s at %d (there is no commit)", c, mark.State, want[tp].Next))
		case got.Mark == nil:
			diff = append(diff, lane(tp, c, "on %s to say %s at %d (a commit of another client says %d)", c, mark.State, want[tp].Next, got.Offset))
		case got.Mark.State != mark.State || got.Mark.Epoch != mark.Epoch || got.Mark.Cluster != mark.Cluster ||
			!want[tp].Equal(starferry.Place{Next: got.Offset, Handled: got.Mark.Handled}):
			diff = append(diff, lane(tp, c, "on %s to say %s %d at %d (it says %s %d at %d)", c, mark.State, mark.Epoch, want[tp].Next,
				got.Mark.State, got.Mark.Epoch, got.Offset))
		}
	}
	return diff
}
