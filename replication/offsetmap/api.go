// Package offsetmap keeps the exact two-way map of a lane.
package offsetmap

import (
	"errors"
	"iter"
	"log/slog"

	"github.com/starferry/starferry"
)

// What callers act on.
var (
	// ErrDamaged: the stored map cannot be trusted. Remove the lane (or, if
	// OpenStore said it, the directory) and rebuild it from the target log.
	ErrDamaged = errors.New("offset map is damaged")
	// ErrNotBegun: the lane has no start yet; call Reset first.
	ErrNotBegun = errors.New("offset map has no start")
	// ErrOrder: what was appended does not follow what is there.
	ErrOrder = errors.New("out of order")
	// ErrInUse: another process has the store open.
	ErrInUse = errors.New("offset store is in use")
)

// Run is a stretch where target − source is constant.
type Run struct {
	Source, Target starferry.Offset
	Count          int64
}

// Segment is one entry of a map, in source order: a run (Exact), a hole
// (InHole, with Reason) or an unknown stretch (Unknown). Target of the latter
// two is the target position after the copied records before it.
type Segment struct {
	Run
	Status starferry.Status
	Reason starferry.Reason
}

// Translated is the translation of a place.
type Translated struct {
	Place  starferry.Place
	Answer starferry.Answer
	// Behind is how many offsets the copy still has to pass before the answer
	// is final; 0 with Exact and InHole.
	Behind int64
}

// LaneKey names a lane in a store.
type LaneKey struct {
	Link starferry.LinkName
	starferry.TopicPartition
	Incarnation string // the topic's id, or another name of this life of it
}

// Options of a store.
type Options struct {
	Logger *slog.Logger // nil: discard
}

// Store keeps the maps of many lanes in one Badger directory.
type Store struct{}

// OpenStore opens or creates a store.
func OpenStore(dir string, o Options) (*Store, error) { return nil, nil }

// Lane opens a lane and verifies it whole. Each lane is open once at a time.
func (s *Store) Lane(key LaneKey) (*Lane, error) { return nil, nil }

// Lanes lists the stored lanes of a link ("" for all).
func (s *Store) Lanes(link starferry.LinkName) ([]LaneKey, error) { return nil, nil }

// Remove deletes a lane that is not open.
func (s *Store) Remove(key LaneKey) error { return nil }

// Flush writes what all open lanes have gathered.
func (s *Store) Flush() error { return nil }

// Close flushes and closes.
func (s *Store) Close() error { return nil }

// Lane is the stored map of one lane: many readers, one writer.
type Lane struct{}

// Begun reports whether the lane has a start.
func (l *Lane) Begun() bool { return false }

// Reset empties the lane and begins it at these positions.
func (l *Lane) Reset(source, target starferry.Offset) error { return nil }

// Append adds copied records. Source must be Next's; Target not below it.
func (l *Lane) Append(r Run) error { return nil }

// Hole adds source offsets [from, to) that have no copy.
func (l *Lane) Hole(from, to starferry.Offset, why starferry.Reason) error { return nil }

// MarkUnknown adds source offsets [from, to) of which nothing can be proven.
func (l *Lane) MarkUnknown(from, to starferry.Offset) error { return nil }

// Pass notes that target offsets below target hold no further copies: fence
// markers and records that are not ours. Without it a position behind a marker
// at the end of the target cannot be translated back.
func (l *Lane) Pass(target starferry.Offset) error { return nil }

// Next is where the copy stands: the next source offset to copy and the target
// position from which its copy is looked for.
func (l *Lane) Next() (source, target starferry.Offset) { return }

// Start is the first position the map remembers.
func (l *Lane) Start() (source, target starferry.Offset) { return }

// Forward says where the record at a source offset is on the target.
func (l *Lane) Forward(o starferry.Offset) (starferry.Answer, error) { return starferry.Answer{}, nil }

// Back says which source record the target record is the copy of.
func (l *Lane) Back(o starferry.Offset) (starferry.Answer, error) { return starferry.Answer{}, nil }

// TranslateForward translates a place (next to read, and handled ranges).
func (l *Lane) TranslateForward(p starferry.Place) (Translated, error) { return Translated{}, nil }

// TranslateBack is the way back.
func (l *Lane) TranslateBack(p starferry.Place) (Translated, error) { return Translated{}, nil }

// Forget drops what lies below a source offset, up to Next.
func (l *Lane) Forget(below starferry.Offset) error { return nil }

// Segments walks the map in source order from a source offset.
func (l *Lane) Segments(from starferry.Offset) iter.Seq2[Segment, error] { return nil }

// Flush hands what was gathered to the store.
func (l *Lane) Flush() error { return nil }

// Close flushes and closes the lane.
func (l *Lane) Close() error { return nil }
