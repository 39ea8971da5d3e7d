package replication

import (
	"context"
	"math/bits"
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

	frames [frameSizes]sync.Pool // by size
	spoil  atomic.Bool           // tests overwrite what is given back, to see who still reads it
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

// Frames are used again: fresh memory of their size has to be cleared, and makes
// the collector run.
const (
	leastFrame = 64 << 10
	frameSizes = 8 // up to 8 MiB, each twice the one before
)

// frame waits for room for n bytes and returns them, nil where they are not worth
// keeping, and how much was taken.
func (b *budget) frame(ctx context.Context, n int) (buf []byte, took int64, err error) {
	size, class := leastFrame, 0
	for size < n {
		size, class = 2*size, class+1
	}
	if n < leastFrame/2 || class >= frameSizes {
		return nil, int64(n), b.wait(ctx, int64(n))
	}
	if err := b.wait(ctx, int64(size)); err != nil {
		return nil, 0, err
	}
	if old, ok := b.frames[class].Get().(*[]byte); ok {
		buf = *old
	} else {
		buf = make([]byte, size)
	}
	return buf[:n], int64(size), nil
}

// again keeps a frame that nobody looks at any more.
func (b *budget) again(buf []byte) {
	if buf = buf[:cap(buf)]; len(buf) < leastFrame {
		return
	}
	if b.spoil.Load() {
		for i := range buf {
			buf[i] = 0xA5
		}
	}
	class := bits.TrailingZeros(uint(len(buf) / leastFrame))
	b.frames[class].Put(&buf)
}

// load is memory that the entries which lie in it share. It is given back when
// the last of them, and who made it, has let it go.
type load struct {
	b     *budget
	size  int64
	frame []byte // to be used again; nil: left to the collector
	refs  atomic.Int32
}

// newLoad is for bytes that were taken already.
func newLoad(b *budget, size int64, frame []byte) *load {
	l := &load{b: b, size: size, frame: frame}
	l.refs.Store(1)
	return l
}

// hold keeps a load for one more user.
func (l *load) hold() *load {
	if l != nil {
		l.refs.Add(1)
	}
	return l
}

// drop lets a load go. Nil is of no account.
func (l *load) drop() {
	if l != nil && l.refs.Add(-1) == 0 {
		if l.frame != nil {
			l.b.again(l.frame)
		}
		l.b.free(l.size)
	}
}
