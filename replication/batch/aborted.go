package batch

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/starferry/starferry"
)

// AbortedTxn is an entry of a fetch response's list of aborted transactions
// (KIP-98, isolation level read committed).
type AbortedTxn struct {
	ProducerID  int64
	FirstOffset starferry.Offset
}

// Class is what a batch is to a reader of committed records.
type Class int8

// The classes.
const (
	Data    Class = iota // to be copied
	Aborted              // records of an aborted transaction
	Control              // a transaction marker
)

// String names the class.
func (c Class) String() string {
	switch c {
	case Data:
		return "data"
	case Aborted:
		return "aborted"
	case Control:
		return "control"
	}
	return fmt.Sprintf("class %d", int8(c))
}

// Filter tells aborted batches from data, for the batches of one partition in
// one fetch response, in order. The list of each response covers all of it, so
// each response takes a new filter.
type Filter struct {
	waiting []AbortedTxn // by first offset
	open    map[int64]bool
}

// NewFilter takes the response's list, in any order.
func NewFilter(aborted []AbortedTxn) *Filter {
	waiting := slices.Clone(aborted)
	slices.SortFunc(waiting, func(a, b AbortedTxn) int { return cmp.Compare(a.FirstOffset, b.FirstOffset) })
	return &Filter{waiting: waiting, open: map[int64]bool{}}
}

// Class classes the next batch. It fails only if a control batch cannot be
// read; then nothing behind it can be classed either.
func (f *Filter) Class(b Batch) (Class, error) {
	for len(f.waiting) > 0 && f.waiting[0].FirstOffset <= b.LastOffset() {
		f.open[f.waiting[0].ProducerID] = true
		f.waiting = f.waiting[1:]
	}
	if b.Control() {
		if b.Count() == 0 {
			return Control, nil // emptied by the cleaner together with its transaction
		}
		marker, err := MarkerOf(b)
		if err != nil {
			return Control, err
		}
		if marker == AbortMarker {
			delete(f.open, b.ProducerID())
		}
		return Control, nil
	}
	if b.Transactional() && f.open[b.ProducerID()] {
		return Aborted, nil
	}
	return Data, nil
}

// Marker is what a control batch says. Other values than these belong to other
// kinds of logs and mean nothing to a reader.
type Marker int16

// The transaction markers.
const (
	AbortMarker  Marker = 0
	CommitMarker Marker = 1
)

// controlLimit is ample for a control record, which has a few bytes.
const controlLimit = 64 << 10

// MarkerOf reads the control record of a control batch.
func MarkerOf(b Batch) (Marker, error) {
	if !b.Control() {
		return 0, b.wrong("attributes", "not a control batch")
	}
	for r, err := range Records(b, controlLimit) {
		switch {
		case err != nil:
			return 0, err
		case len(r.Key) < 4:
			return 0, b.wrong("control record key", "%d bytes hold no version and type", len(r.Key))
		}
		return Marker(binary.BigEndian.Uint16(r.Key[2:])), nil
	}
	return 0, b.wrong("record count", "a control batch without its record")
}
