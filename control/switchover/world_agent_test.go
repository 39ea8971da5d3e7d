package switchover_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/switchover"
)

// hire gives the world an agent that wants a switch.
func (w *world) hire(r switchover.Request) {
	w.agent = &agent{d: switchover.NewDriver(r), req: r}
	w.tell(w.agent, switchover.Passed{})
}

// challenge gives it another agent, that wants the same.
func (w *world) challenge(r switchover.Request) {
	r.Token = "rival"
	w.rival = &agent{d: switchover.NewDriver(r), req: r}
	w.tell(w.rival, switchover.Passed{})
}

func (w *world) tell(a *agent, n switchover.News) {
	if a != nil {
		a.todo = append(a.todo, a.d.Step(w.now, n)...)
	}
}

// drive lists what the agent may do next.
func (w *world) drive(a *agent, who string, add func(string, func())) {
	if a == nil {
		return
	}
	if a.leases == nil || !maps.EqualFunc(a.leases, w.leases, func(x, y control.Lease) bool { return fmt.Sprint(x) == fmt.Sprint(y) }) {
		add(who+" sees leases", func() {
			a.leases = maps.Clone(w.leases)
			var all []control.Lease
			for _, id := range slices.Sorted(maps.Keys(a.leases)) {
				all = append(all, a.leases[id])
			}
			w.tell(a, switchover.LeasesSeen{Leases: all})
		})
	}
	if a.answer != nil {
		add(who+" has its answers", func() {
			got := *a.answer
			a.answer = nil
			w.tell(a, got)
		})
	}
	if len(a.todo) > 0 {
		o := a.todo[0]
		add(fmt.Sprintf("%s: %T %s", who, o, phaseOf(o)), func() { a.todo = a.todo[1:]; w.obey(a, o) })
	}
}

func phaseOf(o switchover.Order) string {
	switch o := o.(type) {
	case switchover.Write:
		return fmt.Sprintf("%s %d", o.Placement.Phase, o.Placement.Epoch)
	case switchover.Failed:
		return o.Failure.Error()
	}
	return ""
}

func (w *world) obey(a *agent, o switchover.Order) {
	switch o := o.(type) {
	case switchover.ReadStored:
		w.tell(a, switchover.Stored{Placement: w.kv, Revision: w.rev})
	case switchover.Write:
		if o.Expect != w.rev {
			w.tell(a, switchover.WriteLost{Detail: "lost the race"})
			return
		}
		p := o.Placement
		w.kv = &p
		w.rev++
		w.tell(a, switchover.Written{Revision: w.rev})
	case switchover.Ask:
		got := w.answers(o)
		a.answer = &got
	case switchover.Finished, switchover.Failed:
		a.done = true
	}
}

func (w *world) answers(o switchover.Ask) switchover.Answers {
	got := switchover.Answers{Round: o.Round, Groups: map[starferry.ClusterName]switchover.GroupSeen{}, Commits: map[starferry.ClusterName]switchover.Found{}}
	for _, c := range o.Describe {
		k := w.co[c]
		g := switchover.GroupSeen{State: k.state, ProtocolType: "consumer"}
		for _, id := range slices.Sorted(maps.Keys(k.members)) {
			g.Members = append(g.Members, switchover.MemberSeen{ID: id, Client: string(k.members[id].node.id)})
		}
		got.Groups[c] = g
	}
	for _, c := range o.Commits {
		got.Commits[c] = maps.Clone(w.co[c].commits)
	}
	if o.Link != nil {
		got.Link = &switchover.LinkSeen{Lag: map[starferry.TopicPartition]int64{}, Stopped: map[starferry.TopicPartition]string{}}
		for _, tp := range w.parts {
			got.Link.Lag[tp] = int64(w.end["old"][tp] - w.end["new"][tp])
		}
	}
	if o.Translate != nil {
		t := starferry.Translation{Cut: maps.Clone(o.Translate), Answers: map[starferry.TopicPartition]starferry.Answer{}}
		for tp, p := range o.Translate {
			w.end["new"][tp] = max(w.end["new"][tp], p.Next) // the copy passes it
			t.Answers[tp] = starferry.Answer{Offset: p.Next, Status: starferry.Exact}
		}
		got.Translate = &t
	}
	return got
}

// consumed: every record was handed out and committed on the group's home.
func (w *world) consumed() bool {
	for _, tp := range w.parts {
		if w.end["old"][tp] < w.limit || len(w.handed[tp]) < int(w.limit) || w.co[w.home].commits[tp].Offset < w.limit {
			return false
		}
	}
	return true
}

func (w *world) do(a action) {
	w.log = append(w.log, a.name)
	w.now++
	a.do()
}

// story is the end of what happened.
func (w *world) story() string {
	out := ""
	for _, l := range slices.DeleteFunc(slices.Clone(w.log), func(l string) bool { return l == "time passes" }) {
		out += l + "\n"
	}
	for _, c := range []starferry.ClusterName{"old", "new"} {
		k := w.co[c]
		out += fmt.Sprintf("%s: %s gen %d", c, k.state, k.gen)
		for _, tp := range w.parts {
			out += fmt.Sprintf(" %s@%d", tp, k.commits[tp].Offset)
			if m := k.commits[tp].Mark; m != nil {
				out += " " + m.String()
			}
		}
		out += "\n"
	}
	for _, n := range w.nodes {
		out += fmt.Sprintf("%s up=%v %s session=%+v\n", n.id, n.up, leaseText(n.m.Lease()), n.session)
	}
	return out
}

// finish is fair and without faults: whoever can do something does it. Time
// passes only when nothing else can happen.
func (w *world) finish() bool {
	for range 20_000 {
		if w.consumed() && (w.agent == nil || w.agent.done) && (w.rival == nil || w.rival.done) || w.wrong != "" {
			return true
		}
		var todo []action
		for _, a := range w.actions(false) {
			if a.name != "time passes" {
				todo = append(todo, a)
			}
		}
		busy := false
		for _, a := range todo {
			if len(a.name) < 8 || a.name[3:] != "commits" {
				busy = true
			}
		}
		if !busy {
			w.pass(1000)
		}
		if len(todo) > 0 {
			w.do(todo[len(w.log)%len(todo)])
		}
	}
	return false
}

// TestEveryScheduleLosesAndRepeatsNothing lets instances and agent run through
// random schedules of a switch and, if it was made, of the way back, with
// faults. "No record is lost, none is handed out twice unless its holder was
// killed, and the group consumes again by itself."
func TestEveryScheduleLosesAndRepeatsNothing(t *testing.T) {
	moved := 0
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rapid.IntRange(1, 3).Draw(rt, "instances"), rapid.IntRange(1, 3).Draw(rt, "partitions"), 8)
		faults := rapid.IntRange(0, 3).Draw(rt, "faults")
		started := rapid.IntRange(0, 80).Draw(rt, "start")
		steps := rapid.IntRange(100, 1000).Draw(rt, "steps")
		for i := 0; i < started+steps && w.wrong == ""; i++ {
			if i == started {
				w.hire(switchover.Request{Group: "g", Source: "old", Target: "new", Link: "l", Token: "1", DrainDeadline: 5_000, Verify: 1})
			}
			if a := w.agent; a != nil && a.done && w.home == "new" && a.req.Token == "1" {
				w.hire(switchover.Request{Group: "g", Source: "new", Target: "old", Link: "l", Direction: starferry.Back, Token: "2", DrainDeadline: 5_000, Verify: 1})
			}
			all := w.actions(faults > 0 && rapid.IntRange(0, 20).Draw(rt, "fault?") == 20)
			a := all[rapid.IntRange(0, len(all)-1).Draw(rt, "next")]
			if a.name == "time passes" && rapid.IntRange(0, 7).Draw(rt, "really?") != 7 {
				continue
			}
			if a.fault {
				faults--
			}
			w.do(a)
		}
		if w.wrong == "" && !w.finish() {
			w.wrong = "the group does not consume any more"
		}
		if w.wrong != "" {
			rt.Fatalf("%s\n%s", w.wrong, w.story())
		}
		if w.decided > 0 {
			moved++
		}
	})
	require.Positive(t, moved, "no schedule came to a decision: the test proves nothing")
	t.Logf("%d schedules came to a decision", moved)
}
