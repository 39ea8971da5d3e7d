package switchover

import (
	"fmt"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// The sizes of the largest world that can be searched.
const (
	maxPeers = 3
	maxParts = 2
	shift    = 10 // a record's offset on the new cluster, less that on the old one
	epochAt  = 1_000_000
	settled  = 700_000 // after this all standby is over
)

const (
	oldSide = iota
	newSide
)

var (
	spaceNames = [2]starferry.ClusterName{"old", "new"}
	spaceParts = [maxParts]starferry.TopicPartition{{Topic: "t", Partition: 0}, {Topic: "t", Partition: 1}}
)

func sideOf(c starferry.ClusterName) uint8 {
	if c == spaceNames[newSide] {
		return newSide
	}
	return oldSide
}

// spot is a state of the world: each number names a part.
type spot struct {
	member, peer, lease [maxPeers]uint32
	agent, rival        uint32
	group, commits      [2]uint32
	kv, backup, rest    uint32
}

// whether a process runs
const (
	absent = iota
	up
	down
	frozen
)

// peer is what surrounds one Member: its process, and what it has under way.
type peer struct {
	Up, Boot, Home uint8 // Home by its configuration
	NATS           bool
	Mute           bool // its next lease is late
	Side           [2]peerSide
	Work           work
}

type peerSide struct {
	Join   uint8 // 1: a JoinGroup is under way, 2: with changed user data
	Serial uint8 // of its member id; 0: never a member
	Told   bool  // of the present rebalance
	Due    bool  // an assignment waits for it
	DueOwn uint8
	DueGen starferry.Generation
	Slow   bool // what it reads has been answered, and the answer is late
	Read   groupCommits
	Write  uint8 // a commit: none, out, or answered
}

// what becomes of a commit
const (
	noWrite = iota
	out
	accepted
	refused
	unclear
)

// work is what an instance hands out, or has handed out last.
type work struct {
	On, Halted bool
	Side, Mask uint8
	Pos        [maxParts]uint8
}

// the states of a group
const (
	empty = iota
	stable
	rebalancing
)

// group is a consumer group as its coordinator has it. Slot 0 of an instance is
// the membership of its running process, the others are those of dead ones.
type group struct {
	Gen    starferry.Generation
	State  uint8
	Fenced bool // the agent holds it under a protocol type of its own
	Seat   [maxPeers][3]seat
	Own    [maxParts]uint8 // 1 + instance
}

type seat struct{ Serial, Joined uint8 }

// groupCommits are the commits of the group on one cluster.
type groupCommits [maxParts]partCommit

type partCommit struct {
	Offset, State, Epoch, Side uint8 // State 0: no commit
}

const (
	markNone = iota
	markHome
	markDraining
	markSeeded
	markMoved
)

var markStates = [...]control.State{"", control.Home, control.Draining, control.Seeded, control.Moved}

func markOf(s control.State) uint8 {
	for i, m := range markStates {
		if m == s {
			return uint8(i)
		}
	}
	panic("no such mark: " + s)
}

func (k partCommit) mark() control.Mark {
	m := control.Mark{State: markStates[k.State], Epoch: starferry.Epoch(k.Epoch)}
	if k.State == markSeeded || k.State == markMoved {
		m.Cluster = spaceNames[k.Side]
	}
	return m
}

func (g groupCommits) found() Found {
	f := Found{}
	for p, k := range g {
		if k.State != markNone {
			m := k.mark()
			f[spaceParts[p]] = FoundCommit{Offset: starferry.Offset(k.Offset), Mark: &m}
		}
	}
	return f
}

func (g groupCommits) String() string {
	out := ""
	for p, k := range g {
		if k.State != markNone {
			m := k.mark()
			out += fmt.Sprintf(" %s@%d %s", spaceParts[p], k.Offset, m.String()[len("starferry/1 "):])
		}
	}
	return out
}

// rest is all else.
type rest struct {
	Handed, Excused [maxParts]uint8 // bit per record
	Records         uint8           // of each partition
	Copied          bool            // the link has copied the last one
	Home, Epoch     uint8           // by the decisions accepted
	Faults          uint8
	NATS            bool
	Settled         bool // standby is over
	Fence           bool // the agent's task is to fence the old home
	Asks            bool // a request to go back is still to come
	Saved           bool // a backup of KV has been taken
	Deployed        bool // the late instance has come
	Twins           [2]twin
}

// twin is a commit that stays in the network after its answer was given up.
type twin struct {
	On                 bool
	Peer, Serial, Side uint8
	Gen                starferry.Generation
	K                  groupCommits // only of the partitions it carries
}

// store is what KV says. Rev is that of the placement, Seq that of the stream.
type store struct {
	P        *control.Placement
	Rev, Seq uint64
}

// leader is an agent that drives the group.
type leader struct {
	D      *Driver
	Answer *Answers // late
	End    uint8    // 1: it has finished, 2: it has failed, 3: and said that all are back at work
}

func (r *rest) now() int64 {
	if r.Settled {
		return epochAt + settled
	}
	return epochAt
}

// offset is where the next record of a partition stands on a cluster.
func offset(side uint8, records uint8) uint8 {
	if side == newSide {
		return records + shift
	}
	return records
}

// end is the end of each partition's log.
func (r *rest) end(side uint8) uint8 {
	if side == newSide && !r.Copied {
		return offset(side, r.Records-1)
	}
	return offset(side, r.Records)
}

func memberID(i int, serial uint8) string { return fmt.Sprintf("i%d-%d", i, serial) }

func (sp *space) partsOf(m uint8) []starferry.TopicPartition {
	var all []starferry.TopicPartition
	for p := range sp.parts {
		if m>>p&1 == 1 {
			all = append(all, spaceParts[p])
		}
	}
	return all
}

// scene is a state unpacked, to be changed by one step.
type scene struct {
	spot
	sp    *space
	peers [maxPeers]peer
	grp   [2]group
	com   [2]groupCommits
	rest  rest
	wrong string
	note  string // for the trace
	old   bool   // a commit arrives after others that were sent later
}

func (sp *space) unpack(s *spot) scene {
	w := scene{spot: *s, sp: sp, rest: sp.rests.vals[s.rest]}
	for i := range sp.peersMax() {
		w.peers[i] = sp.peers.vals[s.peer[i]]
	}
	for c := range w.grp {
		w.grp[c], w.com[c] = sp.groups.vals[s.group[c]], sp.commits.vals[s.commits[c]]
	}
	return w
}

func (sp *space) peersMax() int { return maxPeers }

// bad notes the first thing that must not be.
func (w *scene) bad(format string, a ...any) {
	if w.wrong == "" {
		w.wrong = fmt.Sprintf(format, a...)
	}
}

func (w *scene) say(format string, a ...any) {
	if w.sp.talk {
		w.note += "\n        " + fmt.Sprintf(format, a...)
	}
}

// pack forgets what no longer matters, ranks the numbers and interns the parts.
func (w *scene) pack(was *scene) spot {
	w.forget()
	var n seen
	add := func(m seen) {
		for k := range n {
			n[k] |= m[k]
		}
	}
	for i := range w.peers {
		add(w.sp.members.nums[w.member[i]])
		add(w.sp.leases.nums[w.lease[i]])
		for c := range w.peers[i].Side {
			n.generation(w.peers[i].Side[c].DueGen)
		}
	}
	add(w.sp.leaders.nums[w.agent])
	add(w.sp.leaders.nums[w.rival])
	add(w.sp.stores.nums[w.kv])
	add(w.sp.stores.nums[w.backup])
	for c := range w.grp {
		n.generation(w.grp[c].Gen)
	}
	for i := range w.rest.Twins {
		n.generation(w.rest.Twins[i].Gen)
	}
	if r := w.sp.rank(n); !r.same {
		w.renumber(r)
	}
	for i := range w.peers {
		if w.peers[i] != was.peers[i] {
			w.peer[i] = w.sp.peers.id(w.peers[i])
		}
	}
	for c := range w.grp {
		if w.grp[c] != was.grp[c] {
			w.group[c] = w.sp.groups.id(w.grp[c])
		}
		if w.com[c] != was.com[c] {
			w.commits[c] = w.sp.commits.id(w.com[c])
		}
	}
	if w.rest != was.rest {
		w.spot.rest = w.sp.rests.id(w.rest)
	}
	return w.spot
}

func (w *scene) renumber(r *ranks) {
	for i := range w.peers {
		w.member[i] = w.sp.members.rename(w.member[i], r)
		w.lease[i] = w.sp.leases.rename(w.lease[i], r)
		for c := range w.peers[i].Side {
			d := &w.peers[i].Side[c].DueGen
			*d = r.generation(*d)
		}
	}
	w.agent, w.rival = w.sp.leaders.rename(w.agent, r), w.sp.leaders.rename(w.rival, r)
	w.kv, w.backup = w.sp.stores.rename(w.kv, r), w.sp.stores.rename(w.backup, r)
	for c := range w.grp {
		w.grp[c].Gen = r.generation(w.grp[c].Gen)
	}
	for i := range w.rest.Twins {
		w.rest.Twins[i].Gen = r.generation(w.rest.Twins[i].Gen)
	}
}

// forget drops what can have no effect any more.
func (w *scene) forget() {
	for i := range w.rest.Twins {
		t := &w.rest.Twins[i]
		if t.On && w.sp.bug != bugOldGeneration && (t.Gen != w.grp[t.Side].Gen || !w.grp[t.Side].has(int(t.Peer), t.Serial)) {
			*t = twin{}
		}
	}
	if t := &w.rest.Twins; !t[0].On && t[1].On {
		t[0], t[1] = t[1], t[0]
	}
	for i := range w.peers {
		k := &w.peers[i].Work
		if k.On || k.Mask == 0 {
			continue
		}
		for p := range w.sp.parts {
			if w.com[k.Side][p].Offset >= k.Pos[p] {
				k.Mask &^= 1 << p
				k.Pos[p] = 0
			}
		}
		if k.Mask == 0 {
			*k = work{}
		}
	}
	for p := range w.sp.parts { // what is committed is not handed out again, excused or not
		if at := w.com[w.rest.Home][p].Offset; at > offset(w.rest.Home, 0) {
			w.rest.Excused[p] &^= 1<<(at-offset(w.rest.Home, 0)) - 1
		}
	}
	if w.rest.Faults >= w.sp.maxFaults {
		w.rest.Saved, w.backup = true, 0
	}
	if w.agent == 0 && w.rival == 0 || w.leadersEnded() {
		w.lease = [maxPeers]uint32{}
	}
}

// leadersEnded: nobody looks at leases any more.
func (w *scene) leadersEnded() bool {
	for _, id := range []uint32{w.agent, w.rival} {
		if id != 0 && w.sp.leaders.vals[id].End == 0 {
			return false
		}
	}
	return true
}
