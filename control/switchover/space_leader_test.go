package switchover

import (
	"fmt"
	"strings"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// the news of a leader
const (
	newsTick = iota
	newsLate
	newsLeases
	newsAnswers
)

// leaderStep is all that the outcome of a leader's step depends on.
type leaderStep struct {
	leader, kv uint32
	lease      [maxPeers]uint32
	kind       uint8
	settled    bool
	group      [2]uint32
	com        [2]groupCommits
	copied     bool
}

type leaderTold struct {
	leader, kv uint32
	evicted    []evicted
}

// evicted is a membership that a leader has had removed.
type evicted struct{ side, peer, serial uint8 }

// tell gives news to a leader, which acts on KV and on stragglers at once.
func (w *scene) tell(at *uint32, kind uint8) {
	done := w.told(*at, kind)
	*at, w.kv = done.leader, done.kv
	for _, e := range done.evicted {
		w.evict(e)
	}
	if l := w.sp.leaders.vals[*at]; l.End == 3 {
		w.allBack()
	}
}

func (w *scene) told(id uint32, kind uint8) leaderTold {
	l := w.sp.leaders.vals[id]
	k := leaderStep{leader: id, kv: w.kv, lease: w.lease, kind: kind, settled: w.rest.Settled}
	if kind == newsAnswers && l.Answer == nil {
		for c := range w.grp {
			k.group[c], k.com[c] = w.sp.groups.id(w.grp[c]), w.com[c]
		}
		k.copied = w.rest.Copied
	}
	if done, ok := w.sp.told[k]; ok && !w.sp.talk {
		return done
	}
	done := w.tellAnew(l, kind)
	w.sp.told[k] = done
	return done
}

func (w *scene) tellAnew(l *leader, kind uint8) leaderTold {
	l = duplicate(l, nil)
	base := w.rest.now()
	now := base
	for _, id := range w.lease {
		if id != 0 {
			l.D.leases = append(l.D.leases, *w.sp.leases.copy(id))
		}
	}
	l.D.leasesSeen = true
	w.sp.plantLeases(l.D)
	var n News = Passed{}
	switch kind {
	case newsTick:
		now += 250
	case newsLate:
		now += 200_000
	case newsAnswers:
		if l.Answer != nil {
			n, l.Answer = *l.Answer, nil
		} else {
			n = w.answers(l.D)
		}
	}
	sp, kv := w.sp, *duplicate(w.sp.stores.vals[w.kv], nil)
	todo := l.D.Step(now, n)
	var gone []evicted
	for len(todo) > 0 {
		o := todo[0]
		todo = todo[1:]
		if w.sp.talk {
			if _, ok := o.(Say); !ok {
				w.say("%s", describe(o))
			}
		}
		switch o := o.(type) {
		case ReadStored:
			todo = append(todo, l.D.Step(now, Stored{Placement: duplicate(&kv, nil).P, Revision: kv.Rev})...)
		case Write:
			if o.Expect != kv.Rev {
				todo = append(todo, l.D.Step(now, WriteLost{})...)
				continue
			}
			kv.Seq++
			kv.P, kv.Rev = sp.tidyPlacement(o.Placement, base), kv.Seq
			todo = append(todo, l.D.Step(now, Written{Revision: kv.Rev})...)
		case EvictMembers:
			for _, m := range o.Members {
				gone = append(gone, seatOf(o.Cluster, m.ID))
			}
		case Finished:
			l.End = 1
		case Failed:
			l.End = 2
			if strings.Contains(o.Failure.Stands, "everyone is back at work") {
				l.End = 3
			}
		}
	}
	sp.plantDriver(l.D)
	sp.tidyLeader(l, base, now)
	return leaderTold{leader: sp.leaders.id(l), kv: sp.stores.id(&kv), evicted: gone}
}

func (sp *space) tidyPlacement(p control.Placement, base int64) *control.Placement {
	q := duplicate(&p, nil)
	q.At = 0
	if q.StandbyUntil != 0 {
		q.StandbyUntil = base + 600_000
	}
	return q
}

// tidyLeader takes away what has no effect on later steps. Time passes for a
// leader only in ticks, so what it remembers of it is now, or long ago.
func (sp *space) tidyLeader(l *leader, base, now int64) {
	d := l.D
	if l.End != 0 {
		*l = leader{D: &Driver{req: d.req}, End: l.End}
		return
	}
	if d.asked == nil || d.asked.Round != 1 {
		l.Answer = nil // to an older question
	}
	long := (d.step == deciding || d.step == verifying || sp.evict) && now-d.phaseAt >= retryEvery
	d.out, d.now, d.leases, d.waits, d.rows, d.notes, d.strangers, d.strangeAt, d.slowAt = nil, 0, nil, "", nil, nil, nil, 0, 0
	d.began, d.phaseAt, d.beatAt = base, base, base
	if long {
		d.phaseAt = base - 1000
	}
	if d.drainAt != 0 {
		d.drainAt = base
	}
	if d.decidedAt != 0 {
		d.decidedAt = base
	}
	if d.retryAt > now {
		d.retryAt = base + 200
	} else {
		d.retryAt = 0
	}
	d.round = 1
	if d.asked != nil {
		d.asked.Round = 1
	}
	if d.answers != nil {
		d.answers.Round = 1
	}
	d.attempts, d.exact = min(d.attempts, 1), 0
	if d.failing != nil {
		d.failing = &Failure{Conflict: d.failing.Conflict, Moved: d.failing.Moved}
	}
	for at := range d.silent {
		d.silent[at] = base
	}
	for i, e := range d.evicted {
		d.evicted[i] = Evicted{Instance: e.Instance, Cluster: e.Cluster, Member: e.Member}
	}
	if d.evictAt != 0 {
		d.evictAt = base
	}
	d.p = *sp.tidyPlacement(d.p, base)
	if d.writing != nil {
		panic("a write is answered at once")
	}
}

// answers are what the leader's question finds now.
func (w *scene) answers(d *Driver) Answers {
	o := *d.asked
	got := Answers{Round: o.Round, Groups: map[starferry.ClusterName]GroupSeen{}, Commits: map[starferry.ClusterName]Found{}}
	for _, name := range o.Describe {
		g := w.grp[sideOf(name)]
		see := GroupSeen{State: []string{"Empty", "Stable", "PreparingRebalance"}[g.State], ProtocolType: "consumer"}
		for i := range g.Seat {
			for _, s := range g.Seat[i] {
				if s.Serial != 0 {
					see.Members = append(see.Members, MemberSeen{ID: memberID(i, s.Serial), Client: fmt.Sprintf("i%d", i), Library: true})
				}
			}
		}
		got.Groups[name] = see
	}
	for _, name := range o.Commits {
		got.Commits[name] = w.com[sideOf(name)].found()
	}
	if o.Link != nil {
		got.Link = &LinkSeen{Lag: map[starferry.TopicPartition]int64{}, Stopped: map[starferry.TopicPartition]string{}}
		for p := range w.sp.parts {
			got.Link.Lag[spaceParts[p]] = 0
		}
	}
	if o.Translate != nil {
		got.Translate = w.translate(d, o.Translate)
	}
	w.sp.plantAnswers(d, &got)
	return got
}

func (w *scene) translate(d *Driver, cut starferry.Cut) *starferry.Translation {
	t := &starferry.Translation{Cut: starferry.Cut{}, Answers: map[starferry.TopicPartition]starferry.Answer{}}
	by := starferry.Offset(shift)
	if d.req.Direction == starferry.Back {
		by = -shift
	}
	for tp, p := range cut {
		to := p.Next + by
		if end := starferry.Offset(w.rest.end(newSide)); d.req.Direction != starferry.Back && w.sp.bug == bugEarlyTranslation {
			to = min(to, end)
		}
		if w.sp.bug == bugUntranslated {
			to = p.Next
		}
		t.Cut[tp] = starferry.Place{Next: to}
		t.Answers[tp] = starferry.Answer{Offset: to, Status: starferry.Exact}
	}
	return t
}

// answerable: a cut waits until the copy has passed it.
func (w *scene) answerable(d *Driver) bool {
	o := d.asked
	if o == nil || d.answers != nil {
		return false
	}
	if !o.Wait || d.req.Direction == starferry.Back || w.sp.bug == bugEarlyTranslation {
		return true
	}
	for _, p := range o.Translate {
		if p.Next+shift > starferry.Offset(w.rest.end(newSide)) {
			return false
		}
	}
	return true
}
