package switchover

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var searchFor = flag.Duration("search-for", 0, "how long the large exhaustive search may take; 0: only the small one")

// hunt is one search: where it begins, and what may go wrong.
type hunt struct {
	start  string // see prelude
	parts  int
	faults uint8
	kinds  []string
	bug    bug
	evict  bool // stragglers are removed
	fine   bool
}

func (h hunt) String() string {
	what := "no fault"
	if h.faults > 0 {
		what = fmt.Sprintf("%d of {%s}", h.faults, strings.Join(h.kinds, ", "))
	}
	if h.evict {
		what += ", stragglers are evicted"
	}
	if h.fine {
		what += ", every answer may be late"
	}
	return fmt.Sprintf("%s, 2 instances × %d, %s", h.start, h.parts, what)
}

// run searches.
func (h hunt) run(t *testing.T, lim limits) result {
	t.Helper()
	sp := newSpace()
	sp.parts, sp.maxFaults, sp.fine, sp.evict = h.parts, h.faults, h.fine, h.evict
	for _, k := range h.kinds {
		require.Contains(t, allFaults, k)
		sp.kinds[k] = true
	}
	s, err := sp.prelude(h.start)
	require.NoError(t, err)
	sp.bug = h.bug
	w, was := sp.unpack(&s), sp.unpack(&s)
	w.rest.Saved = false
	return sp.search([]spot{w.pack(&was)}, lim)
}

// prelude is the state in which a search begins: "forward" a group at work on
// the old cluster, "back" one that has just moved and still has its standby,
// "settled" one that has left the old cluster, where its group is fenced; each
// with an agent that has just been asked for the switch; "settling" one that has
// just moved, before its standby ends, before the fence, and before it is asked
// to come back. A phase after it begins where that has been ordered.
func (sp *space) prelude(start string) (spot, error) {
	kind, phase, _ := strings.Cut(start, " ")
	planted, faults := sp.bug, sp.maxFaults
	sp.bug, sp.maxFaults = "", 0
	defer func() { sp.bug, sp.maxFaults = planted, faults }()
	w := sp.start()
	w.rest.Records, w.rest.Copied = 1, true
	s, ok := sp.fairly(w.pack(&scene{sp: sp}), (*scene).consumed)
	if !ok {
		return s, errors.New("the group does not begin to consume")
	}
	s = sp.asked(s, false)
	if kind != "forward" {
		if s, ok = sp.fairly(s, (*scene).consumed); !ok || sp.unpack(&s).rest.Home != newSide {
			return s, errors.New("the group does not move")
		}
		if kind == "settled" {
			w, was := sp.unpack(&s), sp.unpack(&s)
			w.rest.Fence = true
			w.settle()
			fenced := func(w *scene) bool { return w.grp[oldSide].Fenced }
			if s, ok = sp.fairly(w.pack(&was), fenced); !ok {
				return s, errors.New("the emptied group is not fenced")
			}
		}
		if kind == "settling" {
			w, was := sp.unpack(&s), sp.unpack(&s)
			w.rest.Fence, w.rest.Asks = true, true
			return w.pack(&was), nil
		}
		s = sp.asked(s, true)
	}
	if phase != "" {
		s, ok = sp.fairly(s, func(w *scene) bool {
			p := w.sp.stores.vals[w.kv].P
			return p != nil && string(p.Phase) == phase
		})
		if !ok {
			return s, fmt.Errorf("it does not come to %s", phase)
		}
	}
	return s, nil
}

// asked adds a record to each partition and an agent with a request.
func (sp *space) asked(s spot, back bool) spot {
	w, was := sp.unpack(&s), sp.unpack(&s)
	w.rest.Records, w.rest.Copied = w.rest.Records+1, back
	w.hire(sp.order(back))
	return w.pack(&was)
}

// TestTheSmallSearchIsComplete goes through every interleaving of a switch of
// two instances, with each single fault whose states are few enough.
//
// Guarantee 3: A switch loses nothing
func TestTheSmallSearchIsComplete(t *testing.T) {
	small := []string{losses, delays, takeovers, natsless, rivals}
	states := 0
	evicts := hunt{start: "back", parts: 1, faults: 1, kinds: []string{natsless}, evict: true}
	r := evicts.run(t, limits{live: true})
	t.Logf("%s: %s", evicts, r)
	require.Empty(t, r.wrong, "%s\n%s", evicts, story(r.trace))
	for _, start := range []string{"forward", "back", "settled", "settling"} {
		for _, h := range append(each(hunt{start: start, parts: 1, faults: 1}, small), hunt{start: start, parts: 2}) {
			r := h.run(t, limits{live: true})
			t.Logf("%s: %s", h, r)
			require.Empty(t, r.wrong, "%s\n%s", h, story(r.trace))
			require.True(t, r.complete)
			states += r.states
		}
	}
	t.Logf("%d states", states)
}

// each makes one search of each kind of fault.
func each(h hunt, kinds []string) []hunt {
	var all []hunt
	for _, k := range kinds {
		h.kinds = []string{k}
		all = append(all, h)
	}
	return all
}

// come are the faults by which a process comes or goes. They have by far the most
// states.
func come() []string { return []string{crashes, freezes, stops, latecomers} }

// quick are all others.
func quick() []string {
	return slices.DeleteFunc(slices.Clone(allFaults), func(k string) bool { return slices.Contains(come(), k) })
}

// pairs makes one search of all pairs of some kinds, each with itself too, and
// one of each pair in which a process comes or goes.
func pairs(start string, parts int) []hunt {
	all := []hunt{{start: start, parts: parts, faults: 2, kinds: quick()}}
	for i, k := range come() {
		for _, l := range append(come()[i:], quick()...) {
			all = append(all, hunt{start: start, parts: parts, faults: 2, kinds: slices.Compact([]string{k, l})})
		}
	}
	return all
}

// large are the searches, roughly in the order of what they take.
func large() []hunt {
	var all []hunt
	starts := []string{"back", "settled", "settling", "forward"}
	for _, start := range starts {
		all = append(all, each(hunt{start: start, parts: 1, faults: 1}, allFaults)...)
	}
	for _, start := range starts {
		all = append(all, each(hunt{start: start, parts: 1, faults: 1, evict: true}, []string{freezes, deaf, natsless, lateness})...)
		all = append(all, each(hunt{start: start, parts: 2, faults: 1}, quick())...)
	}
	for _, start := range []string{"back", "forward decide", "settled", "forward"} {
		all = append(all, pairs(start, 1)[0])
	}
	for _, start := range []string{"back", "forward"} {
		all = append(all, each(hunt{start: start, parts: 2, faults: 1}, come())...)
		all = append(all, pairs(start, 1)[1:]...)
		all = append(all, pairs(start, 2)...)
	}
	return append(all, hunt{start: "back", parts: 1, fine: true})
}

// TestTheLargeSearch searches for as long as -search-for says, the smaller
// questions first. None may take more than an eighth of the time.
func TestTheLargeSearch(t *testing.T) {
	all := large()
	long := *searchFor
	if long == 0 { // the shortest of it
		all, long = each(hunt{start: "back", parts: 1, faults: 1}, []string{takeovers}), time.Minute
	}
	end := time.Now().Add(long)
	states, edges, complete, begun := 0, 0, 0, 0
	for _, h := range all {
		if time.Now().After(end) {
			break
		}
		until := time.Now().Add(long / 8)
		if until.After(end) {
			until = end
		}
		r := h.run(t, limits{live: true, until: until, memory: 4 << 30})
		t.Logf("%s: %s", h, r)
		require.Empty(t, r.wrong, "%s\n%s", h, story(r.trace))
		states, edges, begun = states+r.states, edges+r.edges, begun+1
		if r.complete {
			complete++
		}
	}
	t.Logf("%d states, %d transitions; of %d searches %d were begun and %d completed", states, edges, len(all), begun, complete)
}

// TestEachPlantedBugIsFound switches one rule off at a time. What is found is
// the shortest way there.
func TestEachPlantedBugIsFound(t *testing.T) {
	for _, c := range []struct {
		hunt
		finds string
	}{
		{hunt{start: "forward", parts: 1, faults: 1, kinds: []string{lateness}, bug: bugNoReadBack}, "no way forward or back"},
		{hunt{start: "forward", parts: 1, bug: bugEarlyTranslation}, "handed out before"},
		{hunt{start: "forward", parts: 1, bug: bugUntranslated}, "nobody was handed"},
		{hunt{start: "forward decide", parts: 1, faults: 1, kinds: []string{crashes}, bug: bugBelieveKV}, "erases the decision"},
		{hunt{start: "forward seed", parts: 1, faults: 1, kinds: []string{rebalances}, bug: bugSeededAlone}, "no way forward or back"},
		{hunt{start: "forward", parts: 1, faults: 1, kinds: []string{deadlines}, bug: bugResumeAtOnce}, "where the group lives"},
		{hunt{start: "forward", parts: 1, faults: 1, kinds: []string{freezes}, bug: bugHandOutLate}, "handed out before"},
		{hunt{start: "forward", parts: 1, faults: 1, kinds: []string{delays}, bug: bugUnanswered}, "erases the decision"},
		{hunt{start: "forward decide", parts: 1, faults: 2, kinds: []string{crashes, deadlines}, bug: bugOldRead}, "everyone is back at work"},
		{hunt{start: "forward decide", parts: 1, faults: 2, kinds: []string{crashes, deadlines}, bug: bugOldGeneration}, "erases the decision"},
		{hunt{start: "forward drain", parts: 2, faults: 1, kinds: []string{crashes}, bug: bugUncovered}, "t/0 stays on old"},
		{hunt{start: "forward", parts: 1, faults: 1, kinds: []string{restored}, bug: bugSeedAgain}, "sets t/0 back"},
		{hunt{start: "forward drain", parts: 1, faults: 1, kinds: []string{agentless}, bug: bugBurnt}, "no way forward or back"},
		{hunt{start: "forward", parts: 1, faults: 1, kinds: []string{agentless}, bug: bugOwnOnly}, "no way forward or back"},
		{hunt{start: "forward drain", parts: 1, faults: 2, kinds: []string{deadlines, restored}, bug: bugOlderOrder}, "older than the newest"},
		{hunt{start: "forward drain", parts: 1, faults: 2, kinds: []string{deadlines, lateness}, bug: bugAnyRevision}, "everyone is back at work"},
	} {
		t.Run(strings.ReplaceAll(string(c.bug), " ", "-"), func(t *testing.T) {
			r := c.run(t, limits{live: true, states: 500_000})
			t.Logf("%s: %s\n%s%s", c.hunt, r, story(r.trace), r.wrong)
			require.Contains(t, r.wrong, c.finds)
		})
	}
}
