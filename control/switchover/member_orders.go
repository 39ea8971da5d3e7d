package switchover

import (
	"fmt"
	"slices"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// seen takes in a placement, unless it is older than the newest one seen: an
// instance never acts on an older order, not even when KV is restored from a
// backup.
func (m *Member) seen(e Seen) {
	p := e.Placement
	if p.Group != m.cfg.Group || p.Epoch < m.placement.Epoch || p.Epoch == m.placement.Epoch && e.Revision <= m.revision {
		return
	}
	m.placement, m.revision, m.heard = p, e.Revision, m.now
	m.changed = true
}

// obey follows the newest placement as far as the truth in Kafka allows.
func (m *Member) obey() {
	p := m.placement
	if p.Epoch == 0 || m.home == "" || m.closing {
		return
	}
	if p.Version > control.ProtocolVersion {
		m.note = fmt.Sprintf("placement speaks protocol %d, this library %d: upgrade the library", p.Version, control.ProtocolVersion)
		return
	}
	if p.Open() {
		m.obeyOpen(p)
		return
	}
	if p.Active == m.home {
		if m.draining != 0 && p.Epoch >= m.draining {
			m.takeWayOut()
		}
		return
	}
	if p.Epoch >= m.epoch && m.hinted != m.revision && m.sides[p.Active] != nil {
		// A hint to look now. Both sides are read at once, to save a round trip.
		m.hinted = m.revision
		m.join(p.Active)
		m.lookAt(m.home)
		m.lookAt(p.Active)
		m.sides[p.Active].since = p.Epoch
	}
}

func (m *Member) obeyOpen(p control.Placement) {
	switch {
	case p.Epoch <= m.epoch:
		return // given up or done: only higher epochs are obeyed
	case p.Active != m.home:
		m.note = fmt.Sprintf("placement %d says %s, but commits say the group lives on %s", p.Epoch, p.Active, m.home)
		return
	case m.sides[p.Target] == nil:
		m.note = fmt.Sprintf("cluster %s is not in this instance's configuration: add it and restart", p.Target)
		return
	}
	m.join(p.Target)
	if p.Phase == control.Prepare {
		return
	}
	switch {
	case m.draining == 0 && !m.wayOut && !m.unplaced():
		m.draining, m.drained, m.cut, m.changed = p.Epoch, false, nil, true
	case m.draining != 0 && m.draining < p.Epoch:
		m.takeWayOut() // of the old epoch first
	}
	m.seed(p)
	m.decide(p)
}

// unplaced reports whether the instance has not read the truth yet, or stands
// before partitions without any commit. Those are given their place by the
// start policy first: what has no place cannot be drained.
func (m *Member) unplaced() bool {
	if m.fetching != "" {
		return false
	}
	s := m.sides[m.home]
	if !s.standing || !s.fresh {
		return true
	}
	_, missing := s.found.places(s.own)
	return len(missing) > 0
}

// deadline: a drained instance that hears nothing goes back by itself. It needs
// neither NATS nor an agent for that.
func (m *Member) deadline() {
	if m.draining == 0 || m.wayOut || m.closing {
		return
	}
	limit := m.cfg.DrainDeadline
	if m.placement.Epoch == m.draining && m.placement.DrainDeadlineMS > 0 {
		limit = m.placement.DrainDeadlineMS
	}
	if m.now-m.heard >= limit {
		m.takeWayOut()
	}
}

// takeWayOut is the one way back from a drain: a new generation of home. Once
// SyncGroup has answered in it no commit of the old one can be accepted or
// still appear, so that what is read then is the truth for all.
func (m *Member) takeWayOut() {
	if m.wayOut {
		return
	}
	m.wayOut, m.changed = true, true
	m.renew(m.sides[m.home])
}

// comeBack ends the way out: the new generation has read that nothing moved,
// so it writes "home" with the epoch that is given up.
func (m *Member) comeBack() {
	s := m.sides[m.home]
	if !m.wayOut || s == nil || !s.standing || !s.fresh || s.poison || s.pending != nil || m.closing {
		return
	}
	e := m.givenUp(s)
	if cut, _ := s.found.places(s.own); len(cut) > 0 {
		m.commit(s, control.Mark{State: control.Home, Epoch: e}, cut)
		return
	}
	m.cameBack(e)
}

func (m *Member) givenUp(s *side) starferry.Epoch {
	e := max(m.epoch, m.draining)
	if v := s.found.judge(); v.state == control.Draining {
		e = max(e, v.epoch)
	}
	return e
}

func (m *Member) cameBack(e starferry.Epoch) {
	m.epoch, m.draining, m.drained, m.cut, m.wayOut, m.changed = e, 0, false, nil, false, true
}

// drain commits the cut as "draining" once nothing is in flight.
func (m *Member) drain() {
	s := m.sides[m.home]
	if m.draining == 0 || m.drained || m.wayOut || m.fetching != "" || s == nil {
		return
	}
	if !s.standing || !s.fresh || s.poison || s.pending != nil {
		return
	}
	cut, missing := s.found.places(s.own)
	if len(missing) > 0 {
		m.note = fmt.Sprintf("%s has no committed position on %s to drain at", missing[0], m.home)
		return
	}
	if len(cut) == 0 {
		m.drained, m.cut, m.changed = true, cut, true
		return
	}
	s.due = nil
	m.commit(s, control.Mark{State: control.Draining, Epoch: m.draining}, cut)
}

// seed carries out an order to seed: once, and never on a cluster where it
// lives already, whose position a late seed would set back.
func (m *Member) seed(p control.Placement) {
	s := m.sides[p.Target]
	if p.Phase != control.Seed || !m.named(p.Actor) || p.Target == m.home || len(p.Seeds) == 0 {
		return
	}
	d := &m.seeded
	if d.epoch == p.Epoch && d.generation == p.Actor.Generation && d.seeds.Equal(p.Seeds) && d.asked {
		if d.done && d.revision != m.revision {
			d.revision, m.changed = m.revision, true
		}
		return
	}
	if s.void(p.Actor) != "" || s.poison || s.pending != nil {
		return
	}
	*d = seedDone{epoch: p.Epoch, generation: p.Actor.Generation, seeds: p.Seeds, asked: true}
	m.commit(s, control.Mark{State: control.Seeded, Epoch: p.Epoch, Cluster: p.Active}, p.Seeds)
}

// decide commits "moved" for all partitions of the group in one request: one
// atomic append, refused if the group has gone to another generation.
func (m *Member) decide(p control.Placement) {
	s := m.sides[m.home]
	if p.Phase != control.Decide || !m.named(p.Actor) || len(p.Cut) == 0 {
		return
	}
	d := &m.decidedAt
	if d.asked && d.epoch == p.Epoch && d.generation == p.Actor.Generation {
		if m.outcome != nil && m.outcome.Revision != m.revision {
			m.outcome = &control.Outcome{Epoch: p.Epoch, Revision: m.revision, Result: m.outcome.Result, Detail: m.outcome.Detail}
			m.changed = true
		}
		return
	}
	if why := s.void(p.Actor); why != "" || m.wayOut || m.draining != p.Epoch || !m.drained {
		if why == "" {
			why = "this instance is not drained"
		}
		if m.outcome == nil || m.outcome.Epoch != p.Epoch || m.outcome.Revision != m.revision {
			m.outcome, m.changed = &control.Outcome{Epoch: p.Epoch, Revision: m.revision, Result: control.Refused, Detail: why}, true
		}
		*d = decideDone{epoch: p.Epoch, generation: p.Actor.Generation, asked: true}
		return
	}
	if s.poison || s.pending != nil {
		return
	}
	*d = decideDone{epoch: p.Epoch, generation: p.Actor.Generation, asked: true}
	m.outcome = nil
	m.commit(s, control.Mark{State: control.Moved, Epoch: p.Epoch, Cluster: p.Target}, p.Cut)
}

func (m *Member) named(a *control.Actor) bool {
	return a != nil && a.Instance == m.cfg.Instance && a.Boot == m.cfg.Boot
}

// void says why an order to an actor has no force here; "" if it has.
func (s *side) void(a *control.Actor) string {
	switch {
	case !s.standing:
		return "the membership on " + string(s.name) + " is rebalancing"
	case s.member != a.Member || s.generation != a.Generation:
		return fmt.Sprintf("generation %d is gone, now it is %d", a.Generation, s.generation)
	}
	return ""
}

// answered closes a commit, or sends it again unchanged: an unanswered commit
// may still be applied, over a newer one.
func (m *Member) answered(e Answered) {
	s := m.sides[e.Cluster]
	if s == nil || s.pending == nil || s.pending.ID != e.ID {
		return
	}
	c := s.pending
	m.changed = m.changed || e.Result != control.Accepted || c.Mark.State != control.Home
	if c.Mark.State == control.Moved {
		m.outcome = &control.Outcome{Epoch: c.Mark.Epoch, Revision: m.revision, Result: e.Result, Detail: e.Detail}
	}
	if e.Result == control.Unclear {
		s.poison = true
		if s.name == m.home {
			m.drained, m.cut = false, nil
		}
		m.do(*c)
		return
	}
	s.pending = nil
	if e.Result == control.Accepted {
		m.accepted(s, c)
	} else if c.Mark.State != control.Home || m.wayOut {
		s.fresh = false // nothing more is derived in this generation
	}
	if s.pending == nil && len(s.queue) > 0 {
		s.pending, s.queue = s.queue[0], s.queue[1:]
		m.do(*s.pending)
		return
	}
	if s.poison {
		m.renew(s)
	}
}

func (m *Member) accepted(s *side, c *Commit) {
	switch c.Mark.State {
	case control.Home:
		if m.wayOut && s.name == m.home && s.standing && c.Mark.Epoch >= m.draining && s.fresh {
			s.found = s.found.with(c.Cut, c.Mark)
			m.cameBack(c.Mark.Epoch)
		}
	case control.Draining:
		if s.name == m.home && s.standing && !s.poison && !m.wayOut && c.Mark.Epoch == m.draining {
			m.drained, m.cut = true, c.Cut
			s.found = s.found.with(c.Cut, c.Mark)
		}
	case control.Seeded:
		m.seeded.done = true
		p := m.placement
		if p.Phase == control.Seed && p.Epoch == c.Mark.Epoch && p.Seeds.Equal(m.seeded.seeds) && !s.poison {
			m.seeded.revision = m.revision
		}
	case control.Moved:
		m.live(c.Mark.Cluster, c.Mark.Epoch)
	}
}

// Lease returns the part of the lease that this machine answers for.
func (m *Member) Lease() control.Lease {
	l := control.Lease{
		Version: control.ProtocolVersion, Group: m.cfg.Group, Instance: m.cfg.Instance, Boot: m.cfg.Boot,
		Home: m.home, HomeEpoch: m.epoch, Epoch: max(m.epoch, m.placement.Epoch), Revision: m.revision,
		Decided: m.outcome, Refusal: m.refusal,
	}
	if m.seeded.epoch == m.placement.Epoch {
		l.Seeded = m.seeded.revision // what was said of an earlier switch is not said of this one
	}
	if l.Refusal == "" {
		l.Refusal = m.note
	}
	for _, c := range m.cfg.Clusters {
		s := m.sides[c]
		if !s.joining {
			continue
		}
		if s.poison || m.note != "" {
			l.Epoch = m.epoch // acknowledges nothing
		}
		l.Memberships = append(l.Memberships, control.Membership{
			Cluster: c, Member: s.member, Generation: s.generation,
			Good: s.standing && !s.lost && !s.poison, Partitions: slices.Clone(s.own),
		})
	}
	if m.drained {
		l.Drained, l.DrainedAt = m.draining, m.cut
	}
	return l
}

// Owes reports whether the order obeyed now is still to be answered, here or by
// somebody else: that it was heard is no answer then.
func (m *Member) Owes() bool {
	p := m.placement
	switch p.Phase {
	case control.Drain:
		return !m.drained
	case control.Seed, control.Decide:
		return true
	case control.Announce:
		return m.home != p.Target
	}
	return false
}

// Home returns the cluster the group lives on as far as this instance knows.
func (m *Member) Home() starferry.ClusterName { return m.home }

// Partitions returns the assignment of the instance and all partitions of the
// group's topics on one cluster.
func (m *Member) Partitions(c starferry.ClusterName) (own, all []starferry.TopicPartition) {
	if s := m.sides[c]; s != nil {
		return s.own, s.all
	}
	return nil, nil
}
