package replication

import (
	"context"
	"sync"
)

// budget bounds what a shard holds fetched and unacknowledged.
type budget struct {
	mu    sync.Mutex
	limit int64
	used  int64
	room  chan struct{} // closed when there is room again; nil: there is
}

func newBudget(limit int64) *budget { return &budget{limit: limit} }

func (b *budget) take(n int64) {
	b.mu.Lock()
	b.used += n
	if b.used >= b.limit && b.room == nil {
		b.room = make(chan struct{})
	}
	b.mu.Unlock()
}

func (b *budget) free(n int64) {
	b.mu.Lock()
	b.used -= n
	if b.used < b.limit && b.room != nil {
		close(b.room)
		b.room = nil
	}
	b.mu.Unlock()
}

// wait returns once there is room, or with the context's error.
func (b *budget) wait(ctx context.Context) error {
	b.mu.Lock()
	room := b.room
	b.mu.Unlock()
	if room == nil {
		return ctx.Err()
	}
	select {
	case <-room:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
