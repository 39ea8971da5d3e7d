package switchover

import (
	"fmt"
	"maps"
	"slices"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// OnStraggler says what becomes of an instance that is a member of the group and
// has no lease: frozen, or cut off from NATS.
type OnStraggler string

// The policies. Both wait first: Abort for Patience, Evict for EvictAfter.
const (
	Abort OnStraggler = "abort" // the switch is undone; the default
	// Evict removes it through the group coordinator (KIP-345). Its partitions go
	// to others, and it hands out nothing before it has read the truth. What it
	// had been handed and not committed may be handled twice, and is reported.
	Evict OnStraggler = "evict"
)

// Evicted is a member that was removed from a group.
type Evicted struct {
	Instance starferry.InstanceID  `json:"instance"`
	Cluster  starferry.ClusterName `json:"cluster"`
	Member   string                `json:"member"`
	Host     string                `json:"host"`
	Phase    string                `json:"phase"`
	At       int64                 `json:"at"` // Unix milliseconds
	// Known is false if no lease of it was seen, so that nobody can tell what it
	// had been handed: then it is everything from the commit on.
	Known bool `json:"known"`
	// Perhaps are the records that it may have handled without committing them:
	// [committed, last handed out).
	Perhaps []control.Repeat `json:"perhaps,omitempty"`
}

// keep remembers the last word of instances whose lease has vanished.
func (d *Driver) keep(now []control.Lease) {
	if d.req.OnStraggler != Evict {
		return
	}
	for _, old := range d.leases {
		if !slices.ContainsFunc(now, func(l control.Lease) bool { return l.Instance == old.Instance && l.Boot == old.Boot }) {
			if d.gone == nil {
				d.gone = map[starferry.InstanceID]control.Lease{}
			}
			d.gone[old.Instance] = old
		}
	}
}

// evict orders members to be removed that have long had no lease, and returns
// the strangers that are none of its business. Leases that vanish by the dozen
// are the doing of NATS: while not at least as many instances are alive, nobody
// is removed.
func (d *Driver) evict(found []stranger, f *Answers) (others []stranger) {
	if d.req.OnStraggler != Evict {
		return found
	}
	for _, s := range found {
		if s.member.Instance() == "" || d.cameBack(s) {
			others = append(others, s)
		}
	}
	silent := map[place]int64{}
	for at, since := range d.silent {
		if _, seen := f.Groups[at.on]; !seen {
			silent[at] = since
		}
	}
	instances := map[starferry.InstanceID]bool{}
	var due []stranger
	for _, s := range d.stragglers(f) {
		if d.cameBack(s) {
			continue
		}
		at := place{s.on, s.member.ID}
		since := d.silent[at]
		if since == 0 {
			since = d.now
		}
		if silent[at] = since; d.now-since >= d.req.EvictAfter {
			due = append(due, s)
		}
		instances[s.member.Instance()] = true
	}
	if d.silent = silent; len(d.leases) < len(instances) {
		return others
	}
	byCluster := map[starferry.ClusterName][]MemberSeen{}
	for _, s := range due {
		d.silent[place{s.on, s.member.ID}] = d.now // to be ordered again, if it is still there
		byCluster[s.on] = append(byCluster[s.on], s.member)
		d.note(s, f)
		d.evictAt = d.now
	}
	for _, c := range []starferry.ClusterName{d.req.Source, d.req.Target} {
		if members := byCluster[c]; len(members) > 0 {
			d.do(EvictMembers{Cluster: c, Members: members, Why: fmt.Sprintf("%s: no sign of life for %d ms", d.step, d.req.EvictAfter)})
		}
	}
	return others
}

// cameBack reports whether an instance has joined again after it was removed:
// it is not frozen but cut off from NATS, and would come back for ever.
func (d *Driver) cameBack(s stranger) bool {
	return slices.ContainsFunc(d.evicted, func(e Evicted) bool {
		return e.Instance == s.member.Instance() && e.Cluster == s.on && e.Member != s.member.ID
	})
}

// hold waits for what leases will tell, with nothing asked; but stragglers stay
// in sight, for they may be what the others wait for.
func (d *Driver) hold(waits ...Wait) {
	d.say(waits...)
	if d.req.OnStraggler != Evict || d.now-d.phaseAt < quiet {
		d.drop()
		return
	}
	ask := Ask{Describe: []starferry.ClusterName{d.p.Active}}
	if d.p.Target != d.p.Active {
		ask.Describe = append(ask.Describe, d.p.Target)
	}
	if f := d.facts(ask); f != nil {
		d.evict(nil, f)
		d.retryAt = d.now + retryEvery
	}
}

// place is one membership.
type place struct {
	on     starferry.ClusterName
	member string
}

// stragglers are the members of instances without a lease. While a group
// rebalances, its coordinator does not say what members told it, so those are
// known by the last word of the instance.
func (d *Driver) stragglers(f *Answers) []stranger {
	var all []stranger
	for _, c := range slices.Sorted(maps.Keys(f.Groups)) {
		for _, m := range f.Groups[c].Members {
			if d.isMember(c, m.ID) {
				continue
			}
			for i, l := range d.gone {
				if was := membership(&l, c); was != nil && was.Member == m.ID {
					m.Library, m.Client, m.Boot = true, string(i), l.Boot
				}
			}
			if m.Instance() != "" {
				all = append(all, stranger{c, m})
			}
		}
	}
	slices.SortFunc(all, stranger.compare)
	return all
}

// note writes an eviction down for the report, with what the member may have
// handled.
func (d *Driver) note(s stranger, f *Answers) {
	if slices.ContainsFunc(d.evicted, func(e Evicted) bool { return e.Member == s.member.ID && e.Cluster == s.on }) {
		return // it was told before
	}
	e := Evicted{Instance: s.member.Instance(), Cluster: s.on, Member: s.member.ID, Host: s.member.Host, Phase: string(d.step), At: d.now}
	last, known := d.gone[e.Instance]
	e.Known = known && (s.member.Boot == "" || last.Boot == s.member.Boot)
	for _, p := range last.Partitions {
		from := p.Committed
		if c, ok := f.Commits[s.on][p.Partition]; ok {
			from = c.Offset
		}
		if !e.Known || p.Cluster != s.on || p.Position <= from {
			continue
		}
		e.Perhaps = append(e.Perhaps, control.Repeat{Cluster: s.on, Partition: p.Partition, Range: starferry.Range{From: from, To: p.Position},
			Reason: fmt.Sprintf("instance %s was removed from the group while it was frozen; its last lease says it had been handed at least so many", e.Instance)})
	}
	d.evicted = append(d.evicted, e)
}

// standLimit is until when the instances may stand still. An eviction grants
// the deadline anew: it has taken away what was waited for.
func (d *Driver) standLimit() int64 {
	if d.req.OnStraggler != Evict {
		return d.drainAt + d.req.DrainDeadline
	}
	return max(d.drainAt+leaseLife+d.req.EvictAfter, d.evictAt) + d.req.DrainDeadline
}

// quiet is how long a barrier is given before stragglers are looked for beside
// it, in milliseconds: a switch that goes well asks nothing more.
const quiet = 1_000

// leaseLife is how long a lease outlives its instance, in milliseconds.
const leaseLife = 6_000
