package switchover

import (
	"fmt"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// read takes in what the commits of one cluster say. Where a group lives is
// decided here and nowhere else: a placement only makes the instance look.
func (m *Member) read(e Read) {
	s := m.sides[e.Cluster]
	if s == nil || e.ID != s.readID {
		return
	}
	s.readID, s.known = 0, true
	s.found, s.fresh = e.Found, s.standing
	m.changed = true
	v := s.found.judge()
	lifted := s.lift()
	switch v.state {
	case control.Moved:
		m.readMoved(s, v)
	case control.Home:
		m.readHome(s, v)
	case control.Seeded:
		m.readSeeded(s, v)
	case control.Draining:
		m.readDraining(s, v)
	default:
		m.readNothing(s)
	}
	if m.surveying && m.home == "" {
		m.survey()
	}
	if s.name == m.home && v.state == control.Home && m.draining == 0 && !m.wayOut {
		m.commit(s, control.Mark{State: control.Home, Epoch: m.epoch}, lifted)
	}
}

// lift keeps this instance's own low-water marks of the generation just before
// this one where a commit says less: a commit that had stayed unanswered was
// applied after a newer one. What it has handled it does not hand out again.
// Only its new partitions are left to what the commits say.
func (s *side) lift() starferry.Cut {
	lifted := starferry.Cut{}
	if !s.fresh {
		return lifted
	}
	for _, tp := range s.own {
		f, ok := s.found[tp]
		if p, mine := s.handled[tp]; ok && mine && f.Mark != nil && f.Offset < p.Next {
			f.Offset = p.Next
			s.found[tp] = f
			lifted[tp] = p
		}
	}
	s.handled = nil
	return lifted
}

func (m *Member) readMoved(s *side, v verdict) {
	if m.home != "" && v.epoch < m.epoch || v.epoch == m.epoch && m.home != "" && m.home != s.name {
		return // an older story, or the one that led here
	}
	if m.sides[v.cluster] == nil {
		m.refuse(fmt.Sprintf("the group has moved from %s to %s (epoch %d), which is not in this instance's configuration: add the cluster",
			s.name, v.cluster, v.epoch))
		return
	}
	m.live(v.cluster, v.epoch)
}

func (m *Member) readHome(s *side, v verdict) {
	if m.home == "" && v.epoch == 0 && s.name != m.cfg.Home && !m.sides[m.cfg.Home].known {
		return // nobody has decided that: the configured home may know more
	}
	if m.home == "" || s.name != m.home && v.epoch > m.epoch {
		m.live(s.name, v.epoch)
		return
	}
	if s.name != m.home || !s.fresh {
		return
	}
	m.epoch = max(m.epoch, v.epoch)
	if m.draining != 0 && v.epoch >= m.draining {
		// Someone took the way out in a generation before this one: the epoch
		// is given up, and nobody can decide it any more.
		m.draining, m.wayOut, m.drained, m.cut = 0, false, false, nil
	}
}

// readSeeded: a seed is worth nothing by itself. It is home if the cluster it
// came from says "moved" with the same epoch.
func (m *Member) readSeeded(s *side, v verdict) {
	if s.name == m.home && v.epoch <= m.epoch || m.home != "" && v.epoch <= m.epoch || m.surveying {
		return
	}
	from := m.sides[v.cluster]
	if from == nil {
		if m.home == "" {
			m.refuse(fmt.Sprintf("%s was seeded from %s (epoch %d), which is not in this instance's configuration: add the cluster",
				s.name, v.cluster, v.epoch))
		}
		return
	}
	if from.readID == 0 {
		m.lookAt(v.cluster)
	}
}

func (m *Member) readDraining(s *side, v verdict) {
	if m.home == "" {
		m.live(s.name, 0)
	}
	if s.name != m.home || v.epoch <= m.epoch || m.wayOut || v.epoch <= m.draining {
		return
	}
	if m.draining == 0 {
		m.heard = m.now
	}
	m.draining, m.drained, m.cut = v.epoch, false, nil
}

// readNothing: no commit of ours. A group that has never moved lives where the
// configuration says, unless another cluster knows it.
func (m *Member) readNothing(s *side) {
	if m.home != "" {
		if s.name == m.home && s.fresh && m.lived == m.home && len(s.found) > 0 {
			m.fresh = true // members that run another client have overwritten the marks
			return
		}
		if s.name == m.home && s.fresh && !m.fresh {
			m.refuse(fmt.Sprintf("the group has moved to %s (epoch %d) but has no commit there: its offsets may have expired; set them with an offset tool and restart",
				s.name, m.epoch))
		}
		return
	}
	if m.surveying || s.name != m.cfg.Home {
		return
	}
	m.surveying = true
	for _, c := range m.cfg.Clusters {
		if c != m.cfg.Home {
			m.lookAt(c)
		}
	}
}

// survey concludes once every configured cluster was read.
func (m *Member) survey() {
	for _, c := range m.cfg.Clusters {
		s := m.sides[c]
		if !s.known || s.readID != 0 {
			return
		}
	}
	m.surveying = false
	for _, c := range m.cfg.Clusters {
		if s := m.sides[c]; c != m.cfg.Home && len(s.found) > 0 {
			m.refuse(fmt.Sprintf("%s has no commit of this library, but %s knows the group (%s): say where the group lives by its configured home, or remove the offsets it left there",
				m.cfg.Home, c, s.found.describe()))
			return
		}
	}
	m.live(m.cfg.Home, 0)
	m.fresh = true
}

// describe says in a few words what was found.
func (f Found) describe() string {
	v := f.judge()
	if v.state == "" {
		return fmt.Sprintf("%d offsets of another client", len(f))
	}
	return fmt.Sprintf("%d offsets, %s %d", len(f), v.state, v.epoch)
}

// live makes c the home, from what commits said.
func (m *Member) live(c starferry.ClusterName, e starferry.Epoch) {
	if m.home == c && m.epoch >= e {
		return
	}
	m.home, m.epoch, m.fresh, m.lived = c, max(m.epoch, e), false, ""
	m.draining, m.drained, m.cut, m.wayOut = 0, false, nil, false
	m.refusal, m.changed = "", true
	m.join(c)
	s := m.sides[c]
	if !s.standing || s.fresh && m.proven(s) && s.found.judge().epoch >= e {
		return // what was found before this epoch says nothing of it, such as on the way back
	}
	if s.fresh = false; s.readID == 0 || s.since < e {
		m.lookAt(c) // a read begun before the decision may have missed the seed
	}
}

// proven reports whether the fresh commits of home say that the group lives
// there.
func (m *Member) proven(s *side) bool {
	v := s.found.judge()
	switch v.state {
	case control.Home:
		return true
	case control.Seeded:
		return v.epoch == m.epoch
	case control.Draining:
		return v.epoch <= m.epoch // given up
	case "":
		return m.fresh
	}
	return false
}
