package handover

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// world is a topic on two clusters: the log of the old one and how far the link
// has copied it, what Kafka says of the home, the transactional id's epoch, KV,
// producers, and an agent. Everything that may happen is chosen at random.
type world struct {
	t    *testing.T
	r    *rand.Rand
	now  int64
	told []string

	log     int // records on old
	copied  int
	home    starferry.ClusterName
	at      starferry.Epoch
	with    map[starferry.Epoch][]string
	session int // epoch of the transactional id

	kv       *control.TopicPlacement
	revision uint64
	procs    []*proc
	boots    int
	agent    *agent
}

// proc is a producer's process.
type proc struct {
	*Follower
	boot    string
	alive   bool
	known   bool // its lease is in KV
	cut     bool // from NATS
	sending bool
	flying  int // records under way
	wrote   bool
	last    int // its last record's place in the old log
	cluster starferry.ClusterName
	lease   control.ProducerLease
	mail    []Effect
}

// agent is a process that drives.
type agent struct {
	*Driver
	deeds   []Deed
	session int
	cut     int
	asked   bool
	done    *Report
}

func (w *world) say(f string, a ...any) { w.told = append(w.told, fmt.Sprintf(f, a...)) }

func (w *world) check(ok bool, f string, a ...any) {
	if !ok {
		for _, s := range w.told[max(0, len(w.told)-80):] {
			w.t.Log(s)
		}
		require.Fail(w.t, fmt.Sprintf(f, a...))
	}
}

func (w *world) start(p *proc) {
	w.boots++
	*p = proc{boot: fmt.Sprintf("b%d", w.boots), alive: true}
	p.Follower = NewFollower(p.boot, 10_000)
	w.step(p, Found{w.home, w.at}) // Kafka is read
	p.cluster = p.Stands().Home
	w.say("%s starts on %s", p.boot, p.cluster)
	p.cut = w.r.Intn(8) == 0
	for _, e := range p.mail { // says that it is there, and only then looks for orders
		w.act(p, e)
	}
	p.mail = nil
	w.order(p)
}

func (w *world) step(p *proc, e Event) {
	w.say("%s <- %T %+v", p.boot, e, e)
	for _, e := range p.Step(w.now, e) {
		switch e.(type) {
		case StopSending, Enter: // done before anything else is told
			w.act(p, e)
		default:
			p.mail = append(p.mail, e)
		}
	}
}

func (w *world) order(p *proc) {
	o := Order{Wrote: p.wrote}
	if w.kv != nil && !p.cut {
		v := *w.kv
		o.Placement, o.Revision = &v, w.revision
	} else if p.Stands().Home != "" && p.sending {
		return
	}
	w.step(p, o)
}

func (w *world) act(p *proc, e Effect) {
	switch e := e.(type) {
	case Publish:
		s := p.Stands()
		p.lease = control.ProducerLease{Boot: p.boot, Instance: starferry.InstanceID(p.boot), Home: s.Home, Epoch: s.Epoch, Revision: s.Revision, Ready: s.Ready, Held: s.Held}
		p.known = !p.cut
	case Warm:
		w.step(p, Warmed{Epoch: e.Epoch})
	case StopSending:
		p.sending = false
		if p.flying == 0 {
			w.step(p, Flushed(e))
		}
	case Enter:
		w.check(p.flying == 0 || e.Cluster == p.cluster, "%s leaves with records under way", p.boot)
		if e.Cluster == "new" && p.cluster == "old" {
			w.check(p.last <= w.copied, "%s goes on at new, and the copy has %d of its %d", p.boot, w.copied, p.last)
		}
		w.check(!(e.Cluster == "old" && w.home == "new" && slices.Contains(w.with[w.at], p.boot)), "%s is taken along by the decision and goes on at old", p.boot)
		if e.Cluster != p.cluster {
			p.wrote = false
		}
		p.cluster, p.sending = e.Cluster, true
		w.say("%s enters %s", p.boot, e.Cluster)
	case Resolve:
		w.session++
		out := Resolved{Epoch: e.Epoch, Home: w.home, At: w.at, With: w.named(p.boot, e.Since), Wrote: p.wrote}
		if w.r.Intn(4) == 0 {
			out = Resolved{Epoch: e.Epoch, Err: "Kafka did not answer"}
		}
		w.step(p, out)
	}
}

// named reports whether a decision from an epoch on names a process.
func (w *world) named(boot string, since starferry.Epoch) bool {
	for e, with := range w.with {
		if e >= since && slices.Contains(with, boot) {
			return true
		}
	}
	return false
}

// do is one thing that a producer may do.
func (w *world) do(p *proc) {
	switch {
	case !p.alive:
		if w.r.Intn(10) == 0 {
			w.start(p)
		}
	case len(p.mail) > 0 && w.r.Intn(2) == 0:
		e := p.mail[0]
		p.mail = p.mail[1:]
		w.act(p, e)
	default:
		switch w.r.Intn(6) {
		case 0, 1:
			if p.sending {
				p.flying++
				p.wrote = true
			}
		case 2, 3:
			if p.flying > 0 {
				if p.flying--; p.cluster == "old" {
					w.log++
					p.last = w.log
				}
				if h := p.Follower.holding; p.flying == 0 && h > 0 {
					w.step(p, Flushed{h})
				}
			}
		case 4:
			w.order(p)
		case 5:
			w.step(p, Tick{})
		}
	}
}

// fault is something that goes wrong.
func (w *world) fault() {
	p := w.procs[w.r.Intn(len(w.procs))]
	switch w.r.Intn(5) {
	case 0:
		if p.alive {
			w.say("%s is killed", p.boot)
			p.alive, p.flying = false, 0
		}
	case 1:
		p.cut = !p.cut
		w.say("%s cut from NATS: %v", p.boot, p.cut)
	case 2:
		w.say("the agent is killed")
		w.agent = nil
	case 3:
		w.now += 20_000
	case 4: // leases run out
		for _, p := range w.procs {
			if !p.alive || p.cut {
				p.known = false
			}
		}
	}
}

func (w *world) leases() (out []control.ProducerLease) {
	for _, p := range w.procs {
		if p.known {
			out = append(out, p.lease)
		}
	}
	return out
}

func (w *world) drive() {
	a := w.agent
	if a == nil || a.done != nil {
		a = &agent{}
		a.Driver, a.deeds = NewDriver(Request{Topic: "t", Source: "old", Target: "new", Prepare: 10_000, HoldLimit: 5_000, HoldDeadline: 10_000})
		w.agent = a
		return
	}
	if len(a.deeds) == 0 {
		var f Fact = Clock{}
		if w.r.Intn(2) == 0 {
			f = Leases{Leases: w.leases()}
		}
		a.deeds = a.Step(w.now, f)
		return
	}
	d := a.deeds[0]
	a.deeds = a.deeds[1:]
	fact := w.deed(a, d)
	if fact == nil {
		return
	}
	w.say("agent <- %T %+v", fact, fact)
	a.deeds = append(a.deeds, a.Step(w.now, fact)...)
}

func (w *world) deed(a *agent, d Deed) Fact {
	switch d := d.(type) {
	case Look:
		return Looked{Scene{w.kv, w.revision, w.home, w.at, w.leases()}}
	case OpenSession:
		w.session++
		a.session = w.session
		return SessionOpened{w.home, w.at}
	case Write:
		if d.Expect != w.revision {
			return Written{Lost: true}
		}
		v := d.Placement
		w.kv, w.revision = &v, w.revision+1
		w.say("agent writes %s %d on %s", v.Phase, v.Epoch, v.Active)
		return Written{Revision: w.revision}
	case CopyPast:
		if !a.asked {
			a.cut, a.asked = w.log, true
		}
		if w.copied < a.cut {
			a.deeds = append(a.deeds, d)
			return nil
		}
		a.asked = false
		return Passed{}
	case LookAgain:
		return Leases{w.leases(), true}
	case Decide:
		moved := a.session == w.session
		if moved {
			w.home, w.at = "new", d.Epoch
			w.with[d.Epoch] = slices.Clone(d.With)
			w.say("DECIDED %d with %v", d.Epoch, d.With)
		}
		w.session++ // whatever the answer was, it is made sure of
		return Decided{moved}
	case End:
		w.say("agent ends: %+v", d.Report)
		a.done = &d.Report
	}
	return nil
}

func newWorld(t *testing.T, seed int64) *world {
	w := &world{t: t, r: rand.New(rand.NewSource(seed)), home: "old", with: map[starferry.Epoch][]string{}}
	for range 2 + w.r.Intn(2) {
		p := &proc{}
		w.procs = append(w.procs, p)
		w.start(p)
	}
	return w
}

func (w *world) happen(faults int) {
	switch n := w.r.Intn(100); {
	case n < faults:
		w.fault()
	case n < 55:
		w.do(w.procs[w.r.Intn(len(w.procs))])
	case n < 70:
		w.copied = min(w.log, w.copied+1+w.r.Intn(3))
	case n < 72:
		w.now += int64(w.r.Intn(3000))
	default:
		w.drive()
	}
}

// TestNobodyOvertakesItself lets anything happen in any order, and then nothing
// go wrong any more. Whoever goes on at the new cluster has all its older records
// copied there; nobody leaves with records under way; whom the decision took along
// never goes back; and in the end everybody writes, on one cluster.
func TestNobodyOvertakesItself(t *testing.T) {
	moved, alone, stayed := 0, 0, 0
	for seed := range int64(1500) {
		w := newWorld(t, seed)
		for range 400 {
			w.happen(3)
		}
		if w.home == "new" {
			moved++
		}
		for _, p := range w.procs {
			if p.alive && p.cluster == "old" && w.home == "new" && p.sending {
				stayed++
			}
			if p.alive && p.Follower.holding == 0 && p.Follower.epoch > w.at {
				alone++
			}
		}
		w.peace()
	}
	require.Greater(t, moved, 150)
	require.Greater(t, stayed, 5, "no story in which somebody was left behind")
	require.Greater(t, alone, 5, "no story in which somebody went on by itself")
}

// peace: connections are back, agents are started until one has moved all.
func (w *world) peace() {
	for _, p := range w.procs {
		p.cut = false
		if !p.alive {
			w.start(p)
			p.cut = false
		}
		w.act(p, Publish{})
	}
	for range 20_000 {
		w.happen(0)
		for _, p := range w.procs {
			if len(p.mail) == 0 && w.r.Intn(4) == 0 { // a lease is renewed
				w.act(p, Publish{})
			}
		}
		ended := w.agent != nil && w.agent.done != nil && w.agent.done.Moved
		for _, p := range w.procs {
			ended = ended && p.sending && p.cluster == "new"
		}
		if ended {
			return
		}
	}
	for _, p := range w.procs {
		w.say("%s: %+v sending %v cluster %s flying %d", p.boot, *p.Follower, p.sending, p.cluster, p.flying)
	}
	w.check(false, "there is no end to it")
}

// TestAloneTheyAllComeToOneCluster: the agent is gone for good at any moment, and
// NATS with it. Everybody goes on, on one cluster.
func TestAloneTheyAllComeToOneCluster(t *testing.T) {
	both := map[starferry.ClusterName]int{}
	for seed := range int64(1000) {
		w := newWorld(t, seed)
		for _, p := range w.procs {
			p.cut = false
			w.act(p, Publish{})
		}
		for range w.r.Intn(250) {
			w.happen(0)
		}
		for _, p := range w.procs {
			p.cut = true
		}
		for range 3000 {
			w.now += 100
			w.do(w.procs[w.r.Intn(len(w.procs))])
		}
		on := w.procs[0].cluster
		both[on]++
		for _, p := range w.procs {
			w.check(p.sending, "%s holds for ever", p.boot)
			w.check(p.cluster == on && on == w.home, "%s writes on %s, others on %s, the home is %s", p.boot, p.cluster, on, w.home)
		}
	}
	require.Greater(t, both["old"], 100)
	require.Greater(t, both["new"], 100)
}
