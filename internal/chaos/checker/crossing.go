package checker

import (
	"fmt"
	"slices"

	"github.com/starferry/starferry"
)

// Kind is what stands at an offset of a log.
type Kind byte

// The kinds of entries.
const (
	Data    Kind = iota
	Aborted      // a record of an aborted transaction
	Marker       // of a transaction; it has neither ID nor sum
)

// Entry is what a log holds at one offset.
type Entry struct {
	Offset starferry.Offset
	ID     ID
	Key    uint64 // digest of the record's key
	Sum    uint64 // digest of key, value, headers and timestamp
	Kind   Kind
}

// Answers are a map's answers for neighbouring offsets, from the first on. One
// that could not be had has no status.
type Answers struct {
	First starferry.Offset
	Given []starferry.Answer
}

// Crossing is all that is known of one lane.
type Crossing struct {
	Lane starferry.TopicPartition
	// Compacted: cleaners may take records from either log at any time.
	Compacted bool
	// Behind: the copy has not caught up, so what the source holds behind the
	// last copy is not lost.
	Behind bool
	// Source and Target are the logs, in order of their offsets, with aborted
	// records and markers.
	Source, Target []Entry
	// Sent are records whose offset and sum the source has acknowledged, in any
	// order: it tells of those that its cleaner has taken.
	Sent []Entry
	// Forward and Back are the map's answers, for offsets of the source and of
	// the target.
	Forward, Back Answers
}

// Balance is what a crossing comes to.
type Balance struct {
	Copied     int // records on the target
	Lost       int
	Doubled    int
	OutOfOrder int
	Altered    int // other bytes, or nothing that the source ever committed
	MapWrong   int // offsets with a wrong answer
	Asked      int // offsets the map was asked for
	Unknown    int // answers "unknown", where cleaners were at work
	Findings   []string
}

// OK reports whether nothing was found.
func (b Balance) OK() bool {
	return b.Lost+b.Doubled+b.OutOfOrder+b.Altered+b.MapWrong == 0
}

// Add sums up.
func (b *Balance) Add(o Balance) {
	b.Copied += o.Copied
	b.Lost += o.Lost
	b.Doubled += o.Doubled
	b.OutOfOrder += o.OutOfOrder
	b.Altered += o.Altered
	b.MapWrong += o.MapWrong
	b.Asked += o.Asked
	b.Unknown += o.Unknown
	b.Findings = append(b.Findings, o.Findings...)
}

// String is the line that people look for.
func (b Balance) String() string {
	return fmt.Sprintf("%d copied, %d places asked: lost %d doubled %d out_of_order %d altered %d map_wrong %d",
		b.Copied, b.Asked, b.Lost, b.Doubled, b.OutOfOrder, b.Altered, b.MapWrong)
}

// maxOfLane is how many findings of a kind are spelt out for each lane.
const maxOfLane = 3

// walk is a crossing while it is looked at.
type walk struct {
	Crossing
	b      Balance
	found  map[string]int                        // findings of a kind
	byID   map[ID]Entry                          // of the source
	at     map[starferry.Offset]Entry            // of the source
	place  map[starferry.Offset]starferry.Offset // of copies on the target
	back   map[starferry.Offset]starferry.Offset // where they came from
	copies []pair                                // in order
}

// pair is a record and its copy.
type pair struct{ source, target starferry.Offset }

// Balance compares both logs and the map, record by record.
func (c Crossing) Balance() Balance {
	w := walk{Crossing: c, found: map[string]int{}, byID: map[ID]Entry{}, at: map[starferry.Offset]Entry{},
		place: map[starferry.Offset]starferry.Offset{}, back: map[starferry.Offset]starferry.Offset{}}
	for _, e := range slices.Concat(c.Sent, c.Source) { // what is there has the last word
		w.at[e.Offset] = e
		if e.Kind != Marker {
			w.byID[e.ID] = e
		}
	}
	w.records()
	w.missing()
	for i, a := range c.Forward.Given {
		w.b.Asked++
		w.forward(c.Forward.First+starferry.Offset(i), a)
	}
	for i, a := range c.Back.Given {
		w.b.Asked++
		w.backward(c.Back.First+starferry.Offset(i), a)
	}
	return w.b
}

func (w *walk) find(kind, format string, args ...any) {
	if w.found[kind]++; w.found[kind] <= maxOfLane {
		w.b.Findings = append(w.b.Findings, fmt.Sprintf("%s: %s: "+format, append([]any{kind, w.Lane}, args...)...))
	}
}

// records walks the target: each record once, in order, byte for byte.
func (w *walk) records() {
	last := starferry.Offset(-1)
	for _, t := range w.Target {
		if t.Kind == Marker {
			continue
		}
		w.b.Copied++
		s, ok := w.byID[t.ID]
		_, twice := w.place[s.Offset]
		switch {
		case !ok:
			w.b.Altered++
			w.find("altered", "target offset %d holds record %d, which the source never had", t.Offset, t.ID)
			continue
		case s.Kind == Aborted:
			w.b.Altered++
			w.find("altered", "target offset %d holds record %d, whose transaction was aborted", t.Offset, t.ID)
			continue
		case twice:
			w.b.Doubled++
			w.find("doubled", "record %d (source offset %d) stands at target offsets %d and %d", t.ID, s.Offset, w.place[s.Offset], t.Offset)
			continue
		case s.Offset < last:
			w.b.OutOfOrder++
			w.find("out of order", "record %d (source offset %d) at target offset %d comes after source offset %d", t.ID, s.Offset, t.Offset, last)
		}
		if s.Sum != t.Sum {
			w.b.Altered++
			w.find("altered", "record %d is not the same at source offset %d and target offset %d", t.ID, s.Offset, t.Offset)
		}
		w.place[s.Offset], w.back[t.Offset] = t.Offset, s.Offset
		if s.Offset > last {
			w.copies = append(w.copies, pair{s.Offset, t.Offset})
			last = s.Offset
		}
	}
}

// missing walks the source: nothing that it holds is lost. The target's cleaner
// may have taken what has a later record of the same key.
func (w *walk) missing() {
	newest := map[uint64]starferry.Offset{} // of what the target holds, by its place on the source
	if w.Compacted {
		for _, t := range w.Target {
			if s, ok := w.byID[t.ID]; ok && t.Kind == Data {
				newest[t.Key] = max(newest[t.Key], s.Offset)
			}
		}
	}
	end := starferry.Offset(1 << 62)
	if n := len(w.copies); w.Behind && n > 0 {
		end = w.copies[n-1].source
	} else if w.Behind {
		end = 0
	}
	for _, s := range w.Source {
		if s.Offset >= end {
			break
		}
		if _, ok := w.place[s.Offset]; ok || s.Kind != Data || w.Compacted && newest[s.Key] > s.Offset {
			continue
		}
		w.b.Lost++
		w.find("lost", "record %d, source offset %d", s.ID, s.Offset)
	}
}

// near returns the copies around a source offset; the ends of the world where
// there are none.
func (w *walk) near(key func(pair) starferry.Offset, o starferry.Offset) (before, after pair) {
	i, _ := slices.BinarySearchFunc(w.copies, o, func(p pair, o starferry.Offset) int { return int(key(p) - o) })
	before, after = pair{-1, -1}, pair{1 << 62, 1 << 62}
	if i > 0 {
		before = w.copies[i-1]
	}
	if i < len(w.copies) {
		after = w.copies[i]
	}
	return before, after
}

func bySource(p pair) starferry.Offset { return p.source }
func byTarget(p pair) starferry.Offset { return p.target }

func (w *walk) wrong(way string, o starferry.Offset, a starferry.Answer, want string) {
	w.b.MapWrong++
	w.find("map wrong", "%s of %d is %s %d %s, and should be %s", way, o, a.Status, a.Offset, a.Reason, want)
}

// forward judges the answer for a source offset.
func (w *walk) forward(o starferry.Offset, a starferry.Answer) {
	if w.Compacted && a.Status == starferry.Unknown {
		w.b.Unknown++
		return
	}
	if t, ok := w.place[o]; ok {
		if a.Status != starferry.Exact || a.Offset != t {
			w.wrong("forward", o, a, fmt.Sprintf("exact %d", t))
		}
		return
	}
	before, after := w.near(bySource, o)
	s, known := w.at[o]
	why := starferry.Compacted
	switch {
	case known && s.Kind == Marker:
		why = starferry.Control
	case known && s.Kind == Aborted:
		why = starferry.Aborted
	case known && !w.Compacted:
		return // lost, and counted as such
	}
	between := a.Offset > before.target && a.Offset <= after.target
	switch {
	case a.Status == starferry.InHole && a.Reason == why && between && (w.Compacted || after.target == 1<<62 || a.Offset == after.target):
	case w.Compacted && a.Status == starferry.Exact && between && a.Offset < after.target: // its copy is gone since
	default:
		w.wrong("forward", o, a, fmt.Sprintf("in a hole (%s) before %d", why, after.target))
	}
}

// backward judges the answer for a target offset.
func (w *walk) backward(o starferry.Offset, a starferry.Answer) {
	if w.Compacted && a.Status == starferry.Unknown {
		w.b.Unknown++
		return
	}
	if s, ok := w.back[o]; ok {
		if a.Status != starferry.Exact || a.Offset != s {
			w.wrong("back", o, a, fmt.Sprintf("exact %d", s))
		}
		return
	}
	before, after := w.near(byTarget, o)
	between := a.Offset > before.source && a.Offset <= after.source
	switch {
	case a.Status == starferry.InHole && between && (w.Compacted || after.source == 1<<62 || a.Offset == after.source):
	case a.Status == starferry.BeforeStart && before.source < 0:
	case after.source == 1<<62 && between && (a.Status == starferry.AtEnd || a.Status == starferry.Exact): // behind the last copy
	case w.Compacted && a.Status == starferry.Exact && between && a.Offset < after.source:
	default:
		w.wrong("back", o, a, fmt.Sprintf("in a hole before %d", after.source))
	}
}
