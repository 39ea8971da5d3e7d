package switchover

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"runtime"
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

// atlas is the set of states met, in the order of their depth.
type atlas struct {
	seed   maphash.Seed
	spots  []spot
	parent []uint32
	slots  []uint32
}

func (t *atlas) add(s spot, parent uint32) (uint32, bool) {
	if len(t.spots)*10 >= len(t.slots)*7 {
		t.slots = make([]uint32, max(1<<16, len(t.slots)*2))
		for i, s := range t.spots {
			h := maphash.Comparable(t.seed, s) & uint64(len(t.slots)-1)
			for t.slots[h] != 0 {
				h = (h + 1) & uint64(len(t.slots)-1)
			}
			t.slots[h] = uint32(i + 1)
		}
	}
	h := maphash.Comparable(t.seed, s) & uint64(len(t.slots)-1)
	for t.slots[h] != 0 {
		if t.spots[t.slots[h]-1] == s {
			return t.slots[h] - 1, false
		}
		h = (h + 1) & uint64(len(t.slots)-1)
	}
	t.spots, t.parent = append(t.spots, s), append(t.parent, parent)
	t.slots[h] = uint32(len(t.spots))
	return uint32(len(t.spots) - 1), true
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
	t := &atlas{seed: maphash.MakeSeed()}
	g := &graph{}
	for _, s := range from {
		t.add(s, 0)
	}
	r := result{complete: true}
	level, next := uint32(len(t.spots)), uint32(0)
	for i := 0; i < len(t.spots); i++ {
		if uint32(i) == level {
			r.depth++
			level = uint32(len(t.spots))
		}
		next = level
		g.first = append(g.first, uint64(len(g.to)))
		s := t.spots[i]
		for _, n := range sp.next(&s) {
			r.edges++
			j, _ := t.add(n.to, uint32(i))
			if n.wrong != "" {
				r.wrong, r.states, r.took = n.wrong, len(t.spots), time.Since(began)
				r.complete = false
				r.trace = append(sp.trace(t, len(from), uint32(i)), n.label)
				return r
			}
			if lim.live && n.cost != fault {
				g.to = append(g.to, j)
			}
		}
		if i%4096 == 0 && lim.over(len(t.spots)) {
			r.complete = false
			break
		}
	}
	_ = next
	r.states = len(t.spots)
	if lim.live && r.complete {
		g.first = append(g.first, uint64(len(g.to)))
		t.slots = nil
		if dead, ok := g.dead(len(t.spots), func(i int) bool { w := sp.unpack(&t.spots[i]); return w.consumed() }); ok {
			r.wrong = "no way forward or back"
			r.trace = sp.trace(t, len(from), dead)
			w := sp.unpack(&t.spots[dead])
			r.trace = append(r.trace, w.String())
		}
	}
	if lim.live && !r.complete {
		sp.sample(t, len(from), &r)
	}
	r.took = time.Since(began)
	return r
}

// sample asks some of the states of a search that is not complete for a way
// forward, by letting things happen without further faults.
func (sp *space) sample(t *atlas, roots int, r *result) {
	const samples = 200
	for k := range samples {
		i := uint32(k * len(t.spots) / samples)
		if _, ok := sp.fairly(t.spots[i], (*scene).consumed); !ok {
			r.wrong = "no way forward or back, or a long one"
			w := sp.unpack(&t.spots[i])
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

// graph holds the transitions that need no fault.
type graph struct {
	to    []uint32
	first []uint64
}

// dead returns the nearest state from which no goal can be reached.
func (g *graph) dead(n int, goal func(int) bool) (uint32, bool) {
	first := make([]uint64, n+1)
	for _, j := range g.to {
		first[j+1]++
	}
	for i := range n {
		first[i+1] += first[i]
	}
	back, fill := make([]uint32, len(g.to)), append([]uint64(nil), first[:n]...)
	for i := range n {
		for _, j := range g.to[g.first[i]:g.first[i+1]] {
			back[fill[j]] = uint32(i)
			fill[j]++
		}
	}
	lives := make([]bool, n)
	var todo []uint32
	for i := range n {
		lives[i] = goal(i)
	}
	for i := range n { // what may be left again is no end
		for _, j := range g.to[g.first[i]:g.first[i+1]] {
			if lives[i] && !lives[j] {
				lives[i], todo = false, append(todo, uint32(i))
			}
		}
	}
	for len(todo) > 0 {
		j := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, i := range back[first[j]:first[j+1]] {
			if lives[i] {
				lives[i], todo = false, append(todo, i)
			}
		}
	}
	for i := range n {
		if lives[i] {
			todo = append(todo, uint32(i))
		}
	}
	for len(todo) > 0 {
		j := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, i := range back[first[j]:first[j+1]] {
			if !lives[i] {
				lives[i], todo = true, append(todo, i)
			}
		}
	}
	for i := range n {
		if !lives[i] {
			return uint32(i), true
		}
	}
	return 0, false
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
		s := t.spots[path[k]]
		for _, n := range sp.next(&s) {
			if n.to == t.spots[path[k-1]] {
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
