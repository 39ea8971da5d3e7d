package switchover_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/switchover"
)

// excuse marks what an instance holds uncommitted as possibly repeated.
func (w *world) excuse(n *node) {
	mark := func(c starferry.ClusterName, cut starferry.Cut) {
		for tp := range cut {
			for o := w.co[c].commits[tp].Offset; o < w.limit; o++ {
				if w.handed[tp][o] {
					w.excused[tp][o] = true
				}
			}
		}
	}
	if n.last != nil {
		mark(n.last.cluster, n.last.pos)
	}
}

func (w *world) faults() []action {
	var out []action
	add := func(name string, do func()) { out = append(out, action{"FAULT " + name, true, do}) }
	for _, n := range w.nodes {
		if !n.up {
			continue
		}
		add("crash of "+string(n.id), func() { w.excuse(n); n.up = false })
		add("stop of "+string(n.id), func() { w.step(n, switchover.Stop{}) })
		if n.nats {
			add(string(n.id)+" loses NATS", func() { n.nats = false; delete(w.leases, n.id) })
		}
		for _, k := range n.writes {
			if k.result != "" {
				continue
			}
			add("commit applied, answer lost", func() { w.excuse(n); w.take(k.e); k.result = control.Unclear })
			add("commit delayed, no answer", func() { w.excuse(n); w.twins = append(w.twins, k.e); k.result = control.Unclear })
		}
	}
	for _, k := range w.co {
		if k.state == "Stable" {
			add("rebalance of "+string(k.name), k.prepare)
		}
	}
	if w.agent != nil {
		add("the agent dies", func() { w.agent = nil })
		add("the agent is replaced", func() { w.hire(w.agent.req) })
	}
	if len(w.nodes) < 4 {
		add("deploy of another", func() { w.deploy(len(w.nodes)) })
	}
	if w.agent != nil && w.rival == nil {
		add("rival with another token", func() { w.challenge(w.agent.req) })
	}
	if w.kv != nil && w.kv.Phase == control.Prepare {
		w.haste(add)
	}
	if w.kv != nil {
		add("the deadline passes", func() { w.pass(20_000) })
	}
	slices.SortFunc(out, func(a, b action) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	return out
}

// haste orders the only instance to decide while it is at work: what an agent
// would do that does not wait for its barriers.
func (w *world) haste(add func(string, func())) {
	for _, n := range w.nodes {
		s := n.sides[w.kv.Active]
		if len(w.nodes) > 1 || !n.up || n.session == nil || n.session.cluster != w.kv.Active {
			continue
		}
		add("hasty order to "+string(n.id), func() {
			p := *w.kv
			p.Phase, p.Actor, p.Cut = control.Decide, &control.Actor{Instance: n.id, Boot: fmt.Sprint("b", n.boot), Member: s.member, Generation: s.gen}, starferry.Cut{}
			for tp, c := range w.co[p.Active].commits {
				p.Cut[tp] = starferry.Place{Next: c.Offset}
			}
			w.kv, w.rev = &p, w.rev+1
		})
	}
}

// schedule chooses what happens next. Each kind of action has a weight of its
// own, drawn anew now and then, so that some things stay undone while much else
// happens; faults come in bursts. A schedule may have a theme: it then has
// faults of that kind only. Delayed commits may be held until a decision.
type schedule struct {
	theme  string
	hold   bool
	rnd    *rand.Rand
	weight map[string]float64
	faults int
	burst  int
}

const late = "a delayed commit arrives"

// kind is the name of an action without what counts on.
func kind(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if strings.HasPrefix(name, "agent: ") || strings.HasPrefix(name, "rival: ") {
		return name[:5]
	}
	return name
}

func (s *schedule) of(k string) float64 {
	v, ok := s.weight[k]
	if !ok {
		v = []float64{0.005, 0.2, 1, 1, 1, 1, 10}[s.rnd.IntN(7)]
		switch {
		case k == "time passes":
			v /= 10
		case k == late && s.hold:
			v = 0.0005
		}
		s.weight[k] = v
	}
	return v
}

func (s *schedule) next(w *world) action {
	if s.rnd.IntN(80) == 0 {
		clear(s.weight)
	}
	if s.rnd.IntN(60) == 0 {
		s.burst = s.rnd.IntN(30)
	}
	s.burst--
	if s.faults > 0 && s.burst > 0 && s.rnd.IntN(6) == 0 {
		by := map[string][]action{}
		for _, f := range w.faults() {
			k := strings.Join(strings.Fields(f.name)[:3], " ")
			if s.theme == "" || strings.Contains(k, s.theme) {
				by[k] = append(by[k], f)
			}
		}
		kinds := slices.Sorted(maps.Keys(by))
		if len(kinds) > 0 {
			s.faults--
			some := by[kinds[s.rnd.IntN(len(kinds))]]
			return some[s.rnd.IntN(len(some))]
		}
	}
	all := w.actions(false)
	var sum float64
	for _, a := range all {
		sum += s.of(kind(a.name))
	}
	at := s.rnd.Float64() * sum
	for _, a := range all {
		if at -= s.of(kind(a.name)); at <= 0 {
			return a
		}
	}
	return all[len(all)-1]
}

// order is what the agent is asked to do next: there, back, and there again.
func (w *world) order(n int) switchover.Request {
	r := switchover.Request{Group: "g", Source: "old", Target: "new", Link: "l", Token: fmt.Sprint(n), DrainDeadline: 5_000, Verify: 1}
	if w.home == "new" {
		r.Source, r.Target, r.Direction = "new", "old", starferry.Back
	}
	return r
}

// search runs one schedule and returns the world at its end.
func search(seed uint64) *world {
	s := &schedule{rnd: rand.New(rand.NewPCG(seed, 1)), weight: map[string]float64{}}
	w := newWorld(1+s.rnd.IntN(3), 1+s.rnd.IntN(3), 8)
	s.faults = s.rnd.IntN(5)
	if s.rnd.IntN(2) == 0 {
		s.theme = []string{"commit", "commit delayed", "rebalance", "stop", "crash", "rival"}[s.rnd.IntN(6)]
	}
	s.hold = s.rnd.IntN(2) == 0
	started, steps, orders := s.rnd.IntN(80), 200+s.rnd.IntN(1500), 0
	for i := 0; i < started+steps && w.wrong == ""; i++ {
		if i >= started && orders < 4 && (w.agent == nil || w.agent.done) && (w.rival == nil || w.rival.done) {
			orders++
			w.hire(w.order(orders))
			w.rival = nil
		}
		before := w.decided
		w.do(s.next(w))
		if s.hold && w.decided > before {
			s.hold = s.rnd.IntN(3) == 0 // now they come
			delete(s.weight, late)
		}
	}
	if w.wrong == "" && !w.finish() {
		w.wrong = "the group does not consume any more"
	}
	return w
}

// TestTheSearchFindsNothing runs schedules of several switches with faults.
// STARFERRY_SEARCH=n runs n of them, STARFERRY_SEED=n one of them.
func TestTheSearchFindsNothing(t *testing.T) {
	number := func(name string, or uint64) uint64 {
		if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
			return n
		}
		return or
	}
	from, to := uint64(0), number("STARFERRY_SEARCH", 200)
	if seed := number("STARFERRY_SEED", 0); seed > 0 {
		from, to = seed, seed+1
	}
	decided := 0
	for seed := from; seed < to; seed++ {
		w := search(seed)
		require.Empty(t, w.wrong, "STARFERRY_SEED=%d\n%s", seed, w.story())
		decided += int(w.decided)
	}
	t.Logf("%d schedules", to-from)
	require.Positive(t, decided)
}
