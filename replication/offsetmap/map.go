package offsetmap

import (
	"fmt"
	"iter"
	"sort"

	"github.com/starferry/starferry"
)

// Map is the map of one lane in memory. The zero value has no start: Reset
// gives it one. A Map is not safe for concurrent use; a Lane is.
type Map struct {
	begun bool
	// startSource and startTarget are the first position it remembers.
	startSource, startTarget starferry.Offset
	refs                     []ref // the blocks that are full, in order
	full                     map[starferry.Offset]*block
	open                     *block
	// load finds a full block that is not in memory; nil if all are.
	load func(ref) (*block, error)
	// fresh are the full blocks that a lane has not written yet.
	fresh []*block
}

// ref is what stays in memory of a full block.
type ref struct {
	source, target starferry.Offset
	onlyHoles      bool
	uncertain      bool
}

// Begun reports whether the map has a start.
func (m *Map) Begun() bool { return m.begun }

// Reset empties the map and begins it: source is the first offset to copy,
// target a position below which the target has no copies of this lane.
func (m *Map) Reset(source, target starferry.Offset) error {
	if source < 0 || target < 0 || source > maxOffset || target > maxOffset {
		return fmt.Errorf("reset offset map to source %d and target %d: no offsets", source, target)
	}
	load := m.load
	*m = Map{begun: true, startSource: source, startTarget: target, full: map[starferry.Offset]*block{}, load: load}
	m.open = &block{source: source, target: target, passed: target}
	return nil
}

// Start is the first position the map remembers.
func (m *Map) Start() (source, target starferry.Offset) { return m.startSource, m.startTarget }

// Front is the first position the map remembers, and whether copies of unknown
// offsets that it has forgotten may lie behind it. Who writes the map down
// elsewhere then has to put an unknown offset in front.
func (m *Map) Front() (source, target starferry.Offset, unsure bool, err error) {
	if !m.begun {
		return 0, 0, false, nil
	}
	b, err := m.block(max(0, m.bySource(m.startSource)))
	if err != nil {
		return 0, 0, false, err
	}
	i := b.bySource(m.startSource)
	sure := false // the first copy lies where the map begins, or itself is unknown
	if i < len(b.segments) {
		s := b.segments[i]
		sure = s.kind == unknown || s.kind == copied && s.target+(m.startSource-s.source) == m.startTarget
	}
	return m.startSource, m.startTarget, !sure && b.uncertainAt(i), nil
}

// Next is where the copy stands: the next source offset to copy, and the target
// position from which its copy is to be looked for.
func (m *Map) Next() (source, target starferry.Offset) {
	if !m.begun {
		return 0, 0
	}
	return m.open.sourceEnd(), m.open.passed
}

// Append adds copied records. Their source must be Next's, and their target not
// below it. What goes on with the last run on both sides makes it longer.
func (m *Map) Append(r Run) error {
	if err := m.follows("append run", r.Source, r.Count); err != nil {
		return err
	}
	if r.Target < m.open.passed || r.Target > maxOffset-starferry.Offset(r.Count) {
		return fmt.Errorf("append run at source %d: target %d: %w, which looks for copies from target %d on",
			r.Source, r.Target, ErrOrder, m.open.passed)
	}
	m.add(segment{r.Source, r.Target, r.Count, copied})
	m.open.passed = m.open.targetEnd()
	return nil
}

// Hole adds source offsets [from, to) that have no copy, and why.
func (m *Map) Hole(from, to starferry.Offset, why starferry.Reason) error {
	k, err := holeKind(why)
	if err != nil {
		return fmt.Errorf("add hole at source %d: %w", from, err)
	}
	if err := m.follows("add hole", from, int64(to-from)); err != nil {
		return err
	}
	m.add(segment{from, m.open.targetEnd(), int64(to - from), k})
	return nil
}

// MarkUnknown adds source offsets [from, to) of which nothing can be proven.
func (m *Map) MarkUnknown(from, to starferry.Offset) error {
	if err := m.follows("mark unknown", from, int64(to-from)); err != nil {
		return err
	}
	m.add(segment{from, m.open.targetEnd(), int64(to - from), unknown})
	return nil
}

// Pass notes that no further copies will be found below a target position:
// what is there are fence markers and records that are not ours. Without it a
// position behind a marker at the end of the target does not translate back.
// A position below Next's changes nothing.
func (m *Map) Pass(target starferry.Offset) error {
	if !m.begun {
		return fmt.Errorf("pass target %d: %w", target, ErrNotBegun)
	}
	if target > maxOffset {
		return fmt.Errorf("pass target %d: no offset", target)
	}
	m.open.passed = max(m.open.passed, target)
	return nil
}

// follows checks that an addition covers the next source offsets.
func (m *Map) follows(op string, source starferry.Offset, count int64) error {
	switch {
	case !m.begun:
		return fmt.Errorf("%s at source %d: %w", op, source, ErrNotBegun)
	case count <= 0 || source > maxOffset-starferry.Offset(count) || count > int64(maxOffset):
		return fmt.Errorf("%s at source %d: %d offsets: %w", op, source, count, ErrOrder)
	case source != m.open.sourceEnd():
		return fmt.Errorf("%s at source %d: %w, which goes on at source %d", op, source, ErrOrder, m.open.sourceEnd())
	}
	return nil
}

// add puts a segment behind the last, or makes that one longer.
func (m *Map) add(s segment) {
	b := m.open
	if n := len(b.segments); n > 0 {
		last := &b.segments[n-1]
		if last.kind == s.kind && last.targetEnd() == s.target {
			last.count += s.count
			return
		}
	}
	if len(b.segments) == blockSize {
		b = m.seal()
	}
	b.segments = append(b.segments, s)
}

// seal puts the open block to the full ones and opens the next. The last
// segment of a full block is final, because what follows did not continue it.
func (m *Map) seal() *block {
	b := m.open
	m.full[b.source] = b
	m.refs = append(m.refs, b.ref())
	if m.load != nil {
		m.fresh = append(m.fresh, b)
	}
	m.open = &block{source: b.sourceEnd(), target: b.targetEnd(), passed: b.passed, uncertain: b.uncertainAt(len(b.segments))}
	return m.open
}

func (b *block) ref() ref { return ref{b.source, b.target, b.onlyHoles(), b.uncertain} }

// block returns the j-th block; the one behind the full ones is the open one.
func (m *Map) block(j int) (*block, error) {
	if j == len(m.refs) {
		return m.open, nil
	}
	if b, ok := m.full[m.refs[j].source]; ok {
		return b, nil
	}
	return m.load(m.refs[j])
}

// bySource is the index of the block that contains a source offset from the
// start of the map on.
func (m *Map) bySource(o starferry.Offset) int {
	if o >= m.open.source {
		return len(m.refs)
	}
	return sort.Search(len(m.refs), func(j int) bool { return m.refs[j].source > o }) - 1
}

// byTarget is the index of the last block that begins at or below a target
// offset. No earlier one has a run that ends above the offset.
func (m *Map) byTarget(o starferry.Offset) int {
	if o >= m.open.target {
		return len(m.refs)
	}
	return sort.Search(len(m.refs), func(j int) bool { return m.refs[j].target > o }) - 1
}

// Forward says where the copy of the record at a source offset is.
func (m *Map) Forward(o starferry.Offset) starferry.Answer { return sure(m.forward(o)) }

// Back says of which source record the target record is the copy. InHole has no
// reason here: the target offset is a marker's or another producer's.
func (m *Map) Back(o starferry.Offset) starferry.Answer { return sure(m.back(o)) }

// sure drops the error that a map without a store cannot have.
func sure[T any](v T, _ error) T { return v }

func dontKnow() starferry.Answer {
	return starferry.Answer{Offset: starferry.NoOffset, Status: starferry.Unknown}
}

func (m *Map) forward(o starferry.Offset) (starferry.Answer, error) {
	if !m.begun {
		return dontKnow(), nil
	}
	if o >= m.open.sourceEnd() {
		return m.forwardEnd(starferry.AtEnd, ""), nil
	}
	at := max(o, m.startSource)
	if at == m.open.sourceEnd() {
		a := m.forwardEnd(starferry.BeforeStart, "")
		a.Status = starferry.BeforeStart
		return a, nil
	}
	j := m.bySource(at)
	b, err := m.block(j)
	if err != nil {
		return dontKnow(), err
	}
	i := b.bySource(at)
	s := b.segments[i]
	var a starferry.Answer
	switch s.kind {
	case copied:
		a = starferry.Answer{Offset: s.target + (at - s.source), Status: starferry.Exact}
	case unknown:
		a = dontKnow()
	default:
		if a, err = m.forwardHole(j, b, i); err != nil {
			return dontKnow(), err
		}
	}
	if o < m.startSource {
		a.Status, a.Reason = starferry.BeforeStart, ""
	}
	return a, nil
}

// forwardEnd is the place behind the last copied record.
func (m *Map) forwardEnd(status starferry.Status, why starferry.Reason) starferry.Answer {
	if m.open.uncertainAt(len(m.open.segments)) {
		return dontKnow()
	}
	return starferry.Answer{Offset: m.open.targetEnd(), Status: status, Reason: why}
}

// forwardHole is the place of the next copied record behind a hole, segment i
// of block j.
func (m *Map) forwardHole(j int, b *block, i int) (starferry.Answer, error) {
	why := b.segments[i].kind.reason()
	for {
		for ; i < len(b.segments); i++ {
			switch s := b.segments[i]; s.kind {
			case copied:
				return starferry.Answer{Offset: s.target, Status: starferry.InHole, Reason: why}, nil
			case unknown:
				return dontKnow(), nil
			}
		}
		for j++; j < len(m.refs) && m.refs[j].onlyHoles; j++ {
		}
		if j > len(m.refs) {
			return m.forwardEnd(starferry.InHole, why), nil
		}
		var err error
		if b, err = m.block(j); err != nil {
			return dontKnow(), err
		}
		i = 0
	}
}

func (m *Map) back(o starferry.Offset) (starferry.Answer, error) {
	if !m.begun {
		return dontKnow(), nil
	}
	at := max(o, m.startTarget)
	j := max(m.byTarget(at), 0)
	b, err := m.block(j)
	if err != nil {
		return dontKnow(), err
	}
	i := b.byTarget(at)
	var a starferry.Answer
	switch {
	case i < len(b.segments) && at >= b.segments[i].target:
		s := b.segments[i]
		a = starferry.Answer{Offset: s.source + (at - s.target), Status: starferry.Exact}
	case b.uncertainAt(i):
		a = dontKnow()
	case i < len(b.segments):
		a = starferry.Answer{Offset: b.segments[i].source, Status: starferry.InHole}
	case at < b.passed:
		a = starferry.Answer{Offset: b.sourceEnd(), Status: starferry.InHole}
	default:
		a = starferry.Answer{Offset: b.sourceEnd(), Status: starferry.AtEnd}
	}
	if o < m.startTarget {
		a.Status = starferry.BeforeStart
	}
	return a, nil
}

// Segments walks the map in source order, from the segment that contains a
// source offset on.
func (m *Map) Segments(from starferry.Offset) iter.Seq2[Segment, error] {
	return func(yield func(Segment, error) bool) {
		if !m.begun || from >= m.open.sourceEnd() {
			return
		}
		err := m.walk(m.bySource(max(from, m.startSource)), func(s segment) bool {
			if s.sourceEnd() <= max(from, m.startSource) {
				return true
			}
			return yield(s.export(), nil)
		})
		if err != nil {
			yield(Segment{}, err)
		}
	}
}

// walk visits the segments from block j on until visit returns false.
func (m *Map) walk(j int, visit func(segment) bool) error {
	for ; j <= len(m.refs); j++ {
		b, err := m.block(j)
		if err != nil {
			return err
		}
		for _, s := range b.segments {
			if !visit(s) {
				return nil
			}
		}
	}
	return nil
}

// Forget makes the map begin at a source offset, or at Next if that is lower.
// What lies below is BeforeStart from then on.
func (m *Map) Forget(below starferry.Offset) error {
	if !m.begun {
		return fmt.Errorf("forget below source %d: %w", below, ErrNotBegun)
	}
	if below = min(below, m.open.sourceEnd()); below <= m.startSource {
		return nil
	}
	j := m.bySource(below)
	b, err := m.block(j)
	if err != nil {
		return fmt.Errorf("forget below source %d: %w", below, err)
	}
	m.startSource, m.startTarget = below, b.targetEnd()
	if i := b.bySource(below); i < len(b.segments) {
		s := b.segments[i]
		if m.startTarget = s.target; s.kind == copied {
			m.startTarget += below - s.source
		}
	}
	for _, r := range m.refs[:j] {
		delete(m.full, r.source)
	}
	m.refs = append([]ref(nil), m.refs[j:]...)
	return nil
}
