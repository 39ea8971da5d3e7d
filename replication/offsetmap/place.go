package offsetmap

import (
	"fmt"

	"github.com/starferry/starferry"
)

// Translated is the translation of a place.
type Translated struct {
	Place starferry.Place
	// Answer is that of the place's Next: final if it is Exact or InHole.
	Answer starferry.Answer
	// Behind is how many offsets the copy still has to pass until the answer is
	// final, with AtEnd.
	Behind int64
}

// Final reports whether the place is exact and will not move.
func (t Translated) Final() bool {
	return t.Answer.Status == starferry.Exact || t.Answer.Status == starferry.InHole
}

// TranslateForward translates a place on the source into one on the target.
// Everything copied from below it is below the result or in its ranges, and
// nothing else is.
//
// The result is only to be used if it is Final. With AtEnd it repeats records
// instead of losing some; with BeforeStart it is the start of the map; with
// Unknown it is empty.
func (m *Map) TranslateForward(p starferry.Place) (Translated, error) {
	return m.translate("forward", p, m.forwardPosition, m.forwardRange)
}

// TranslateBack translates a place on the target into one on the source, in the
// same way. A range that is handled on the target covers holes of the source
// between its copies.
func (m *Map) TranslateBack(p starferry.Place) (Translated, error) {
	return m.translate("back", p, m.backPosition, m.backRange)
}

// position and stretch translate Next, and one handled range. Both say how many
// offsets the copy has to pass first; a range says whether it is certain.
type (
	position func(starferry.Offset) (starferry.Answer, int64, error)
	stretch  func(to *starferry.Place, r starferry.Range) (behind int64, certain bool, err error)
)

func (m *Map) translate(way string, p starferry.Place, next position, handled stretch) (Translated, error) {
	fail := func(err error) (Translated, error) {
		return Translated{Place: starferry.Place{Next: starferry.NoOffset}, Answer: dontKnow()},
			fmt.Errorf("translate place %d %s: %w", p.Next, way, err)
	}
	if err := checkPlace(p); err != nil {
		return fail(err)
	}
	answer, behind, err := next(p.Next)
	if err != nil {
		return fail(err)
	}
	t := Translated{Place: starferry.Place{Next: answer.Offset}, Answer: answer, Behind: behind}
	for _, r := range p.Handled {
		if t.Answer.Status == starferry.Unknown {
			break
		}
		behind, certain, err := handled(&t.Place, r)
		if err != nil {
			return fail(err)
		}
		t.Behind = max(t.Behind, behind)
		if !certain {
			t.Answer = dontKnow()
		}
	}
	switch {
	case t.Answer.Status == starferry.Unknown:
		return Translated{Place: starferry.Place{Next: starferry.NoOffset}, Answer: dontKnow()}, nil
	case t.Answer.Status == starferry.BeforeStart:
		t.Behind = 0
	case t.Behind > 0:
		t.Answer.Status, t.Answer.Reason = starferry.AtEnd, ""
	}
	t.Answer.Offset = t.Place.Next
	return t, nil
}

func checkPlace(p starferry.Place) error {
	low := p.Next
	for _, r := range p.Handled {
		if r.From < low || r.From >= r.To {
			return fmt.Errorf("handled range [%d, %d) does not ascend above %d", r.From, r.To, low)
		}
		low = r.To
	}
	return nil
}

// cover adds a range to a place's handled ones, and to Next if it begins there.
func cover(p *starferry.Place, r starferry.Range) {
	n := len(p.Handled)
	switch {
	case r.From >= r.To || r.To <= p.Next:
	case r.From <= p.Next:
		p.Next = r.To
	case n > 0 && p.Handled[n-1].To >= r.From:
		p.Handled[n-1].To = max(p.Handled[n-1].To, r.To)
	default:
		p.Handled = append(p.Handled, r)
	}
}

// forwardPosition translates "next to read". At the end of what is copied the
// position is known even though no record is.
func (m *Map) forwardPosition(o starferry.Offset) (starferry.Answer, int64, error) {
	a, err := m.forward(o)
	if err != nil || a.Status != starferry.AtEnd {
		return a, 0, err
	}
	next, _ := m.Next()
	if o == next {
		a.Status = starferry.Exact
	}
	return a, int64(o - next), nil
}

func (m *Map) backPosition(o starferry.Offset) (starferry.Answer, int64, error) {
	a, err := m.back(o)
	if err != nil || a.Status != starferry.AtEnd {
		return a, 0, err
	}
	_, passed := m.Next()
	if o == passed {
		a.Status = starferry.Exact
	}
	return a, int64(o - passed), nil
}

// forwardRange translates a handled range of the source: one range for each run
// in it, joined where they touch. Gaps stay out: they may hold records that
// nobody handled.
func (m *Map) forwardRange(to *starferry.Place, r starferry.Range) (behind int64, certain bool, err error) {
	next, _ := m.Next()
	behind = max(0, int64(r.To-next))
	if r.From = max(r.From, m.startSource); r.From >= min(r.To, next) {
		return behind, true, nil
	}
	certain = true
	err = m.walk(m.bySource(r.From), func(s segment) bool {
		from, end := max(s.source, r.From), min(s.sourceEnd(), r.To)
		switch {
		case s.source >= r.To:
			return false
		case from >= end: // in front of the range
		case s.kind == unknown:
			certain = false
		case s.kind == copied:
			cover(to, starferry.Range{From: s.target + (from - s.source), To: s.target + (end - s.source)})
		}
		return certain
	})
	return behind, certain, err
}

// backRange translates a handled range of the target: from its first to its
// last copied record. What lies between on the source and has no copy is
// handled with it, but for unknown stretches and for copies that were not sent
// back: those are records of the target's own, handled or not by themselves.
func (m *Map) backRange(to *starferry.Place, r starferry.Range) (behind int64, certain bool, err error) {
	_, passed := m.Next()
	behind = max(0, int64(r.To-passed))
	r.From, r.To = max(r.From, m.startTarget), min(r.To, passed)
	if r.From >= r.To {
		return behind, true, nil
	}
	j := m.byTarget(r.From)
	b, err := m.block(j)
	if err != nil {
		return behind, false, err
	}
	w := backWalk{want: r, end: b.target, uncertain: b.uncertain, to: to}
	if err := m.walk(j, w.visit); err != nil {
		return behind, false, err
	}
	w.gap(passed)
	cover(to, w.found)
	return behind, !w.lost, nil
}

// backWalk gathers the source offsets of a range of the target.
type backWalk struct {
	want      starferry.Range  // on the target
	end       starferry.Offset // behind the last run that was visited
	uncertain bool             // an unknown stretch came after it
	apart     bool             // records of the target's own came after it
	found     starferry.Range  // on the source
	lost      bool             // the range may hold copies of unknown records
	to        *starferry.Place
}

// visit takes the next segment, and wants more until the range is passed.
func (w *backWalk) visit(s segment) bool {
	w.uncertain = w.uncertain || s.kind == unknown
	w.apart = w.apart || s.kind == holeReturned
	if s.kind != copied {
		return true
	}
	w.gap(s.target)
	from, end := max(s.target, w.want.From), min(s.targetEnd(), w.want.To)
	if from < end {
		piece := starferry.Range{From: s.source + (from - s.target), To: s.source + (end - s.target)}
		if w.found.To == 0 || w.uncertain || w.apart {
			cover(w.to, w.found)
			w.found = piece
		}
		w.found.To = piece.To
	}
	w.end, w.uncertain, w.apart = s.targetEnd(), false, false
	return w.end < w.want.To && !w.lost
}

// gap looks at the target offsets between the last run and the next: copies of
// an unknown stretch may be among them.
func (w *backWalk) gap(next starferry.Offset) {
	if w.uncertain && max(w.end, w.want.From) < min(next, w.want.To) {
		w.lost = true
	}
}
