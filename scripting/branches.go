package scripting

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// ForkStatus is where a call of parallel stands.
type ForkStatus struct {
	Step     string         `json:"step"`
	Title    string         `json:"title,omitempty"`
	Branches []BranchStatus `json:"branches"`
}

// BranchStatus is where one branch stands: not begun, open, done, failed (left
// as it is) or undone.
type BranchStatus struct {
	Key   string `json:"key"`
	State string `json:"state"`
	Error string `json:"error,omitempty"` // of its last failure
	Text  string `json:"text,omitempty"`  // what its last effect says of itself
}

// Count tells how many branches are in a state.
func (f ForkStatus) Count(state string) int {
	n := 0
	for _, b := range f.Branches {
		if b.State == state {
			n++
		}
	}
	return n
}

// Counts tells how many branches are in which state, in words.
func (f ForkStatus) Counts() string {
	var counts []string
	for _, state := range []string{phaseDone, phaseOpen, phaseUndone, phaseFailed, branchNotBegun} {
		if n := f.Count(state); n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, stateWords(state)))
		}
	}
	return strings.Join(counts, ", ")
}

// Calm reports whether no branch has failed or is under way.
func (f ForkStatus) Calm() bool {
	return f.Count(phaseDone)+f.Count(branchNotBegun) == len(f.Branches)
}

// forks lists the parallels of a phase, those inside branches left out.
func (p *phaseHistory) forks(reg *Registry) []ForkStatus {
	var out []ForkStatus
	for _, s := range p.do {
		if s.fork == nil {
			continue
		}
		st := ForkStatus{Step: s.id, Title: s.fork.Title}
		for i, sc := range p.forkedFrom(&p.scope, s) {
			row := BranchStatus{Key: s.fork.Keys[i], State: sc.state, Error: sc.err, Text: sc.told(reg)}
			if sc.state == phaseWaiting {
				row.State = branchNotBegun
			}
			st.Branches = append(st.Branches, row)
		}
		out = append(out, st)
	}
	return out
}

// told is what the last effect of a scope that went well says of itself.
func (s *scope) told(reg *Registry) string {
	for _, st := range slices.Backward(s.do) {
		if b, ok := reg.Builtin(st.builtin); ok && st.effect && st.ok() && b.Summary != nil {
			return b.Summary(st.result)
		}
	}
	return ""
}

// newBranchesError says what branches were to do, what became of each, and why.
func newBranchesError(f forked, rows []BranchStatus) error {
	st := ForkStatus{Title: f.Title, Branches: rows}
	expected := fmt.Sprintf("all %d done", len(rows))
	if f.Title != "" {
		expected = fmt.Sprintf("%s: all %d done", f.Title, len(rows))
	}
	return Unmet(expected, st.Counts()+"\n"+st.Table())
}

func stateWords(state string) string {
	switch state {
	case phaseUndone:
		return "failed and undone"
	case phaseFailed:
		return "failed and left as it is"
	}
	return state
}

// shownCalm is how many branches of each state in which nothing is wrong a table
// shows; the status has them all.
const shownCalm = 8

// Table shows branch by branch what stands: what failed comes first.
func (f ForkStatus) Table() string {
	order := []string{phaseFailed, phaseUndone, phaseOpen, phaseDone, branchNotBegun}
	rows := slices.Clone(f.Branches)
	slices.SortStableFunc(rows, func(a, b BranchStatus) int {
		return cmp.Compare(slices.Index(order, a.State), slices.Index(order, b.State))
	})
	var lines [][]string
	shown := map[string]int{}
	for _, r := range rows {
		n, all := shown[r.State], f.Count(r.State)
		shown[r.State]++
		switch calm := r.State == phaseDone || r.State == branchNotBegun; {
		case !calm || n < shownCalm || all == shownCalm+1:
			lines = append(lines, []string{r.Key, stateWords(r.State), cmp.Or(r.Error, r.Text)})
		case n == shownCalm:
			lines = append(lines, []string{fmt.Sprintf("… %d more", all-n), stateWords(r.State), ""})
		}
	}
	return Table(refusedWidth, []string{"branch", "stands", "what"}, lines)
}
