package consumer

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/internal/records"
)

// part is one partition inside a session: a bounded queue, and how far what was
// in it is handled.
type part struct {
	s  *session
	tp starferry.TopicPartition

	ctx    context.Context // ends with the session's, or before it if the part is replaced
	cancel context.CancelFunc
	over   chan struct{} // closed when nothing is in hand any more and none will be
	tuning atomic.Pointer[tuning]

	// Of the loop alone.
	committed starferry.Place
	moving    bool   // its owner commits its place in transactions
	rewound   string // the rewind that gave it its place
	leaving   bool   // another will take its place

	mu      sync.Mutex
	leader  int32 // −1 while unknown
	halted  bool
	chunks  []chunk
	queued  int
	full    bool
	fetchAt starferry.Offset // next to fetch
	done    waterline
	flights []*flight
	leashes []leash          // of no handler now
	handed  starferry.Offset // behind the last record handed out
	count   int64
	end     starferry.Offset
	last    int64 // when the last record was handed out, Unix microseconds
	first   int64 // and the first of this session
	from    starferry.Offset
	wake    chan struct{}
	barred  time.Time // not fetched until then; zero: fetched
	refusal string    // why nothing is handed out
	saved   starferry.Place
	skipped int64
	crew    *crew         // nil: one after the other
	saves   chan struct{} // closed and replaced with every commit; nil unless each is waited for
}

// chunk is what one fetch brought: the offsets [from, next).
type chunk struct {
	records    []records.Record
	from, next starferry.Offset
}

func newPart(s *session, tp starferry.TopicPartition, place starferry.Place) *part {
	p := &part{
		s: s, tp: tp, leader: -1, fetchAt: place.Next, committed: place, over: make(chan struct{}),
		moving: s.overflow != nil && s.overflow.Partition == tp,
		done:   newWaterline(place), end: starferry.NoOffset, wake: make(chan struct{}, 1),
	}
	p.ctx, p.cancel = context.WithCancel(s.ctx)
	p.retune()
	return p
}

func (p *part) halt() {
	p.mu.Lock()
	p.halted = true
	p.mu.Unlock()
}

// place is the low-water mark with the ranges beyond it that are handled.
func (p *part) place() starferry.Place {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done.place()
}

func (p *part) lastHanded() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// blockedAfter is how long a handler may have a record before the record counts
// as blocked.
const blockedAfter = time.Second

func (p *part) state() control.PartitionState {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := control.PartitionState{
		Partition: p.tp, Cluster: p.s.cluster, Position: max(p.done.next, p.handed), Committed: max(p.committed.Next, 0),
		End: p.end, Handled: p.count, Held: p.tuning.Load().held, Skipped: p.skipped, Rewound: p.rewound,
	}
	for _, f := range p.flights {
		st.InFlight += len(f.spans)
		st.BusyMS = max(st.BusyMS, time.Since(f.since).Milliseconds())
		st.Deaf = st.Deaf || p.deaf(f)
		if o := f.first(); o >= 0 && time.Since(f.since) > blockedAfter && (st.Blocked == nil || o < *st.Blocked) {
			st.Blocked, st.BlockedSince = &o, f.since.UnixMilli()
		}
	}
	return st
}

// bar leaves the partition alone for a while. It reports whether the reason is
// a new one.
func (p *part) bar(why string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	fresh := why != p.refusal
	p.barred, p.refusal = time.Now().Add(lookAgain), why
	return fresh
}

// route returns the leader, −1 while unknown, and whether the partition has
// just become free to be fetched again.
func (p *part) route() (leader int32, free bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.barred.IsZero() && time.Now().After(p.barred) {
		p.barred, free = time.Time{}, true
	}
	return p.leader, free
}

// jump goes on at a later place, once everything before it is handled.
func (p *part) jump(at, to starferry.Offset) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fetchAt != at || p.queued > 0 || len(p.flights) > 0 {
		return false
	}
	p.done.add(starferry.Range{From: at, To: to})
	p.fetchAt, p.refusal = to, ""
	return true
}

func (p *part) refused() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refusal
}

// add queues what a fetch at `at` brought; a late answer for another place is
// dropped.
func (p *part) add(at starferry.Offset, recs []records.Record, next, end starferry.Offset) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end, p.refusal = end, ""
	if p.halted || p.fetchAt != at || next <= at {
		return
	}
	p.fetchAt = next
	p.chunks = append(p.chunks, chunk{recs, at, next})
	p.queued += len(recs)
	p.full = p.queued >= p.tuning.Load().high
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// take returns the next chunk; false when the session halts.
func (p *part) take() (chunk, bool) {
	for {
		p.mu.Lock()
		if p.halted {
			p.mu.Unlock()
			return chunk{}, false
		}
		if len(p.chunks) > 0 {
			k := p.merged()
			p.mu.Unlock()
			return k, true
		}
		p.mu.Unlock()
		select {
		case <-p.ctx.Done():
			return chunk{}, false
		case <-p.wake:
		}
	}
}

// merged takes the next chunk off the queue, with as many of those behind it as
// it takes to fill a batch: what is there is handed out together, however many
// fetches brought it. The caller holds p.mu.
func (p *part) merged() chunk {
	k, n := p.chunks[0], 1
	for ; n < len(p.chunks) && len(k.records) < p.s.c.cfg.BatchMax && p.chunks[n].from == k.next; n++ {
		k.records, k.next = slices.Concat(k.records, p.chunks[n].records), p.chunks[n].next
	}
	p.chunks = p.chunks[n:]
	return k
}

// pass notes offsets that need no handling, or whose handling is over.
func (p *part) pass(r starferry.Range) {
	p.mu.Lock()
	p.done.add(r)
	p.mu.Unlock()
}

// dequeue accounts for records that have left the queue.
func (p *part) dequeue(n int) {
	p.mu.Lock()
	wake := p.dequeued(n)
	p.mu.Unlock()
	p.s.wakeUp(wake)
}

// dequeued is dequeue for a caller who holds p.mu. It returns the broker whose
// fetch loop is to look again, −1 for none.
func (p *part) dequeued(n int) int32 {
	p.queued -= n
	if !p.full || p.queued > p.tuning.Load().low {
		return -1
	}
	p.full = false
	return p.leader
}

// sieve reports whether some records of a chunk may need no handler. What is set
// to be skipped later is seen when each is handed out.
func (p *part) sieve(from starferry.Offset) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.done.ahead) > 0 || p.done.next != from || p.s.c.skipping()
}

// verdict is what becomes of a record: the zero value has it handed out.
type verdict struct {
	handled bool          // another instance has done it
	skip    *control.Skip // it is to be passed
}

func (p *part) judge(r records.Record) verdict {
	p.mu.Lock()
	handled := p.done.has(starferry.Offset(r.Offset))
	p.mu.Unlock()
	if handled {
		return verdict{handled: true}
	}
	return verdict{skip: p.skip(r)}
}

// interrupt ends the contexts of records in flight that are to be skipped.
func (p *part) interrupt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.flights {
		for _, r := range f.records {
			if f.release != nil && p.skip(r) != nil {
				f.release()
			}
		}
	}
}
