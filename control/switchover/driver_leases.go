package switchover

import (
	"fmt"
	"slices"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// heard names the instances that have not answered the present revision, and
// those of which what says something.
func (d *Driver) heard(what func(control.Lease) string) []Wait {
	if len(d.leases) == 0 {
		return []Wait{thing("a live instance")}
	}
	var waits []Wait
	for _, l := range d.leases {
		if l.Revision != d.rev {
			waits = append(waits, someone(l.Instance, "", "to answer revision %d (it answers %d)", d.rev, l.Revision))
		} else if l.Epoch < d.p.Epoch {
			waits = append(waits, someone(l.Instance, "", "to obey epoch %d %s", d.p.Epoch, l.Refusal))
		} else if s := what(l); s != "" {
			waits = append(waits, someone(l.Instance, d.p.Active, "%s", s))
		}
	}
	return waits
}

// standing names the instances without a good membership on a cluster, in the
// one generation that all share.
func (d *Driver) standing(c starferry.ClusterName, also func(control.Lease) []Wait) []Wait {
	var waits []Wait
	var latest starferry.Generation
	for _, l := range d.leases {
		if m := membership(&l, c); m != nil {
			latest = max(latest, m.Generation)
		}
	}
	for _, l := range d.leases {
		m := membership(&l, c)
		switch {
		case m == nil:
			waits = append(waits, someone(l.Instance, c, "to join %s", c))
		case !m.Good:
			waits = append(waits, someone(l.Instance, c, "to stand well on %s", c))
		case m.Generation != latest:
			waits = append(waits, someone(l.Instance, c, "to reach generation %d of %s (it is in %d)", latest, c, m.Generation))
		case also != nil:
			waits = append(waits, also(l)...)
		}
	}
	return waits
}

// stillness is the part of the drain barrier that leases tell: everyone stands
// still for this epoch, in one generation, and answers this revision. It returns
// the union of what they have committed.
func (d *Driver) stillness() ([]Wait, starferry.Cut) {
	var waits []Wait
	if d.p.Phase == control.Drain || len(d.leases) == 0 { // later orders are for one member alone
		waits = d.heard(func(control.Lease) string { return "" })
	}
	waits = append(waits, d.standing(d.p.Active, func(l control.Lease) []Wait {
		if l.Drained == d.p.Epoch {
			return nil
		}
		return append([]Wait{someone(l.Instance, d.p.Active, "to finish what is in flight and commit it (epoch %d) %s", d.p.Epoch, l.Refusal)},
			inFlight(l, d.p.Active)...)
	})...)
	cut := starferry.Cut{}
	for _, l := range d.leases {
		for tp, place := range l.DrainedAt {
			cut[tp] = place
		}
	}
	if len(waits) > 0 {
		return waits, cut
	}
	for _, tp := range d.partitions() {
		if _, ok := cut[tp]; !ok {
			waits = append(waits, lane(tp, d.p.Active, "to be committed by somebody on %s", d.p.Active))
		}
	}
	if len(cut) == 0 {
		waits = append(waits, thing("a partition to move"))
	}
	return waits, cut
}

// covered names the partitions that nobody holds on a cluster.
func (d *Driver) covered(c starferry.ClusterName) []Wait {
	held := map[starferry.TopicPartition]bool{}
	for _, l := range d.leases {
		if m := membership(&l, c); m != nil {
			for _, tp := range m.Partitions {
				held[tp] = true
			}
		}
	}
	var waits []Wait
	for _, tp := range d.partitions() {
		if !held[tp] {
			waits = append(waits, lane(tp, c, "to be held by somebody on %s", c))
		}
	}
	return waits
}

// members compares the groups as Kafka reports them with the live instances. It
// returns what to wait for, and the members that are no live instance.
func (d *Driver) members(f *Answers) (waits []Wait, strangers []stranger) {
	for _, c := range []starferry.ClusterName{d.p.Active, d.p.Target} {
		g, ok := f.Groups[c]
		if !ok {
			continue
		}
		if g.State != "Stable" {
			waits = append(waits, Wait{Cluster: c, What: fmt.Sprintf("the group on %s to be stable (it is %s)", c, g.State)})
			continue
		}
		for _, m := range g.Members {
			if !d.isMember(c, m.ID) {
				strangers = append(strangers, stranger{c, m})
			}
		}
		for _, l := range d.leases {
			m := membership(&l, c)
			if m == nil || !slices.ContainsFunc(g.Members, func(s MemberSeen) bool { return s.ID == m.Member }) {
				waits = append(waits, someone(l.Instance, c, "to be a member on %s", c))
			}
		}
	}
	slices.SortFunc(strangers, stranger.compare)
	for _, s := range strangers {
		waits = append(waits, s.wait())
	}
	return waits, strangers
}

// actor chooses the member that carries out an order on a cluster: the first by
// name, so that two agents choose the same. Nil if nobody stands well there.
func (d *Driver) actor(c starferry.ClusterName) *control.Actor {
	var best *control.Lease
	for i, l := range d.leases {
		m := membership(&l, c)
		if m == nil || !m.Good || len(m.Partitions) == 0 && best != nil {
			continue
		}
		if best == nil || l.Instance < best.Instance {
			best = &d.leases[i]
		}
	}
	if best == nil {
		return nil
	}
	m := membership(best, c)
	return &control.Actor{Instance: best.Instance, Boot: best.Boot, Member: m.Member, Generation: m.Generation}
}

// lease returns the lease of an actor, nil if it is gone or of another boot.
func (d *Driver) lease(a *control.Actor) *control.Lease {
	if a == nil {
		return nil
	}
	for i, l := range d.leases {
		if l.Instance == a.Instance && l.Boot == a.Boot {
			return &d.leases[i]
		}
	}
	return nil
}

func membership(l *control.Lease, c starferry.ClusterName) *control.Membership {
	if l == nil {
		return nil
	}
	for i := range l.Memberships {
		if l.Memberships[i].Cluster == c {
			return &l.Memberships[i]
		}
	}
	return nil
}
