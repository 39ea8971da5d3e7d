package switchover

import (
	"fmt"
	"strings"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// space is one search: its bounds, and the parts met so far.
type space struct {
	parts, instances int
	records          uint8
	evict            bool // stragglers are removed
	fine             bool // answers take their time without a fault
	kinds            map[string]bool
	maxFaults        uint8
	bug              bug
	talk             bool

	members *shelf[Member]
	leases  *shelf[control.Lease]
	leaders *shelf[leader]
	stores  *shelf[store]
	peers   *rack[peer]
	groups  *rack[group]
	commits *rack[groupCommits]
	rests   *rack[rest]

	ranked  map[seen]*ranks
	stepped map[memberStep]memberStepped
	told    map[leaderStep]leaderTold
	spoken  []uint32 // lease of each member
	ways    []way
}

func newSpace() *space {
	sp := &space{
		parts: 1, instances: 2, records: 2, kinds: map[string]bool{},
		members: newShelf[Member](), leases: newShelf[control.Lease](), leaders: newShelf[leader](), stores: newShelf[store](),
		peers: newRack[peer](), groups: newRack[group](), commits: newRack[groupCommits](), rests: newRack[rest](),
		ranked: map[seen]*ranks{}, stepped: map[memberStep]memberStepped{}, told: map[leaderStep]leaderTold{},
		ways: make([]way, waysKept),
	}
	return sp
}

func (sp *space) rank(n seen) *ranks {
	r := sp.ranked[n]
	if r == nil {
		r = rank(n)
		sp.ranked[n] = r
	}
	return r
}

// the events of a member
const (
	evStart = iota
	evAssigned
	evRebalance
	evLost
	evRead
	evSeen
	evDrained
	evProgress
	evAnswered
	evTick
	evDeadline
	evStop
)

// memberStep is all that the outcome of a member's step depends on.
type memberStep struct {
	member, kv uint32
	kind, side uint8
	result     uint8
	own        uint8
	serial     uint8
	gen        starferry.Generation
	read       groupCommits
	work       work
	settled    bool
}

type memberStepped struct {
	member  uint32
	effects []Effect
	wrong   string
}

// step gives one event to the member of an instance and carries out what can be
// done at once.
func (w *scene) step(i int, k memberStep) {
	k.member, k.settled = w.member[i], w.rest.Settled
	was := w.sp.members.vals[k.member]
	if k.kind == evSeen {
		k.kv = w.kv
	}
	done, ok := w.sp.stepped[k]
	if !ok || w.sp.talk {
		done = w.sp.stepMember(i, k, w.rest.now())
		w.sp.stepped[k] = done
	}
	if done.wrong != "" {
		w.bad("%s", done.wrong)
	}
	w.member[i] = done.member
	for _, e := range done.effects {
		w.act(i, e)
	}
	if w.peers[i].Up == down {
		w.member[i] = 0
		return
	}
	m := w.sp.members.vals[w.member[i]]
	for c := range w.peers[i].Side {
		s := &w.peers[i].Side[c]
		if m.sides[spaceNames[c]].pending == nil {
			s.Write = noWrite
		}
		if m.sides[spaceNames[c]].readID == 0 || was.sides[spaceNames[c]].readID != 0 && len(done.effects) > 0 && w.reread(c, done.effects) {
			s.Slow, s.Read = false, groupCommits{}
		}
	}
}

// reread: an answer under way is void.
func (w *scene) reread(c int, effects []Effect) bool {
	for _, e := range effects {
		if r, ok := e.(ReadCommits); ok && r.Cluster == spaceNames[c] {
			return true
		}
	}
	return false
}

func (w *scene) act(i int, e Effect) {
	p := &w.peers[i]
	if _, ok := e.(Publish); !ok && w.sp.talk {
		w.say("%s %s", strings.TrimPrefix(fmt.Sprintf("%T", e), "switchover."), effectText(e))
	}
	switch e := e.(type) {
	case Join:
		p.Side[sideOf(e.Cluster)].Join = 1
	case Rejoin:
		p.Side[sideOf(e.Cluster)].Join = 2
	case Leave:
		w.leave(i, sideOf(e.Cluster))
	case Fetch:
		k := work{On: true, Side: sideOf(e.Cluster)}
		for tp, at := range e.Cut {
			k.Mask |= 1 << tp.Partition
			k.Pos[tp.Partition] = uint8(at.Next)
		}
		for _, tp := range e.Start {
			w.bad("i%d begins %s on %s at the start policy's place", i, tp, e.Cluster)
		}
		p.Work = k
	case Halt:
		p.Work.Halted = true
	case Commit:
		p.Side[sideOf(e.Cluster)].Write = out
	case Done:
		p.Up, p.Work.On, p.Work.Halted = down, false, false
		w.lease[i] = 0
	}
}

func effectText(e Effect) string {
	switch e := e.(type) {
	case Join:
		return fmt.Sprintf("%s standby=%v", e.Cluster, e.Standby)
	case Rejoin:
		return string(e.Cluster)
	case Leave:
		return string(e.Cluster)
	case ReadCommits:
		return string(e.Cluster)
	case Fetch:
		return fmt.Sprintf("%s %s", e.Cluster, cutText(e.Cut))
	case Halt:
		return string(e.Cluster)
	case Commit:
		return fmt.Sprintf("%s %s %s in generation %d", e.Cluster, e.Mark, cutText(e.Cut), e.Generation)
	}
	return ""
}

func (w *scene) leave(i int, c uint8) {
	g := &w.grp[c]
	if g.Seat[i][0].Serial != 0 {
		g.Seat[i][0] = seat{}
		w.prepare(c)
	}
	w.peers[i].Side[c] = peerSide{Serial: w.peers[i].Side[c].Serial}
}

func (sp *space) event(i int, k memberStep, m *Member) Event {
	c := spaceNames[k.side]
	switch k.kind {
	case evStart:
		return Start{}
	case evAssigned:
		return Assigned{Cluster: c, Member: memberID(i, k.serial), Generation: k.gen, Own: sp.partsOf(k.own), All: sp.partsOf(1<<sp.parts - 1)}
	case evRebalance:
		return Rebalance{Cluster: c}
	case evLost:
		return Lost{Cluster: c}
	case evRead:
		return Read{Cluster: c, ID: m.sides[c].readID, Found: sp.fakeRead(i, k, m)}
	case evSeen:
		st := sp.stores.vals[k.kv]
		return Seen{Placement: *duplicate(st.P, nil), Revision: st.Rev}
	case evDrained:
		return Drained{Cluster: spaceNames[k.work.Side], Cut: sp.cut(k.work)}
	case evProgress:
		return Progress{Cluster: spaceNames[k.work.Side], Cut: sp.cut(k.work)}
	case evAnswered:
		return Answered{Cluster: c, ID: m.sides[c].pending.ID, Result: map[uint8]string{accepted: control.Accepted, refused: control.Refused, unclear: control.Unclear}[k.result]}
	case evStop:
		return Stop{}
	}
	return Tick{}
}

func (sp *space) cut(k work) starferry.Cut {
	cut := starferry.Cut{}
	for p := range sp.parts {
		if k.Mask>>p&1 == 1 {
			cut[spaceParts[p]] = starferry.Place{Next: starferry.Offset(k.Pos[p])}
		}
	}
	return cut
}

func (sp *space) stepMember(i int, k memberStep, now int64) memberStepped {
	m := sp.members.copy(k.member)
	m.heard = now
	at := now
	if k.kind == evDeadline {
		at += 5_000
	}
	e := sp.event(i, k, m)
	before, drained := m.placement.Epoch, m.draining
	st, seen := e.(Seen)
	older := seen && (st.Placement.Epoch < before || st.Placement.Epoch == before && st.Revision < m.revision)
	e = sp.plantBefore(m, e)
	effects := m.Step(at, e)
	effects = sp.plantAfter(m, e, effects)
	var done memberStepped
	if older && m.revision == st.Revision && drained == 0 && m.draining == st.Placement.Epoch {
		done.wrong = fmt.Sprintf("i%d obeys an order that is older than the newest it has seen: %s %d", i, st.Placement.Phase, st.Placement.Epoch)
	}
	for _, f := range effects {
		if c, ok := f.(Commit); ok {
			if why := obedient(i, m, c, before); why != "" && sp.bug == "" {
				done.wrong = why
			}
		}
		if _, ok := f.(Publish); !ok {
			done.effects = append(done.effects, f)
		}
	}
	sp.tidyMember(m)
	done.member = sp.members.id(m)
	return done
}

// obedient: nobody acts on an order of an older epoch. Who reads that others
// stand still is no longer under orders, and does as they do.
func obedient(i int, m *Member, c Commit, newest starferry.Epoch) string {
	joins := c.Mark.State == control.Draining && m.sides[c.Cluster].found.judge() == verdict{state: control.Draining, epoch: c.Mark.Epoch}
	if c.Mark.State != control.Home && c.Mark.Epoch < newest && !joins {
		return fmt.Sprintf("i%d commits %s though it has seen epoch %d", i, c.Mark, newest)
	}
	if c.Mark.State == control.Moved && m.draining != c.Mark.Epoch && m.epoch != c.Mark.Epoch {
		return fmt.Sprintf("i%d decides epoch %d without being drained for it", i, c.Mark.Epoch)
	}
	return ""
}

// tidyMember takes away what has no effect on later steps.
func (sp *space) tidyMember(m *Member) {
	m.now, m.out, m.changed, m.heard, m.nonce, m.ids = 0, nil, false, epochAt, 0, 100
	if m.refusal != "" {
		m.refusal = "refused"
	}
	if m.note != "" {
		m.note = "noted"
	}
	if m.outcome != nil {
		m.outcome.Detail = ""
	}
	if m.hinted != m.revision {
		m.hinted = 0
	}
	if p := &m.placement; !p.Open() || p.Epoch <= m.epoch {
		p.Actor, p.Cut, p.Seeds = nil, nil, nil
	}
	for _, s := range m.sides {
		if s.readID != 0 {
			s.readID = 1
		} else {
			s.since = 0
		}
		if !s.fresh && m.home != "" && !m.surveying {
			s.found = nil
		}
		if len(s.handled) == 0 {
			s.handled, s.handledGen = nil, 0
		}
		if s.pending != nil {
			s.pending.ID = 2
		}
		for j, q := range s.queue {
			q.ID = int64(3 + j)
		}
	}
}

// leaseOf is what a member says of itself.
func (w *scene) leaseOf(i int) uint32 {
	id := w.member[i]
	for int(id) >= len(w.sp.spoken) {
		w.sp.spoken = append(w.sp.spoken, 0)
	}
	if w.sp.spoken[id] == 0 {
		l := *duplicate(w.sp.members.vals[id], nil)
		v := l.Lease()
		v.Topics = []starferry.Topic{"t"}
		w.sp.spoken[id] = w.sp.leases.id(duplicate(&v, nil))
	}
	return w.sp.spoken[id]
}

// boot starts the process of an instance.
func (w *scene) boot(i int) {
	p := &w.peers[i]
	*p = peer{Up: up, Boot: p.Boot + 1, NATS: w.rest.NATS, Home: p.Home}
	m := NewMember(MemberConfig{
		Group: "g", Instance: starferry.InstanceID(fmt.Sprintf("i%d", i)), Boot: fmt.Sprintf("b%d", p.Boot),
		Clusters: spaceNames[:], Home: spaceNames[p.Home], DrainDeadline: 5_000,
	})
	w.sp.tidyMember(m)
	w.member[i] = w.sp.members.id(m)
	w.step(i, memberStep{kind: evStart})
}
