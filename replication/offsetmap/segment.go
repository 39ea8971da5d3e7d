package offsetmap

import (
	"errors"
	"fmt"
	"math"
	"sort"

	"github.com/starferry/starferry"
)

// What callers act on.
var (
	// ErrDamaged is a stored map that cannot be trusted: remove the lane (or the
	// directory, if OpenStore says it) and rebuild it from the target log.
	ErrDamaged = errors.New("offset map is damaged")
	// ErrNotBegun is a lane that has no start yet: call Reset first.
	ErrNotBegun = errors.New("offset map has no start")
	// ErrOrder is an addition that does not follow what the map holds.
	ErrOrder = errors.New("does not follow the map")
	// ErrInUse is a store that another process, or a lane that another owner,
	// has open.
	ErrInUse = errors.New("in use")
	// ErrClosed is a lane or store after Close.
	ErrClosed = errors.New("closed")
)

// Run is a stretch of copied records where target − source is constant.
type Run struct {
	Source, Target starferry.Offset
	Count          int64
}

// Segment is one entry of a map, in source order: a run (Status Exact), a hole
// (InHole, with its reason) or an unknown stretch (Unknown). The Target of the
// latter two is the target position behind the copied records before them.
type Segment struct {
	Run
	Status starferry.Status
	Reason starferry.Reason
}

// kind is what a segment is. The numbers are stored.
type kind uint8

const (
	copied kind = iota
	holeControl
	holeAborted
	holeCompacted
	holeDeleted
	holeFiltered
	unknown
	copiedBehindGap // in storage only: the size of the gap follows
	holeReturned
)

func (k kind) hole() bool { return k >= holeControl && k <= holeFiltered || k == holeReturned }

func (k kind) reason() starferry.Reason {
	switch k {
	case holeControl:
		return starferry.Control
	case holeAborted:
		return starferry.Aborted
	case holeCompacted:
		return starferry.Compacted
	case holeDeleted:
		return starferry.Deleted
	case holeFiltered:
		return starferry.Filtered
	case holeReturned:
		return starferry.Returned
	}
	return ""
}

func holeKind(why starferry.Reason) (kind, error) {
	for k := copied; k <= holeReturned; k++ {
		if k.hole() && k.reason() == why {
			return k, nil
		}
	}
	return 0, fmt.Errorf("%q is no reason of a hole", why)
}

// segment is a Segment in memory.
type segment struct {
	source, target starferry.Offset
	count          int64
	kind           kind
}

func (s segment) sourceEnd() starferry.Offset { return s.source + starferry.Offset(s.count) }

func (s segment) targetEnd() starferry.Offset {
	if s.kind != copied {
		return s.target
	}
	return s.target + starferry.Offset(s.count)
}

func (s segment) export() Segment {
	out := Segment{Run: Run{s.source, s.target, s.count}, Status: starferry.Exact}
	switch {
	case s.kind == unknown:
		out.Status = starferry.Unknown
	case s.kind.hole():
		out.Status, out.Reason = starferry.InHole, s.kind.reason()
	}
	return out
}

// blockSize is the number of segments a block holds: what is read, verified and
// written at once.
const blockSize = 128

// maxOffset leaves room for sums and for the packing of counts.
const maxOffset = starferry.Offset(math.MaxInt64 >> 8)

// block is a stretch of consecutive segments.
type block struct {
	// source and target are the positions in front of its first segment.
	source, target starferry.Offset
	// uncertain says that an unknown stretch lies between the last copied
	// record and the block, so that its copies may lie right in front of it.
	uncertain bool
	segments  []segment
	// passed is the target position below which no further copies will come.
	passed starferry.Offset
}

func (b *block) sourceEnd() starferry.Offset {
	if n := len(b.segments); n > 0 {
		return b.segments[n-1].sourceEnd()
	}
	return b.source
}

// targetEnd is the position behind the last copied record.
func (b *block) targetEnd() starferry.Offset {
	if n := len(b.segments); n > 0 {
		return b.segments[n-1].targetEnd()
	}
	return b.target
}

// bySource is the index of the segment that contains a source offset of the block.
func (b *block) bySource(o starferry.Offset) int {
	return sort.Search(len(b.segments), func(i int) bool { return b.segments[i].sourceEnd() > o })
}

// byTarget is the index of the first run that ends above a target offset, or
// the number of segments.
func (b *block) byTarget(o starferry.Offset) int {
	return sort.Search(len(b.segments), func(i int) bool { return b.segments[i].targetEnd() > o })
}

// uncertainAt reports whether an unknown stretch lies between the last copied
// record in front of segment i and that segment.
func (b *block) uncertainAt(i int) bool {
	for i--; i >= 0; i-- {
		switch b.segments[i].kind {
		case copied:
			return false
		case unknown:
			return true
		}
	}
	return b.uncertain
}

// onlyHoles reports whether the block has neither runs nor unknown stretches.
func (b *block) onlyHoles() bool {
	for _, s := range b.segments {
		if !s.kind.hole() {
			return false
		}
	}
	return true
}
