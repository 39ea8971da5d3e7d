package switchover

import (
	"fmt"
	"maps"
	"slices"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// drill is a small simulated world around a Driver: two clusters with their
// coordinators, instances that keep the protocol, KV, and a link whose target
// offsets are 100 higher. It checks that records are handed out in order, once.
type drill struct {
	now     int64
	req     Request
	d       *Driver
	orders  []Order // given and not yet carried out
	kv      *control.Placement
	rev     uint64
	sides   map[starferry.ClusterName]*coordinator
	insts   []*inst
	ends    starferry.Offset // of every partition, in offsets of the old cluster
	handed  map[starferry.TopicPartition]starferry.Offset
	bad     []string
	result  string
	report  Report
	refuse  bool // the next decision is refused
	mute    bool // the decider's word gets lost
	missing string
	delay   int64 // of the copy, ms
	link    LinkSeen
	told    func(Order)
}

type coordinator struct {
	gen     starferry.Generation
	state   string
	kind    string
	members []string // instance names, or strangers
	found   Found
}

type inst struct {
	name    string
	boot    int
	down    bool
	frozen  bool // holds its membership and does nothing
	home    starferry.ClusterName
	epoch   starferry.Epoch
	seen    uint64
	drained starferry.Epoch
	at      starferry.Cut
	seeded  uint64
	outcome *control.Outcome
	pos     starferry.Cut
	ahead   starferry.Offset // records it has been handed and not committed
}

const drillOld, drillNew = starferry.ClusterName("old"), starferry.ClusterName("new")

func newDrill(instances, partitions int) *drill {
	w := &drill{now: 1000, sides: map[starferry.ClusterName]*coordinator{}, handed: map[starferry.TopicPartition]starferry.Offset{}, ends: 10,
		req: Request{Group: "pay", Source: drillOld, Target: drillNew, Link: "old-new", Token: "t1", By: "ann", Verify: 100, Within: 20_000, Patience: 500, DrainDeadline: 6_000}}
	w.link = LinkSeen{Lag: map[starferry.TopicPartition]int64{}, Stopped: map[starferry.TopicPartition]string{}}
	for _, c := range []starferry.ClusterName{drillOld, drillNew} {
		w.sides[c] = &coordinator{state: "Empty", kind: "consumer", found: Found{}}
	}
	for p := range partitions {
		tp := starferry.TopicPartition{Topic: "orders", Partition: starferry.Partition(p)}
		w.handed[tp], w.link.Lag[tp] = 0, 0
	}
	for i := range instances {
		x := &inst{name: fmt.Sprintf("i%d", i+1), boot: 1, home: drillOld}
		w.insts = append(w.insts, x)
		w.join(x, drillOld)
	}
	w.newAgent()
	return w
}

func (w *drill) newAgent() { w.d, w.orders = NewDriver(w.req), nil }

func (w *drill) partitions() []starferry.TopicPartition {
	return slices.SortedFunc(maps.Keys(w.handed), starferry.TopicPartition.Compare)
}

func (w *drill) inst(name string) *inst {
	for _, x := range w.insts {
		if x.name == name {
			return x
		}
	}
	return nil
}

// own are the partitions of an instance on a cluster, in turn.
func (w *drill) own(x *inst, c starferry.ClusterName) []starferry.TopicPartition {
	var own []starferry.TopicPartition
	i := slices.Index(w.sides[c].members, x.name)
	for n, tp := range w.partitions() {
		if i >= 0 && n%len(w.sides[c].members) == i {
			own = append(own, tp)
		}
	}
	return own
}

func (w *drill) join(x *inst, c starferry.ClusterName) {
	if g := w.sides[c]; !slices.Contains(g.members, x.name) {
		g.members = append(g.members, x.name)
		w.rebalance(c)
	}
}

// rebalance gives a group a new generation; every member reads the commits.
func (w *drill) rebalance(c starferry.ClusterName) {
	g := w.sides[c]
	g.gen++
	g.state = "Stable"
	if len(g.members) == 0 {
		g.state = "Empty"
	}
	for _, x := range w.insts {
		if !x.down && !x.frozen && x.home == c && slices.Contains(g.members, x.name) {
			x.drained, x.at = 0, nil
			w.read(x)
		}
	}
}

// read is what an instance does with the commits of its home.
func (w *drill) read(x *inst) {
	f := w.sides[x.home].found
	x.pos = starferry.Cut{}
	if v := f.judge(); v.state == control.Moved && v.epoch > x.epoch {
		x.home, x.epoch, x.drained, x.at = v.cluster, v.epoch, 0, nil
		w.join(x, x.home)
		f = w.sides[x.home].found
	}
	x.pos, _ = f.places(w.own(x, x.home))
	for _, tp := range w.own(x, x.home) {
		if _, ok := x.pos[tp]; !ok {
			x.pos[tp] = starferry.Place{}
		}
	}
}

func (w *drill) commit(c starferry.ClusterName, cut starferry.Cut, m control.Mark) {
	w.sides[c].found = w.sides[c].found.with(cut, m)
}

func (w *drill) shift(c starferry.ClusterName) starferry.Offset {
	if c == drillNew {
		return 100
	}
	return 0
}

// live lets every instance look at KV and work once, and tells the driver.
func (w *drill) live() {
	for _, x := range w.insts {
		if !x.down && !x.frozen {
			w.obey(x)
		}
	}
	for _, x := range w.insts {
		if !x.down && !x.frozen {
			w.work(x)
		}
	}
	w.give(LeasesSeen{Leases: w.leases()})
}

func (w *drill) work(x *inst) {
	if w.kv != nil && w.kv.Open() && w.kv.Phase != control.Prepare && w.kv.Epoch > x.epoch || x.drained != 0 || w.sides[x.home].found.judge().state == control.Draining && w.sides[x.home].found.judge().epoch > x.epoch {
		return
	}
	for _, tp := range w.own(x, x.home) {
		p, ok := x.pos[tp]
		if !ok || p.Next-w.shift(x.home) >= w.ends {
			continue
		}
		if got := p.Next - w.shift(x.home); got != w.handed[tp] {
			w.bad = append(w.bad, fmt.Sprintf("%s hands out %s@%d on %s, due is %d", x.name, tp, got, x.home, w.handed[tp]))
		}
		w.handed[tp]++
		p.Next++
		x.pos[tp] = p
		w.commit(x.home, starferry.Cut{tp: p}, control.Mark{State: control.Home, Epoch: x.epoch})
	}
}

func (w *drill) obey(x *inst) {
	if w.kv == nil {
		return
	}
	p := *w.kv
	x.seen = w.rev
	switch {
	case p.Open() && p.Active == x.home && p.Epoch > x.epoch:
		w.join(x, p.Target)
		w.orderTo(x, p)
	case p.Active == x.home && x.drained != 0 && p.Epoch >= x.drained && !p.Open():
		w.comeBack(x.home, p.Epoch)
	case !p.Open() && p.Active != x.home && p.Epoch >= x.epoch:
		w.read(x)
	}
}

func (w *drill) orderTo(x *inst, p control.Placement) {
	if p.Phase == control.Prepare {
		return
	}
	if x.drained != p.Epoch {
		x.drained, x.at = p.Epoch, maps.Clone(x.pos)
		w.commit(x.home, x.at, control.Mark{State: control.Draining, Epoch: p.Epoch})
	}
	a := p.Actor
	if a == nil || string(a.Instance) != x.name || a.Boot != x.bootID() {
		return
	}
	switch {
	case p.Phase == control.Seed && a.Generation == w.sides[p.Target].gen && x.seeded < w.rev:
		w.commit(p.Target, p.Seeds, control.Mark{State: control.Seeded, Epoch: p.Epoch, Cluster: p.Active})
		x.seeded = w.rev
	case p.Phase == control.Decide && a.Generation == w.sides[p.Active].gen && !w.refuse:
		w.commit(p.Active, p.Cut, control.Mark{State: control.Moved, Epoch: p.Epoch, Cluster: p.Target})
		if !w.mute {
			x.outcome = &control.Outcome{Epoch: p.Epoch, Revision: w.rev, Result: control.Accepted}
		}
		w.read(x)
	case p.Phase == control.Decide:
		x.outcome = &control.Outcome{Epoch: p.Epoch, Revision: w.rev, Result: control.Refused, Detail: "ILLEGAL_GENERATION"}
		w.refuse = false
	}
}

// comeBack is the way out: a new generation, then the truth.
func (w *drill) comeBack(c starferry.ClusterName, e starferry.Epoch) {
	w.rebalance(c)
	for _, x := range w.insts {
		if x.down || x.frozen || x.home != c {
			continue
		}
		x.epoch = e
		w.commit(c, x.pos, control.Mark{State: control.Home, Epoch: e})
	}
}

func (x *inst) bootID() string { return fmt.Sprintf("boot%d", x.boot) }

func (w *drill) leases() []control.Lease {
	var all []control.Lease
	for _, x := range w.insts {
		if x.down || x.frozen {
			continue
		}
		l := control.Lease{Version: 1, Group: "pay", Instance: starferry.InstanceID(x.name), Boot: x.bootID(), Host: "h", Home: x.home, HomeEpoch: x.epoch,
			Revision: x.seen, Topics: []starferry.Topic{"orders"}, Drained: x.drained, DrainedAt: x.at, Seeded: x.seeded, Decided: x.outcome, Epoch: x.epoch}
		if w.kv != nil {
			l.Epoch = max(l.Epoch, w.kv.Epoch)
		}
		for _, c := range []starferry.ClusterName{drillOld, drillNew} {
			if g := w.sides[c]; slices.Contains(g.members, x.name) {
				for _, tp := range w.own(x, c) {
					if p, ok := x.pos[tp]; ok && x.home == c {
						l.Partitions = append(l.Partitions, control.PartitionState{Partition: tp, Cluster: c, Position: p.Next + x.ahead, Committed: p.Next})
					}
				}
				l.Memberships = append(l.Memberships, control.Membership{Cluster: c, Member: x.member(c), Generation: g.gen, Good: g.state == "Stable", Partitions: w.own(x, c)})
			}
		}
		all = append(all, l)
	}
	return all
}

func (x *inst) member(c starferry.ClusterName) string { return fmt.Sprintf("%s-%s", x.name, c) }

// give tells the driver and keeps what it orders.
func (w *drill) give(n News) []Order {
	got := w.d.Step(w.now, n)
	for _, o := range got {
		w.check(o)
		if w.told != nil {
			w.told(o)
		}
	}
	w.orders = append(w.orders, got...)
	return got
}

// check holds each order against what the world knows.
func (w *drill) check(o Order) {
	switch o := o.(type) {
	case Write:
		p := o.Placement
		if p.Phase == control.Decide {
			if diff := differences(p.Target, w.sides[p.Target].found, p.Seeds, control.Mark{State: control.Seeded, Epoch: p.Epoch, Cluster: p.Active}); len(diff) > 0 {
				w.bad = append(w.bad, "orders to decide without a seed: "+list(texts(diff), 5))
			}
		}
		if p.Phase == control.Announce {
			if home, e, moved := Truth(map[starferry.ClusterName]Found{drillOld: w.sides[drillOld].found, drillNew: w.sides[drillNew].found}); home != p.Active || e < p.Epoch && !moved {
				w.bad = append(w.bad, fmt.Sprintf("announces %s without a decision", p.Active))
			}
		}
	case Finished:
		w.result, w.report = "finished", o.Report
	case Failed:
		w.result = "failed: " + o.Failure.Error()
	}
}

// carryOut does what the driver has ordered first, and tells it the answer.
func (w *drill) carryOut() bool {
	if len(w.orders) == 0 {
		return false
	}
	o := w.orders[0]
	w.orders = w.orders[1:]
	switch o := o.(type) {
	case ReadStored:
		w.give(Stored{Placement: w.kv, Revision: w.kvRev()})
	case Write:
		if o.Expect != w.kvRev() {
			w.give(WriteLost{})
			break
		}
		p := o.Placement
		w.kv, w.rev = &p, w.rev+1
		w.give(Written{Revision: w.rev})
	case Ask:
		w.give(w.answer(o))
	case EvictMembers:
		for _, m := range o.Members {
			w.remove(o.Cluster, m.Client)
		}
	}
	return true
}

func (w *drill) kvRev() uint64 {
	if w.kv == nil {
		return 0
	}
	return w.rev
}

func (w *drill) answer(a Ask) Answers {
	ans := Answers{Round: a.Round, Groups: map[starferry.ClusterName]GroupSeen{}, Commits: map[starferry.ClusterName]Found{}, Link: &w.link}
	if len(a.Delay) > 0 {
		ans.DelayMS = w.delay
	}
	for _, c := range a.Describe {
		g := w.sides[c]
		seen := GroupSeen{State: g.state, ProtocolType: g.kind}
		for _, name := range g.members {
			m := MemberSeen{ID: name + "-" + string(c), Client: name, Host: "/10.0.0.1"}
			if x := w.inst(name); x != nil {
				m.Library, m.Boot = true, x.bootID()
			}
			seen.Members = append(seen.Members, m)
		}
		ans.Groups[c] = seen
	}
	for _, c := range a.Commits {
		ans.Commits[c] = maps.Clone(w.sides[c].found)
	}
	if a.Translate != nil {
		t := starferry.Translation{Cut: starferry.Cut{}, Answers: map[starferry.TopicPartition]starferry.Answer{}, Missing: map[starferry.TopicPartition]string{}}
		by := starferry.Offset(100)
		if w.req.Direction == starferry.Back {
			by = -100
		}
		for tp, p := range a.Translate {
			if w.missing == tp.String() {
				t.Missing[tp] = "deleted before it was copied"
				continue
			}
			t.Cut[tp] = starferry.Place{Next: p.Next + by}
			t.Answers[tp] = starferry.Answer{Offset: p.Next + by, Status: starferry.Exact}
		}
		ans.Translate = &t
	}
	return ans
}

// crash kills an instance; its memberships end when the session does.
func (w *drill) crash(name string) {
	x := w.inst(name)
	x.down = true
}

func (w *drill) expire(name string) {
	for _, c := range []starferry.ClusterName{drillOld, drillNew} {
		w.remove(c, name)
	}
}

func (w *drill) remove(c starferry.ClusterName, name string) {
	g := w.sides[c]
	if i := slices.Index(g.members, name); i >= 0 {
		g.members = slices.Delete(slices.Clone(g.members), i, i+1)
		w.rebalance(c)
	}
}

// runTo lets the world go on until the driver has ended or the phase is stored;
// no instance has seen it then.
func (w *drill) runTo(phase control.Phase, limit int64) {
	for end := w.now + limit; w.now < end && !w.d.Ended(); {
		was := w.rev
		if w.agentTick(); w.kv != nil && w.kv.Phase == phase && w.rev != was {
			return
		}
		w.live()
	}
}

// tick is 10 ms of the world.
func (w *drill) tick() {
	w.agentTick()
	w.live()
}

func (w *drill) agentTick() {
	w.now += 10
	w.give(Passed{})
	for range 3 {
		if !w.carryOut() || w.d.Ended() {
			break
		}
	}
}
