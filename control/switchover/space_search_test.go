package switchover

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"time"
)

// found is what a search ends with.
type result struct {
	states, edges int
	depth         int
	complete      bool
	wrong         string
	trace         []string
	took          time.Duration
}

func (r result) String() string {
	how := "complete"
	if !r.complete {
		how = "not complete"
	}
	return fmt.Sprintf("%d states, %d transitions, depth %d, %s, %.1f s", r.states, r.edges, r.depth, how, r.took.Seconds())
}

// atlas is the set of states met, in the order of their depth. A state is kept as
// two halves, since there are far fewer of those than of states.
type atlas struct {
	halves [2]*rack[half]
	spots  [][2]uint32
	parent []uint32
	slots  []uint32
}

// half is one half of a state.
type half [9]uint32

func newAtlas() *atlas { return &atlas{halves: [2]*rack[half]{newRack[half](), newRack[half]()}} }

// split makes the halves of a state: its instances, and all else.
func (s *spot) split() (a, b half) {
	copy(a[0:], s.member[:])
	copy(a[3:], s.peer[:])
	copy(a[6:], s.lease[:])
	return a, half{s.agent, s.rival, s.group[0], s.group[1], s.commits[0], s.commits[1], s.kv, s.backup, s.rest}
}

// at returns a state by its number.
func (t *atlas) at(i uint32) spot {
	a, b := t.halves[0].vals[t.spots[i][0]], t.halves[1].vals[t.spots[i][1]]
	return spot{
		member: [maxPeers]uint32(a[0:3]), peer: [maxPeers]uint32(a[3:6]), lease: [maxPeers]uint32(a[6:9]),
		agent: b[0], rival: b[1], group: [2]uint32(b[2:4]), commits: [2]uint32(b[4:6]), kv: b[6], backup: b[7], rest: b[8],
	}
}

// slot is where the search for a state begins.
func (t *atlas) slot(k [2]uint32) uint64 {
	h := (uint64(k[0])<<32 | uint64(k[1])) * 0x9E3779B97F4A7C15
	return (h ^ h>>29) * 0xBF58476D1CE4E5B9 >> 20 & uint64(len(t.slots)-1)
}

func (t *atlas) grow() {
	t.slots = make([]uint32, max(1<<16, len(t.slots)*2))
	for i, k := range t.spots {
		h := t.slot(k)
		for t.slots[h] != 0 {
			h = (h + 1) & uint64(len(t.slots)-1)
		}
		t.slots[h] = uint32(i + 1)
	}
}

func (t *atlas) add(s spot, parent uint32) uint32 {
	if len(t.spots)*10 >= len(t.slots)*8 {
		t.grow()
	}
	a, b := s.split()
	k := [2]uint32{t.halves[0].id(a), t.halves[1].id(b)}
	h := t.slot(k)
	for t.slots[h] != 0 {
		if t.spots[t.slots[h]-1] == k {
			return t.slots[h] - 1
		}
		h = (h + 1) & uint64(len(t.slots)-1)
	}
	t.spots, t.parent = append(t.spots, k), append(t.parent, parent)
	t.slots[h] = uint32(len(t.spots))
	return uint32(len(t.spots) - 1)
}

// limits end a search before it is complete.
type limits struct {
	states int
	until  time.Time
	memory uint64 // bytes
	live   bool   // ask for a way forward from every state
}

// search goes through all states that can be reached from the given ones,
// nearest first.
func (sp *space) search(from []spot, lim limits) result {
	began := time.Now()
	t, g := newAtlas(), &graph{}
	for _, s := range from {
		t.add(s, 0)
	}
	r := result{complete: true}
	level := len(t.spots)
	for i := 0; i < len(t.spots); i++ {
		if i == level {
			r.depth++
			level = len(t.spots)
		}
		s, degree := t.at(uint32(i)), 0
		for _, n := range sp.next(&s) {
			r.edges++
			n = sp.along(n)
			j := t.add(n.to, uint32(i))
			if n.wrong != "" {
				r.wrong, r.states, r.took = n.wrong, len(t.spots), time.Since(began)
				r.complete = false
				r.trace = append(sp.trace(t, len(from), uint32(i)), n.label)
				return r
			}
			if lim.live && n.cost != fault {
				g.to, degree = append(g.to, j), degree+1
			}
		}
		g.degree = append(g.degree, uint8(degree))
		if i%4096 == 0 && lim.over(len(t.spots)) {
			r.complete = false
			break
		}
	}
	r.states = len(t.spots)
	switch {
	case lim.live && r.complete:
		t.slots = nil
		if dead, ok := g.dead(func(i int) bool { s := t.at(uint32(i)); w := sp.unpack(&s); return w.consumed() }); ok {
			r.wrong = "no way forward or back"
			s := t.at(dead)
			w := sp.unpack(&s)
			r.trace = append(sp.trace(t, len(from), dead), w.String())
		}
	case lim.live:
		sp.sample(t, len(from), &r)
	}
	r.took = time.Since(began)
	return r
}

// along follows a branch to where there is a choice again. While a fault may
// still come that is everywhere; then all that has one way only is passed, and
// not kept: whatever holds of its end holds of it.
func (sp *space) along(n branch) branch {
	if n.wrong != "" || sp.rests.vals[n.to.rest].Faults < sp.maxFaults {
		return n
	}
	from := n.to
	seen := &sp.ways[from.slot()]
	if seen.from == from && !sp.talk {
		n.to = seen.to
		return n
	}
	for range 100 {
		next := sp.next(&n.to)
		if len(next) != 1 {
			break
		}
		n.to, n.wrong = next[0].to, next[0].wrong
		if next[0].label != "" {
			n.label += "\n      " + next[0].label
		}
		if n.wrong != "" {
			return n
		}
	}
	*seen = way{from, n.to}
	return n
}

// way is where a state leads that has one way only. Those that were met last are
// remembered.
type way struct{ from, to spot }

const waysKept = 1 << 18

func (s *spot) slot() uint64 {
	h := uint64(14695981039346656037)
	for _, part := range [...][]uint32{s.member[:], s.peer[:], s.lease[:], {s.agent, s.rival}, s.group[:], s.commits[:], {s.kv, s.backup, s.rest}} {
		for _, v := range part {
			h = (h ^ uint64(v)) * 0x9E3779B97F4A7C15
			h ^= h >> 32
		}
	}
	return h % waysKept
}

// sample asks some of the states of a search that is not complete for a way
// forward, by letting things happen without further faults.
func (sp *space) sample(t *atlas, roots int, r *result) {
	const samples = 200
	for k := range samples {
		i := uint32(k * len(t.spots) / samples)
		if _, ok := sp.fairly(t.at(i), (*scene).consumed); !ok {
			r.wrong = "no way forward or back, or a long one"
			s := t.at(i)
			w := sp.unpack(&s)
			r.trace = append(sp.trace(t, roots, i), w.String())
			return
		}
	}
}

func (l limits) over(states int) bool {
	if l.states > 0 && states > l.states || !l.until.IsZero() && time.Now().After(l.until) {
		return true
	}
	if l.memory > 0 && states%65536 < 4096 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc > l.memory
	}
	return false
}

// graph holds the transitions that need no fault, in the order of the states
// they begin at.
type graph struct {
	to     []uint32
	degree []uint8
}

// sweep looks at all states from the last to the first with those that follow
// them, until change says no more that it has changed something: most ways lead
// to later states, so a few rounds do.
func (g *graph) sweep(change func(i int, to []uint32) bool) {
	for again := true; again; {
		again = false
		end := len(g.to)
		for i := len(g.degree) - 1; i >= 0; i-- {
			begin := end - int(g.degree[i])
			again = change(i, g.to[begin:end]) || again
			end = begin
		}
	}
}

// dead returns the nearest state from which no goal can be reached that lasts.
func (g *graph) dead(goal func(int) bool) (uint32, bool) {
	lives := make([]bool, len(g.degree))
	for i := range lives {
		lives[i] = goal(i)
	}
	g.sweep(func(i int, to []uint32) bool { // what may be left again is no end
		if lives[i] && slices.ContainsFunc(to, func(j uint32) bool { return !lives[j] }) {
			lives[i] = false
			return true
		}
		return false
	})
	g.sweep(func(i int, to []uint32) bool {
		if !lives[i] && slices.ContainsFunc(to, func(j uint32) bool { return lives[j] }) {
			lives[i] = true
			return true
		}
		return false
	})
	dead := slices.Index(lives, false)
	return uint32(dead), dead >= 0
}

// trace tells how a state was reached.
func (sp *space) trace(t *atlas, roots int, i uint32) []string {
	path := []uint32{i}
	for int(i) >= roots {
		i = t.parent[i]
		path = append(path, i)
	}
	sp.talk = true
	defer func() { sp.talk = false }()
	var out []string
	for k := len(path) - 1; k > 0; k-- {
		s, to := t.at(path[k]), t.at(path[k-1])
		for _, n := range sp.next(&s) {
			if n = sp.along(n); n.to == to {
				out = append(out, n.label)
				break
			}
		}
	}
	sp.talk = true
	return out
}

// story makes a trace readable.
func story(trace []string) string {
	var b strings.Builder
	for i, l := range trace {
		fmt.Fprintf(&b, "%4d  %s\n", i+1, l)
	}
	return b.String()
}

// String is the state as people read it.
func (w *scene) String() string {
	var b strings.Builder
	st := w.sp.stores.vals[w.kv]
	if st.P != nil {
		fmt.Fprintf(&b, "KV revision %d: %s %d active=%s target=%s actor=%v\n", st.Rev, st.P.Phase, st.P.Epoch, st.P.Active, st.P.Target, st.P.Actor)
	}
	for c, g := range w.grp {
		fmt.Fprintf(&b, "%s: %s generation %d fenced=%v own=%v seats=%v%s\n", spaceNames[c], []string{"empty", "stable", "rebalancing"}[g.State], g.Gen, g.Fenced, g.Own, g.Seat, w.com[c])
	}
	for i, p := range w.peers {
		if p.Up == absent {
			continue
		}
		fmt.Fprintf(&b, "i%d: %s %+v\n", i, []string{"absent", "up", "down", "frozen"}[p.Up], p.Work)
		if m := w.sp.members.vals[w.member[i]]; m != nil {
			fmt.Fprintf(&b, "    home=%s/%d draining=%d drained=%v wayOut=%v refusal=%q fetching=%q\n", m.home, m.epoch, m.draining, m.drained, m.wayOut, m.refusal, m.fetching)
			for c, s := range m.sides {
				fmt.Fprintf(&b, "    %s: joining=%v standing=%v rejoin=%v force=%v lost=%v gen=%d own=%v fresh=%v pending=%v found=%v | %+v\n", c, s.joining, s.standing, s.rejoin, s.force, s.lost, s.generation, s.own, s.fresh, s.pending, s.found, p.Side[sideOf(c)])
			}
		}
	}
	if w.agent != 0 {
		l := w.sp.leaders.vals[w.agent]
		fmt.Fprintf(&b, "agent: end=%d step=%s asked=%+v retry=%d phase=%s\n", l.End, l.D.step, l.D.asked, l.D.retryAt, l.D.p.Phase)
	}
	fmt.Fprintf(&b, "%+v\n", w.rest)
	return b.String()
}

// fairly lets whatever can happen happen, by lot and without faults, until the
// group consumes and nobody drives it, or until that is so. It reports whether
// it came to that.
func (sp *space) fairly(s spot, until func(*scene) bool) (spot, bool) {
	lot := rand.New(rand.NewPCG(1, 1))
	for range 5_000 {
		w := sp.unpack(&s)
		if until(&w) {
			return s, true
		}
		var free []branch
		for _, b := range sp.next(&s) {
			if b.wrong != "" {
				return s, false
			}
			if b.cost != fault {
				free = append(free, b)
			}
		}
		if len(free) == 0 {
			return s, false
		}
		s = free[lot.IntN(len(free))].to
	}
	return s, false
}
