package offsetmap

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/starferry/starferry"
)

// part is a map that knows of the slice what lies in [from, to), and forgets
// some of it.
func (o *oracle) part(t *rapid.T, from, to starferry.Offset) *Map {
	m := &Map{}
	target := o.end
	if int(from-o.first) < len(o.entries) {
		e := o.entries[from-o.first]
		target = e.target
	}
	require.NoError(t, m.Reset(from, target))
	lose := rapid.IntRange(0, 3).Draw(t, "lose")
	for s := from; s < to; s++ {
		e := o.entries[s-o.first]
		var err error
		switch {
		case e.kind == unknown, lose > 0 && rapid.IntRange(0, 5).Draw(t, "lost") < lose:
			err = m.MarkUnknown(s, s+1)
		case e.kind == copied:
			err = m.Append(Run{s, e.target, 1})
		default:
			err = m.Hole(s, s+1, e.kind.reason())
		}
		require.NoError(t, err)
	}
	return m
}

// entry is what the map says of one source offset.
func (m *Map) entry(t require.TestingT, s starferry.Offset) segment {
	for seg, err := range m.Segments(s) {
		require.NoError(t, err)
		out := segment{source: s, count: 1, kind: unknown}
		if seg.Status == starferry.Exact {
			out.kind, out.target = copied, seg.Target+(s-seg.Source)
		} else if seg.Status == starferry.InHole {
			out.kind, _ = holeKind(seg.Reason)
		}
		return out
	}
	return segment{source: s, kind: unknown}
}

// Two maps of the same history that each know a part make one that knows both,
// and nothing else; a lie is refused and changes nothing.
func TestMergedMapsAgreeWithASlice(t *testing.T) {
	s := openStore(t, t.TempDir())
	lanes, lies := starferry.Partition(0), 0
	rapid.Check(t, func(t *rapid.T) {
		o := begin(t)
		var whole Map
		require.NoError(t, whole.Reset(o.first, o.end))
		for range rapid.IntRange(1, 3).Draw(t, "rounds") {
			grow(t, o, &whole)
		}
		at := func(name string, low, high starferry.Offset) starferry.Offset {
			return starferry.Offset(rapid.IntRange(int(low), int(high)).Draw(t, name))
		}
		start := at("start", o.first, o.next())
		otherStart := at("other start", o.first, o.next())
		present, other := o.part(t, start, o.next()), o.part(t, otherStart, at("other end", otherStart, o.next()))

		lanes++
		l := openLane(t, s, key(lanes))
		defer func() { _ = l.Close() }()
		source, target := present.Start()
		require.NoError(t, l.Reset(source, target))
		for seg := range present.Segments(0) {
			require.NoError(t, mirror(l, seg))
		}
		if rapid.Bool().Draw(t, "flush") {
			require.NoError(t, l.Flush())
		}
		want := map[starferry.Offset]segment{}
		filled := int64(0)
		for p := o.first; p < o.next(); p++ {
			x := segment{source: p, kind: unknown}
			if p >= start {
				x = present.entry(t, p)
			}
			end, _ := other.Next()
			if x.kind == unknown && p >= otherStart && p < end {
				if y := other.entry(t, p); y.kind != unknown {
					x = y
					filled++
				}
			}
			want[p] = x
		}
		n, err := l.Merge(other)
		require.NoError(t, err)
		require.Equal(t, filled, n)
		check := func() {
			from, _ := l.Start()
			for p := from; p < o.next(); p++ {
				got := segmentOf(t, l, p)
				require.Equal(t, want[p].kind, got.kind, "source %d", p)
				if got.kind == copied {
					require.Equal(t, want[p].target, got.target, "source %d", p)
				}
			}
		}
		check()
		require.NoError(t, l.Close())
		l = openLane(t, s, key(lanes))
		check()
		if lie := liar(t, l, o); lie != nil {
			lies++
			_, err := l.Merge(lie)
			require.ErrorIs(t, err, ErrContradicts)
			check()
		}
	})
	require.Positive(t, lies)
}

// liar is a map that places a record elsewhere than the lane does.
func liar(t *rapid.T, l *Lane, o *oracle) *Map {
	from, _ := l.Start()
	for p := from; p < o.next(); p++ {
		if s := segmentOf(t, l, p); s.kind == copied {
			m := &Map{}
			require.NoError(t, m.Reset(p, s.target))
			require.NoError(t, m.Append(Run{p, s.target + 1, 1}))
			return m
		}
	}
	return nil
}

func segmentOf(t require.TestingT, l *Lane, p starferry.Offset) segment {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.m.entry(t, p)
}

func mirror(l *Lane, s Segment) error {
	switch s.Status {
	case starferry.Exact:
		return l.Append(s.Run)
	case starferry.InHole:
		return l.Hole(s.Source, s.Source+starferry.Offset(s.Count), s.Reason)
	}
	return l.MarkUnknown(s.Source, s.Source+starferry.Offset(s.Count))
}

func TestMergeRefusesTheFuture(t *testing.T) {
	s := openStore(t, t.TempDir())
	l := openLane(t, s, key(1))
	require.NoError(t, l.Reset(100, 50))
	require.NoError(t, l.Append(Run{100, 50, 10}))
	var m Map
	require.NoError(t, m.Reset(0, 0))
	require.NoError(t, m.Append(Run{0, 0, 50}))
	require.NoError(t, m.MarkUnknown(50, 111))
	_, err := l.Merge(&m)
	require.ErrorIs(t, err, ErrContradicts)
	require.ErrorContains(t, err, "goes to source 111, and the lane has copied up to 110")

	var early Map // an estate that was copied by other means, and by this from 100 on
	require.NoError(t, early.Reset(0, 0))
	require.NoError(t, early.Append(Run{0, 0, 50}))
	n, err := l.Merge(&early)
	require.NoError(t, err)
	require.Equal(t, int64(50), n)
	for source, want := range map[starferry.Offset]starferry.Answer{
		49: {Offset: 49, Status: starferry.Exact}, 50: dontKnow(), 99: dontKnow(), 100: {Offset: 50, Status: starferry.Exact}, 110: {Offset: 60, Status: starferry.AtEnd},
	} {
		a, err := l.Forward(source)
		require.NoError(t, err)
		require.Equal(t, want, a, "source %d", source)
	}
	n, err = l.Merge(&early)
	require.NoError(t, err)
	require.Zero(t, n, "again changes nothing")
	require.NoError(t, l.Append(Run{110, 60, 5}))
}
