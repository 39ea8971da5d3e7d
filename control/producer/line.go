package producer

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/handover"
)

// line is one topic of a producer.
type line struct {
	p     *Producer
	topic starferry.Topic
	log   *slog.Logger
	ready chan struct{} // closed when home was found for the first time

	mu      sync.Mutex
	sides   map[starferry.ClusterName]*side
	home    *side // nil while unknown
	holding bool
	held    time.Time // since when
	lanes   []*lane
	parts   partitioner
	flush   int    // callers of Flush: nobody lingers
	refusal string // why it cannot do what is asked of it
	onFlush func() // told once, when a hold has nothing under way any more

	sent bool // something was sent to home since it was entered

	f follow // of the line's own goroutine alone, but for what is atomic

	buffered, acked, failed atomic.Int64
	lastHold                atomic.Int64 // microseconds
}

// lane is one partition of a line. All is guarded by the line's lock.
type lane struct {
	partition int
	queue     []*parcel // the oldest first; the first may be under way
	flying    bool
	again     time.Time // not before
	pause     time.Duration
	at        map[starferry.ClusterName]*sequence
	next      starferry.Offset               // after the last acknowledged record, on home; NoOffset: none yet
	spent     map[starferry.ClusterName]bool // where the side's own producer id is of no use to it
}

// sequence is where a lane stands on a cluster with its producer id.
type sequence struct {
	id   identity
	next int32
}

// The pauses between two tries of a batch.
const (
	firstPause = 10 * time.Millisecond
	lastPause  = time.Second
)

func newLine(p *Producer, t starferry.Topic) *line {
	return &line{p: p, topic: t, log: p.log.With("topic", t), ready: make(chan struct{}), sides: map[starferry.ClusterName]*side{},
		f: follow{machine: handover.NewFollower(p.boot, p.cfg.HoldDeadline.Milliseconds()), mail: make(chan func(), 16)}}
}

// send takes a record into its lane. Its size is taken from the buffer already.
func (l *line) send(r Record, size int, done func(Result)) error {
	now := time.Now()
	ms := now.UnixMilli()
	if !r.Timestamp.IsZero() {
		ms = r.Timestamp.UnixMilli()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	i, err := l.parts.of(r)
	if err != nil {
		return err
	}
	k := l.lanes[i]
	n := len(k.queue)
	full := n > 0 && len(k.queue[n-1].body)+size > l.p.cfg.BatchBytes
	if n == 0 || k.queue[n-1].sealed || full {
		if full {
			k.queue[n-1].sealed = true
		}
		if full && r.Key == nil && r.Partition == nil {
			l.parts.move()
			k = l.lanes[l.parts.sticky]
		}
		if n = len(k.queue); n == 0 || k.queue[n-1].sealed || len(k.queue[n-1].body)+size > l.p.cfg.BatchBytes {
			k.queue = append(k.queue, newParcel(now))
			n++
		}
	}
	k.queue[n-1].add(r.Key, r.Value, r.Headers, ms, row{done, size})
	l.buffered.Add(1)
	l.wake(k)
	return nil
}

// wake tells the outlet of a lane, if it has one now, that there is something.
func (l *line) wake(k *lane) {
	if l.home != nil {
		l.home.kick(k.partition)
	}
}

// settledAll waits until everything that was accepted so far is settled.
func (l *line) settledAll(ctx context.Context) error {
	l.mu.Lock()
	l.flush++
	var wait []chan struct{}
	for _, k := range l.lanes {
		for _, p := range k.queue {
			p.sealed = true
			wait = append(wait, p.ticket.settled)
		}
		l.wake(k)
	}
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.flush--
		l.mu.Unlock()
	}()
	for _, c := range wait {
		select {
		case <-c:
		case <-ctx.Done():
			return fmt.Errorf("flush %s: %d records are not acknowledged yet: %w", l.topic, l.buffered.Load(), context.Cause(ctx))
		case <-l.p.ctx.Done():
			return fmt.Errorf("flush %s: %w", l.topic, ErrClosed)
		}
	}
	return nil
}

// takeable says whether the lane's first parcel may be sent now, or when it may.
func (l *line) takeable(k *lane, now time.Time) (ok bool, at time.Time) {
	if k.flying || len(k.queue) == 0 {
		return false, time.Time{}
	}
	p := k.queue[0]
	if l.holding && !p.doubt {
		return false, time.Time{}
	}
	if now.Before(k.again) {
		return false, k.again
	}
	if due := p.born.Add(l.p.cfg.Linger); !p.sealed && len(k.queue) == 1 && l.flush == 0 && now.Before(due) {
		return false, due
	}
	return true, time.Time{}
}

// take takes what a broker of the home may be sent now, at most so many bytes and
// one parcel a lane; and when to look again.
func (l *line) take(s *side, broker int32, limit int) (parcels []flight, again time.Time) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.home != s {
		return nil, time.Time{}
	}
	size := 0
	for _, k := range l.lanes {
		if s.leader(k.partition) != broker {
			continue
		}
		if size >= limit {
			return parcels, now
		}
		ok, at := l.takeable(k, now)
		if !ok {
			if !at.IsZero() && (again.IsZero() || at.Before(again)) {
				again = at
			}
			continue
		}
		p := k.queue[0]
		if !p.sealed {
			p.sealed = true
			if k.partition == l.parts.sticky {
				l.parts.move()
			}
		}
		k.flying, l.sent = true, true
		p.attempts++
		size += len(p.body)
		parcels = append(parcels, flight{k, p})
	}
	return parcels, again
}

// flight is a parcel under way, with its lane.
type flight struct {
	k *lane
	p *parcel
}

// hold lets nothing new go out. Done is called when what was sent is answered,
// perhaps at once.
func (l *line) hold(done func()) {
	l.mu.Lock()
	if !l.holding {
		l.holding, l.held = true, time.Now()
	}
	l.onFlush = done
	told := l.flushed()
	l.mu.Unlock()
	if told != nil {
		told()
	}
}

// flushed returns whom to tell that nothing is under way; nil: nobody, or
// something is. The lock is held.
func (l *line) flushed() func() {
	if !l.holding || l.onFlush == nil {
		return nil
	}
	for _, k := range l.lanes {
		if k.flying || len(k.queue) > 0 && k.queue[0].doubt {
			return nil
		}
	}
	f := l.onFlush
	l.onFlush = nil
	return f
}

// ends are where the line's records end on its home, as far as it has written.
func (l *line) ends() map[starferry.TopicPartition]starferry.Offset {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[starferry.TopicPartition]starferry.Offset{}
	for _, k := range l.lanes {
		if k.next != starferry.NoOffset {
			out[l.tp(k.partition)] = k.next
		}
	}
	return out
}

// resume goes on at a side, which has been warmed. Nothing may be under way or in
// doubt if it is another than before.
func (l *line) resume(s *side, partitions int) error {
	l.mu.Lock()
	if len(l.lanes) > 0 && partitions < len(l.lanes) || l.home != nil && l.home != s && partitions != len(l.lanes) {
		l.mu.Unlock()
		return fmt.Errorf("topic %s has %d partitions on %s and %d where it was written: keys would change their partition; give both the same", l.topic, partitions, s.w.Name(), len(l.lanes))
	}
	from, held := l.home, time.Duration(0)
	if l.holding {
		held = time.Since(l.held)
		l.lastHold.Store(held.Microseconds())
	}
	l.grow(partitions)
	if from != s {
		l.sent = false
		for _, k := range l.lanes {
			k.next, k.again, k.pause = starferry.NoOffset, time.Time{}, 0
		}
	}
	l.home, l.holding, l.onFlush, l.refusal = s, false, nil, ""
	for _, k := range l.lanes {
		l.wake(k)
	}
	l.mu.Unlock()
	if from == nil {
		close(l.ready)
		l.log.Info("writes", "cluster", s.w.Name())
	} else if from != s {
		l.log.Info("writes elsewhere", "from", from.w.Name(), "to", s.w.Name(), "held", held)
		if f := l.p.cfg.Hooks.Moved; f != nil {
			f(l.topic, from.w.Name(), s.w.Name(), held)
		}
	}
	return nil
}

// grow adds lanes of partitions that were added. The lock is held.
func (l *line) grow(partitions int) {
	if partitions <= len(l.lanes) {
		return
	}
	for i := len(l.lanes); i < partitions; i++ {
		l.lanes = append(l.lanes, &lane{partition: i, at: map[starferry.ClusterName]*sequence{}, next: starferry.NoOffset})
	}
	l.parts = newPartitioner(partitions)
}

// expire gives up what has waited longer than it may.
func (l *line) expire(now time.Time) {
	type late struct {
		k *lane
		p *parcel
	}
	var gone []late
	l.mu.Lock()
	for _, k := range l.lanes {
		for !k.flying && len(k.queue) > 0 && now.Sub(k.queue[0].born) > l.p.cfg.DeliveryTimeout {
			p := k.queue[0]
			k.queue = k.queue[1:]
			if p.doubt && l.home != nil {
				k.forget(l.home.w.Name())
			}
			gone = append(gone, late{k, p})
		}
	}
	told := l.flushed()
	l.mu.Unlock()
	for _, g := range gone {
		err := fmt.Errorf("%w: %s after %d tries", ErrTimeout, now.Sub(g.p.born).Round(time.Millisecond), g.p.attempts)
		if g.p.doubt {
			err = fmt.Errorf("%w (no answer within %s)", ErrInDoubt, now.Sub(g.p.born).Round(time.Millisecond))
		}
		l.fail(g.k, g.p, err)
	}
	if told != nil {
		told()
	}
}

// abandon gives up everything, when the producer closes.
func (l *line) abandon() {
	l.mu.Lock()
	type left struct {
		k *lane
		p *parcel
	}
	var all []left
	for _, k := range l.lanes {
		for _, p := range k.queue {
			all = append(all, left{k, p})
		}
		k.queue = nil
	}
	l.mu.Unlock()
	for _, a := range all {
		err := ErrClosed
		if a.p.doubt {
			err = fmt.Errorf("%w: %w", ErrClosed, ErrInDoubt)
		}
		l.fail(a.k, a.p, err)
	}
}
