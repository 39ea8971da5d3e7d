package offsetmap

import (
	"errors"
	"fmt"

	"github.com/starferry/starferry"
)

// ErrContradicts is a map that says something else than the one it is to be
// merged into.
var ErrContradicts = errors.New("contradicts the present map")

// Merge fills what the lane does not know from another map of the same lane:
// source offsets below its start, and unknown stretches. Where both know they
// must agree, and the other must end at or below this one's Next: ErrContradicts
// otherwise, and nothing is changed. It returns how many source offsets are known
// now that were not. The lane's writer waits meanwhile.
func (l *Lane) Merge(other *Map) (filled int64, err error) {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	l.mu.Lock()
	err = l.usable()
	var merged *Map
	if err == nil {
		merged, filled, err = merge(&l.m, other)
	}
	if err != nil || filled == 0 {
		l.mu.Unlock()
		if err != nil {
			return 0, fmt.Errorf("merge into lane %s: %w", l.key, err)
		}
		return 0, nil
	}
	load := l.m.load
	l.m = *merged
	l.m.load = load
	for _, r := range l.m.refs {
		l.m.fresh = append(l.m.fresh, l.m.full[r.source])
	}
	l.generation++
	l.sum, l.changes, l.written = 0, 1, 0
	l.list()
	l.id = l.store.ids.Add(1)
	h := l.header(0)
	l.mu.Unlock()
	// As after a Reset: what a crash leaves of it is shorter, and right.
	key := headerKey(l.prefix)
	err = l.store.write(append([]entry{{key, h.encode(key)}}, l.gather()...))
	if err == nil {
		l.flushed()
		err = l.sweep(h)
	}
	if err != nil {
		return filled, fmt.Errorf("merge into lane %s: %w", l.key, err)
	}
	return filled, nil
}

// merge makes one map of two.
func merge(present, other *Map) (*Map, int64, error) {
	if !present.begun || !other.begun {
		return nil, 0, ErrNotBegun
	}
	next, passed := present.Next()
	end, _ := other.Next()
	start, startTarget, unsure, err := present.Front()
	if err != nil {
		return nil, 0, err
	}
	otherStart, otherTarget, otherUnsure, err := other.Front()
	if err != nil {
		return nil, 0, err
	}
	switch {
	case end > next:
		return nil, 0, fmt.Errorf("it goes to source %d, and the lane has copied up to %d: %w", end, next, ErrContradicts)
	case otherStart < start && otherTarget > startTarget:
		return nil, 0, fmt.Errorf("it begins at source %d with target %d, and the lane begins at source %d with target %d already: %w",
			otherStart, otherTarget, start, startTarget, ErrContradicts)
	}
	m := merger{out: &Map{}}
	low, lowTarget := start, startTarget
	if otherStart < start {
		low, lowTarget, unsure = otherStart, otherTarget, otherUnsure
	}
	if unsure {
		low--
	}
	if err := m.out.Reset(low, lowTarget); err != nil {
		return nil, 0, err
	}
	a, b := newCursor(present, low), newCursor(other, low)
	for at := low; at < next; {
		x, err := a.at(at, next)
		if err != nil {
			return nil, 0, err
		}
		y, err := b.at(at, next)
		if err != nil {
			return nil, 0, err
		}
		n := min(x.count, y.count)
		if err := m.put(x, y, n); err != nil {
			return nil, 0, err
		}
		at += starferry.Offset(n)
	}
	return m.out, m.filled, m.out.Pass(passed)
}

// merger adds to a map what two others say of the same source offsets.
type merger struct {
	out    *Map
	filled int64
}

// put adds n source offsets, of which the present map says x and the other y.
func (m *merger) put(x, y segment, n int64) error {
	s := x
	switch {
	case y.kind == unknown:
	case x.kind == unknown:
		s = y
		m.filled += n
	case x.kind != y.kind || x.kind == copied && x.target != y.target:
		return fmt.Errorf("at source %d it says %s, and the lane %s: %w", x.source, y.text(), x.text(), ErrContradicts)
	}
	end := s.source + starferry.Offset(n)
	var err error
	switch {
	case s.kind == copied:
		err = m.out.Append(Run{s.source, s.target, n})
	case s.kind == unknown:
		err = m.out.MarkUnknown(s.source, end)
	default:
		err = m.out.Hole(s.source, end, s.kind.reason())
	}
	if errors.Is(err, ErrOrder) {
		return fmt.Errorf("at source %d the copies would not be in order: %w: %w", s.source, err, ErrContradicts)
	}
	return err
}

func (s segment) text() string {
	switch {
	case s.kind == copied:
		return fmt.Sprintf("that its copy is at target %d", s.target)
	case s.kind == unknown:
		return "that nothing is known"
	}
	return fmt.Sprintf("that it has no copy (%s)", s.kind.reason())
}

// cursor reads a map from the left to the right.
type cursor struct {
	m     *Map
	block int
	b     *block
}

func newCursor(m *Map, from starferry.Offset) *cursor {
	return &cursor{m: m, block: max(0, m.bySource(max(from, m.startSource)))}
}

// at is what the map says from a source offset on; unknown where it is silent,
// up to where it begins, or to end.
func (c *cursor) at(o, end starferry.Offset) (segment, error) {
	next, _ := c.m.Next()
	switch {
	case o < c.m.startSource:
		return segment{source: o, count: int64(min(c.m.startSource, end) - o), kind: unknown}, nil
	case o >= next:
		return segment{source: o, count: int64(end - o), kind: unknown}, nil
	}
	for {
		if c.b == nil {
			b, err := c.m.block(c.block)
			if err != nil {
				return segment{}, err
			}
			c.b = b
		}
		if o < c.b.sourceEnd() {
			break
		}
		c.block, c.b = c.block+1, nil
	}
	s := c.b.segments[c.b.bySource(o)]
	skip := o - s.source
	out := segment{source: o, target: s.target, count: s.count - int64(skip), kind: s.kind}
	if s.kind == copied {
		out.target += skip
	}
	return out, nil
}
