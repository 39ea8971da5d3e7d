package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// lease is a shard's sign of life. It counts from the moment a renewal was
// asked for, so here it ends no later than in the store.
type lease struct {
	kv    jetstream.KeyValue
	id    ShardID
	boot  string // tells this process from one that had the same id before
	ttl   time.Duration
	now   clock
	rev   uint64
	until atomic.Int64 // by the clock, nanoseconds; 0: none
	held  bool         // it has been valid once
	// lapsed: it had an end in between. What was fenced under it is void, even
	// if nobody else came: the brokers may have forgotten the fence's id.
	lapsed atomic.Bool
}

// Valid reports whether the shard may still write.
func (l *lease) Valid() bool { return !l.lapsed.Load() && int64(l.now()) < l.until.Load() }

// resume makes a lease that had an end valid again, once nothing is left that
// was fenced under the old one.
func (l *lease) resume() { l.lapsed.Store(false) }

// errTaken says that another process bears the shard's id.
var errTaken = errors.New("the shard id is taken by another process; give each shard an id of its own, or wait until the old lease has run out")

// renew takes the lease or extends it.
func (l *lease) renew(ctx context.Context) error {
	asked := l.now()
	rev, err := l.put(ctx)
	if err != nil {
		if errors.Is(err, errTaken) {
			l.until.Store(0)
			l.rev = 0
		}
		return fmt.Errorf("renew lease of shard %s: %w", l.id, err)
	}
	l.rev = rev
	if l.held && int64(l.now()) >= l.until.Load() {
		l.lapsed.Store(true)
	}
	l.held = true
	l.until.Store(int64(asked + l.ttl))
	return nil
}

func (l *lease) put(ctx context.Context) (uint64, error) {
	v := map[string]string{"id": string(l.id), "boot": l.boot}
	rev, err := write(ctx, l.kv, string(l.id), l.rev, v)
	if !errors.Is(err, errChanged) {
		return rev, err
	}
	// An answer that never came may have been a renewal that did.
	var got map[string]string
	rev, err = read(ctx, l.kv, string(l.id), &got)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return write(ctx, l.kv, string(l.id), 0, v)
	case err != nil:
		return 0, err
	case got["boot"] != l.boot:
		return 0, errTaken
	}
	return write(ctx, l.kv, string(l.id), rev, v)
}

// run renews at a third of the time to live, until the context ends.
func (l *lease) run(ctx context.Context, log *slog.Logger, changed func()) {
	tick := time.NewTicker(l.ttl / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		had := l.Valid()
		short, cancel := context.WithTimeout(ctx, l.ttl/3)
		err := l.renew(short)
		cancel()
		if err != nil && ctx.Err() == nil {
			log.Warn("lease not renewed", "shard", l.id, "err", err, "valid", l.Valid())
		}
		if had != l.Valid() || l.lapsed.Load() {
			changed()
		}
	}
}

// release gives the lease up, so that others need not wait for its end.
func (l *lease) release(ctx context.Context) {
	l.until.Store(0)
	_ = l.kv.Delete(ctx, string(l.id), jetstream.LastRevision(l.rev))
}
