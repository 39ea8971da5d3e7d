package producer

import (
	"fmt"
	"slices"
	"time"

	"github.com/starferry/starferry"
)

// used reports whether the lane has borne the side's own producer id, and lost
// its place in it. The line's lock is held.
func (k *lane) used(s *side) bool { return k.spent[s.w.Name()] }

// landed takes a parcel that is not under way any more out of its lane, and
// returns whom to tell of a finished hold. The lock is held.
func (l *line) landed(f flight) func() {
	f.k.flying = false
	if len(f.k.queue) > 0 && f.k.queue[0] == f.p {
		f.k.queue = f.k.queue[1:]
	}
	return l.flushed()
}

func tell(f func()) {
	if f != nil {
		f()
	}
}

// written: the parcel stands in the log.
func (l *line) written(o *outlet, f flight, base starferry.Offset) {
	n := len(f.p.rows)
	l.mu.Lock()
	if seq := f.k.at[o.s.w.Name()]; seq != nil && seq.id == f.p.id {
		seq.next = after(f.p.seq, n)
	}
	f.k.pause, f.k.again = 0, time.Time{}
	if base >= 0 {
		f.k.next = base + starferry.Offset(n)
	}
	told := l.landed(f)
	l.mu.Unlock()
	took := time.Since(f.p.born)
	l.acked.Add(int64(n))
	l.hand(o.s.w.Name(), f.k, f.p, base, nil)
	if h := l.p.cfg.Hooks.Acknowledged; h != nil {
		h(o.s.w.Name(), l.tp(f.k.partition), n, took)
	}
	tell(told)
}

// after is the sequence behind n records; it wraps from 2³¹−1 to 0.
func after(seq int32, n int) int32 {
	return int32((int64(seq) + int64(n)) & (1<<31 - 1))
}

// again puts a parcel back to be tried once more after a pause. Sent: this try
// may have written it.
func (l *line) again(o *outlet, f flight, err error, sent bool) {
	l.mu.Lock()
	f.p.doubt = f.p.doubt || sent
	f.k.flying = false
	f.k.pause = min(max(2*f.k.pause, firstPause), lastPause)
	f.k.again = time.Now().Add(f.k.pause)
	told := l.flushed()
	l.mu.Unlock()
	l.log.Debug("tries again", "cluster", o.s.w.Name(), "partition", f.k.partition, "records", len(f.p.rows), "in doubt", f.p.doubt, "error", err)
	o.s.misled(f.k.partition, o.broker)
	o.wake()
	tell(told)
}

// divide sends a parcel that is too large as two; one of a single record is
// given up.
func (l *line) divide(o *outlet, f flight, err error) {
	if len(f.p.rows) < 2 {
		l.give(o, f, fmt.Errorf("%w; raise max.message.bytes of the topic, or write less", err))
		return
	}
	a, b, derr := f.p.halves()
	if derr != nil {
		l.give(o, f, fmt.Errorf("%w: %w", err, derr))
		return
	}
	l.mu.Lock()
	f.k.flying = false
	if len(f.k.queue) > 0 && f.k.queue[0] == f.p {
		f.k.queue = slices.Concat([]*parcel{a, b}, f.k.queue[1:])
	}
	l.mu.Unlock()
	o.wake()
}

// renumber: the broker has no such place for the producer id. A parcel that was
// certainly not written begins anew with another id.
func (l *line) renumber(o *outlet, f flight, err error) {
	l.mu.Lock()
	f.k.forget(o.s.w.Name())
	l.mu.Unlock()
	l.log.Warn("the broker does not follow the producer id; begins with another", "cluster", o.s.w.Name(), "partition", f.k.partition, "in doubt", f.p.doubt, "error", err)
	if f.p.doubt {
		l.give(o, f, fmt.Errorf("%w: %w", ErrInDoubt, err))
		return
	}
	l.again(o, f, err, false)
}

// forget ends the lane's sequence on a cluster. The lock is held.
func (k *lane) forget(c starferry.ClusterName) {
	delete(k.at, c)
	if k.spent == nil {
		k.spent = map[starferry.ClusterName]bool{}
	}
	k.spent[c] = true
}

// give gives a parcel up.
func (l *line) give(o *outlet, f flight, err error) {
	l.mu.Lock()
	if f.p.doubt {
		f.k.forget(o.s.w.Name()) // its sequence may be used up, or not
	}
	told := l.landed(f)
	l.mu.Unlock()
	l.fail(f.k, f.p, err)
	o.wake()
	tell(told)
}

// fail tells the callers of a parcel that is in no lane any more.
func (l *line) fail(k *lane, p *parcel, err error) {
	var cluster starferry.ClusterName
	l.mu.Lock()
	if l.home != nil {
		cluster = l.home.w.Name()
	}
	l.mu.Unlock()
	tp := l.tp(k.partition)
	err = fmt.Errorf("produce to %s on %s: %w", tp, cluster, err)
	l.failed.Add(int64(len(p.rows)))
	l.hand(cluster, k, p, starferry.NoOffset, err)
	if h := l.p.cfg.Hooks.Failed; h != nil {
		h(cluster, tp, len(p.rows), err)
	}
}

// hand tells each record's caller and gives the buffer back.
func (l *line) hand(c starferry.ClusterName, k *lane, p *parcel, base starferry.Offset, err error) {
	size := 0
	for i, r := range p.rows {
		at := base
		if base >= 0 {
			at += starferry.Offset(i)
		}
		size += r.size
		if r.done != nil {
			r.done(Result{Cluster: c, Topic: l.topic, Partition: starferry.Partition(k.partition), Offset: at, Err: err})
		}
	}
	l.buffered.Add(-int64(len(p.rows)))
	l.p.buffer.Release(int64(size))
	p.ticket.done()
}
