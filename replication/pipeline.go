package replication

import (
	"slices"

	"github.com/starferry/starferry"
)

// piece is a stretch of source offsets as the copy sees it: records that are
// copied, or a hole.
type piece struct {
	source starferry.Offset
	count  int64
	hole   starferry.Reason // empty: copied records
}

func (p piece) end() starferry.Offset { return p.source + starferry.Offset(p.count) }

// entry is one batch on its way to the target with the source offsets it stands
// for, or holes alone (no batch).
type entry struct {
	pieces  []piece
	batch   []byte
	load    *load // memory that batch lies in; nil: of no account
	records int32
	passed  bool  // forwarded without being opened
	alone   bool  // not to be merged
	odd     bool  // the place it claims is surprising
	epoch   int32 // of the source's leader that appended it
	seq     int32 // base sequence, once stamped
	stamped bool
	unsure  bool  // it may have been written by a sending that failed
	newest  int64 // by which a leader remembers it, Unix milliseconds, once stamped
	phase   phase
	target  starferry.Offset // base offset on the target, once acked
}

type phase uint8

const (
	waiting phase = iota
	sent
	failed
	acked
)

// next is the source offset after the entry.
func (e *entry) next() starferry.Offset { return e.pieces[len(e.pieces)-1].end() }

// pipeline is a lane's ordered way from fetch to acknowledgement. It is pure:
// no clock, no I/O, no lock. Sequences are given at the first sending and kept
// for every repetition, which is what makes repetitions harmless.
type pipeline struct {
	queue  []*entry
	seq    int32 // of the next entry that is stamped
	window int   // most entries in flight
	out    int   // entries in flight
	halt   bool  // an entry failed: nothing is sent until all in flight are back
	unsure bool  // an entry is or was
	bytes  int64
}

const (
	firstWindow = 1 // until the first acknowledgement after a change of epoch
	fullWindow  = 5 // what brokers remember of a producer id
)

func (p *pipeline) reset() { *p = pipeline{window: firstWindow} }

func (p *pipeline) add(e *entry) {
	if e.batch == nil {
		e.phase = acked
	}
	p.bytes += int64(len(e.batch))
	p.queue = append(p.queue, e)
}

// take returns the next entry to send, or nil, and whether it was sent before.
func (p *pipeline) take() (e *entry, again bool) {
	if p.halt || p.out >= p.window {
		return nil, false
	}
	for _, e := range p.queue {
		if e.phase != waiting {
			continue
		}
		if again = e.stamped; !again {
			e.seq, e.stamped = p.seq, true
			p.seq = addSeq(p.seq, e.records)
		}
		e.phase = sent
		p.out++
		return e, again
	}
	return nil, false
}

// addSeq adds as brokers do: sequences wrap to 0 after the largest int32.
func addSeq(seq, n int32) int32 { return int32((int64(seq) + int64(n)) & 0x7fffffff) }

// ack notes where an entry went.
func (p *pipeline) ack(e *entry, target starferry.Offset) {
	p.out--
	e.phase, e.target = acked, target
	if !p.halt {
		p.window = fullWindow
	}
	p.settle()
}

// fail notes that an entry has to be sent again. Unsure: it may have arrived.
func (p *pipeline) fail(e *entry, unsure bool) {
	p.out--
	e.unsure = e.unsure || unsure
	p.unsure = p.unsure || unsure
	e.phase = failed
	p.halt = true
	p.settle()
}

// echo reports whether an out-of-order answer to e only follows from the
// failure of an entry before it.
func (p *pipeline) echo(e *entry) bool {
	for _, o := range p.queue {
		if o == e {
			return false
		}
		if o.phase == failed {
			return true
		}
	}
	return false
}

// settle lets sending start over once everything in flight has come back.
func (p *pipeline) settle() {
	if !p.halt || p.out > 0 {
		return
	}
	p.halt = false
	p.window = firstWindow
	for _, e := range p.queue {
		if e.phase == failed {
			e.phase = waiting
		}
	}
}

// drop lets go of what an entry holds, once nobody sends it any more.
func (e *entry) drop() {
	e.load.drop()
	e.load = nil
}

// shed drops what has not been sent yet, but for one entry that keeps the lane's
// place, and reports whether there was any.
func (p *pipeline) shed() bool {
	keep := slices.IndexFunc(p.queue, func(e *entry) bool { return e.batch != nil && !e.stamped }) + 1
	if first := slices.IndexFunc(p.queue, func(e *entry) bool { return e.stamped }); first >= 0 && keep > 0 {
		keep-- // what is under way keeps it
	}
	if keep <= 0 || keep >= len(p.queue) || slices.ContainsFunc(p.queue[keep:], func(e *entry) bool { return e.stamped }) {
		return false
	}
	for _, e := range p.queue[keep:] {
		p.bytes -= int64(len(e.batch))
		e.drop()
	}
	p.queue = p.queue[:keep]
	return true
}

// done removes and returns the entries at the head that are acknowledged.
func (p *pipeline) done() []*entry {
	n := 0
	for n < len(p.queue) && p.queue[n].phase == acked {
		p.bytes -= int64(len(p.queue[n].batch))
		n++
	}
	out := p.queue[:n:n]
	p.queue = p.queue[n:]
	return out
}

// waitingToSend reports whether take would return an entry.
func (p *pipeline) waitingToSend() bool {
	if p.halt || p.out >= p.window {
		return false
	}
	for i := len(p.queue) - 1; i >= 0; i-- {
		if p.queue[i].phase == waiting {
			return true
		}
		if p.queue[i].phase == sent {
			return false
		}
	}
	return false
}
