package offsetmap

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/starferry/starferry"
)

// oracle is the map as a plain slice: one entry for each source offset.
type oracle struct {
	first                    starferry.Offset // source offset of entries[0]
	startSource, startTarget starferry.Offset
	entries                  []entryOf
	end, passed              starferry.Offset
	startEnd                 starferry.Offset // end when it began
}

type entryOf struct {
	kind   kind
	target starferry.Offset // of a copied record, or the end before it
}

func (o *oracle) next() starferry.Offset { return o.first + starferry.Offset(len(o.entries)) }

func (o *oracle) add(k kind, target starferry.Offset, count int64) {
	for i := range count {
		e := entryOf{k, o.end}
		if k == copied {
			e.target = target + starferry.Offset(i)
			o.end = e.target + 1
			o.passed = max(o.passed, o.end)
		}
		o.entries = append(o.entries, e)
	}
}

// nextCopied looks for the first entry from i on that is no hole.
func (o *oracle) nextCopied(i int) (at starferry.Offset, unsure bool) {
	for ; i < len(o.entries); i++ {
		switch o.entries[i].kind {
		case copied:
			return o.entries[i].target, false
		case unknown:
			return 0, true
		}
	}
	return o.end, o.unsureBefore(len(o.entries))
}

func (o *oracle) unsureBefore(i int) bool {
	for i--; i >= 0 && o.entries[i].kind != copied; i-- {
		if o.entries[i].kind == unknown {
			return true
		}
	}
	return false
}

func answer(at starferry.Offset, unsure bool, s starferry.Status, why starferry.Reason) starferry.Answer {
	if unsure {
		return dontKnow()
	}
	return starferry.Answer{Offset: at, Status: s, Reason: why}
}

func (o *oracle) forward(s starferry.Offset) starferry.Answer {
	if s < o.startSource {
		a := o.forward(o.startSource)
		a.Status, a.Reason = starferry.BeforeStart, ""
		return a
	}
	if s >= o.next() {
		return answer(o.end, o.unsureBefore(len(o.entries)), starferry.AtEnd, "")
	}
	i := int(s - o.first)
	e := o.entries[i]
	switch e.kind {
	case copied:
		return answer(e.target, false, starferry.Exact, "")
	case unknown:
		return dontKnow()
	}
	at, unsure := o.nextCopied(i)
	return answer(at, unsure, starferry.InHole, e.kind.reason())
}

func (o *oracle) back(t starferry.Offset) starferry.Answer {
	if t < o.startTarget {
		a := o.back(o.startTarget)
		a.Status = starferry.BeforeStart
		return a
	}
	for i, e := range o.entries {
		s := o.first + starferry.Offset(i)
		switch {
		case e.kind != copied || e.target < t:
		case e.target == t:
			return answer(s, false, starferry.Exact, "")
		default:
			return answer(s, o.unsureBefore(i), starferry.InHole, "")
		}
	}
	status := starferry.AtEnd
	if t < o.passed {
		status = starferry.InHole
	}
	return answer(o.next(), o.unsureBefore(len(o.entries)), status, "")
}

func (o *oracle) forget(below starferry.Offset) {
	below = min(below, o.next())
	if below <= o.startSource {
		return
	}
	o.startSource, o.startTarget = below, o.end
	if i := int(below - o.first); i < len(o.entries) {
		o.startTarget = o.entries[i].target
	}
}

// writer is what a Map and a Lane have in common.
type writer interface {
	Append(Run) error
	Hole(from, to starferry.Offset, why starferry.Reason) error
	MarkUnknown(from, to starferry.Offset) error
	Pass(starferry.Offset) error
	Forget(starferry.Offset) error
	Next() (source, target starferry.Offset)
}

// grow makes the same random additions to both.
func grow(t *rapid.T, o *oracle, m writer) {
	steps := rapid.SampledFrom([]int{1, 3, 10, 200}).Draw(t, "steps")
	kinds := rapid.SampledFrom([][]kind{
		{copied}, {copied, holeCompacted}, {copied, copiedBehindGap},
		{copied, holeControl, holeAborted, unknown, copiedBehindGap, holeFiltered, holeDeleted},
		{holeControl, holeAborted},
	}).Draw(t, "kinds")
	for range steps {
		source, target := m.Next()
		require.Equal(t, o.next(), source)
		require.Equal(t, o.passed, target)
		count := int64(rapid.IntRange(1, 4).Draw(t, "count"))
		end := source + starferry.Offset(count)
		switch k := rapid.SampledFrom(kinds).Draw(t, "kind"); k {
		case copied, copiedBehindGap:
			if k == copiedBehindGap {
				target += starferry.Offset(rapid.IntRange(1, 3).Draw(t, "gap"))
			}
			require.NoError(t, m.Append(Run{source, target, count}))
			o.add(copied, target, count)
		case unknown:
			require.NoError(t, m.MarkUnknown(source, end))
			o.add(unknown, 0, count)
		default:
			require.NoError(t, m.Hole(source, end, k.reason()))
			o.add(k, 0, count)
		}
	}
	if rapid.IntRange(0, 4).Draw(t, "pass") == 0 {
		o.passed += 2
		require.NoError(t, m.Pass(o.passed))
	}
	if rapid.IntRange(0, 9).Draw(t, "forget") == 0 {
		at := starferry.Offset(rapid.IntRange(int(o.startSource), int(o.next())).Draw(t, "below"))
		o.forget(at)
		require.NoError(t, m.Forget(at))
	}
}

func begin(t *rapid.T) *oracle {
	source := starferry.Offset(rapid.IntRange(0, 5).Draw(t, "source"))
	target := starferry.Offset(rapid.IntRange(0, 5).Draw(t, "target"))
	return &oracle{first: source, startSource: source, startTarget: target, end: target, passed: target}
}

func TestMapAgreesWithASlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := begin(t)
		var m Map
		require.NoError(t, m.Reset(o.first, o.end))
		for range rapid.IntRange(0, 6).Draw(t, "rounds") {
			grow(t, o, &m)
		}
		for s := starferry.Offset(0); s < o.next()+3; s++ {
			require.Equal(t, o.forward(s), m.Forward(s), "forward %d", s)
		}
		for p := starferry.Offset(0); p < o.passed+3; p++ {
			require.Equal(t, o.back(p), m.Back(p), "back %d", p)
		}
		checkSegments(t, o, &m)
	})
}

// checkSegments walks the map and compares it with the slice.
func checkSegments(t *rapid.T, o *oracle, m *Map) {
	from := starferry.Offset(rapid.IntRange(0, int(o.next())).Draw(t, "from"))
	at := max(from, o.startSource)
	for s, err := range m.Segments(from) {
		require.NoError(t, err)
		for i := range s.Count {
			source := s.Source + starferry.Offset(i)
			if source < at {
				continue
			}
			require.Equal(t, at, source)
			e := o.entries[source-o.first]
			require.Equal(t, e.kind.reason(), s.Reason)
			require.Equal(t, e.kind == unknown, s.Status == starferry.Unknown)
			if e.kind == copied {
				require.Equal(t, e.target, s.Target+starferry.Offset(i))
			}
			at++
		}
	}
	require.Equal(t, o.next(), at)
}

func handled(p starferry.Place, o starferry.Offset) bool {
	return o < p.Next || slices.ContainsFunc(p.Handled, func(r starferry.Range) bool { return r.Contains(o) })
}

func anyPlace(t *rapid.T, low, high starferry.Offset) starferry.Place {
	p := starferry.Place{Next: starferry.Offset(rapid.IntRange(int(low), int(high)).Draw(t, "next"))}
	at := p.Next
	for range rapid.IntRange(0, 4).Draw(t, "ranges") {
		from := at + starferry.Offset(rapid.IntRange(0, 9).Draw(t, "skip"))
		at = from + starferry.Offset(rapid.IntRange(1, 20).Draw(t, "size"))
		p.Handled = append(p.Handled, starferry.Range{From: from, To: at})
	}
	return p
}

// unsureOf reports whether a place cannot be translated: its position, or an
// offset in a range, is one of which nothing is known.
func (o *oracle) unsureOf(p starferry.Place, back bool) bool {
	ask, end := o.forward, o.next()
	if back {
		ask, end = o.back, o.passed
	}
	if ask(p.Next).Status == starferry.Unknown {
		return true
	}
	for _, r := range p.Handled {
		for at := r.From; at < min(r.To, end); at++ {
			if !back && o.entries[at-o.first].kind == unknown || back && ask(at).Status == starferry.Unknown {
				return true
			}
		}
	}
	return false
}

// The definition of a translation: a copied record is handled on one side
// exactly if it is on the other.
func TestPlacesTranslateExactly(t *testing.T) {
	finals := 0
	rapid.Check(t, func(t *rapid.T) {
		o := begin(t)
		var m Map
		require.NoError(t, m.Reset(o.first, o.end))
		for range rapid.IntRange(1, 3).Draw(t, "rounds") {
			grow(t, o, &m)
		}
		back := rapid.Bool().Draw(t, "back")
		low, end, way := o.startSource, o.next(), m.TranslateForward
		if back {
			low, end, way = o.startTarget, o.passed, m.TranslateBack
		}
		p := anyPlace(t, low, end)
		got, err := way(p)
		require.NoError(t, err)
		last := p.Next
		if n := len(p.Handled); n > 0 {
			last = p.Handled[n-1].To
		}
		require.Equal(t, o.unsureOf(p, back), got.Answer.Status == starferry.Unknown, "%+v", p)
		if got.Answer.Status != starferry.Unknown {
			require.Equal(t, max(0, int64(last-end)), got.Behind)
			require.Equal(t, last <= end, got.Final(), "%+v", got)
			require.Equal(t, got.Place.Next, got.Answer.Offset)
		}
		if !got.Final() {
			return
		}
		finals++
		require.NoError(t, checkPlace(got.Place))
		for i, e := range o.entries {
			from, to := o.first+starferry.Offset(i), e.target
			if back {
				from, to = to, from
			}
			if e.kind == copied && o.first+starferry.Offset(i) >= o.startSource {
				require.Equal(t, handled(p, from), handled(got.Place, to), "record %d→%d of place %+v→%+v", from, to, p, got.Place)
			}
		}
	})
	require.Positive(t, finals)
}

// The worked example of the documentation.
func TestAnswersOfAnExample(t *testing.T) {
	var m Map
	require.NoError(t, m.Reset(100, 40))
	require.NoError(t, m.Append(Run{100, 41, 10}))            // behind a fence marker at 40
	require.NoError(t, m.Hole(110, 111, starferry.Control))   // a transaction's end
	require.NoError(t, m.Append(Run{111, 51, 4}))             // goes on at once
	require.NoError(t, m.Hole(115, 118, starferry.Aborted))   //
	require.NoError(t, m.Append(Run{118, 56, 2}))             // behind a marker at 55
	require.NoError(t, m.Hole(120, 121, starferry.Compacted)) // the newest source offset
	require.NoError(t, m.Pass(59))                            // behind a marker at 58

	is := func(o starferry.Offset, s starferry.Status, why starferry.Reason) starferry.Answer {
		return starferry.Answer{Offset: o, Status: s, Reason: why}
	}
	for source, want := range map[starferry.Offset]starferry.Answer{
		99:  is(41, starferry.BeforeStart, ""),
		100: is(41, starferry.Exact, ""),
		110: is(51, starferry.InHole, starferry.Control),
		114: is(54, starferry.Exact, ""),
		116: is(56, starferry.InHole, starferry.Aborted),
		120: is(58, starferry.InHole, starferry.Compacted),
		121: is(58, starferry.AtEnd, ""),
		130: is(58, starferry.AtEnd, ""),
	} {
		require.Equal(t, want, m.Forward(source), "forward %d", source)
	}
	for target, want := range map[starferry.Offset]starferry.Answer{
		39: is(100, starferry.BeforeStart, ""),
		40: is(100, starferry.InHole, ""),
		50: is(109, starferry.Exact, ""),
		51: is(111, starferry.Exact, ""),
		55: is(118, starferry.InHole, ""),
		58: is(121, starferry.InHole, ""),
		59: is(121, starferry.AtEnd, ""),
	} {
		require.Equal(t, want, m.Back(target), "back %d", target)
	}

	end, err := m.TranslateForward(starferry.Place{Next: 121})
	require.NoError(t, err)
	require.Equal(t, Translated{Place: starferry.Place{Next: 58}, Answer: is(58, starferry.Exact, "")}, end)
	ahead, err := m.TranslateForward(starferry.Place{Next: 130})
	require.NoError(t, err)
	require.Equal(t, Translated{Place: starferry.Place{Next: 58}, Answer: is(58, starferry.AtEnd, ""), Behind: 9}, ahead)
	home, err := m.TranslateBack(starferry.Place{Next: 59})
	require.NoError(t, err)
	require.Equal(t, Translated{Place: starferry.Place{Next: 121}, Answer: is(121, starferry.Exact, "")}, home)
	ranges, err := m.TranslateForward(starferry.Place{Next: 105, Handled: []starferry.Range{{From: 108, To: 119}}})
	require.NoError(t, err)
	require.Equal(t, starferry.Place{Next: 46, Handled: []starferry.Range{{From: 49, To: 55}, {From: 56, To: 57}}}, ranges.Place)
}

func TestMapRefusesWhatDoesNotFollow(t *testing.T) {
	var m Map
	require.ErrorIs(t, m.Append(Run{0, 0, 1}), ErrNotBegun)
	require.ErrorIs(t, m.Pass(1), ErrNotBegun)
	require.ErrorIs(t, m.Forget(1), ErrNotBegun)
	require.Equal(t, dontKnow(), m.Forward(0))
	require.Error(t, m.Reset(-1, 0))
	require.NoError(t, m.Reset(10, 20))
	for name, err := range map[string]error{
		"a source gap":        m.Append(Run{11, 20, 1}),
		"a source again":      m.Append(Run{9, 20, 1}),
		"a target again":      m.Append(Run{10, 19, 1}),
		"nothing":             m.Append(Run{10, 20, 0}),
		"too much":            m.Append(Run{10, 20, 1 << 62}),
		"a hole that is far":  m.Hole(12, 13, starferry.Control),
		"a hole that is none": m.Hole(10, 10, starferry.Control),
		"an unknown far away": m.MarkUnknown(12, 13),
	} {
		require.ErrorIs(t, err, ErrOrder, name)
	}
	require.ErrorContains(t, m.Hole(10, 11, "lost"), `"lost" is no reason`)
	_, err := m.TranslateForward(starferry.Place{Next: 10, Handled: []starferry.Range{{From: 5, To: 6}}})
	require.ErrorContains(t, err, "does not ascend")
	source, target := m.Next()
	require.Equal(t, []starferry.Offset{10, 20}, []starferry.Offset{source, target}, "nothing was added")
}

func TestRangeOverUnknownCopiesIsUnknown(t *testing.T) {
	var m Map
	require.NoError(t, m.Reset(0, 0))
	require.NoError(t, m.Append(Run{0, 0, 5}))
	require.NoError(t, m.MarkUnknown(5, 8)) // its copies may be at 5 and 6
	require.NoError(t, m.Append(Run{8, 7, 5}))
	for r, final := range map[starferry.Range]bool{{From: 3, To: 5}: true, {From: 7, To: 9}: true, {From: 3, To: 6}: false, {From: 6, To: 9}: false} {
		got, err := m.TranslateBack(starferry.Place{Next: 2, Handled: []starferry.Range{r}})
		require.NoError(t, err)
		require.Equal(t, final, got.Final(), "%v", r)
	}
}

// A map that forgot an unknown offset at its end still knows, when copies follow
// behind a gap, that the unknown one's copy may lie in it.
func TestTheFrontTellsOfAnUnknownCopyInTheGap(t *testing.T) {
	var m Map
	require.NoError(t, m.Reset(0, 0))
	require.NoError(t, m.Append(Run{0, 0, 1}))
	require.NoError(t, m.MarkUnknown(1, 2))
	require.NoError(t, m.Forget(2))
	require.NoError(t, m.Append(Run{2, 5, 1}))
	source, target, unsure, err := m.Front()
	require.NoError(t, err)
	require.Equal(t, starferry.Offset(2), source)
	require.Equal(t, starferry.Offset(1), target)
	require.True(t, unsure, "source 1 may have its copy at target 1 to 4")
	require.Equal(t, starferry.Unknown, m.Back(1).Status)
}
