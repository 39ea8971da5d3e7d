package switchover

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// The searched world of groups without the library: two coordinators, one client
// of the group that knows nothing of starferry, and two agents with the same
// request, each of which looks at one cluster, then at the other, and then acts.

// abroad is a state of that world.
type abroad struct {
	Shore   [2]shore
	Agent   [2]envoy
	Newest  uint8 // the agent that began last
	KV      written
	Client  guest
	Handled uint8 // the next record of the first partition; nothing comes to the second
	Behind  bool  // the copy has not passed the place where the group stands
	Emptied bool  // KV was
	Faults  uint8
}

// written is the placement of an external switch.
type written struct{ Rev, Phase, Active, Epoch uint8 }

// the phases of it, in their order
const (
	kvNone = iota
	kvSteady
	kvDrain
	kvSeed
	kvDecide
)

// shore is the group on one cluster.
type shore struct {
	Gen     uint8
	Member  [2]bool // each agent's fence
	Drives  uint8   // 1 + agent: who may drive in this generation, the one that began last
	Client  bool
	Commits [2]kept
	Late    lateCommit
}

type kept struct{ Offset, Meta uint8 } // Meta 0: no commit

// lateCommit is a request whose answer was given up, and that still may arrive.
type lateCommit struct {
	On      bool
	Agent   uint8
	Gen     uint8
	Commits [2]kept
}

// glance is what an agent has seen of one cluster.
type glance struct {
	Fenced, Unclear, Client bool
	Gen                     uint8
	Commits                 [2]kept
}

// envoy is an agent that drives an external switch.
type envoy struct {
	On, Done, Moved bool
	Undo            bool
	Epoch           uint8
	KV              written  // as it knows it
	Knows           [2]uint8 // the generation its fence stands in; 0: it has none
	Unclear         [2]bool
	Seen            [2]glance
	Looked          uint8 // clusters it has looked at since it acted
	Asked           [2]uint8
	Answered        bool // Asked was translated
}

// guest is the client. Next is the offset it would read next where it runs.
type guest struct {
	On         bool
	Side, Next uint8
}

// metadata interns the texts of commits.
type metadata struct {
	ids  map[string]uint8
	vals []string
}

func (t *metadata) id(s string) uint8 {
	if id, ok := t.ids[s]; ok {
		return id
	}
	t.vals = append(t.vals, s)
	t.ids[s] = uint8(len(t.vals) - 1)
	return t.ids[s]
}

// cruise is one search of that world.
type cruise struct {
	texts     metadata
	kinds     []string
	faults    uint8
	crowded   bool // planted: all that stand in a fence may drive
	credulous bool // planted: another's end is taken for one's own
	out       []sailed
	next      map[plan]ExternalStep
	seen      map[abroad]uint32
	all       []abroad
	from      []uint32
	how       []string
}

type sailed struct {
	to    abroad
	how   string
	wrong string
}

// plan is all that a step of an envoy depends on.
type plan struct {
	Seen     [2]glance
	Undo     bool
	Epoch    uint8
	Asked    [2]uint8
	Answered bool
	Behind   bool
}

// the faults
const (
	agentDies    = "the agent dies"
	secondAgent  = "a second agent"
	sessionEnds  = "the fence's session ends"
	answerLost   = "an answer is lost"
	commitLate   = "a commit is late"
	clientSneaks = "a client sneaks in"
	abandons     = "it is asked to stop"
	forgotten    = "KV is emptied"
)

var outsideFaults = []string{agentDies, secondAgent, sessionEnds, answerLost, commitLate, clientSneaks, abandons, forgotten}

const outsideShift = 20

func newCruise(faults uint8, kinds ...string) *cruise {
	c := &cruise{kinds: kinds, faults: faults, texts: metadata{ids: map[string]uint8{}}, next: map[plan]ExternalStep{}, seen: map[abroad]uint32{}}
	c.texts.id("-") // 0 is no commit
	return c
}

func (c *cruise) start() abroad {
	w := abroad{Client: guest{On: true, Next: 5}, Handled: 5, Behind: true}
	w.Shore[0] = shore{Gen: 1, Client: true, Commits: [2]kept{{5, c.texts.id("by hand")}, {9, c.texts.id("")}}}
	w.Shore[1] = shore{Gen: 1}
	c.begin(&w, 0)
	return w
}

func (c *cruise) keep(k [2]kept) Keep {
	all := Keep{}
	for p, v := range k {
		if v.Meta != 0 {
			all[spaceParts[p]] = Kept{starferry.Offset(v.Offset), -1, c.texts.vals[v.Meta]}
		}
	}
	return all
}

func (c *cruise) kept(k Keep) (out [2]kept) {
	for tp, v := range k {
		out[tp.Partition] = kept{uint8(v.Offset), c.texts.id(v.Metadata)}
	}
	return out
}

// gone ends an agent's membership. A new generation lets the other one drive.
func (c *cruise) gone(w *abroad, side, i int) {
	s := &w.Shore[side]
	if s.Member[i] {
		s.Member[i] = false
		s.Gen++
	}
	c.choose(w, side)
}

// choose names who drives.
func (c *cruise) choose(w *abroad, side int) {
	s := &w.Shore[side]
	s.Drives = 0
	for _, i := range []uint8{1 - w.Newest, w.Newest} {
		if s.Member[i] && w.Agent[i].On && !w.Agent[i].Done {
			s.Drives = 1 + i
		}
	}
}

func (s *shore) fenced() bool { return s.Member[0] || s.Member[1] }

// take commits what is allowed: by a member, in the generation that stands.
func (s *shore) take(agent, gen uint8, commits [2]kept) bool {
	if !s.Member[agent] || gen != s.Gen {
		return false
	}
	for p, k := range commits {
		if k.Meta != 0 {
			s.Commits[p] = k
		}
	}
	return true
}

func (c *cruise) add(w abroad, how string, a ...any) {
	c.out = append(c.out, sailed{to: w, how: fmt.Sprintf(how, a...)})
}

// after lists what may happen next.
func (c *cruise) after(w abroad) []sailed {
	c.out = c.out[:0]
	for i := range w.Agent {
		c.envoy(w, i)
	}
	c.guest(w)
	if w.Behind {
		n := w
		n.Behind = false
		c.add(n, "the copy passes the group's place")
	}
	for side := range w.Shore {
		if l := w.Shore[side].Late; l.On {
			n := w
			n.Shore[side].Late = lateCommit{}
			if n.Shore[side].take(l.Agent, l.Gen, l.Commits) {
				c.add(n, "the late commit arrives on %s", spaceNames[side])
			}
		}
	}
	if w.Faults < c.faults {
		c.mishaps(w)
	}
	for i := range c.out {
		c.tidy(&c.out[i])
	}
	return c.out
}

// tidy forgets what can have no effect, judges, and ranks the generations.
func (c *cruise) tidy(n *sailed) {
	w := &n.to
	rerank(&w.KV.Rev, &w.Agent[0].KV.Rev, &w.Agent[1].KV.Rev)
	for side := range w.Shore {
		s := &w.Shore[side]
		if l := s.Late; l.On && (l.Gen != s.Gen || !s.Member[l.Agent]) {
			s.Late = lateCommit{}
		}
		from := []*uint8{&s.Gen, &s.Late.Gen}
		for i := range w.Agent {
			from = append(from, &w.Agent[i].Knows[side], &w.Agent[i].Seen[side].Gen)
		}
		rerank(from...)
	}
}

// rerank gives numbers that only count on their ranks; 0 stays.
func rerank(from ...*uint8) {
	var all []uint8
	for _, g := range from {
		if *g != 0 {
			all = append(all, *g)
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	for _, g := range from {
		if *g != 0 {
			*g = uint8(1 + slices.Index(all, *g))
		}
	}
}

// guest: the client is stopped once the switch is asked for, and started where
// the agent says that the group lives.
func (c *cruise) guest(w abroad) {
	g := w.Client
	if !g.On {
		for _, a := range w.Agent {
			if side := b2u(a.Moved); a.On && a.Done && !w.Shore[side].fenced() {
				c.enter(w, side, "the client is started on %s")
			}
		}
		return
	}
	s := w.Shore[g.Side]
	if g.Next < w.end(g.Side) {
		n := w
		n.Client.Next++
		n.Handled++
		c.add(n, "the client handles %s@%d of %s", spaceParts[0], g.Next, spaceNames[g.Side])
	}
	if s.Commits[0].Offset < g.Next {
		n := w
		n.Shore[g.Side].Commits[0] = kept{g.Next, c.texts.id("its own")}
		c.add(n, "the client commits %d on %s", g.Next, spaceNames[g.Side])
		return // it commits what it has handled before it goes
	}
	for _, a := range w.Agent {
		if a.Done && g.Side == b2u(a.Moved) {
			return
		}
	}
	n := w
	n.Client, n.Shore[g.Side].Client = guest{}, false
	n.Shore[g.Side].Gen++
	c.add(n, "the client is stopped on %s", spaceNames[g.Side])
}

// begin is an agent that takes the request up.
func (c *cruise) begin(w *abroad, i int) {
	a := envoy{On: true, KV: w.KV}
	w.Newest = uint8(i)
	home, e, moved := c.truth(w)
	switch {
	case moved && home == "new":
		a.Epoch = uint8(e)
	case w.KV.Phase > kvSteady:
		a.Epoch = w.KV.Epoch
	default:
		a.Epoch = max(c.highest(w), w.KV.Epoch) + 1
	}
	w.Agent[i] = a
}

func (c *cruise) truth(w *abroad) (starferry.ClusterName, starferry.Epoch, bool) {
	return Truth(map[starferry.ClusterName]Found{"old": must(marks(c.keep(w.Shore[0].Commits))), "new": must(marks(c.keep(w.Shore[1].Commits)))})
}

// write stores the placement, as package fleet does. Another writer ends the
// agent; if nobody else is there, it is asked again.
func (c *cruise) write(w *abroad, i int, phase, active uint8) bool {
	a := &w.Agent[i]
	p := written{Rev: w.KV.Rev + 1, Phase: phase, Active: active, Epoch: a.Epoch}
	switch {
	case a.KV.Rev == w.KV.Rev:
		w.KV = p
	case w.KV.Phase != phase || w.KV.Active != active && !c.credulous || w.KV.Epoch != a.Epoch:
		c.die(w, i)
		if w.Agent[i] = (envoy{}); !w.Agent[1-i].On {
			c.begin(w, i)
		}
		return false
	}
	a.KV = w.KV
	return true
}

func b2u(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// end of the first partition: two records beyond the group's first place.
func (w *abroad) end(side uint8) uint8 { return 7 + side*outsideShift }

// enter starts the client. What it begins at is what the group has handled, or
// something is lost or handled twice.
func (c *cruise) enter(w abroad, side uint8, how string) {
	n := w
	n.Client = guest{On: true, Side: side, Next: w.Shore[side].Commits[0].Offset}
	n.Shore[side].Client = true
	n.Shore[side].Gen++
	c.add(n, how, spaceNames[side])
	if at := w.Handled + side*outsideShift; n.Client.Next != at || w.Shore[side].Commits[1].Offset != 9+side*outsideShift {
		c.out[len(c.out)-1].wrong = fmt.Sprintf("it begins at %v, and %d comes next", w.Shore[side].Commits, at)
	}
}

// envoy: an agent looks, or acts on what it has seen.
func (c *cruise) envoy(w abroad, i int) {
	a := w.Agent[i]
	if !a.On || a.Done {
		return
	}
	for side := range w.Shore { // its heartbeat says that there is another generation
		if s := w.Shore[side]; a.Knows[side] != 0 && a.Knows[side] != s.Gen {
			n := w
			if s.Member[i] {
				n.Agent[i].Knows[side] = s.Gen
				c.add(n, "agent %d follows the generation of %s", i, spaceNames[side])
			} else {
				n.Agent[i].Knows[side], n.Agent[i].Unclear[side] = 0, false
				c.add(n, "agent %d finds its fence on %s fallen", i, spaceNames[side])
			}
		}
	}
	if a.Looked < 2 {
		s := w.Shore[a.Looked]
		if a.Knows[a.Looked] != 0 && s.Drives != uint8(1+i) && !c.crowded {
			return // another agent drives: it waits until that has gone
		}
		n := w
		n.Agent[i].Seen[a.Looked] = glance{Fenced: a.Knows[a.Looked] != 0 && a.Knows[a.Looked] == s.Gen && s.Member[i], Unclear: a.Unclear[a.Looked], Client: s.Client, Gen: a.Knows[a.Looked], Commits: s.Commits}
		n.Agent[i].Looked++
		if n.Agent[i] != a {
			c.add(n, "agent %d looks at %s", i, spaceNames[a.Looked])
		}
		return
	}
	c.act(w, i)
}

func (c *cruise) standing(g glance) Standing {
	s := Standing{Fenced: g.Fenced, Unclear: g.Unclear, Commits: c.keep(g.Commits)}
	if g.Client {
		s.Members = []MemberSeen{{ID: "m"}}
	}
	return s
}

// planned is what an agent does next.
func (c *cruise) planned(w *abroad, a *envoy) ExternalStep {
	k := plan{a.Seen, a.Undo, a.Epoch, a.Asked, a.Answered, w.Behind}
	if step, ok := c.next[k]; ok {
		return step
	}
	s := Scene{Source: c.standing(a.Seen[0]), Target: c.standing(a.Seen[1]), Asked: starferry.Cut{}, Spans: map[starferry.TopicPartition]starferry.Range{}}
	t := starferry.Translation{Cut: starferry.Cut{}, Answers: map[starferry.TopicPartition]starferry.Answer{}, Behind: map[starferry.TopicPartition]int64{}}
	for p, o := range a.Asked {
		s.Spans[spaceParts[p]] = starferry.Range{From: 0, To: 20}
		s.Asked[spaceParts[p]] = starferry.Place{Next: starferry.Offset(o)}
		to := starferry.Offset(o + outsideShift)
		t.Cut[spaceParts[p]], t.Answers[spaceParts[p]] = starferry.Place{Next: to}, starferry.Answer{Offset: to, Status: starferry.Exact}
	}
	if w.Behind {
		t.Behind[spaceParts[0]] = 1
	}
	if a.Answered {
		s.Translation = &t
	}
	if a.Undo {
		s.Undo = "asked to stop"
	}
	step := NextExternal(ExternalRequest{Group: "g", Source: "old", Target: "new", Epoch: starferry.Epoch(a.Epoch), Ranges: RangesRefuse, Missing: MissingRefuse}, s)
	c.next[k] = step
	return step
}

func (c *cruise) act(w abroad, i int) {
	n := w
	a := &n.Agent[i]
	step := c.planned(&w, a)
	seen := a.Seen
	a.Looked, a.Seen = 0, [2]glance{}
	switch x := step.(type) {
	case AwaitEmpty:
		a.Undo = true // it does so once its time is over
	case TakeFence:
		side := sideOf(x.Cluster)
		if !x.Moved && (a.KV.Phase <= kvSteady || a.KV.Epoch != a.Epoch) && !c.write(&n, i, kvDrain, oldSide) {
			c.add(n, "agent %d: somebody else has written", i)
			return
		}
		if s := &n.Shore[side]; !s.Client {
			s.Member[i] = true
			s.Gen++
			c.choose(&n, int(side))
			a.Knows[side], a.Unclear[side] = s.Gen, false
		}
	case LiftFence:
		for k := range n.Agent { // those that are only kept fall with it
			if k == i || !n.Agent[k].On || n.Agent[k].Done {
				c.gone(&n, int(sideOf(x.Cluster)), k)
			}
		}
		a.Knows[sideOf(x.Cluster)], a.Unclear[sideOf(x.Cluster)] = 0, false
	case NewGeneration:
		if s := &n.Shore[sideOf(x.Cluster)]; s.Member[i] {
			s.Gen++
			a.Knows[sideOf(x.Cluster)], a.Unclear[sideOf(x.Cluster)] = s.Gen, false
		}
	case CommitFenced:
		c.commits(w, n, i, x, seen[sideOf(x.Cluster)].Gen)
		return
	case AskTranslation:
		a.Answered = true
		for tp, p := range x.Cut {
			a.Asked[tp.Partition] = uint8(p.Next)
		}
	case Refuse:
		a.Undo = true
	case Over:
		if !c.write(&n, i, kvSteady, b2u(x.Moved)) {
			c.add(n, "agent %d: it is over, and somebody else has written", i)
			return
		}
		n.Agent[i] = envoy{On: true, Done: true, Moved: x.Moved, Epoch: a.Epoch}
		for side := range n.Shore { // only the fence on the cluster that was left is kept
			keeps := x.Moved && side == oldSide && n.Shore[side].Member[i]
			c.gone(&n, side, i)
			n.Shore[side].Member[i] = keeps
		}
		c.add(n, "agent %d: it is over, moved %v", i, x.Moved)
		c.out[len(c.out)-1].wrong = c.over(&w, x.Moved)
		return
	}
	if n != w {
		c.add(n, "agent %d: %s", i, stepText(step))
	}
}

func stepText(s ExternalStep) string {
	return strings.TrimPrefix(fmt.Sprintf("%T %v", s, s), "switchover.")
}

// over: what an agent says at the end is so. One that has slept since it looked
// is stopped by KV, unless that was emptied; then the commits tell.
func (c *cruise) over(w *abroad, moved bool) string {
	home, _, decided := c.truth(w)
	switch {
	case w.Emptied:
	case moved != (decided && home == "new"):
		return fmt.Sprintf("it says moved %v, and the commits say %s", moved, home)
	case !moved && decided && home != "old":
		return "the commits do not lead home"
	}
	return ""
}

// commits sends a commit, with the mishaps that it may meet.
func (c *cruise) commits(w, n abroad, i int, x CommitFenced, gen uint8) {
	side := sideOf(x.Cluster)
	k := c.kept(x.Commits)
	name := fmt.Sprintf("agent %d: %s", i, stepText(x))
	phase := map[string]uint8{CommitDraining: kvDrain, CommitSeeded: kvSeed, CommitMoved: kvDecide}[x.What]
	if a := n.Agent[i].KV; phase != 0 && (a.Phase != phase || a.Epoch != n.Agent[i].Epoch) && !c.write(&n, i, phase, oldSide) {
		c.add(n, "agent %d: somebody else has written", i)
		return
	}
	done := n
	ok := done.Shore[side].take(uint8(i), gen, k)
	wrong := ""
	if ok && x.What == CommitMoved {
		wrong = c.moving(&w, k)
	}
	c.add(done, "%s", name)
	c.out[len(c.out)-1].wrong = wrong
	if n.Faults++; !ok || n.Faults > c.faults {
		return
	}
	if slices.Contains(c.kinds, answerLost) {
		lost := done
		lost.Faults++
		lost.Agent[i].Unclear[side] = true
		c.add(lost, "FAULT: %s, and its answer is lost", name)
	}
	if slices.Contains(c.kinds, commitLate) && !n.Shore[side].Late.On {
		n.Agent[i].Unclear[side] = true
		n.Shore[side].Late = lateCommit{On: true, Agent: uint8(i), Gen: gen, Commits: k}
		c.add(n, "FAULT: %s, and it is late", name)
	}
}

// moving: the decision is made where the group stands on both sides.
func (c *cruise) moving(w *abroad, k [2]kept) string {
	for side, commits := range [][2]kept{k, w.Shore[1].Commits} {
		by := uint8(side * outsideShift)
		if commits[0].Offset != w.Handled+by || commits[1].Offset != 9+by {
			return fmt.Sprintf("it is decided at %v and %v, and %d comes next", k, w.Shore[1].Commits, w.Handled)
		}
	}
	return ""
}

// mishaps are the faults besides those of commits.
func (c *cruise) mishaps(w abroad) {
	has := func(k string) bool { return slices.Contains(c.kinds, k) }
	f := w
	f.Faults++
	for i := range w.Agent {
		if !w.Agent[i].On || w.Agent[i].Done {
			continue
		}
		if has(agentDies) {
			n := f
			c.die(&n, i)
			c.begin(&n, i)
			c.add(n, "FAULT: agent %d dies, and another goes on", i)
		}
		if has(abandons) && !w.Agent[i].Undo {
			n := f
			n.Agent[i].Undo = true
			c.add(n, "FAULT: agent %d is asked to stop", i)
		}
		for side := range w.Shore {
			if has(sessionEnds) && w.Shore[side].Member[i] {
				n := f
				c.gone(&n, side, i)
				c.add(n, "FAULT: the session of agent %d on %s ends", i, spaceNames[side])
			}
		}
	}
	if has(secondAgent) && !w.Agent[1].On {
		n := f
		c.begin(&n, 1)
		c.add(n, "FAULT: agent 1 goes on beside agent 0")
	}
	if has(forgotten) && w.KV != (written{}) {
		n := f
		n.KV, n.Emptied = written{}, true
		c.add(n, "FAULT: KV is emptied")
	}
	if s := &w.Shore[0]; has(clientSneaks) && !w.Client.On && !s.fenced() && !c.decided(&w) {
		c.enter(f, 0, "FAULT: the client sneaks in on %s")
	}
}

// die ends an agent's memberships; what it has under way may still come before
// its sessions end.
func (c *cruise) die(w *abroad, i int) {
	for side := range w.Shore {
		c.gone(w, side, i)
	}
}

func (c *cruise) decided(w *abroad) bool {
	for _, f := range must(marks(c.keep(w.Shore[0].Commits))) {
		if f.Mark != nil && f.Mark.State == control.Moved {
			return true
		}
	}
	return false
}

func (c *cruise) highest(w *abroad) uint8 {
	e := starferry.Epoch(0)
	for side := range w.Shore {
		for _, f := range must(marks(c.keep(w.Shore[side].Commits))) {
			if f.Mark != nil {
				e = max(e, f.Mark.Epoch)
			}
		}
	}
	return uint8(e)
}

// ends: every agent has finished, and the client runs where they say.
func (w *abroad) ends() bool {
	for _, a := range w.Agent {
		if a.On && !a.Done {
			return false
		}
	}
	return w.Client.On && w.Client.Next == w.end(w.Client.Side)
}

// search goes through all states, nearest first.
func (c *cruise) search() (wrong string) {
	s := c.start()
	c.all, c.from, c.how = []abroad{s}, []uint32{0}, []string{""}
	c.seen[s] = 0
	g := &graph{}
	for i := 0; i < len(c.all); i++ {
		degree := 0
		for _, n := range c.after(c.all[i]) {
			j, ok := c.seen[n.to]
			if !ok {
				j = uint32(len(c.all))
				c.seen[n.to] = j
				c.all, c.from, c.how = append(c.all, n.to), append(c.from, uint32(i)), append(c.how, n.how)
			}
			if n.wrong != "" {
				return c.story(uint32(i)) + n.how + "\n" + n.wrong
			}
			if n.to.Faults == c.all[i].Faults {
				g.to, degree = append(g.to, j), degree+1
			}
		}
		g.degree = append(g.degree, uint8(degree))
	}
	if dead, ok := g.dead(func(i int) bool { return c.all[i].ends() }); ok {
		return c.story(dead) + fmt.Sprintf("no end from here: %+v", c.all[dead])
	}
	return ""
}

func (c *cruise) story(i uint32) string {
	var steps []string
	for ; i != 0; i = c.from[i] {
		steps = append(steps, c.how[i])
	}
	slices.Reverse(steps)
	return strings.Join(steps, "\n") + "\n"
}

// TestTheSearchOfExternalSwitchesIsComplete goes through every interleaving of
// two agents, a client and pairs of faults.
func TestTheSearchOfExternalSwitchesIsComplete(t *testing.T) {
	c := newCruise(2, outsideFaults...)
	wrong := c.search()
	t.Logf("%d states, each pair of {%s}", len(c.all), strings.Join(outsideFaults, ", "))
	require.Empty(t, wrong)
}

func TestTheSearchOfExternalSwitchesFindsPlantedBugs(t *testing.T) {
	c := newCruise(2, secondAgent, abandons)
	c.credulous = true
	wrong := c.search()
	t.Logf("%d states\n%s", len(c.all), wrong)
	require.Contains(t, wrong, "it says moved false, and the commits say new")

	c = newCruise(2, secondAgent)
	c.crowded = true
	wrong = c.search()
	t.Logf("%d states\n%s", len(c.all), wrong)
	require.NotEmpty(t, wrong, "an agent undoes what another decides in the same generation")
}
