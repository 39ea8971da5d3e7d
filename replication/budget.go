package replication

import (
	"context"
	"sync"
	"sync/atomic"
)

// budget bounds what a shard holds fetched and unacknowledged: the frames of
// fetch answers, from before they are read until nothing of them is needed.
type budget struct {
	mu    sync.Mutex
	limit int64
	used  int64
	queue []*claimant // who waits, in order
}

// claimant waits for bytes.
type claimant struct {
	n  int64
	ok chan struct{}
}

func newBudget(limit int64) *budget { return &budget{limit: limit} }

// wait takes n bytes once there is room, in order of asking. More than all is
// granted when nothing else is held.
func (b *budget) wait(ctx context.Context, n int64) error {
	b.mu.Lock()
	if len(b.queue) == 0 && b.fits(n) {
		b.used += n
		b.mu.Unlock()
		return nil
	}
	c := &claimant{n, make(chan struct{})}
	b.queue = append(b.queue, c)
	b.mu.Unlock()
	select {
	case <-c.ok:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, o := range b.queue {
		if o == c {
			b.queue = append(b.queue[:i], b.queue[i+1:]...)
			b.grant()
			return context.Cause(ctx)
		}
	}
	return nil // granted meanwhile
}

func (b *budget) fits(n int64) bool { return b.used == 0 || b.used+n <= b.limit }

func (b *budget) grant() {
	for len(b.queue) > 0 && b.fits(b.queue[0].n) {
		b.used += b.queue[0].n
		close(b.queue[0].ok)
		b.queue = b.queue[1:]
	}
}

// take takes bytes that are there already.
func (b *budget) take(n int64) {
	b.mu.Lock()
	b.used += n
	b.mu.Unlock()
}

func (b *budget) free(n int64) {
	b.mu.Lock()
	b.used -= n
	b.grant()
	b.mu.Unlock()
}

// share is how much one lane may hold now: a quarter of what is free, so the less
// there is the less anyone adds to what it has.
func (b *budget) share() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(0, b.limit-b.used) / 4
}

// tight reports whether somebody waits for bytes.
func (b *budget) tight() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.queue) > 0
}

// load is memory that the entries which lie in it share. It is given back when
// the last of them, and who made it, has let it go.
type load struct {
	b    *budget
	size int64
	refs atomic.Int32
}

// newLoad is for bytes that were taken already.
func newLoad(b *budget, size int64) *load {
	l := &load{b: b, size: size}
	l.refs.Store(1)
	return l
}

func (l *load) hold() *load {
	l.refs.Add(1)
	return l
}

// drop lets a load go. Nil is of no account.
func (l *load) drop() {
	if l != nil && l.refs.Add(-1) == 0 {
		l.b.free(l.size)
	}
}
