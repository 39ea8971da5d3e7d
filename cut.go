package starferry

import (
	"maps"
	"slices"
)

// Range is a half-open stretch of offsets, [From, To).
type Range struct {
	From Offset `json:"from"`
	To   Offset `json:"to"`
}

// Contains reports whether o lies in the range.
func (r Range) Contains(o Offset) bool { return r.From <= o && o < r.To }

// Place is where a group stands in one partition: everything below Next is
// handled, and so is everything in Handled, which lies above Next in ascending
// order.
type Place struct {
	Next    Offset  `json:"next"`
	Handled []Range `json:"handled,omitempty"`
}

// Equal reports whether two places say the same.
func (p Place) Equal(o Place) bool { return p.Next == o.Next && slices.Equal(p.Handled, o.Handled) }

// Cut is a group's place in every partition it reads, on one cluster. Only cuts
// translate to cuts: once a target has records of its own, a plain offset would
// skip them.
type Cut map[TopicPartition]Place

// Equal reports whether two cuts say the same of the same partitions.
func (c Cut) Equal(o Cut) bool { return maps.EqualFunc(c, o, Place.Equal) }

// Partitions returns the cut's partitions in order.
func (c Cut) Partitions() []TopicPartition {
	return slices.SortedFunc(maps.Keys(c), TopicPartition.Compare)
}

// Topics returns the names of the cut's topics in order.
func (c Cut) Topics() []Topic {
	seen := map[Topic]bool{}
	for tp := range c {
		seen[tp.Topic] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// Status says how well a translated offset is known.
type Status string

// The answers of an offset map.
const (
	Exact       Status = "exact"        // the record's own place
	InHole      Status = "in_hole"      // not copied; the place of the next copied record
	AtEnd       Status = "at_end"       // nothing there yet; exact once the copy passes it
	BeforeStart Status = "before_start" // older than what the map remembers
	Unknown     Status = "unknown"      // cannot be proven; never a guess
)

// Reason says why source offsets have no copy.
type Reason string

// The reasons of a hole.
const (
	Control   Reason = "control"   // a transaction marker
	Aborted   Reason = "aborted"   // a record of an aborted transaction
	Compacted Reason = "compacted" // removed by the source's cleaner
	Deleted   Reason = "deleted"   // removed by the source's retention before it was copied
	Filtered  Reason = "filtered"  // left out by the link's own rules
	Returned  Reason = "returned"  // a copy of the target's own record, not sent back
)

// Answer is the translation of one offset.
type Answer struct {
	Offset Offset `json:"offset"`
	Status Status `json:"status"`
	// Reason is set when Status is InHole.
	Reason Reason `json:"reason,omitempty"`
}

// Translation is the answer to a whole cut: Cut is complete only if Missing is
// empty. Cut goes by the partitions of the other side, which a link may have
// given other names; all the rest by those of the question.
type Translation struct {
	Cut     Cut                       `json:"cut"`
	Answers map[TopicPartition]Answer `json:"answers"`
	// Missing says for each partition that could not be translated why not.
	Missing map[TopicPartition]string `json:"missing,omitempty"`
	// Behind says for each partition how many source offsets the copy still has
	// to pass before the answer is final. Empty when the cut is final.
	Behind map[TopicPartition]int64 `json:"behind,omitempty"`
}

// Final reports whether every partition has an exact place that will not move.
func (t Translation) Final() bool { return len(t.Missing) == 0 && len(t.Behind) == 0 }

// Direction says which way a link is asked.
type Direction string

// Forward asks from source to target, Back from target to source.
const (
	Forward Direction = "forward"
	Back    Direction = "back"
)
