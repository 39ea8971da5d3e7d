package consumer

import (
	"slices"

	"github.com/starferry/starferry"
)

// waterline is how far a partition is handled: everything below next, and the
// ranges ahead of it, which ascend and do not touch. Only next is committed as
// an offset; what is ahead travels with it.
type waterline struct {
	next  starferry.Offset
	ahead []starferry.Range
}

func newWaterline(p starferry.Place) waterline {
	w := waterline{next: p.Next}
	for _, r := range p.Handled {
		w.add(r)
	}
	return w
}

// has reports whether a record is handled.
func (w *waterline) has(o starferry.Offset) bool {
	return o < w.next || slices.ContainsFunc(w.ahead, func(r starferry.Range) bool { return r.Contains(o) })
}

// add notes a handled range.
func (w *waterline) add(r starferry.Range) {
	r.From = max(r.From, w.next)
	if r.From >= r.To {
		return
	}
	if r.From == w.next && len(w.ahead) == 0 { // one after the other
		w.next = r.To
		return
	}
	i, _ := slices.BinarySearchFunc(w.ahead, r.From, func(a starferry.Range, o starferry.Offset) int { return int(a.To - o) })
	j := i
	for ; j < len(w.ahead) && w.ahead[j].From <= r.To; j++ {
		r.From, r.To = min(r.From, w.ahead[j].From), max(r.To, w.ahead[j].To)
	}
	w.ahead = slices.Replace(w.ahead, i, j, r)
	if w.ahead[0].From == w.next {
		w.next = w.ahead[0].To
		w.ahead = slices.Delete(w.ahead, 0, 1)
	}
}

// place is what a commit says of it.
func (w *waterline) place() starferry.Place {
	return starferry.Place{Next: w.next, Handled: slices.Clone(w.ahead)}
}
