package switchover

import (
	"fmt"

	"github.com/starferry/starferry"
)

func (g *group) has(i int, serial uint8) bool {
	for _, s := range g.Seat[i] {
		if s.Serial == serial {
			return true
		}
	}
	return false
}

// prepare begins a rebalance.
func (w *scene) prepare(c uint8) {
	g := &w.grp[c]
	if g.State == rebalancing {
		return
	}
	g.State = rebalancing
	for i := range g.Seat {
		for k := range g.Seat[i] {
			g.Seat[i][k].Joined = 0
		}
		w.peers[i].Side[c].Told = false
	}
}

// bury turns the memberships of a process that is gone into those of a dead one.
func (g *group) bury(i int) {
	s := &g.Seat[i]
	if s[0].Serial == 0 {
		return
	}
	for k := 1; k < len(s); k++ {
		if s[k].Serial == 0 {
			s[k] = s[0]
			break
		}
	}
	s[0] = seat{}
}

// ready: all members have joined.
func (g *group) ready() (joined []int, ok bool) {
	if g.State != rebalancing {
		return nil, false
	}
	for i := range g.Seat {
		for k, s := range g.Seat[i] {
			if s.Serial != 0 && (s.Joined == 0 || k > 0) {
				return nil, false
			}
		}
		if g.Seat[i][0].Serial != 0 {
			joined = append(joined, i)
		}
	}
	return joined, true
}

// complete gives the group a new generation.
func (w *scene) complete(c uint8, joined []int, turn int) {
	g := &w.grp[c]
	g.Gen++
	g.Own = [maxParts]uint8{}
	if len(joined) == 0 {
		g.State = empty
		return
	}
	g.State = stable
	for p := range w.sp.parts {
		g.Own[p] = uint8(1 + joined[(p+turn)%len(joined)])
	}
	for _, i := range joined {
		s := &w.peers[i].Side[c]
		s.Due, s.DueGen, s.DueOwn, s.Told = true, g.Gen, 0, false
		for p, o := range g.Own {
			if int(o) == 1+i {
				s.DueOwn |= 1 << p
			}
		}
	}
}

// join is a JoinGroup as the coordinator sees it.
func (w *scene) join(i int, c uint8) {
	g, s := &w.grp[c], &w.peers[i].Side[c]
	forced := s.Join == 2
	s.Join = 0
	st := &g.Seat[i]
	if st[0].Serial == 0 {
		n := uint8(1)
		for n == s.Serial || g.has(i, n) {
			n++
		}
		s.Serial = n
		w.prepare(c)
		st[0] = seat{Serial: n, Joined: 1}
		return
	}
	if g.State == stable {
		if !forced && !w.first(g, i) { // a follower that rejoins unchanged forces nothing
			s.Due, s.DueGen, s.DueOwn = true, g.Gen, 0
			for p, o := range g.Own {
				if int(o) == 1+i {
					s.DueOwn |= 1 << p
				}
			}
			return
		}
		w.prepare(c)
	}
	st[0].Joined = 1
}

// first reports whether an instance leads the group.
func (w *scene) first(g *group, i int) bool {
	for k := range i {
		if g.Seat[k][0].Serial != 0 {
			return false
		}
	}
	return true
}

// take is a commit as the coordinator sees it.
func (w *scene) take(c uint8, i int, serial uint8, gen starferry.Generation, k groupCommits) uint8 {
	g := &w.grp[c]
	if (!g.has(i, serial) || gen != g.Gen) && !(w.sp.bug == bugOldGeneration && k.moved()) {
		return refused
	}
	w.say("%s takes%s", spaceNames[c], k)
	home := false
	for p, n := range k {
		if n.State == markNone {
			continue
		}
		was := w.com[c][p]
		if was.State == markMoved && (n.Epoch < was.Epoch || n.Epoch == was.Epoch && n.State != markMoved) {
			w.bad("%s of %s erases the decision of epoch %d on %s", n.mark(), spaceParts[p], was.Epoch, spaceNames[c])
		}
		if c == w.rest.Home && n.Offset < was.Offset && !w.old {
			w.bad("i%d sets %s back from %d to %d on %s, where the group lives", i, spaceParts[p], was.Offset, n.Offset, spaceNames[c])
		}
		w.com[c][p] = n
		if all := uint8(1)<<(n.Offset-offset(c, 0)) - 1; n.Offset < offset(c, 0) || w.rest.Handed[p]&all != all {
			w.bad("a commit at %d on %s passes a record of %s that nobody was handed", n.Offset, spaceNames[c], spaceParts[p])
		}
		if n.State == markMoved && n.Epoch > w.rest.Epoch {
			home = true
			w.rest.Home, w.rest.Epoch = n.Side, n.Epoch
		}
	}
	if home {
		w.atomic(c)
		if w.agent != 0 && w.rival == 0 && w.sp.leaders.vals[w.agent].End == 3 {
			w.bad("the group moves, and the agent has said that it never will")
		}
	}
	return accepted
}

// atomic: a decision carries all partitions at once.
func (w *scene) atomic(c uint8) {
	for p := range w.sp.parts {
		if k := w.com[c][p]; k.State != markNone && k.State != markMoved {
			w.bad("the group moves, but %s stays on %s with %s at %d", spaceParts[p], spaceNames[c], k.mark(), k.Offset)
		}
	}
}

func (k groupCommits) moved() bool {
	for _, p := range k {
		if p.State == markMoved {
			return true
		}
	}
	return false
}

// excuse marks what an instance holds uncommitted, [committed, handed out), as
// possibly handed out again.
func (w *scene) excuse(i int) {
	k := w.peers[i].Work
	for p := range w.sp.parts {
		if k.Mask>>p&1 == 0 {
			continue
		}
		base := offset(k.Side, 0)
		for o := max(w.com[k.Side][p].Offset, base); o < offset(k.Side, w.rest.Records); o++ {
			w.rest.Excused[p] |= w.rest.Handed[p] & (1 << (o - base))
		}
	}
}

func seatOf(c starferry.ClusterName, id string) evicted {
	e := evicted{side: sideOf(c)}
	if _, err := fmt.Sscanf(id, "i%d-%d", &e.peer, &e.serial); err != nil {
		panic(err)
	}
	return e
}

// evict removes a membership. What the instance was handed and has not committed
// may be handed out again.
func (w *scene) evict(e evicted) {
	g := &w.grp[e.side]
	for k, s := range g.Seat[e.peer] {
		if s.Serial == e.serial {
			if w.peers[e.peer].Work.Side == e.side {
				w.excuse(int(e.peer))
			}
			g.Seat[e.peer][k] = seat{}
			w.prepare(e.side)
		}
	}
}

// allBack: an agent has said that everyone is back at work. It knows only of
// those with a lease.
func (w *scene) allBack() {
	for i, id := range w.lease {
		if m := w.sp.members.vals[w.member[i]]; id != 0 && w.peers[i].Up == up && m.draining != 0 && !m.wayOut {
			w.bad("the agent says that everyone is back at work, and i%d stands still for epoch %d", i, m.draining)
		}
	}
}
