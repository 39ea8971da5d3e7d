package offsetmap

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/starferry/starferry"
)

// life is a lane that wanders between stores, beside the slice of what it knows.
type life struct {
	t      *rapid.T
	stores []*Store
	at     int
	k      LaneKey
	l      *Lane
	o      *oracle
}

func (h *life) reopen() {
	require.NoError(h.t, h.l.Close())
	h.l = openLane(h.t, h.stores[h.at], h.k)
}

// crash takes the newest stored block away, as a machine does that loses power.
// It reports whether the lane is still there.
func (h *life) crash() bool {
	require.NoError(h.t, h.l.Close())
	s := h.stores[h.at]
	entries := storedOf(h.t, s, h.k)
	if len(entries) > 1 {
		require.NoError(h.t, s.write([]entry{{entries[len(entries)-1].key, nil}}))
	}
	l, err := s.Lane(h.k)
	if err != nil { // Forget had seen what is lost
		require.ErrorIs(h.t, err, ErrDamaged)
		require.NoError(h.t, s.Remove(h.k))
		return false
	}
	h.l = l
	next, passed := l.Next()
	h.o.cut(next, passed)
	if next == h.o.startSource {
		h.beginAgain()
	}
	return true
}

// beginAgain is for a lane that lost all but where it begins. Where that is on
// the target depends on what it kept in front of its start: anywhere behind the
// last copy below, up to where the first one was. It must say so for sure if all
// below is sure.
func (h *life) beginAgain() {
	next, passed := h.l.Next()
	a, err := h.l.Forward(next)
	require.NoError(h.t, err)
	if a.Status == starferry.Unknown {
		require.True(h.t, h.o.unsureBefore(len(h.o.entries)), "%+v is known", a)
		return
	}
	require.GreaterOrEqual(h.t, a.Offset, h.o.end)
	require.LessOrEqual(h.t, a.Offset, max(h.o.end, h.o.startTarget))
	*h.o = oracle{first: next, startSource: next, startTarget: h.o.startTarget, end: a.Offset, passed: passed, startEnd: a.Offset}
}

// cut makes the slice as short as a map is.
func (o *oracle) cut(next, passed starferry.Offset) {
	o.entries = o.entries[:next-o.first]
	o.end, o.passed = o.startEnd, passed
	for _, e := range o.entries {
		if e.kind == copied {
			o.end = e.target + 1
		}
	}
}

// move restores a snapshot in the other store; the lane is gone from the first.
func (h *life) move() {
	require.NoError(h.t, h.l.Flush())
	var b bytes.Buffer
	_, err := h.stores[h.at].Snapshot(h.k, &b)
	require.NoError(h.t, err)
	require.NoError(h.t, h.l.Close())
	require.NoError(h.t, h.stores[h.at].Remove(h.k))
	h.at = 1 - h.at
	h.l = openLane(h.t, h.stores[h.at], h.k)
	require.NoError(h.t, h.l.Restore(&b))
}

// forgetAndImport writes the lane as text, forgets a part of it, and merges the
// text back.
func (h *life) forgetAndImport() {
	var whole Map
	source, target, unsure, err := h.l.Front()
	require.NoError(h.t, err)
	if unsure {
		return // the text begins with an unknown offset more than the slice
	}
	require.NoError(h.t, whole.Reset(source, target))
	for s, err := range h.l.Segments(0) {
		require.NoError(h.t, err)
		if before := source - s.Source; before > 0 {
			s.Source, s.Target, s.Count = s.Source+before, s.Target+before, s.Count-int64(before)
		}
		switch s.Status {
		case starferry.Exact:
			err = whole.Append(s.Run)
		case starferry.InHole:
			err = whole.Hole(s.Source, s.Source+starferry.Offset(s.Count), s.Reason)
		default:
			err = whole.MarkUnknown(s.Source, s.Source+starferry.Offset(s.Count))
		}
		require.NoError(h.t, err)
	}
	_, passed := h.l.Next()
	require.NoError(h.t, whole.Pass(passed))
	text := asText(h.t, &whole)
	next, _ := h.l.Next()
	below := starferry.Offset(rapid.IntRange(int(source), int(next)).Draw(h.t, "forget below"))
	require.NoError(h.t, h.l.Forget(below))
	var filled int64
	err = ReadText(strings.NewReader(text), anyHead, func(_ TextLane, m *Map) error {
		var err error
		filled, err = h.l.Merge(m)
		return err
	})
	require.NoError(h.t, err)
	if filled == 0 { // it knew nothing of what was forgotten
		h.o.forget(below)
	}
}

func (h *life) trim() {
	next, passed := h.l.Next()
	source := starferry.Offset(rapid.IntRange(0, int(next)).Draw(h.t, "source start"))
	target := starferry.Offset(rapid.IntRange(0, int(passed)).Draw(h.t, "target start"))
	from, err := h.l.Trim(source, target)
	require.NoError(h.t, err)
	require.LessOrEqual(h.t, from, max(source, h.o.startSource), "what the source still has is kept")
	h.o.forget(from)
}

// Whatever happens to a lane, it agrees with the slice: growth, reopening, a lost
// tail, a move to another machine, export and import, forgetting.
func TestAnyHistoryAgreesWithASlice(t *testing.T) {
	stores := []*Store{openStore(t, t.TempDir()), openStore(t, t.TempDir())}
	lanes := starferry.Partition(0)
	rapid.Check(t, func(t *rapid.T) {
		lanes++
		h := &life{t: t, stores: stores, k: key(lanes), o: begin(t)}
		h.o.startEnd = h.o.end
		h.l = openLane(t, stores[0], h.k)
		require.NoError(t, h.l.Reset(h.o.first, h.o.end))
		defer func() { _ = h.l.Close() }()
		for range rapid.IntRange(1, 6).Draw(t, "events") {
			grow(t, h.o, h.l)
			switch rapid.IntRange(0, 6).Draw(t, "event") {
			case 0:
				h.reopen()
			case 1:
				if !h.crash() {
					return
				}
			case 2:
				h.move()
			case 3:
				h.forgetAndImport()
			case 4:
				h.trim()
			default:
				require.NoError(t, h.l.Flush())
			}
		}
		agrees(t, h.o, h.l)
	})
}
