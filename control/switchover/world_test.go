package switchover_test

import (
	"fmt"
	"maps"
	"slices"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/switchover"
)

// world is everything around the two machines, in one thread: two coordinators,
// KV, a link with identical offsets, instances and an agent. Whatever may
// happen next is an action; somebody else chooses.
type world struct {
	now     int64
	parts   []starferry.TopicPartition
	co      map[starferry.ClusterName]*coordinator
	end     map[starferry.ClusterName]map[starferry.TopicPartition]starferry.Offset
	limit   starferry.Offset // records a producer writes per partition
	nodes   []*node
	kv      *control.Placement
	rev     uint64
	leases  map[starferry.InstanceID]control.Lease
	agent   *agent
	rival   *agent                // asks for the same with another token
	home    starferry.ClusterName // by the decisions accepted
	decided starferry.Epoch
	handed  map[starferry.TopicPartition]map[starferry.Offset]bool
	excused map[starferry.TopicPartition]map[starferry.Offset]bool
	twins   []switchover.Commit
	wrong   string
	log     []string
}

type coordinator struct {
	name    starferry.ClusterName
	gen     starferry.Generation
	state   string
	members map[string]*seat
	own     map[starferry.TopicPartition]string
	commits switchover.Found
	leader  string
	next    int
}

// seat is one member as the coordinator has it.
type seat struct {
	node   *node
	boot   int
	nonce  int64
	joined bool
}

type node struct {
	id      starferry.InstanceID
	boot    int
	m       *switchover.Member
	up      bool
	nats    bool
	sides   map[starferry.ClusterName]*nodeSide
	session *nodeSession
	last    *nodeSession // the newest, which may be drained and not yet committed
	reads   []*pendingRead
	writes  []*pendingCommit
	lease   *control.Lease
	seenRev uint64

	sent       int64                 // id of the newest commit
	configured starferry.ClusterName // home by the configuration
}

type nodeSide struct {
	member  string
	nonce   int64
	joining bool // JoinGroup is out
	told    bool // of the present rebalance
	gen     starferry.Generation
	due     *switchover.Assigned
}

type nodeSession struct {
	cluster  starferry.ClusterName
	pos      starferry.Cut
	inFlight *starferry.TopicPartition
	halted   bool
	fresh    map[starferry.TopicPartition]bool
}

type pendingRead struct {
	e     switchover.ReadCommits
	found *switchover.Found
}

type pendingCommit struct {
	e      switchover.Commit
	result string
}

type agent struct {
	d      *switchover.Driver
	todo   []switchover.Order
	done   bool
	answer *switchover.Answers
	leases map[starferry.InstanceID]control.Lease
	req    switchover.Request
}

type action struct {
	name  string
	fault bool
	do    func()
}

func newWorld(instances, partitions int, records starferry.Offset) *world {
	w := &world{
		now: 1_000_000, limit: records, home: "old",
		co:     map[starferry.ClusterName]*coordinator{},
		end:    map[starferry.ClusterName]map[starferry.TopicPartition]starferry.Offset{"old": {}, "new": {}},
		leases: map[starferry.InstanceID]control.Lease{},
		handed: map[starferry.TopicPartition]map[starferry.Offset]bool{}, excused: map[starferry.TopicPartition]map[starferry.Offset]bool{},
	}
	for _, c := range []starferry.ClusterName{"old", "new"} {
		w.co[c] = &coordinator{name: c, state: "Empty", members: map[string]*seat{}, own: map[starferry.TopicPartition]string{}, commits: switchover.Found{}}
	}
	for p := range partitions {
		tp := starferry.TopicPartition{Topic: "t", Partition: starferry.Partition(p)}
		w.parts = append(w.parts, tp)
		w.handed[tp], w.excused[tp] = map[starferry.Offset]bool{}, map[starferry.Offset]bool{}
		w.end["old"][tp], w.end["new"][tp] = 1, 1
	}
	for i := range instances {
		w.deploy(i)
	}
	return w
}

func (w *world) deploy(i int) {
	n := &node{id: starferry.InstanceID(fmt.Sprintf("i%d", i)), nats: true, configured: "old"}
	w.nodes = append(w.nodes, n)
	w.boot(n)
}

func (w *world) boot(n *node) {
	n.boot++
	n.up, n.session, n.last, n.reads, n.writes, n.lease, n.seenRev, n.sent = true, nil, nil, nil, nil, nil, 0, 0
	n.sides = map[starferry.ClusterName]*nodeSide{"old": {}, "new": {}}
	n.m = switchover.NewMember(switchover.MemberConfig{
		Group: "g", Instance: n.id, Boot: fmt.Sprint("b", n.boot), Home: n.configured, DrainDeadline: 30_000,
		Clusters: []starferry.ClusterName{"old", "new"},
	})
	w.step(n, switchover.Start{})
}

func (w *world) step(n *node, e switchover.Event) {
	for _, effect := range n.m.Step(w.now, e) {
		w.act(n, effect)
	}
}

func (w *world) act(n *node, e switchover.Effect) {
	switch e := e.(type) {
	case switchover.Join:
		n.sides[e.Cluster].joining = true
	case switchover.Rejoin:
		n.sides[e.Cluster].joining, n.sides[e.Cluster].nonce = true, e.Nonce
	case switchover.Leave:
		s := n.sides[e.Cluster]
		k := w.co[e.Cluster]
		if _, ok := k.members[s.member]; ok && s.member != "" {
			delete(k.members, s.member)
			k.prepare()
		}
		n.sides[e.Cluster] = &nodeSide{}
	case switchover.ReadCommits:
		n.reads = append(n.reads, &pendingRead{e: e})
	case switchover.Fetch:
		s := &nodeSession{cluster: e.Cluster, pos: maps.Clone(e.Cut), fresh: map[starferry.TopicPartition]bool{}}
		for _, tp := range e.Start {
			s.pos[tp] = starferry.Place{Next: 0}
		}
		n.session, n.last = s, s
	case switchover.Halt:
		n.session.halted = true
	case switchover.Commit:
		again := e.ID <= n.sent
		n.sent = max(n.sent, e.ID)
		if l := n.m.Lease(); e.Mark.State == control.Moved && !again && l.Drained != e.Mark.Epoch {
			w.wrong = fmt.Sprintf("%s decides epoch %d without being drained for it (%d)", n.id, e.Mark.Epoch, l.Drained)
		}
		n.writes = append(n.writes, &pendingCommit{e: e})
	case switchover.Publish:
		l := n.m.Lease()
		l.Topics, l.At = []starferry.Topic{"t"}, w.now
		n.lease = &l
	case switchover.Done:
		n.up, n.session = false, nil
		delete(w.leases, n.id)
	}
}

// prepare begins a rebalance.
func (k *coordinator) prepare() {
	if k.state == "PreparingRebalance" {
		return
	}
	k.state = "PreparingRebalance"
	for _, s := range k.members {
		s.joined = false
		if s.node.boot == s.boot && s.node.up {
			s.node.sides[k.name].told = false
		}
	}
}

// arrive applies a commit that had stayed unanswered. If it sets a partition
// back that goes to another instance next, that one cannot know.
func (w *world) arrive(i int, t switchover.Commit) {
	w.twins = slices.Delete(w.twins, i, i+1)
	was := maps.Clone(w.co[t.Cluster].commits)
	if w.take(t) != control.Accepted || len(w.nodes) == 1 {
		return
	}
	for tp, p := range t.Cut {
		for o := p.Next; o < was[tp].Offset; o++ {
			w.excused[tp][o] = true
		}
	}
}

// actions lists what may happen next.
func (w *world) actions(faults bool) []action {
	var out []action
	add := func(name string, do func()) { out = append(out, action{name: name, do: do}) }
	for _, tp := range w.parts {
		if w.end["old"][tp] < w.limit {
			add("produce "+tp.String(), func() { w.end["old"][tp]++ })
		}
		if w.end["new"][tp] < w.end["old"][tp] {
			add("copy "+tp.String(), func() { w.end["new"][tp]++ })
		}
	}
	for _, c := range []starferry.ClusterName{"old", "new"} {
		w.coordinate(w.co[c], add)
	}
	for i, t := range w.twins {
		add("a delayed commit arrives", func() { w.arrive(i, t) })
	}
	for _, n := range w.nodes {
		if n.up {
			w.live(n, add)
		} else {
			add("restart "+string(n.id), func() { delete(w.leases, n.id); w.boot(n) })
			if w.decided > 0 {
				add("reconfigure and restart "+string(n.id), func() { delete(w.leases, n.id); n.configured = w.home; w.boot(n) })
			}
		}
	}
	w.drive(w.agent, "agent", add)
	w.drive(w.rival, "rival", add)
	add("time passes", func() { w.pass(100) })
	if faults {
		out = append(out, w.faults()...)
	}
	return out
}

func (w *world) pass(ms int64) {
	w.now += ms
	for _, n := range w.nodes {
		if n.up {
			w.step(n, switchover.Tick{})
		}
	}
	w.tell(w.agent, switchover.Passed{})
	w.tell(w.rival, switchover.Passed{})
}

func (w *world) coordinate(k *coordinator, add func(string, func())) {
	for _, id := range slices.Sorted(maps.Keys(k.members)) {
		s := k.members[id]
		if !s.node.up || s.node.boot != s.boot {
			add(fmt.Sprintf("%s: session of %s expires", k.name, id), func() { delete(k.members, id); k.prepare() })
		}
	}
	if k.state != "PreparingRebalance" {
		return
	}
	for _, s := range k.members {
		if !s.joined {
			return
		}
	}
	add(string(k.name)+": rebalance completes", func() { w.complete(k) })
}

func (w *world) complete(k *coordinator) {
	k.gen++
	k.own = map[starferry.TopicPartition]string{}
	if len(k.members) == 0 {
		k.state = "Empty"
		return
	}
	k.state = "Stable"
	ids := slices.Sorted(maps.Keys(k.members))
	k.leader = ids[0]
	own := map[string][]starferry.TopicPartition{}
	for i, tp := range w.parts {
		id := ids[(i+int(k.gen))%len(ids)]
		k.own[tp] = id
		own[id] = append(own[id], tp)
	}
	for _, id := range ids {
		s := k.members[id]
		side := s.node.sides[k.name]
		if s.node.up && s.node.boot == s.boot && side.member == id {
			side.due = &switchover.Assigned{Cluster: k.name, Member: id, Generation: k.gen, Own: own[id], All: w.parts}
		}
	}
}

// live lists what an instance may do next.
func (w *world) live(n *node, add func(string, func())) {
	name := string(n.id) + " "
	for _, c := range []starferry.ClusterName{"old", "new"} {
		w.membership(n, w.co[c], n.sides[c], add)
	}
	for i, r := range n.reads {
		if r.found == nil {
			add(name+"reads "+string(r.e.Cluster), func() { f := maps.Clone(w.co[r.e.Cluster].commits); r.found = &f })
		} else {
			add(name+"has read "+string(r.e.Cluster), func() {
				n.reads = slices.Delete(n.reads, i, i+1)
				w.step(n, switchover.Read{Cluster: r.e.Cluster, ID: r.e.ID, Found: *r.found})
			})
		}
	}
	for i, k := range n.writes {
		if k.result == "" {
			add(name+"commit arrives", func() { k.result = w.take(k.e) })
		} else {
			add(name+"commit answered", func() {
				n.writes = slices.Delete(n.writes, i, i+1)
				w.step(n, switchover.Answered{Cluster: k.e.Cluster, ID: k.e.ID, Result: k.result})
			})
		}
	}
	if s := n.session; s != nil {
		w.work(n, s, add)
	}
	if !n.nats {
		return
	}
	if w.kv != nil && n.seenRev != w.rev {
		add(name+"sees KV", func() { n.seenRev = w.rev; w.step(n, switchover.Seen{Placement: *w.kv, Revision: w.rev}) })
	}
	if n.lease != nil {
		add(name+"puts its lease", func() { w.leases[n.id] = *n.lease; n.lease = nil })
	}
}

func (w *world) membership(n *node, k *coordinator, s *nodeSide, add func(string, func())) {
	name := fmt.Sprintf("%s on %s: ", n.id, k.name)
	seat, member := k.members[s.member]
	switch {
	case s.due != nil:
		add(name+"assigned", func() {
			a := *s.due
			s.due, s.told, s.gen = nil, false, a.Generation
			w.step(n, a)
		})
	case s.joining && (!member || k.state == "PreparingRebalance" && !seat.joined || k.state == "Stable"):
		add(name+"joins", func() { w.join(n, k, s) })
	case member && k.state == "PreparingRebalance" && !seat.joined && !s.told && !s.joining:
		add(name+"hears of the rebalance", func() { s.told = true; w.step(n, switchover.Rebalance{Cluster: k.name}) })
	case s.member != "" && !member && !s.joining:
		add(name+"is lost", func() { s.member = ""; w.step(n, switchover.Lost{Cluster: k.name}) })
	}
}

func (w *world) join(n *node, k *coordinator, s *nodeSide) {
	s.joining = false
	seatOf, member := k.members[s.member]
	if !member {
		k.next++
		s.member = fmt.Sprintf("%s-%d", n.id, k.next)
		k.prepare()
		k.members[s.member] = &seat{node: n, boot: n.boot, nonce: s.nonce, joined: true}
		return
	}
	if k.state == "Stable" {
		if seatOf.nonce == s.nonce && k.leader != s.member { // a follower that rejoins unchanged forces nothing
			var own []starferry.TopicPartition
			for _, tp := range w.parts {
				if k.own[tp] == s.member {
					own = append(own, tp)
				}
			}
			s.due = &switchover.Assigned{Cluster: k.name, Member: s.member, Generation: k.gen, Own: own, All: w.parts}
			return
		}
		k.prepare()
	}
	seatOf.nonce, seatOf.joined = s.nonce, true
}

// take is a commit as the coordinator sees it.
func (w *world) take(e switchover.Commit) string {
	k := w.co[e.Cluster]
	if _, ok := k.members[e.Member]; !ok || e.Generation != k.gen {
		return control.Refused
	}
	w.log = append(w.log, fmt.Sprintf("    %s takes %s %v", e.Cluster, e.Mark, e.Cut))
	for tp, p := range e.Cut {
		mark := e.Mark
		if was := k.commits[tp].Mark; was != nil && was.State == control.Moved && (mark.Epoch < was.Epoch || mark.Epoch == was.Epoch && mark.State != control.Moved) {
			w.wrong = fmt.Sprintf("%s erases the decision %s of %s on %s", mark, *was, tp, e.Cluster)
		}
		k.commits[tp] = switchover.FoundCommit{Offset: p.Next, Mark: &mark}
		for o := range p.Next {
			if !w.handed[tp][o] {
				w.wrong = fmt.Sprintf("a commit at %d passes record %s@%d, which nobody was handed", p.Next, tp, o)
			}
		}
	}
	if e.Mark.State == control.Moved && e.Mark.Epoch > w.decided {
		w.decided, w.home = e.Mark.Epoch, e.Mark.Cluster
	}
	return control.Accepted
}

func (w *world) work(n *node, s *nodeSession, add func(string, func())) {
	name := string(n.id) + " "
	k := w.co[s.cluster]
	_, member := k.members[n.sides[s.cluster].member]
	if s.inFlight != nil {
		add(name+"has handled a record", func() {
			tp := *s.inFlight
			s.pos[tp], s.inFlight = starferry.Place{Next: s.pos[tp].Next + 1}, nil
		})
		return
	}
	if s.halted {
		add(name+"is drained", func() {
			n.session = nil
			w.step(n, switchover.Drained{Cluster: s.cluster, Cut: maps.Clone(s.pos)})
		})
		return
	}
	if !member || n.sides[s.cluster].gen != k.gen {
		return // a heartbeat would say so
	}
	if slices.ContainsFunc(slices.Collect(maps.Keys(s.pos)), func(tp starferry.TopicPartition) bool { return s.pos[tp].Next != k.commits[tp].Offset }) {
		add(name+"commits", func() { w.step(n, switchover.Progress{Cluster: s.cluster, Cut: maps.Clone(s.pos)}) })
	}
	for _, tp := range slices.SortedFunc(maps.Keys(s.pos), starferry.TopicPartition.Compare) {
		o := s.pos[tp].Next
		if o >= w.end[s.cluster][tp] {
			continue
		}
		add(fmt.Sprintf("%sis handed %s@%d from %s", name, tp, o, s.cluster), func() {
			switch {
			case s.cluster != w.home:
				w.wrong = fmt.Sprintf("%s is handed %s@%d from %s, but the group lives on %s", n.id, tp, o, s.cluster, w.home)
			case w.handed[tp][o] && !w.excused[tp][o]:
				w.wrong = fmt.Sprintf("%s@%d is handed out twice", tp, o)
			}
			w.handed[tp][o] = true
			s.inFlight = &tp
		})
	}
}
