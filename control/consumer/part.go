package consumer

import (
	"context"
	"sync"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/internal/records"
)

// part is one partition inside a session: a bounded queue and the worker that
// hands out its records in order.
type part struct {
	s  *session
	tp starferry.TopicPartition

	committedAt starferry.Offset // of the loop alone

	mu       sync.Mutex
	leader   int32 // −1 while unknown
	halted   bool
	chunks   []chunk
	queued   int
	full     bool
	fetchAt  starferry.Offset // next to fetch
	next     starferry.Offset // low-water mark: all below is handled or passed
	handled  []starferry.Range
	inFlight bool
	offset   starferry.Offset // of the record in flight
	since    time.Time
	release  context.CancelFunc // of the record in flight
	count    int64
	end      starferry.Offset
	last     int64 // when the last record was handed out, Unix microseconds
	first    int64 // and the first of this session
	from     starferry.Offset
	wake     chan struct{}
	barred   time.Time // not fetched until then; zero: fetched
	refusal  string    // why nothing is handed out
}

// chunk is what one fetch brought; next is the place after it.
type chunk struct {
	records []records.Record
	next    starferry.Offset
}

func newPart(s *session, tp starferry.TopicPartition, place starferry.Place) *part {
	return &part{
		s: s, tp: tp, leader: -1, fetchAt: place.Next, next: place.Next, committedAt: place.Next,
		handled: place.Handled, end: starferry.NoOffset, wake: make(chan struct{}, 1),
	}
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
	out := starferry.Place{Next: p.next}
	for _, r := range p.handled {
		if r.To > p.next {
			out.Handled = append(out.Handled, starferry.Range{From: max(r.From, p.next), To: r.To})
		}
	}
	return out
}

func (p *part) lastHanded() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

func (p *part) state() control.PartitionState {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := control.PartitionState{
		Partition: p.tp, Cluster: p.s.cluster, Position: p.next, Committed: max(p.committedAt, 0), End: p.end, Handled: p.count,
	}
	if p.inFlight {
		st.InFlight, st.Position = 1, p.offset+1
		if time.Since(p.since) > time.Second {
			o := p.offset
			st.Blocked = &o
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
	if p.fetchAt != at || p.queued > 0 || p.inFlight {
		return false
	}
	p.fetchAt, p.next, p.refusal = to, max(p.next, to), ""
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
	p.chunks = append(p.chunks, chunk{recs, next})
	p.queued += len(recs)
	p.full = p.queued >= p.s.c.cfg.QueueHigh
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
			k := p.chunks[0]
			p.chunks = p.chunks[1:]
			p.mu.Unlock()
			return k, true
		}
		p.mu.Unlock()
		select {
		case <-p.s.ctx.Done():
			return chunk{}, false
		case <-p.wake:
		}
	}
}

// work hands out records until the session halts.
func (p *part) work() {
	for {
		k, ok := p.take()
		if !ok {
			return
		}
		for _, r := range k.records {
			if !p.one(r) {
				return
			}
		}
		p.pass(k.next)
	}
}

// pass moves the low-water mark over what needs no handling.
func (p *part) pass(next starferry.Offset) {
	p.mu.Lock()
	p.next = max(p.next, next)
	p.mu.Unlock()
}

// dequeue accounts for one record that has left the queue.
func (p *part) dequeue() {
	p.mu.Lock()
	p.queued--
	wake := p.full && p.queued <= p.s.c.cfg.QueueLow
	if wake {
		p.full = false
	}
	leader := p.leader
	p.mu.Unlock()
	if wake {
		p.s.wakeUp(leader)
	}
}

// one hands out one record until it is handled or skipped; false when the
// session halts first.
func (p *part) one(r records.Record) bool {
	o := starferry.Offset(r.Offset)
	for wait := p.s.c.cfg.RetryMin; ; wait = min(2*wait, p.s.c.cfg.RetryMax) {
		if p.isHandled(o) || p.s.c.skips(p.s.cluster, p.tp, o) {
			p.dequeue()
			p.pass(o + 1)
			return true
		}
		if !p.s.c.admit(p.s.ctx) || !p.s.member.alive(p.s.ctx) {
			return false
		}
		ctx, ok := p.begin(o)
		if !ok {
			return false
		}
		err := p.s.c.handler(ctx, p.record(r))
		skipped := ctx.Err() != nil && p.s.handling.Err() == nil
		p.finish(o, err == nil || skipped)
		if err == nil || skipped {
			p.dequeue()
			return true
		}
		if p.s.handling.Err() == nil {
			p.s.c.log.Warn("handler failed; the record is handed out again", "partition", p.tp, "offset", o, "in", wait, "error", err)
		}
		if !p.backoff(wait, o) {
			return false
		}
	}
}

// backoff waits before a record is handed out again; the record counts as
// blocked meanwhile, and a skip ends the wait.
func (p *part) backoff(d time.Duration, o starferry.Offset) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		poll := time.NewTimer(20 * time.Millisecond)
		select {
		case <-p.s.ctx.Done():
			poll.Stop()
			return false
		case <-t.C:
			poll.Stop()
			return true
		case <-poll.C:
			if p.s.c.skips(p.s.cluster, p.tp, o) {
				return true
			}
		}
	}
}

// begin marks a record as in flight, under the lock that holds the halted flag:
// after a halt has been seen no record begins.
func (p *part) begin(o starferry.Offset) (context.Context, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.halted || p.s.ctx.Err() != nil {
		return nil, false
	}
	ctx, cancel := context.WithCancel(p.s.handling)
	if !p.inFlight {
		p.since = time.Now()
	}
	p.inFlight, p.offset, p.release = true, o, cancel
	p.last = time.Now().UnixMicro()
	if p.first == 0 {
		p.first, p.from = p.last, o
		p.s.c.firstHanded(p)
	}
	return ctx, true
}

// finish closes a record. A failed one stays the low-water mark.
func (p *part) finish(o starferry.Offset, done bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.release()
	if done {
		p.inFlight, p.next = false, max(p.next, o+1)
		p.count++
	}
}

// interrupt ends the context of the record in flight if it is to be skipped.
func (p *part) interrupt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inFlight && p.release != nil && p.s.c.skips(p.s.cluster, p.tp, p.offset) {
		p.release()
	}
}

func (p *part) isHandled(o starferry.Offset) bool {
	for _, r := range p.handled {
		if r.Contains(o) {
			return true
		}
	}
	return false
}

func (p *part) record(r records.Record) Record {
	out := Record{
		Cluster: p.s.cluster, Topic: p.tp.Topic, Partition: p.tp.Partition, Offset: starferry.Offset(r.Offset),
		Key: r.Key, Value: r.Value, Timestamp: time.UnixMilli(r.Timestamp),
	}
	for _, h := range r.Headers {
		out.Headers = append(out.Headers, Header(h))
	}
	return out
}
