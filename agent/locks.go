package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/jet"
)

const (
	locksBucket = "starferry_locks"
	lockTTL     = 10 * time.Second
	lockRetry   = 250 * time.Millisecond
	// startLock is held while a run is entered into the journal, so that two
	// agents do not both find a group free.
	startLock = "start"
)

// locks are leases in NATS: those of a dead agent end by themselves.
type locks struct {
	js    jetstream.JetStream
	kv    jetstream.KeyValue
	owner string // this agent
	log   *slog.Logger
}

func openLocks(ctx context.Context, js jetstream.JetStream, owner string, log *slog.Logger) (*locks, error) {
	kv, err := jet.KeyValue(ctx, js, locksConfig())
	if err != nil {
		return nil, fmt.Errorf("open locks: %w", err)
	}
	return &locks{js, kv, owner, log}, nil
}

func locksConfig() jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{Bucket: locksBucket, Description: "starferry: which agent works on what", TTL: lockTTL}
}

// create takes a key that nobody has. A bucket that has vanished, because NATS
// was emptied, is made again.
func (l *locks) create(ctx context.Context, key string) (uint64, error) {
	rev, err := l.kv.Create(ctx, key, []byte(l.owner))
	if errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, nats.ErrNoResponders) {
		if _, missing := jet.KeyValue(ctx, l.js, locksConfig()); missing == nil {
			return l.kv.Create(ctx, key, []byte(l.owner))
		}
	}
	return rev, err
}

// heldError says who has a lock.
type heldError struct{ name, owner string }

func (e *heldError) Error() string {
	return fmt.Sprintf("%s is in the hands of agent %s", e.name, e.owner)
}

// lock is one lease that is being renewed.
type lock struct {
	l      *locks
	key    string
	rev    uint64
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// take waits until it has the lock or ctx ends.
func (l *locks) take(ctx context.Context, name string, lost func(error)) (*lock, error) {
	for {
		k, err := l.try(ctx, name, lost)
		var held *heldError
		if !errors.As(err, &held) {
			return k, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(lockRetry):
		}
	}
}

// try takes a lock, or says at once who has it. Lost is called at most once, if
// another takes it away, which happens when NATS was out of reach for long.
func (l *locks) try(ctx context.Context, name string, lost func(error)) (*lock, error) {
	k := &lock{l: l, key: desired.EncodeKey(name)}
	rev, err := l.create(ctx, k.key)
	if errors.Is(err, jetstream.ErrKeyExists) {
		e, getErr := l.kv.Get(ctx, k.key)
		if getErr == nil {
			return nil, &heldError{name, string(e.Value())}
		}
		return nil, &heldError{name, "unknown"}
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	k.rev = rev
	ctx, k.cancel = context.WithCancel(context.WithoutCancel(ctx))
	k.wg.Go(func() { k.renew(ctx, name, lost) })
	return k, nil
}

func (k *lock) renew(ctx context.Context, name string, lost func(error)) {
	tick := time.NewTicker(lockTTL / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		rev, err := k.l.kv.Update(ctx, k.key, []byte(k.l.owner), k.rev)
		if err == nil {
			k.rev = rev
			continue
		}
		// The answer may be lost, or NATS away for a while: only a lock that
		// another agent has taken is lost.
		e, err := k.l.kv.Get(ctx, k.key)
		switch {
		case err == nil && string(e.Value()) == k.l.owner:
			k.rev = e.Revision()
		case err == nil:
			lost(&heldError{name, string(e.Value())})
			return
		case errors.Is(err, jetstream.ErrKeyNotFound):
			if rev, err := k.l.create(ctx, k.key); err == nil {
				k.rev = rev
			}
		}
	}
}

// release gives the lock back. If that fails it ends by itself.
func (k *lock) release() {
	k.cancel()
	k.wg.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), connectWithin)
	defer cancel()
	if err := k.l.kv.Delete(ctx, k.key, jetstream.LastRevision(k.rev)); err != nil {
		k.l.log.Warn("lock stays until it runs out", "lock", k.key, "within", lockTTL, "err", err)
	}
}
