package switchover

import (
	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// Member is the instance's half of the switch: the rules that one process of a
// service keeps, whatever agent, NATS and the other instances do. It is a pure
// state machine: Step takes one event and returns the ordered effects of it.
// It does no I/O and reads no clock; the time of an event is a parameter.
//
// It is not safe for concurrent use. That is the point of it: whoever commits,
// hands out and drains does so on the word of one ordered history.
type Member struct {
	cfg   MemberConfig
	now   int64
	sides map[starferry.ClusterName]*side
	ids   int64 // of reads and commits
	nonce int64 // of changed user data

	home  starferry.ClusterName // "" while unknown
	epoch starferry.Epoch       // written in "home" commits; only higher ones are obeyed

	placement control.Placement
	revision  uint64
	heard     int64 // when the placement was last seen to change

	draining starferry.Epoch // the epoch it stands still for; 0: none
	drained  bool            // "draining" is committed in this generation
	cut      starferry.Cut   // what it committed
	wayOut   bool            // resumes only after a new generation of home

	fetching  starferry.ClusterName // between Fetch and Drained; "": nowhere
	stopping  bool                  // Halt was given, Drained is awaited
	surveying bool                  // no commit at the configured home: looks at all others
	began     int64                 // when it was started
	around    bool                  // the configured home does not answer: has looked at all others
	fresh     bool                  // a group without any commit: the configuration says where it lives
	lived     starferry.ClusterName // home, once it has fetched there
	closing   bool
	closed    bool
	seeded    seedDone
	outcome   *control.Outcome
	decidedAt decideDone
	refusal   string // why it hands out nothing
	note      string // why it cannot do what the placement asks
	hinted    uint64 // revision of the announcement that was looked into
	changed   bool   // the lease says something new
	out       []Effect
}

// seedDone and decideDone remember an order by what it says, so that a new
// revision of the same order is acknowledged and not carried out again.
type seedDone struct {
	epoch      starferry.Epoch
	generation starferry.Generation
	seeds      starferry.Cut
	revision   uint64
	asked      bool
	done       bool
}

type decideDone struct {
	epoch      starferry.Epoch
	generation starferry.Generation
	asked      bool
}

// MemberConfig is what a Member knows from the start.
type MemberConfig struct {
	Group    starferry.Group
	Instance starferry.InstanceID
	Boot     string
	// Clusters are all clusters this instance can reach by configuration.
	Clusters []starferry.ClusterName
	// Home is where the group lives by the rules of the configuration, as long
	// as no commit says anything else.
	Home starferry.ClusterName
	// DrainDeadline in milliseconds is used when an instance finds itself
	// drained and no placement has named a deadline.
	DrainDeadline int64
}

// side is one cluster as this instance sees it.
type side struct {
	name       starferry.ClusterName
	joining    bool // Join was given and not yet left
	standing   bool // assigned, and no rebalance known
	rejoin     bool // a new assignment is to be asked for as soon as nothing is in flight
	force      bool // and with changed user data
	lost       bool // the generation is gone: nothing can be committed any more
	member     string
	generation starferry.Generation
	own, all   []starferry.TopicPartition

	readID int64           // of the read under way; 0: none
	since  starferry.Epoch // decided for sure when that read was begun
	known  bool            // found was read at all
	found  Found
	fresh  bool // found was read in this generation

	handled    starferry.Cut // low-water marks when it last stopped fetching
	handledGen starferry.Generation
	due        starferry.Cut // of handled: not given to a commit yet

	pending *Commit   // the one commit under way
	queue   []*Commit // waiting behind it
	poison  bool      // a commit stayed without an answer in this generation
}

// NewMember returns a machine that waits for Start.
func NewMember(cfg MemberConfig) *Member {
	m := &Member{cfg: cfg, sides: map[starferry.ClusterName]*side{}}
	for _, c := range cfg.Clusters {
		m.sides[c] = &side{name: c}
	}
	return m
}

// Step applies one event at a time given in Unix milliseconds, and returns what
// is to be done, in order.
func (m *Member) Step(now int64, e Event) []Effect {
	m.now, m.out, m.changed = now, nil, false
	if m.closed {
		return nil
	}
	switch e := e.(type) {
	case Start:
		m.start()
	case Assigned:
		m.assigned(e)
	case Rebalance:
		m.rebalance(e)
	case Lost:
		m.lost(e)
	case Read:
		m.read(e)
	case Seen:
		m.seen(e)
	case Drained:
		m.drainedAll(e)
	case Progress:
		m.progress(e)
	case Answered:
		m.answered(e)
	case Tick:
	case Stop:
		m.closing, m.changed = true, true
	}
	m.settle()
	if m.changed {
		m.out = append(m.out, Publish{})
	}
	return m.out
}

func (m *Member) start() {
	m.began = m.now
	m.lookAt(m.cfg.Home)
	m.changed = true
}

// settle brings effects up to date with the state, after every event.
func (m *Member) settle() {
	note := m.note
	m.note = ""
	m.lookAround()
	m.obey()
	m.deadline()
	m.halt()
	m.drain()
	m.comeBack()
	m.resume()
	m.rejoins()
	m.leaves()
	m.close()
	m.changed = m.changed || m.note != note
}

// do appends an effect.
func (m *Member) do(e Effect) { m.out = append(m.out, e) }

func (m *Member) nextID() int64 { m.ids++; return m.ids }

// join gives a Join unless the instance is, or is about to be, a member there.
func (m *Member) join(c starferry.ClusterName) {
	s := m.sides[c]
	if s == nil || s.joining || m.closing {
		return
	}
	s.joining = true
	m.do(Join{Cluster: c, Standby: c != m.home})
	m.changed = true
}

// lookAt reads the commits of a cluster again; an answer to an older read is
// void.
func (m *Member) lookAt(c starferry.ClusterName) {
	s := m.sides[c]
	if s == nil {
		return
	}
	s.readID, s.since = m.nextID(), 0
	m.do(ReadCommits{Cluster: c, ID: s.readID})
}

func (m *Member) assigned(e Assigned) {
	s := m.sides[e.Cluster]
	if s == nil || !s.joining {
		return // it has been told to leave since
	}
	s.standing, s.rejoin, s.force, s.lost, s.poison = true, false, false, false, false
	if e.Generation != s.handledGen+1 {
		s.handled = nil // others may have had a hand in it
	}
	s.member, s.generation, s.own, s.all = e.Member, e.Generation, e.Own, e.All
	s.fresh, s.pending, s.queue, s.due = false, nil, nil, nil
	if e.Cluster == m.home {
		m.drained, m.cut = false, nil
	}
	m.changed = true
	m.lookAt(e.Cluster)
}

// rebalance: the coordinator asks for a rejoin. What is in flight is finished
// and committed first; commits of the old generation are still accepted.
func (m *Member) rebalance(e Rebalance) {
	s := m.sides[e.Cluster]
	if s == nil || !s.joining {
		return
	}
	s.standing, s.rejoin, s.fresh = false, true, false
	m.changed = true
}

// lost: the coordinator has gone on without this member. Nothing of the old
// generation can be committed.
func (m *Member) lost(e Lost) {
	s := m.sides[e.Cluster]
	if s == nil || !s.joining {
		return
	}
	s.standing, s.rejoin, s.lost, s.fresh = false, true, true, false
	s.pending, s.queue, s.poison, s.handled, s.due = nil, nil, false, nil, nil
	m.changed = true
}

// rejoins sends the instance back into a group that is rebalancing, as soon as
// nothing of it is in flight there. An unanswered commit is waited for: giving
// it up would hand out its records again.
func (m *Member) rejoins() {
	for _, c := range m.cfg.Clusters {
		s := m.sides[c]
		if !s.rejoin || c == m.fetching {
			continue
		}
		if m.flush(s); s.busy() {
			continue
		}
		s.rejoin = false
		if s.force {
			s.force = false
			m.nonce++
			m.do(Rejoin{Cluster: c, Nonce: m.nonce})
			continue
		}
		m.do(Join{Cluster: c, Standby: c != m.home})
	}
}

// flush commits what was handled before a drain that ends before its own commit
// could be sent: others may own these partitions next.
func (m *Member) flush(s *side) {
	if len(s.due) > 0 && s.name == m.home {
		m.commit(s, control.Mark{State: control.Home, Epoch: m.epoch}, s.due)
	}
	s.due = nil
}

// busy: a commit is under way and may still be accepted.
func (s *side) busy() bool { return !s.lost && (s.pending != nil || len(s.queue) > 0) }

// renew forces a new generation. A follower that rejoins unchanged forces
// nothing, so its user data changes.
func (m *Member) renew(s *side) {
	if !s.standing {
		return // a new generation is on its way already
	}
	s.standing, s.fresh, s.rejoin, s.force = false, false, true, true
	m.changed = true
}

// halt stops handing out when the instance may not go on.
func (m *Member) halt() {
	if m.fetching == "" || m.stopping {
		return
	}
	s := m.sides[m.fetching]
	if m.fetching != m.home || m.draining != 0 || m.wayOut || m.closing || s.poison || !s.standing {
		m.stopping = true
		m.do(Halt{Cluster: m.fetching})
	}
}

// drainedAll: nothing is in flight any more; low-water marks are final.
func (m *Member) drainedAll(e Drained) {
	if e.Cluster != m.fetching {
		return
	}
	m.fetching, m.stopping, m.changed = "", false, true
	s := m.sides[e.Cluster]
	if s.lost || e.Cluster != m.home {
		return // not ours to say any more; above all never over a "moved"
	}
	s.handled, s.handledGen = e.Cut, s.generation
	s.found = s.found.with(e.Cut, control.Mark{State: control.Home, Epoch: m.epoch})
	if m.draining != 0 && s.standing && !m.wayOut {
		s.due = e.Cut // committed as "draining"
		return
	}
	m.commit(s, control.Mark{State: control.Home, Epoch: m.epoch}, e.Cut)
}

// progress commits low-water marks while the group runs.
func (m *Member) progress(e Progress) {
	s := m.sides[e.Cluster]
	if e.Cluster != m.home || e.Cluster != m.fetching || m.stopping || !s.standing || s.poison || s.pending != nil {
		return
	}
	m.commit(s, control.Mark{State: control.Home, Epoch: m.epoch}, e.Cut)
}

// resume starts to fetch at home if all of it is known to be right.
func (m *Member) resume() {
	s := m.sides[m.home]
	if s == nil || m.fetching != "" || m.draining != 0 || m.wayOut || m.closing {
		return
	}
	if !s.standing || !s.fresh || s.poison || s.pending != nil || !m.proven(s) {
		return
	}
	cut, missing := s.found.places(s.own)
	if len(missing) > 0 && s.found.judge().state == control.Seeded {
		// Beside "home" marks a partition without a commit is a new one; beside
		// seeds it is one that the cut has left out.
		m.refuse("no commit for " + missing[0].String() + " on " + string(m.home) +
			", to which the group has moved: its offset may have expired; set it with an offset tool and restart")
		return
	}
	m.refuse("")
	m.fetching, m.lived = m.home, m.home
	m.changed = true
	m.do(Fetch{Cluster: m.home, Cut: cut, Start: missing, Epoch: m.epoch})
	if s.found.judge().state == control.Seeded {
		m.commit(s, control.Mark{State: control.Home, Epoch: m.epoch}, cut) // from now on it takes no look at the old home to know
	}
}

// leaves gives up memberships that nobody wants any more.
func (m *Member) leaves() {
	for _, c := range m.cfg.Clusters {
		s := m.sides[c]
		if !s.joining || c == m.home || m.home == "" || m.wanted(c) {
			continue
		}
		if s.busy() || c == m.fetching {
			continue
		}
		*s = side{name: c, found: s.found, known: s.known}
		m.changed = true
		m.do(Leave{Cluster: c})
	}
}

func (m *Member) wanted(c starferry.ClusterName) bool {
	p := m.placement
	if p.Open() && (p.Target == c && p.Active == m.home || p.Active == c && p.Target == m.home) {
		return true // at home on Target already: whoever decides knows before the announcement
	}
	if p.Phase == control.Announce {
		return true // the switch settles first
	}
	return p.Standby == c && m.now < p.StandbyUntil
}

func (m *Member) close() {
	if !m.closing || m.fetching != "" {
		return
	}
	for _, c := range m.cfg.Clusters {
		if m.flush(m.sides[c]); m.sides[c].busy() {
			return
		}
	}
	for _, c := range m.cfg.Clusters {
		if m.sides[c].joining {
			m.do(Leave{Cluster: c})
		}
	}
	m.closed = true
	m.do(Done{})
}

func (m *Member) refuse(why string) {
	if m.refusal != why {
		m.refusal, m.changed = why, true
	}
}

// commit sends one commit, or queues it behind the one under way: two at a time
// could be applied in either order.
func (m *Member) commit(s *side, mark control.Mark, cut starferry.Cut) {
	if len(cut) == 0 {
		return
	}
	c := &Commit{ID: m.nextID(), Cluster: s.name, Member: s.member, Generation: s.generation, Mark: mark, Cut: cut}
	if s.pending != nil {
		s.queue = append(s.queue, c)
		return
	}
	s.pending = c
	m.do(*c)
}
