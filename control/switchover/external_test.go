package switchover

import (
	"fmt"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// island is a coordinator with one group, as far as an external switch meets it.
type island struct {
	commits Keep
	gen     int  // of the group
	fenced  bool // the agent of this time is a member
	unclear bool
	client  *MemberSeen
	late    func() // a commit whose answer was lost and that is carried out later
}

func (i *island) standing() Standing {
	s := Standing{Fenced: i.fenced, Unclear: i.unclear, Commits: maps.Clone(i.commits)}
	if i.client != nil {
		s.Members = []MemberSeen{*i.client}
	}
	return s
}

// outside is a world for NextExternal: the target's offsets are 1000 higher.
type outside struct {
	t        *testing.T
	r        ExternalRequest
	old, new *island
	spans    map[starferry.TopicPartition]starferry.Range
	asked    *starferry.Translation
	cut      starferry.Cut // that was asked for
	undo     string
	steps    []string
	refused  *Refuse
	answer   func(starferry.Cut) starferry.Translation
}

var (
	p0 = starferry.TopicPartition{Topic: "orders", Partition: 0}
	p1 = starferry.TopicPartition{Topic: "orders", Partition: 1}
)

func newOutside(t *testing.T) *outside {
	return &outside{t: t, r: ExternalRequest{Group: "billing", Source: "old", Target: "new", Epoch: 7, Ranges: RangesRefuse, Missing: MissingRefuse},
		old:    &island{commits: Keep{p0: {5, 3, "by hand"}, p1: {9, 4, ""}}},
		new:    &island{commits: Keep{}},
		spans:  map[starferry.TopicPartition]starferry.Range{p0: {From: 0, To: 20}, p1: {From: 0, To: 20}},
		answer: shifted,
	}
}

func shifted(cut starferry.Cut) starferry.Translation {
	t := starferry.Translation{Cut: starferry.Cut{}, Answers: map[starferry.TopicPartition]starferry.Answer{}}
	for tp, p := range cut {
		t.Cut[tp] = starferry.Place{Next: p.Next + 1000}
		t.Answers[tp] = starferry.Answer{Offset: p.Next + 1000, Status: starferry.Exact}
	}
	return t
}

func (w *outside) at(c starferry.ClusterName) *island {
	if c == "old" {
		return w.old
	}
	return w.new
}

// faults of one step.
type mishap string

const (
	fine      mishap = "fine"
	crashed   mishap = "crashed after it" // the agent dies; another goes on when its sessions have ended
	unheard   mishap = "answer lost"
	notYet    mishap = "answer lost, carried out later"
	sneaked   mishap = "crashed, and a client came for a moment"
	abandoned mishap = "asked to stop"
)

// step takes one step and reports whether it was the last.
func (w *outside) step(m mishap) bool {
	s := Scene{Source: w.old.standing(), Target: w.new.standing(), Spans: w.spans, Translation: w.asked, Asked: w.cut, Undo: w.undo}
	next := NextExternal(w.r, s)
	name := fmt.Sprintf("%T", next)[len("switchover."):]
	switch n := next.(type) {
	case TakeFence:
		require.Nil(w.t, w.at(n.Cluster).client)
		w.at(n.Cluster).fenced = true
		w.at(n.Cluster).gen++
		name += " " + string(n.Cluster)
	case LiftFence:
		w.at(n.Cluster).fenced = false
		name += " " + string(n.Cluster)
	case NewGeneration:
		w.at(n.Cluster).gen++
		w.at(n.Cluster).unclear = false
		name += " " + string(n.Cluster)
	case CommitFenced:
		name += " " + n.What
		w.commit(n, m)
	case AskTranslation:
		t := w.answer(n.Cut)
		w.asked, w.cut = &t, n.Cut
	case AwaitEmpty:
		w.at(n.Cluster).client = nil
	case AwaitCopy:
		w.answer, w.asked = shifted, nil
	case Refuse:
		w.refused, w.undo = &n, n.Expected
	case Over:
		w.steps = append(w.steps, fmt.Sprintf("Over moved=%v", n.Moved))
		return true
	}
	w.steps = append(w.steps, name)
	switch m {
	case crashed, sneaked:
		w.die(m == sneaked)
	case abandoned:
		w.undo = "the caller has gone"
	}
	return false
}

func (w *outside) commit(n CommitFenced, m mishap) {
	i := w.at(n.Cluster)
	require.True(w.t, i.fenced, "%s without the fence", n.What)
	gen := i.gen
	do := func() {
		if i.fenced && i.gen == gen {
			maps.Copy(i.commits, n.Commits)
		}
	}
	switch m {
	case unheard:
		do()
		i.unclear = true
	case notYet:
		i.unclear, i.late = true, do
	default:
		do()
	}
}

// die ends the agent's memberships. If a client may sneak in, it handles one
// record wherever no decision keeps it away.
func (w *outside) die(client bool) {
	w.asked, w.undo = nil, ""
	for _, i := range []*island{w.old, w.new} {
		i.fenced, i.unclear = false, false
		i.gen++
	}
	if f, err := marks(w.old.commits); client && err == nil && (f[p0].Mark == nil || f[p0].Mark.State != control.Moved) {
		c := w.old.commits[p0]
		w.old.commits[p0] = Kept{c.Offset + 1, 3, "sneaked in"}
		w.old.gen++
	}
}

// run takes steps to the end; mishaps are by step.
func (w *outside) run(faults map[int]mishap) {
	for n := 0; ; n++ {
		require.Less(w.t, n, 60, "it goes in circles: %v", w.steps)
		m, ok := faults[n]
		if !ok {
			m = fine
		}
		if w.step(m) {
			break
		}
		for _, i := range []*island{w.old, w.new} {
			if i.late != nil && i.unclear == false {
				i.late() // it comes after the generation has ended
				i.late = nil
			}
		}
	}
	for _, i := range []*island{w.old, w.new} {
		if i.late != nil {
			i.late()
		}
	}
}

func TestAnExternalSwitchInItsSteps(t *testing.T) {
	w := newOutside(t)
	w.old.client = &MemberSeen{ID: "m1", Client: "java", Host: "/10.0.0.1"}
	behind := starferry.Translation{Behind: map[starferry.TopicPartition]int64{p0: 3, p1: 1}}
	w.answer = func(starferry.Cut) starferry.Translation { return behind }
	w.run(nil)
	require.Equal(t, []string{
		"AwaitEmpty", "TakeFence old", "TakeFence new", "CommitFenced draining", "AskTranslation", "AwaitCopy", "AskTranslation",
		"CommitFenced seeded", "CommitFenced moved", "CommitFenced plain", "LiftFence new", "Over moved=true",
	}, w.steps)
	require.True(t, w.old.fenced, "the old cluster stays fenced")
	require.Equal(t, Keep{p0: {1005, -1, "by hand"}, p1: {1009, -1, ""}}, w.new.commits)
	require.Equal(t, Kept{5, 3, "starferry/1 moved e=7 c=new"}, w.old.commits[p0])

	back := &outside{t: t, old: w.new, new: w.old, spans: w.spans, answer: func(cut starferry.Cut) starferry.Translation {
		tr := shifted(cut)
		for tp := range tr.Cut {
			tr.Cut[tp] = starferry.Place{Next: tr.Cut[tp].Next - 2000}
		}
		return tr
	}, r: ExternalRequest{Group: "billing", Source: "old", Target: "new", Epoch: 8}}
	// the names of the clusters are those of this switch: what was "new" is its "old"
	for tp, c := range back.new.commits {
		c.Metadata = "starferry/1 moved e=7 c=old"
		back.new.commits[tp] = c
	}
	back.new.fenced = false
	back.run(nil)
	require.Equal(t, Keep{p0: {5, -1, "by hand"}, p1: {9, -1, ""}}, back.new.commits)
}

// Every pair of mishaps at every pair of steps: the group ends on one cluster,
// at exactly its place, and what was to be undone is as it was found.
func TestAnExternalSwitchSurvivesMishapsAtEveryStep(t *testing.T) {
	kinds := []mishap{crashed, unheard, notYet, sneaked, abandoned}
	trials, moved := 0, 0
	for first := range 14 {
		for second := first; second < 20; second++ {
			for _, a := range kinds {
				for _, b := range kinds {
					w := newOutside(t)
					w.run(map[int]mishap{first: a, second: b})
					trials++
					name := fmt.Sprintf("%s at %d, %s at %d: %v", a, first, b, second, w.steps)
					place, sneaks := w.old.commits[p0], 0
					if a == sneaked || b == sneaked {
						sneaks = int(place.Offset) - 5
					}
					require.Equal(t, starferry.Offset(5+sneaks), place.Offset, name)
					require.Equal(t, starferry.Offset(9), w.old.commits[p1].Offset, name)
					home, _, decided := Truth(map[starferry.ClusterName]Found{"old": must(marks(w.old.commits)), "new": must(marks(w.new.commits))})
					if decided && home == "new" {
						moved++
						require.Equal(t, place.Offset+1000, w.new.commits[p0].Offset, name)
						require.Equal(t, starferry.Offset(1009), w.new.commits[p1].Offset, name)
						require.Contains(t, []string{"by hand", "sneaked in"}, w.new.commits[p0].Metadata, name)
						require.False(t, w.new.fenced, name)
						require.True(t, w.old.fenced, name)
						continue
					}
					require.Contains(t, []string{"by hand", "sneaked in"}, place.Metadata, name)
					require.Equal(t, Kept{9, 4, ""}, w.old.commits[p1], name)
					require.False(t, w.old.fenced || w.new.fenced, name)
				}
			}
		}
	}
	require.Greater(t, moved, trials/4)
	t.Logf("%d trials, %d moved", trials, moved)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestAnExternalSwitchRefusesByName(t *testing.T) {
	for name, tc := range map[string]struct {
		set  func(*outside)
		want string
	}{
		"a partition without a commit": {func(w *outside) { delete(w.old.commits, p1) }, "orders/1: no commit, and it holds offsets 0 to 19"},
		"no commit": {func(w *outside) {
			w.old.commits, w.spans = Keep{}, nil
		}, "no commit at all on old"},
		"commits of somebody else":  {func(w *outside) { w.new.commits[p1] = Kept{3, -1, "?"} }, "orders/1 at 3"},
		"a group that has moved on": {func(w *outside) { w.old.commits[p0] = Kept{5, -1, "starferry/1 moved e=3 c=third"} }, "lives on third since epoch 3"},
		"a mark of tomorrow":        {func(w *outside) { w.old.commits[p0] = Kept{5, -1, "starferry/2 x"} }, "newer protocol"},
		"a place that was deleted": {func(w *outside) {
			w.answer = func(c starferry.Cut) starferry.Translation {
				tr := shifted(c)
				tr.Answers[p1] = starferry.Answer{Status: starferry.InHole, Reason: starferry.Deleted}
				return tr
			}
		}, "orders/1@9: deleted on old"},
		"handled ranges": {func(w *outside) { w.answer = ranged }, "orders/0: 6 offsets beyond 1005 are handled"},
	} {
		w := newOutside(t)
		tc.set(w)
		before := maps.Clone(w.old.commits)
		w.run(nil)
		require.NotNil(t, w.refused, name)
		require.Contains(t, fmt.Sprint(w.refused.Found), tc.want, name)
		require.NotEmpty(t, w.refused.Do, name)
		require.Equal(t, before, w.old.commits, name)
		require.False(t, w.old.fenced || w.new.fenced, name)
	}
}

func ranged(c starferry.Cut) starferry.Translation {
	tr := shifted(c)
	tr.Cut[p0] = starferry.Place{Next: 1005, Handled: []starferry.Range{{From: 1010, To: 1012}, {From: 1014, To: 1018}}}
	return tr
}

func TestAnExternalSwitchBeginsWhereItIsTold(t *testing.T) {
	for missing, want := range map[string]starferry.Offset{MissingEarliest: 1000, MissingLatest: 1020} {
		w := newOutside(t)
		delete(w.old.commits, p1)
		w.r.Missing = missing
		w.run(nil)
		require.Equal(t, want, w.new.commits[p1].Offset, missing)
	}
	w := newOutside(t)
	delete(w.old.commits, p1)
	w.spans[p1] = starferry.Range{From: 20, To: 20}
	w.run(nil)
	require.Equal(t, starferry.Offset(1020), w.new.commits[p1].Offset, "an empty partition has one place only")

	w = newOutside(t)
	w.answer, w.r.Ranges = ranged, RangesRepeat
	w.run(nil)
	require.Equal(t, Kept{1005, -1, "by hand"}, w.new.commits[p0])
	require.Equal(t, map[starferry.TopicPartition]int64{p0: 6}, Repeats(*w.asked))
}
