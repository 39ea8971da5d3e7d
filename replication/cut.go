package replication

import (
	"errors"
	"iter"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/replication/offsetmap"
)

// Where two links lead between the same two topics, a place on one side needs
// the maps of both to be translated. Here is the side the place speaks of, there
// the other. What a log holds is either the side's own record or a copy, and
// each link's copies keep their order; but own records and copies mix differently
// on the two sides:
//
//	here   a1 a2 b1 a3 | b2 a4          | the place: handled below, not above
//	there  a1 b1 b2 a2 a3 a4            handled: a1 b1, and beyond b2 a2 a3
//
// The link out, from here to there, knows where the records of here went; the
// link in where those of there came from. By either one alone everything up to
// some offset there is handled and nothing from it on, but for the ranges that
// the place had. Below the lower of the two offsets all is handled; what is
// handled above it are the ranges of the result.
//
// Offsets that hold no record of either side (markers, and what a cleaner or an
// aborted transaction left) belong to the ranges around them: nobody reads them.

// way is the map of one link, as a cut needs it.
type way interface {
	Start() (source, target starferry.Offset)
	Next() (source, target starferry.Offset)
	TranslateForward(p starferry.Place) (offsetmap.Translated, error)
	TranslateBack(p starferry.Place) (offsetmap.Translated, error)
	Segments(from starferry.Offset) iter.Seq2[offsetmap.Segment, error]
}

// errUnproven says that a map does not know what it is asked.
var errUnproven = errors.New("a cleaner took what would prove it")

// reach is how far what a place has handled extends there, by one link's map.
type reach struct {
	// Answer is that of the place's Next.
	Answer starferry.Answer `json:"answer"`
	// Low: of this link's records there, none below it is open.
	Low starferry.Offset `json:"low"`
	// High: none from it on is handled.
	High starferry.Offset `json:"high"`
	// Next is the map's own end: out, on the source here; in, on the target here.
	Next starferry.Offset `json:"next"`
	// Behind is how many offsets the link has yet to pass, and nothing else is
	// known; of the link out alone.
	Behind int64 `json:"behind,omitempty"`
}

// top is the offset above all that a place speaks of.
func top(p starferry.Place) starferry.Offset {
	if n := len(p.Handled); n > 0 {
		return p.Handled[n-1].To
	}
	return p.Next
}

// reachOut asks the map of the link from here to there. It is final once the
// copy has passed all of the place.
func reachOut(m way, p starferry.Place) (reach, error) {
	next, passed := m.Next()
	r := reach{Next: next, Behind: max(0, int64(top(p)-next))}
	t, err := m.TranslateForward(starferry.Place{Next: p.Next})
	r.Answer, r.Low = t.Answer, t.Place.Next
	if err != nil || r.Behind > 0 || !t.Final() {
		return r, err
	}
	if b, err := m.TranslateBack(starferry.Place{Next: r.Low}); err != nil {
		return r, err
	} else if b.Place.Next == next {
		r.Low = max(r.Low, passed) // the next copy comes behind all we know of
	}
	r.High, err = copiedBelow(m, top(p))
	return r, err
}

// copiedBelow is the target position behind the last copied record below a
// source offset.
func copiedBelow(m way, o starferry.Offset) (starferry.Offset, error) {
	start, target := m.Start()
	if o <= start {
		return target, nil
	}
	s, err := segmentAt(m, o-1)
	if err != nil {
		return 0, err
	}
	if s.Status == starferry.Exact {
		return s.Target + (o - s.Source), nil
	}
	if sure, err := certain(m, s.Target); sure || err != nil {
		return s.Target, err
	}
	t, err := m.TranslateForward(starferry.Place{Next: o})
	if err == nil && t.Answer.Status == starferry.Unknown {
		err = errUnproven
	}
	return t.Place.Next, err
}

// certain reports whether no copies of unknown records can lie between a target
// offset and the next copied record.
func certain(m way, o starferry.Offset) (bool, error) {
	t, err := m.TranslateBack(starferry.Place{Next: o})
	return t.Answer.Status != starferry.Unknown, err
}

func segmentAt(m way, o starferry.Offset) (offsetmap.Segment, error) {
	for s, err := range m.Segments(o) {
		return s, err
	}
	return offsetmap.Segment{}, errUnproven
}

// reachIn asks the map of the link from there to here: which of there's own
// records have their copies below the place. Records that have no copy yet are
// not handled.
func reachIn(m way, p starferry.Place) (reach, error) {
	start, _ := m.Start()
	_, passed := m.Next()
	r := reach{Next: passed}
	t, err := m.TranslateBack(starferry.Place{Next: p.Next})
	if err != nil || t.Answer.Status == starferry.Unknown {
		r.Answer = t.Answer
		return r, err
	}
	r.Answer, r.Low = t.Answer, max(t.Place.Next, start)
	r.High, err = ownBelow(m, top(p))
	return r, err
}

// ownBelow is the source position behind the last record whose copy lies below
// a target offset.
func ownBelow(m way, o starferry.Offset) (starferry.Offset, error) {
	start, target := m.Start()
	t, err := m.TranslateBack(starferry.Place{Next: o})
	if err != nil || t.Answer.Status == starferry.Unknown {
		return 0, errors.Join(err, errUnproven)
	}
	end := t.Place.Next
	if end <= start {
		return start, nil
	}
	s, err := segmentAt(m, end-1)
	if err != nil || s.Status != starferry.InHole {
		return end, err
	}
	if sure, err := certain(m, s.Target); !sure || err != nil {
		return end, err
	}
	if s.Target <= target {
		return start, nil
	}
	last, err := m.TranslateBack(starferry.Place{Next: s.Target - 1})
	if err != nil || last.Answer.Status != starferry.Exact {
		return end, err
	}
	return last.Place.Next + 1, nil
}

// unseen is how far the link in has yet to come until it knows of every copy
// below o that it wrote here; passed is how far it is. The link out has read
// them, unless a cleaner was quicker.
func unseen(out way, passed, o starferry.Offset) (int64, error) {
	for s, err := range out.Segments(passed) {
		switch {
		case err != nil:
			return 0, err
		case s.Source >= o:
			return 0, nil
		case s.Reason == starferry.Returned, s.Reason == starferry.Compacted:
			return int64(min(o, s.Source+starferry.Offset(s.Count)) - passed), nil
		}
	}
	return 0, nil
}

// portion is what one link knows of a stretch there: its records that are
// handled and those that are open, as ascending ranges.
type portion struct {
	Done []starferry.Range `json:"done,omitempty"`
	Open []starferry.Range `json:"open,omitempty"`
	// Read is the stretch of which the link in has read every record.
	Read starferry.Range `json:"read"`
}

// maxPortion bounds the ranges of one portion: more would fit nowhere.
const maxPortion = 2000

// errTooMany says that a cut would take too many ranges.
var errTooMany = errors.New("the records of the two sides are mixed too finely between here and there: let both links catch up, then ask again")

// portionOut lists the copies there within a stretch.
func portionOut(m way, p starferry.Place, in starferry.Range) (portion, error) {
	var s portion
	first, err := m.TranslateBack(starferry.Place{Next: in.From})
	if err == nil && first.Answer.Status == starferry.Unknown {
		err = errUnproven
	}
	if err != nil {
		return s, err
	}
	for seg, err := range m.Segments(first.Place.Next) {
		if err != nil {
			return s, err
		}
		if seg.Target >= in.To {
			break
		}
		if seg.Status == starferry.Unknown {
			return s, errUnproven
		}
		if seg.Status != starferry.Exact {
			continue
		}
		shift := seg.Target - seg.Source
		from, to := max(in.From, seg.Target), min(in.To, seg.Target+starferry.Offset(seg.Count))
		for r, done := range split(p, starferry.Range{From: from - shift, To: to - shift}) {
			s.add(starferry.Range{From: r.From + shift, To: r.To + shift}, done, false)
		}
		if s.size() > maxPortion {
			return s, errTooMany
		}
	}
	return s, nil
}

// portionIn lists there's own records within a stretch. Where no copy lies
// between, ranges are joined.
func portionIn(m way, p starferry.Place, in starferry.Range) (portion, error) {
	start, _ := m.Start()
	next, _ := m.Next()
	s := portion{Read: starferry.Range{From: start, To: max(start, next)}}
	joined := true
	for seg, err := range m.Segments(max(in.From, start)) {
		if err != nil {
			return s, err
		}
		if seg.Source >= in.To {
			break
		}
		switch {
		case seg.Status == starferry.Unknown:
			return s, errUnproven
		case seg.Reason == starferry.Returned:
			joined = false
			continue
		case seg.Status != starferry.Exact:
			continue
		}
		shift := seg.Target - seg.Source
		from, to := max(in.From, seg.Source), min(in.To, seg.Source+starferry.Offset(seg.Count))
		for r, done := range split(p, starferry.Range{From: from + shift, To: to + shift}) {
			s.add(starferry.Range{From: r.From - shift, To: r.To - shift}, done, joined)
			joined = true
		}
		if s.size() > maxPortion {
			return s, errTooMany
		}
	}
	return s, nil
}

// split cuts a range of offsets here at the edges of what is handled.
func split(p starferry.Place, r starferry.Range) iter.Seq2[starferry.Range, bool] {
	return func(yield func(starferry.Range, bool) bool) {
		at := r.From
		give := func(to starferry.Offset, done bool) bool {
			if to = min(to, r.To); to <= at {
				return true
			}
			from := at
			at = to
			return yield(starferry.Range{From: from, To: to}, done)
		}
		if !give(p.Next, true) {
			return
		}
		for _, h := range p.Handled {
			if !give(h.From, false) || !give(h.To, true) {
				return
			}
		}
		give(r.To, false)
	}
}

func (s portion) size() int { return len(s.Done) + len(s.Open) }

// add appends a range; joined says that nothing of another kind lies between it
// and the range before.
func (s *portion) add(r starferry.Range, done, joined bool) {
	to, other := &s.Done, &s.Open
	if !done {
		to, other = other, to
	}
	n := len(*to)
	if n > 0 && (*to)[n-1].To == r.From {
		joined = true
	} else if n > 0 && len(*other) > 0 && (*other)[len(*other)-1].From > (*to)[n-1].From {
		joined = false
	}
	if n > 0 && joined {
		(*to)[n-1].To = r.To
		return
	}
	*to = append(*to, r)
}

// crossing is the translation of one place by two links. It takes two steps,
// because different shards may keep their maps: how far each reaches, then what
// each knows of the stretch between.
type crossing struct {
	place   starferry.Place
	out, in crossingAnswer
}

// crossingQuestion is one step's question to either link.
type crossingQuestion struct {
	Place starferry.Place `json:"place"`
	// Of the second step: the stretch to list, and how far the map of the link
	// in came here.
	Listed bool             `json:"listed,omitempty"`
	Within starferry.Range  `json:"within,omitzero"`
	Passed starferry.Offset `json:"passed,omitempty"`
}

// crossingAnswer is one link's answer; the second step adds to the first.
type crossingAnswer struct {
	reach
	portion
	// Unseen is how far the link in has yet to come; of the link out.
	Unseen int64  `json:"unseen,omitempty"`
	Error  string `json:"error,omitempty"`
}

// out answers for the link from here to there.
func (q crossingQuestion) out(m way) (a crossingAnswer) {
	var err error
	if a.reach, err = reachOut(m, q.Place); err == nil && q.Listed && a.Behind == 0 {
		a.Unseen, err = unseen(m, q.Passed, top(q.Place))
		if err == nil && q.Within.From < q.Within.To {
			a.portion, err = portionOut(m, q.Place, q.Within)
		}
	}
	return a.sealed(err)
}

// in answers for the link from there to here. Idle says that it was owed no
// answer when it was asked: then its map knows of all it ever wrote.
func (q crossingQuestion) in(m way, idle bool) (a crossingAnswer) {
	var err error
	defer func() {
		if idle {
			a.Next = max(a.Next, top(q.Place))
		}
	}()
	if a.reach, err = reachIn(m, q.Place); err == nil && q.Listed && q.Within.From < q.Within.To {
		a.portion, err = portionIn(m, q.Place, q.Within)
	}
	return a.sealed(err)
}

// sealed notes an error: what cannot be proven is unknown.
func (a crossingAnswer) sealed(err error) crossingAnswer {
	switch {
	case errors.Is(err, errUnproven):
		a.Answer = starferry.Answer{Offset: starferry.NoOffset, Status: starferry.Unknown}
	case err != nil:
		a.Error = err.Error()
	}
	return a
}

// take takes the answers to one step.
func (c *crossing) take(out, in crossingAnswer) error {
	c.out, c.in = out, in
	for _, why := range []string{out.Error, in.Error} {
		if why != "" {
			return errors.New(why)
		}
	}
	return nil
}

// question is that of the second step.
func (c *crossing) question() crossingQuestion {
	return crossingQuestion{Place: c.place, Listed: true, Within: c.stretch(), Passed: c.in.Next}
}

// stretch is what lies between the two reaches: empty if nothing does.
func (c *crossing) stretch() starferry.Range {
	lo := min(c.out.Low, c.in.Low)
	return starferry.Range{From: lo, To: max(lo, c.out.High, c.in.High)}
}

// failed is the answer if the first step has said already that there is none,
// or none yet.
func (c *crossing) failed() (offsetmap.Translated, bool) {
	t := offsetmap.Translated{Place: starferry.Place{Next: starferry.NoOffset}, Answer: c.out.Answer}
	switch {
	case c.out.Answer.Status == starferry.Unknown, c.in.Answer.Status == starferry.Unknown:
		t.Answer = starferry.Answer{Offset: starferry.NoOffset, Status: starferry.Unknown}
	case c.out.Behind > 0:
		t.Behind = c.out.Behind
		t.Answer = starferry.Answer{Offset: starferry.NoOffset, Status: starferry.AtEnd}
	case c.out.Answer.Status == starferry.BeforeStart:
	default:
		return t, false
	}
	return t, true
}

// result is the answer after the second step.
func (c *crossing) result() offsetmap.Translated {
	if c.out.Unseen > 0 {
		return offsetmap.Translated{
			Place: starferry.Place{Next: starferry.NoOffset}, Behind: c.out.Unseen,
			Answer: starferry.Answer{Offset: starferry.NoOffset, Status: starferry.AtEnd},
		}
	}
	t := offsetmap.Translated{Place: assemble(c.stretch().From, c.out.portion, c.in.portion), Answer: c.out.Answer}
	if t.Answer.Reason == starferry.Returned {
		t.Answer = c.in.Answer // the next record is a copy of there's own
	}
	if t.Answer.Status != starferry.Exact {
		t.Answer.Status = starferry.InHole
	}
	t.Answer.Offset = t.Place.Next
	return t
}

// assemble makes the place there.
func assemble(from starferry.Offset, out, in portion) starferry.Place {
	p := starferry.Place{Next: from}
	open := merged(out.Open, in.Open)
	bridged := func(a, b starferry.Offset) bool {
		if a >= b {
			return true
		}
		if a < in.Read.From || b > in.Read.To {
			return false
		}
		for len(open) > 0 && open[0].To <= a {
			open = open[1:]
		}
		return len(open) == 0 || open[0].From >= b
	}
	for _, r := range merged(out.Done, in.Done) {
		n := len(p.Handled)
		switch {
		case n == 0 && bridged(p.Next, r.From):
			p.Next = max(p.Next, r.To)
		case n > 0 && bridged(p.Handled[n-1].To, r.From):
			p.Handled[n-1].To = max(p.Handled[n-1].To, r.To)
		default:
			p.Handled = append(p.Handled, r)
		}
	}
	return p
}

// merged merges two ascending lists by where their ranges begin.
func merged(a, b []starferry.Range) []starferry.Range {
	out := make([]starferry.Range, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0].From <= b[0].From {
			out, a = append(out, a[0]), a[1:]
			continue
		}
		out, b = append(out, b[0]), b[1:]
	}
	return append(append(out, a...), b...)
}
