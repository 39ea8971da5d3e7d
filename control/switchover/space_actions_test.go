package switchover

import (
	"fmt"
	"slices"

	"github.com/starferry/starferry"
)

// what an action costs
const (
	normal = iota
	retry  // the agent looks again at what has not changed
	waited // time passes, as nothing else can happen
	fault
	urgent // unless answers may take their time, nothing comes before it
)

// branch is one thing that may happen next.
type branch struct {
	to    spot
	cost  uint8
	wrong string
	label string
}

// branches lists what may happen in a state. Of what can happen only by waiting
// there is anything only if nothing else can.
type branches struct {
	sp  *space
	was scene
	out []branch

	only  uint8 // urgent branches, or all others
	hurry bool  // there is an urgent one: nothing comes before it
}

func (b *branches) add(cost uint8, do func(*scene), label string, a ...any) {
	if b.hurry && cost != fault || !b.sp.fine && (cost == urgent) != (b.only == urgent) {
		return
	}
	w := b.was
	if b.sp.talk {
		w.note = ""
	}
	if cost == fault {
		w.rest.Faults++
	}
	do(&w)
	to := w.pack(&b.was)
	if to == b.was.spot && w.wrong == "" {
		return
	}
	n := branch{to: to, cost: cost, wrong: w.wrong}
	if b.sp.talk || w.wrong != "" {
		n.label = fmt.Sprintf(label, a...) + w.note
	}
	b.out = append(b.out, n)
	b.hurry = cost == urgent && !b.sp.fine
}

func (sp *space) next(s *spot) []branch {
	b := &branches{sp: sp, was: sp.unpack(s), only: urgent}
	if !sp.fine {
		b.all()
	}
	if b.only = normal; !b.hurry {
		b.all()
		if !slices.ContainsFunc(b.out, func(n branch) bool { return n.cost == normal || n.cost == urgent }) {
			b.wait() // where nothing moves, time does
		}
	}
	if b.hurry = false; b.was.rest.Faults < sp.maxFaults {
		b.faults()
	}
	return b.out
}

// all lists what may happen without a fault. Unless answers may take their time,
// the first urgent branch is the only one.
func (b *branches) all() {
	w := &b.was
	b.world()
	for i := range w.peers {
		switch w.peers[i].Up {
		case up:
			b.instance(i)
		case down, frozen:
			b.gone(i)
		}
	}
	b.leader("agent", &w.agent, func(w *scene) *uint32 { return &w.agent })
	b.leader("rival", &w.rival, func(w *scene) *uint32 { return &w.rival })
}

// world: the link, the coordinators, the network.
func (b *branches) world() {
	w := &b.was
	if !w.rest.Copied && w.copyNeeded() {
		b.add(normal, func(w *scene) { w.rest.Copied = true }, "the link copies the last record of each partition")
	}
	for c := range w.grp {
		name := spaceNames[c]
		for i := range w.grp[c].Seat {
			for k, s := range w.grp[c].Seat[i] {
				if s.Serial != 0 && (k > 0 || w.peers[i].Up == frozen || w.peers[i].Up == down) {
					b.add(normal, func(w *scene) { w.expire(uint8(c), i, k) }, "%s: the session of %s expires", name, memberID(i, s.Serial))
				}
			}
		}
		joined, ok := w.grp[c].ready()
		if !ok {
			continue
		}
		turns := 1
		if len(joined) > 1 {
			turns = len(joined)
		}
		for turn := range turns {
			if turn > 0 && w.sp.parts == 1 && turn >= len(joined) {
				continue
			}
			b.add(normal, func(w *scene) { w.complete(uint8(c), joined, turn) }, "%s: the rebalance completes", name)
		}
	}
	for k, t := range w.rest.Twins {
		if t.On {
			b.add(normal, func(w *scene) { w.arrive(k) }, "the delayed commit of i%d arrives at %s:%s", t.Peer, spaceNames[t.Side], t.K)
		}
	}
	b.fence()
}

// fence: once the standby is over the agents hold the emptied group on the old
// cluster, until they are asked to bring it back.
func (b *branches) fence() {
	w := &b.was
	if !w.rest.Fence {
		return
	}
	g, rests := &w.grp[oldSide], w.rest.Home == newSide && w.leadersEnded() && w.agent != 0
	set := func(on bool) func(*scene) { return func(w *scene) { w.grp[oldSide].Fenced = on } }
	switch {
	case rests && !w.rest.Settled:
		b.add(normal, (*scene).settle, "the standby is over")
	case rests && g.State == empty && !g.Fenced:
		b.add(normal, set(true), "the agent fences the emptied group on old")
	case g.Fenced && w.agent == 0:
		b.add(normal, set(false), "old: the session of the fence expires")
	case g.Fenced && !w.leadersEnded():
		b.add(normal, set(false), "the agent lifts the fence on old")
	}
	if rests && w.rest.Asks {
		b.add(normal, func(w *scene) { w.rest.Asks = false; w.rest.Records++; w.hire(w.sp.order(true)) }, "the agent is asked to bring the group back")
	}
}

// copyNeeded: the link is behind until somebody asks for what it has not copied.
// Nobody else can tell, so copying sooner makes no difference.
func (w *scene) copyNeeded() bool {
	if w.rest.Home == newSide {
		return true
	}
	for _, id := range []uint32{w.agent, w.rival} {
		if id != 0 && w.sp.leaders.vals[id].End == 0 && w.sp.leaders.vals[id].D.asked != nil && !w.answerable(w.sp.leaders.vals[id].D) {
			return true
		}
	}
	return w.sp.bug == bugEarlyTranslation
}

// arrive applies a commit that had stayed unanswered. What it sets back may be
// handed out again by an instance that cannot know.
func (w *scene) arrive(k int) {
	t := w.rest.Twins[k]
	w.rest.Twins[k] = twin{}
	was := w.com[t.Side]
	w.old = true
	if w.take(t.Side, int(t.Peer), t.Serial, t.Gen, t.K) != accepted {
		return
	}
	for p := range w.sp.parts {
		for o := w.com[t.Side][p].Offset; o < was[p].Offset; o++ {
			w.rest.Excused[p] |= 1 << (o - offset(t.Side, 0))
		}
	}
}

// gone: what happens to an instance that does not run.
func (b *branches) gone(i int) {
	w := &b.was
	if w.lease[i] != 0 && (w.sp.fine || !w.seated(i) || w.sp.evict && w.peers[i].Up == frozen) {
		b.add(normal, func(w *scene) { w.lease[i] = 0; w.leasesSeen() }, "the lease of i%d expires", i)
	}
	if w.peers[i].Up == frozen {
		b.add(normal, func(w *scene) { w.peers[i].Up = up }, "i%d goes on after its freeze", i)
		return
	}
	b.add(normal, func(w *scene) { w.lease[i] = 0; w.boot(i); w.leasesSeen() }, "i%d starts again", i)
}

// expire ends a session. A lease lives for less long than any session.
func (w *scene) expire(c uint8, i, k int) {
	w.grp[c].Seat[i][k] = seat{}
	w.prepare(c)
	if w.lease[i] != 0 && w.peers[i].Up != up {
		w.lease[i] = 0
		w.leasesSeen()
	}
}

// seated: a session is left to expire.
func (w *scene) seated(i int) bool {
	for c := range w.grp {
		for _, s := range w.grp[c].Seat[i] {
			if s.Serial != 0 {
				return true
			}
		}
	}
	return false
}

// leasesSeen tells the leaders of leases that have changed.
func (w *scene) leasesSeen() {
	for _, id := range []*uint32{&w.agent, &w.rival} {
		if *id != 0 && w.sp.leaders.vals[*id].End == 0 {
			w.tell(id, newsLeases)
		}
	}
}

// instance lists what a running instance may do next.
func (b *branches) instance(i int) {
	w := &b.was
	p := &w.peers[i]
	m := w.sp.members.vals[w.member[i]]
	for c := range p.Side {
		b.membership(i, uint8(c))
		s := &p.Side[c]
		if m.sides[spaceNames[c]].readID != 0 {
			com, cost := w.com[c], uint8(urgent)
			if s.Slow {
				com, cost = s.Read, normal
			} else if b.sp.fine {
				b.add(normal, func(w *scene) { w.peers[i].Side[c].Slow, w.peers[i].Side[c].Read = true, w.com[c] }, "%s answers what i%d reads, and the answer is late", spaceNames[c], i)
			}
			b.add(cost, func(w *scene) { w.step(i, memberStep{kind: evRead, side: uint8(c), read: com}) }, "i%d has read %s:%s", i, spaceNames[c], com)
		}
		switch s.Write {
		case out:
			b.add(urgent, func(w *scene) { w.write(i, uint8(c)); w.answered(i, uint8(c)) }, "i%d's commit on %s is answered", i, spaceNames[c])
			if b.sp.fine {
				b.add(normal, func(w *scene) { w.write(i, uint8(c)) }, "i%d's commit on %s arrives", i, spaceNames[c])
			}
		case accepted, refused, unclear:
			b.add(normal, func(w *scene) { w.answered(i, uint8(c)) }, "i%d has the answer to its commit on %s", i, spaceNames[c])
		}
	}
	b.work(i)
	if b.sp.bug == bugBurnt { // the product has nothing to do in such a tick
		b.add(normal, func(w *scene) { w.step(i, memberStep{kind: evTick}) }, "time passes for i%d", i)
	}
	if p.NATS && w.rest.NATS {
		st := w.sp.stores.vals[w.kv]
		if st.P != nil && (m.revision != st.Rev || m.placement.Epoch != st.P.Epoch) {
			b.add(normal, func(w *scene) { w.step(i, memberStep{kind: evSeen}) }, "i%d sees KV: %s %d", i, st.P.Phase, st.P.Epoch)
		}
		if !w.leadersEnded() && w.lease[i] != w.leaseOf(i) {
			cost := uint8(urgent)
			if p.Mute {
				cost = normal
			}
			b.add(cost, func(w *scene) { w.peers[i].Mute, w.lease[i] = false, w.leaseOf(i); w.leasesSeen() }, "i%d puts its lease", i)
		}
	} else if w.lease[i] != 0 {
		b.add(normal, func(w *scene) { w.lease[i] = 0; w.leasesSeen() }, "the lease of i%d expires", i)
	}
	if alone := w.agent == 0 && w.rival == 0 || !p.NATS; alone && m.draining != 0 && !m.wayOut {
		b.add(normal, func(w *scene) { w.step(i, memberStep{kind: evDeadline}) }, "the drain deadline of i%d passes", i)
	}
}

// write lets the commit under way reach the coordinator.
func (w *scene) write(i int, c uint8) {
	k := w.sp.members.vals[w.member[i]].sides[spaceNames[c]].pending
	w.peers[i].Side[c].Write = w.take(c, i, w.peers[i].Side[c].Serial, k.Generation, w.carried(k))
}

// carried are the commits that a request makes.
func (w *scene) carried(k *Commit) groupCommits {
	var g groupCommits
	for tp, at := range k.Cut {
		g[tp.Partition] = partCommit{Offset: uint8(at.Next), State: markOf(k.Mark.State), Epoch: uint8(k.Mark.Epoch), Side: sideOf(k.Mark.Cluster)}
	}
	return g
}

func (w *scene) answered(i int, c uint8) {
	result := w.peers[i].Side[c].Write
	w.peers[i].Side[c].Write = noWrite
	w.step(i, memberStep{kind: evAnswered, side: c, result: result})
}

func (b *branches) membership(i int, c uint8) {
	w := &b.was
	s, g, name := &w.peers[i].Side[c], &w.grp[c], spaceNames[c]
	member := g.Seat[i][0].Serial != 0
	joined := g.Seat[i][0].Joined != 0
	switch {
	case s.Due:
		b.add(normal, func(w *scene) {
			s := &w.peers[i].Side[c]
			k := memberStep{kind: evAssigned, side: c, serial: s.Serial, own: s.DueOwn, gen: s.DueGen}
			s.Due, s.DueGen, s.DueOwn, s.Told = false, 0, 0, false
			w.step(i, k)
		}, "i%d is assigned %v on %s", i, w.sp.partsOf(s.DueOwn), name)
	case s.Join != 0 && !g.Fenced && (!member || g.State == rebalancing && !joined || g.State == stable):
		b.add(urgent, func(w *scene) { w.join(i, c) }, "i%d joins %s", i, name)
	case member && g.State == rebalancing && !joined && !s.Told && s.Join == 0:
		b.add(normal, func(w *scene) {
			w.peers[i].Side[c].Told = true
			w.step(i, memberStep{kind: evRebalance, side: c})
		}, "i%d hears of the rebalance of %s", i, name)
	case s.Serial != 0 && !member && s.Join == 0 && w.sp.members.vals[w.member[i]].sides[name].joining && !w.sp.members.vals[w.member[i]].sides[name].lost:
		b.add(normal, func(w *scene) { w.step(i, memberStep{kind: evLost, side: c}) }, "i%d is lost on %s", i, name)
	}
}

// work lists what an instance may do with records.
func (b *branches) work(i int) {
	w := &b.was
	k := w.peers[i].Work
	if !k.On {
		return
	}
	if k.Halted {
		b.add(urgent, func(w *scene) {
			w.peers[i].Work.On, w.peers[i].Work.Halted = false, false
			w.step(i, memberStep{kind: evDrained, work: k})
		}, "i%d is drained", i)
		return
	}
	m := w.sp.members.vals[w.member[i]]
	s := m.sides[spaceNames[k.Side]]
	if g := &w.grp[k.Side]; b.sp.bug != bugHandOutLate && (g.Seat[i][0].Serial == 0 || s.generation != g.Gen || w.peers[i].Side[k.Side].Due) {
		return // a heartbeat would say so
	}
	for p := range w.sp.parts {
		if k.Mask>>p&1 == 1 && k.Pos[p] > w.com[k.Side][p].Offset && w.peers[i].Side[k.Side].Write == noWrite {
			b.add(normal, func(w *scene) { w.step(i, memberStep{kind: evProgress, work: k}) }, "i%d commits its progress on %s", i, spaceNames[k.Side])
			break
		}
	}
	for p := range w.sp.parts {
		if k.Mask>>p&1 == 1 && k.Pos[p] < w.rest.end(k.Side) {
			b.add(normal, func(w *scene) { w.hand(i, p) }, "i%d is handed %s@%d from %s", i, spaceParts[p], k.Pos[p], spaceNames[k.Side])
		}
	}
}

func (w *scene) hand(i, p int) {
	k := &w.peers[i].Work
	record := uint8(1) << (k.Pos[p] - offset(k.Side, 0))
	switch {
	case k.Side != w.rest.Home:
		w.bad("i%d is handed %s@%d from %s, but the group lives on %s since epoch %d", i, spaceParts[p], k.Pos[p], spaceNames[k.Side], spaceNames[w.rest.Home], w.rest.Epoch)
	case w.rest.Handed[p]&record != 0 && w.rest.Excused[p]&record == 0:
		w.bad("i%d is handed %s@%d from %s: it was handed out before", i, spaceParts[p], k.Pos[p], spaceNames[k.Side])
	}
	w.rest.Handed[p] |= record
	k.Pos[p]++
}

// leader lists what an agent may do next.
func (b *branches) leader(who string, id *uint32, at func(*scene) *uint32) {
	if *id == 0 || !b.was.rest.NATS {
		return
	}
	l := b.sp.leaders.vals[*id]
	if l.End != 0 {
		return
	}
	give := func(kind uint8) func(*scene) {
		return func(w *scene) { w.tell(at(w), kind) }
	}
	if l.Answer != nil || b.was.answerable(l.D) {
		cost := uint8(retry)
		if l.Answer == nil {
			cost = urgent
		}
		b.add(cost, give(newsAnswers), "%s has its answers", who)
		if b.sp.fine && l.Answer == nil {
			b.add(normal, answerLate(at), "%s's question is answered, and the answer is late", who)
		}
	}
	b.add(retry, give(newsTick), "%s looks again", who)
}

// answerLate answers a leader's question; it learns of it later.
func answerLate(at func(*scene) *uint32) func(*scene) {
	return func(w *scene) {
		l := w.sp.leaders.copy(*at(w))
		got := w.answers(l.D)
		l.Answer = &got
		*at(w) = w.sp.leaders.id(l)
	}
}

// wait: nothing else can happen, so time passes.
func (b *branches) wait() {
	w := &b.was
	b.late(waited)
	for i := range w.peers {
		m := w.sp.members.vals[w.member[i]]
		if w.peers[i].Up == up && m.draining != 0 && !m.wayOut {
			b.add(waited, func(w *scene) { w.step(i, memberStep{kind: evDeadline}) }, "the drain deadline of i%d passes", i)
		}
	}
}

// settle lets the time of the standby pass.
func (w *scene) settle() {
	w.rest.Settled = true
	for i := range w.peers {
		if w.peers[i].Up == up {
			w.step(i, memberStep{kind: evTick})
		}
	}
}

func (b *branches) late(cost uint8) {
	w := &b.was
	for _, at := range []func(*scene) *uint32{func(w *scene) *uint32 { return &w.agent }, func(w *scene) *uint32 { return &w.rival }} {
		if id := *at(w); id != 0 && w.rest.NATS && w.sp.leaders.vals[id].End == 0 {
			b.add(cost, func(w *scene) { w.tell(at(w), newsLate) }, "the agent runs out of time")
		}
	}
}

// consumed: every record was handed out and is committed at the group's home,
// every partition is attended there, and nobody drives the group any more.
func (w *scene) consumed() bool {
	h := w.rest.Home
	if !w.leadersEnded() && w.rest.NATS || w.grp[h].State != stable {
		return false
	}
	for p := range w.sp.parts {
		last := offset(h, w.rest.Records)
		if w.rest.Handed[p] != 1<<w.rest.Records-1 || w.com[h][p].Offset != last || w.grp[h].Own[p] == 0 {
			return false
		}
		i := w.grp[h].Own[p] - 1
		k := w.peers[i].Work
		if w.peers[i].Up != up || !k.On || k.Halted || k.Side != h || k.Mask>>p&1 == 0 {
			return false
		}
	}
	return true
}

// hire gives the world an agent that has been asked for a switch.
func (w *scene) hire(r Request) {
	l := &leader{D: NewDriver(r)}
	for i := range w.peers {
		if w.peers[i].Up == up && w.peers[i].NATS && w.leadersEnded() {
			w.lease[i] = w.leaseOf(i)
		}
	}
	w.sp.tidyLeader(l, w.rest.now(), w.rest.now())
	w.agent = w.sp.leaders.id(l)
	w.tell(&w.agent, newsLeases)
}

func (sp *space) order(back bool) Request {
	r := Request{Group: "g", Source: "old", Target: "new", Link: "l", Token: "1", DrainDeadline: 5_000, Verify: 1}
	if sp.evict {
		r.OnStraggler, r.EvictAfter = Evict, 200
	}
	if back {
		r.Source, r.Target, r.Direction, r.Token = "new", "old", starferry.Back, "2"
	}
	return r
}

// start is a group that lives on the old cluster and works.
func (sp *space) start() scene {
	w := scene{sp: sp, rest: rest{NATS: true, Records: sp.records}}
	w.rest.Home, w.rest.Epoch = oldSide, 0
	w.grp[newSide].Gen = newGenerations
	w.kv = sp.stores.id(&store{})
	for p := range sp.parts {
		w.com[oldSide][p] = partCommit{State: markHome, Epoch: 1}
	}
	for i := range sp.instances {
		w.peers[i].NATS = true
		w.boot(i)
	}
	return w
}
