package switchover

import (
	"slices"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// bug is a rule that is switched off. The product has no switch for that: what a
// machine is told, or what it has just concluded, is changed from outside.
type bug string

const (
	bugOldGeneration    bug = "accept an old generation at decide"
	bugNoReadBack       bug = "decide without reading the seed back"
	bugEarlyTranslation bug = "translate before the copy has passed the cut"
	bugUntranslated     bug = "seed the cut untranslated"
	bugBelieveKV        bug = "believe KV instead of the commits"
	bugSeededAlone      bug = "fetch on seeded without looking for moved"
	bugOlderOrder       bug = "obey an order older than the newest"
	bugBurnt            bug = "obey the epoch that was given up"
	bugOldRead          bug = "believe \"not moved\" read in the generation of the order"
	bugResumeAtOnce     bug = "resume after an abort without a new generation"
	bugUncovered        bug = "decide with a partition uncovered"
	bugSeedAgain        bug = "seed again, or where one lives already"
	bugHandOutLate      bug = "hand out after the membership was lost"
	bugUnanswered       bug = "take an unanswered commit for accepted"
	bugOwnOnly          bug = "judge by one's own partitions alone"
	bugAnyRevision      bug = "take an answer to an older order"
)

// fakeRead is what a member is told of the commits.
func (sp *space) fakeRead(i int, k memberStep, m *Member) Found {
	f := k.read.found()
	for tp, c := range f {
		switch {
		case sp.bug == bugSeededAlone && c.Mark.State == control.Seeded:
			f[tp] = FoundCommit{Offset: c.Offset, Mark: &control.Mark{State: control.Home, Epoch: c.Mark.Epoch}}
		case sp.bug == bugBelieveKV && c.Mark.State == control.Moved && m.placement.Active == spaceNames[k.side]:
			f[tp] = FoundCommit{Offset: c.Offset, Mark: &control.Mark{State: control.Home, Epoch: c.Mark.Epoch}}
		case sp.bug == bugOwnOnly && m.home != "" && !slices.Contains(m.sides[spaceNames[k.side]].own, tp):
			delete(f, tp)
		}
	}
	return f
}

// plantBefore changes a member, or the event it gets.
func (sp *space) plantBefore(m *Member, e Event) Event {
	_, isSeen := e.(Seen)
	switch {
	case sp.bug == bugOlderOrder && isSeen:
		m.placement, m.revision = control.Placement{}, 0
	case sp.bug == bugBurnt && m.placement.Open() && m.home == m.placement.Active && m.epoch == m.placement.Epoch:
		m.epoch--
	case sp.bug == bugUnanswered:
		if a, ok := e.(Answered); ok && a.Result == control.Unclear {
			a.Result = control.Accepted
			return a
		}
	}
	return e
}

// plantAfter changes what a member has concluded.
func (sp *space) plantAfter(m *Member, e Event, effects []Effect) []Effect {
	given, isSeen := e.(Seen)
	p, home := m.placement, m.sides[m.home]
	m.out = nil
	switch {
	case sp.bug == bugBelieveKV && isSeen && !p.Open() && p.Active != m.home && p.Epoch >= m.epoch:
		m.live(p.Active, p.Epoch)
		m.settle()
	case sp.bug == bugResumeAtOnce && m.wayOut && home != nil && !home.standing && !home.lost:
		effects = slices.DeleteFunc(effects, func(e Effect) bool { _, ok := e.(Rejoin); return ok })
		home.standing, home.fresh, home.rejoin, home.force = true, true, false, false
		m.settle()
	case sp.bug == bugSeedAgain && isSeen:
		m.seedAgain(given)
	}
	return append(slices.Clone(effects), m.out...)
}

// seedAgain carries an order to seed out, whatever it has done or seen since.
func (m *Member) seedAgain(e Seen) {
	p := e.Placement
	s := m.sides[p.Target]
	if p.Phase != control.Seed || !m.named(p.Actor) || m.seeded.revision == e.Revision && m.home != p.Target || s.pending != nil || s.void(p.Actor) != "" {
		return
	}
	m.seeded.revision = e.Revision
	m.commit(s, control.Mark{State: control.Seeded, Epoch: p.Epoch, Cluster: p.Active}, p.Seeds)
}

// plantLeases changes what an agent sees of the instances.
func (sp *space) plantLeases(d *Driver) {
	for i := range d.leases {
		l := &d.leases[i]
		switch {
		case sp.bug == bugAnyRevision:
			l.Revision, l.Epoch = d.rev, max(l.Epoch, d.p.Epoch)
		case sp.bug == bugNoReadBack && d.step == seeding:
			l.Seeded = d.firstRev
		case sp.bug == bugUncovered && (d.step == draining || d.step == seeding):
			for j := range l.Memberships {
				m := &l.Memberships[j]
				m.Partitions = slices.DeleteFunc(m.Partitions, func(tp starferry.TopicPartition) bool { _, ok := l.DrainedAt[tp]; return !ok })
			}
		}
	}
}

// plantDriver changes what an agent has concluded.
func (sp *space) plantDriver(d *Driver) {
	if sp.bug == bugOldRead && d.asked != nil {
		d.asked.settled = true
	}
}

// plantAnswers changes what an agent is told.
func (sp *space) plantAnswers(d *Driver, a *Answers) {
	switch {
	case sp.bug == bugNoReadBack && d.step == seeding:
		a.Commits[d.p.Target] = Found{}.with(d.p.Seeds, control.Mark{State: control.Seeded, Epoch: d.p.Epoch, Cluster: d.p.Active})
	case sp.bug == bugUncovered && (d.step == draining || d.step == seeding):
		sp.overlook(d, a)
	}
}

// overlook hides members without a lease, and the partitions nobody speaks of.
func (sp *space) overlook(d *Driver, a *Answers) {
	for c, g := range a.Groups {
		g.Members = slices.DeleteFunc(g.Members, func(m MemberSeen) bool { return !d.isMember(c, m.ID) })
		a.Groups[c] = g
	}
	_, cut := d.stillness()
	for tp := range a.Commits[d.p.Active] {
		if _, ok := cut[tp]; !ok {
			delete(a.Commits[d.p.Active], tp)
		}
	}
}
