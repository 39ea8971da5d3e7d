package switchover

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// decide waits for the one commit that moves the group. Whatever is unclear is
// decided by reading it.
func (d *Driver) decide() {
	l := d.lease(d.p.Actor)
	said := d.outcome(l)
	if said != nil && said.Result == control.Accepted {
		d.announceMove()
		return
	}
	word := "nothing yet"
	if l == nil {
		word = "nothing, and its lease is gone"
	} else if said != nil {
		word = said.Result + " " + said.Detail
	} else if d.now-d.phaseAt < retryEvery {
		return // it is at work
	}
	// "Not moved" proves something only if the generation of the order was gone
	// before the read began: then its commit can neither be accepted nor appear.
	ask := Ask{Commits: []starferry.ClusterName{d.p.Active}, settled: d.newGeneration(d.p.Actor.Generation)}
	if l == nil && d.req.OnStraggler == Evict {
		ask.Describe = ask.Commits // its removal makes the new generation
	}
	f := d.facts(ask)
	switch {
	case f == nil || d.decided(f):
	case f.settled:
		d.backToDrain(fmt.Sprintf("generation %d of %s is gone and nothing has moved", d.p.Actor.Generation, d.p.Active), nil)
	default:
		d.evict(nil, f)
		d.again(someone(d.p.Actor.Instance, d.p.Active, "to decide on %s (it says %s)", d.p.Active, word))
	}
}

// outcome is what an instance says of the order that stands; nil if it has not
// answered that one.
func (d *Driver) outcome(l *control.Lease) *control.Outcome {
	if l == nil || l.Decided == nil || l.Decided.Epoch != d.p.Epoch || l.Decided.Revision < d.firstRev {
		return nil
	}
	return l.Decided
}

// newGeneration reports whether some member is known to stand in a later
// generation of the old home than g.
func (d *Driver) newGeneration(g starferry.Generation) bool {
	for _, l := range d.leases {
		if m := membership(&l, d.p.Active); m != nil && m.Good && m.Generation > g {
			return true
		}
	}
	return false
}

// announceMove tells everyone of a decision that was accepted.
func (d *Driver) announceMove() {
	p := d.p
	p.Phase, p.Active, p.Standby, p.Target = control.Announce, d.p.Target, d.p.Active, d.p.Target
	p.Actor, p.StandbyUntil = nil, d.now+d.req.Standby
	d.decidedAt = d.now
	d.write(p)
}

// announce waits until every instance lives on the new home, or has been put
// out of the group there.
func (d *Driver) announce() {
	var waits []Wait
	for _, l := range d.leases {
		if l.Home != d.p.Active || l.HomeEpoch < d.p.Epoch {
			waits = append(waits, someone(l.Instance, d.p.Active, "to live on %s (it says %q, epoch %d)", d.p.Active, l.Home, l.HomeEpoch))
		}
	}
	if len(waits) > 0 {
		d.hold(waits...)
		return
	}
	ask := Ask{Describe: []starferry.ClusterName{d.p.Active}, Commits: []starferry.ClusterName{d.p.Active}}
	if d.p.Standby != "" {
		ask.Commits = append(ask.Commits, d.p.Standby)
	}
	f := d.facts(ask)
	if f == nil {
		return
	}
	if home, e, _ := Truth(f.Commits); home != d.p.Active || e < d.p.Epoch {
		d.end(Failure{Expected: fmt.Sprintf("Kafka to say that the group lives on %s since epoch %d, as the placement does", d.p.Active, d.p.Epoch),
			Found:  []string{fmt.Sprintf("Kafka says home %q, epoch %d", home, e)},
			Stands: "both stand; nothing was changed", Do: "find out who wrote the placement (starferry audit), or who reset the offsets"})
		return
	}
	var strangers []stranger
	for _, m := range f.Groups[d.p.Active].Members {
		if s := (stranger{d.p.Active, m}); !d.isMember(d.p.Active, m.ID) {
			strangers = append(strangers, s)
			waits = append(waits, s.wait())
		}
	}
	d.evict(strangers, f)
	if len(waits) > 0 {
		d.again(waits...)
		return
	}
	p := d.p
	p.Phase, p.Target, p.Actor = control.Steady, "", nil
	d.write(p)
}

func (d *Driver) isMember(c starferry.ClusterName, id string) bool {
	return slices.ContainsFunc(d.leases, func(l control.Lease) bool {
		m := membership(&l, c)
		return m != nil && m.Member == id
	})
}

// verify compares the first record of each partition with the cut, and gives
// quiet partitions a moment.
func (d *Driver) verify() {
	if d.p.Active != d.req.Target {
		d.enter(looking) // somebody else's switch is over; now for this one
		return
	}
	if !d.recall() {
		return
	}
	first := d.firsts()
	if len(first) < len(d.p.Seeds) && d.now-d.phaseAt < d.req.Verify {
		d.say(thing("the first record of %d of %d partitions", len(d.p.Seeds)-len(first), len(d.p.Seeds)))
		return
	}
	var early []string
	for _, tp := range d.p.Seeds.Partitions() {
		if p, ok := first[tp]; ok && p.From < d.p.Seeds[tp].Next {
			early = append(early, fmt.Sprintf("%s began at %d, before %d", tp, p.From, d.p.Seeds[tp].Next))
		}
	}
	if len(early) > 0 {
		d.end(Failure{Expected: "the first record of each partition to follow the cut", Found: early, Moved: true,
			Stands: fmt.Sprintf("the group lives on %s (epoch %d) and has handled these records twice", d.p.Active, d.p.Epoch),
			Do:     "check whether offsets were reset by hand meanwhile"})
		return
	}
	d.finish()
}

// recall fills in the cut and its places if the placement has lost them: with an
// emptied KV, or where a decision was found that nobody had announced. The
// decision itself carries the cut, and it is translated as it was before. It
// reports whether there is nothing to wait for.
func (d *Driver) recall() bool {
	if d.recalled || len(d.p.Cut) > 0 && len(d.p.Seeds) == len(d.p.Cut) {
		return true
	}
	if d.now-d.phaseAt > settleLimit {
		d.recalled = true
		d.notes = append(d.notes, fmt.Sprintf("where it went on was exact, as always, but cannot be told any more: %s", d.waiting()))
		return true
	}
	if len(d.p.Cut) == 0 {
		f := d.facts(Ask{Commits: []starferry.ClusterName{d.req.Source}})
		if f == nil {
			return false
		}
		if d.p.Cut = f.Commits[d.req.Source].moved(d.p.Epoch, d.req.Target); len(d.p.Cut) == 0 {
			d.recalled = true // it did not come from there
			return true
		}
	}
	f := d.facts(Ask{Translate: d.p.Cut, Wait: true})
	if f == nil {
		return false
	}
	if t := f.Translate; t == nil || !t.Final() || len(t.Cut) != len(d.p.Cut) {
		d.again(thing("the places of the cut to be told again"))
		return false
	}
	d.p.Seeds, d.exact, d.behind = f.Translate.Cut, exactOf(f.Translate), behindOf(f.Translate)
	return true
}

// moved is the cut that the decision of an epoch carries.
func (f Found) moved(e starferry.Epoch, to starferry.ClusterName) starferry.Cut {
	var at []starferry.TopicPartition
	for tp, c := range f {
		if c.Mark != nil && c.Mark.State == control.Moved && c.Mark.Epoch == e && c.Mark.Cluster == to {
			at = append(at, tp)
		}
	}
	cut, _ := f.places(at)
	return cut
}

// participants are the instances that are alive, by name.
func (d *Driver) participants() []Participant {
	var all []Participant
	for _, l := range d.leases {
		p := Participant{Instance: l.Instance, Boot: l.Boot, Library: l.Library, Host: l.Host}
		for c, to := range map[starferry.ClusterName]**Membership{d.req.Source: &p.Old, d.req.Target: &p.New} {
			if m := membership(&l, c); m != nil {
				*to = &Membership{m.Member, m.Generation, len(m.Partitions)}
			}
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b Participant) int { return cmp.Compare(a.Instance, b.Instance) })
	return all
}

// behindOf lists the partitions whose next record is not copied itself.
func behindOf(t *starferry.Translation) []starferry.TopicPartition {
	var behind []starferry.TopicPartition
	for tp, a := range t.Answers {
		if a.Status != starferry.Exact {
			behind = append(behind, tp)
		}
	}
	slices.SortFunc(behind, starferry.TopicPartition.Compare)
	return behind
}

// exactOf counts the partitions whose next record is copied itself.
func exactOf(t *starferry.Translation) int {
	n := 0
	for _, a := range t.Answers {
		if a.Status == starferry.Exact {
			n++
		}
	}
	return n
}

func (d *Driver) firsts() map[starferry.TopicPartition]control.Pause {
	first := map[starferry.TopicPartition]control.Pause{}
	for _, l := range d.leases {
		for _, p := range l.Pauses {
			if old, ok := first[p.Partition]; p.Epoch == d.p.Epoch && p.First != 0 && (!ok || p.First < old.First) {
				first[p.Partition] = p
			}
		}
	}
	return first
}

func (d *Driver) finish(notes ...string) {
	r := Report{Group: d.req.Group, Source: d.req.Source, Target: d.req.Target, Epoch: d.p.Epoch, Cut: d.p.Cut, Seeds: d.p.Seeds,
		Exact: d.exact, Pauses: map[starferry.TopicPartition]float64{}, Notes: append(notes, d.notes...), Attempts: d.attempts, Evicted: d.evicted,
		Behind: d.behind, Members: d.participants(), By: d.req.By, Why: d.req.Why, Token: d.req.Token}
	for _, e := range d.evicted {
		for _, x := range e.Perhaps {
			r.Repeats = append(r.Repeats, repeatText(x))
		}
	}
	if r.Exact == 0 { // another agent has translated: nothing else is ever seeded
		r.Exact = len(d.p.Seeds)
	}
	if d.drainAt != 0 && d.decidedAt != 0 {
		r.ControlMS = float64(d.decidedAt - d.drainAt)
	}
	for tp, p := range d.firsts() {
		seed, ok := d.p.Seeds[tp]
		if last := d.lastOf(tp); last != 0 && p.First >= last {
			r.Pauses[tp] = float64(p.First-last) / 1000
		}
		if ok && p.From > after(seed) {
			r.Notes = append(r.Notes, fmt.Sprintf("%s began at %d, not at %d: markers, compaction or a skip", tp, p.From, after(seed)))
		}
	}
	for _, l := range d.leases {
		r.Instances = append(r.Instances, string(l.Instance))
		for _, x := range l.Repeats {
			r.Repeats = append(r.Repeats, repeatText(x))
		}
	}
	slices.Sort(r.Notes)
	d.ended = true
	d.do(Finished{r})
}

func repeatText(x control.Repeat) string {
	return fmt.Sprintf("%s %s [%d, %d): %s", x.Cluster, x.Partition, x.Range.From, x.Range.To, x.Reason)
}

// lastOf is when the last record of a partition was handed out on the old home,
// by whoever owned it there.
func (d *Driver) lastOf(tp starferry.TopicPartition) int64 {
	var last int64
	for _, l := range d.leases {
		for _, p := range l.Pauses {
			if p.Partition == tp && p.Epoch == d.p.Epoch {
				last = max(last, p.Last)
			}
		}
	}
	return last
}

// after is the first offset of a place that is not handled yet.
func after(p starferry.Place) starferry.Offset {
	next := p.Next
	for _, r := range p.Handled {
		if r.Contains(next) {
			next = r.To
		}
	}
	return next
}

// undo waits until every instance is back at work on the old home. If an order
// to decide was given, its commit is looked for until it can come no more.
func (d *Driver) undo() {
	waits := d.heard(func(l control.Lease) string {
		m := membership(&l, d.p.Active)
		switch {
		case l.Drained != 0:
			return "to go back to work (it stands still)"
		case m == nil || !m.Good:
			return "to stand in a generation of " + string(d.p.Active)
		case d.decideGen != 0 && m.Generation <= d.decideGen:
			return fmt.Sprintf("to leave generation %d of %s, in which a decision might still come", m.Generation, d.p.Active)
		case l.Home != d.p.Active:
			return fmt.Sprintf("to live on %s (it says %q)", d.p.Active, l.Home)
		}
		return ""
	})
	if len(waits) == 0 && d.decideGen == 0 {
		d.undone("everyone is back at work there")
		return
	}
	// A read proves the absence of the decision only if it was begun when all
	// stood in a later generation already.
	ask := Ask{Commits: []starferry.ClusterName{d.p.Active}, settled: len(waits) == 0}
	if d.req.OnStraggler == Evict {
		ask.Describe = ask.Commits // the new generation may wait for one
	}
	f := d.facts(ask)
	switch {
	case f == nil:
	case d.decided(f):
		d.failing, d.undoOther = nil, false
	case f.settled:
		d.undone("everyone is back at work there")
	default:
		d.evict(nil, f)
		d.again(waits...)
	}
}

// undone ends an undone switch, or goes on with this one after another's.
func (d *Driver) undone(how string) {
	if d.undoOther {
		d.undoOther, d.decideGen = false, 0
		d.enter(looking)
		return
	}
	f := *d.failing
	f.Stands = fmt.Sprintf("the group lives on %s as before (epoch %d is burnt); %s", d.p.Active, d.p.Epoch, how)
	d.end(f)
}
