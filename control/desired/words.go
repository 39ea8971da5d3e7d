package desired

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// LastWordAge is how long the last word of an instance that is gone is kept.
const LastWordAge = 5 * time.Minute

// LastWords reads the newest lease of every process that spoke for the group
// within LastWordAge, whether it lives or not. Who takes partitions over tells by
// them what may be handed out again: a dead instance's lease is gone long before
// its member is. What cannot be read is left out.
func (s *Store) LastWords(ctx context.Context, g starferry.Group) ([]control.Lease, error) {
	if err := checkGroup(g); err != nil {
		return nil, err
	}
	if words, err := s.askLastWords(ctx, g); err == nil {
		return words, nil
	}
	return s.listLastWords(ctx, g) // no agent: whoever may list them does
}

func (s *Store) listLastWords(ctx context.Context, g starferry.Group) ([]control.Lease, error) {
	all, err := s.list(ctx, s.last, groupKey(g, "*.*"))
	if err != nil {
		return nil, fmt.Errorf("read last words of %s: %w", g, err)
	}
	var words []control.Lease
	for key, e := range all {
		var l control.Lease
		if err := decode(LastBucket, key, e.value, &l); err != nil {
			s.log.Debug("read last word", "key", key, "error", err)
			continue
		}
		words = append(words, l)
	}
	return words, nil
}

// remembered keeps what was read of values, by their revisions: of many leases
// that are heard together one has changed.
type remembered[T any] map[string]reading[T]

type reading[T any] struct {
	revision uint64
	value    T
	err      error
}

// read brings what is remembered up to date and returns it, by key.
func (m remembered[T]) read(all map[string]entry, decode func(key string, raw []byte) (T, error)) map[string]reading[T] {
	maps.DeleteFunc(m, func(key string, _ reading[T]) bool { _, ok := all[key]; return !ok })
	for key, e := range all {
		if old, ok := m[key]; ok && old.revision == e.revision {
			continue
		}
		r := reading[T]{revision: e.revision}
		r.value, r.err = decode(key, e.value)
		m[key] = r
	}
	return m
}

// leaseWindow is how many leases of one instance may be on their way.
const leaseWindow = 2

// LeaseWriter renews the lease of one instance again and again, and keeps it as
// its last word. A renewal does not wait for the answer to the one before, as long as few are on their way:
// what an instance says last is heard one way later, not after a round trip. It
// is not safe for concurrent use.
type LeaseWriter struct {
	s     *Store
	under []jetstream.PubAckFuture
	ready time.Time // until when the bucket of last words is taken to be there
}

// How long a bucket of last words that was there is taken to be so, and how long
// one that was not is left alone.
const (
	keepSure  = time.Hour
	keepAgain = 10 * time.Second
)

// LeaseWriter returns a writer.
func (s *Store) LeaseWriter() *LeaseWriter { return &LeaseWriter{s: s} }

// Put renews the lease. An error is that of an earlier renewal, or of this one
// if it had to be waited for.
func (w *LeaseWriter) Put(ctx context.Context, l control.Lease) error {
	var late error
	for len(w.under) > 0 && late == nil {
		select {
		case <-w.under[0].Ok():
		case late = <-w.under[0].Err():
		default:
			if len(w.under) < leaseWindow {
				return w.send(ctx, l)
			}
			select {
			case <-w.under[0].Ok():
			case late = <-w.under[0].Err():
			case <-ctx.Done():
				late = ctx.Err()
			}
		}
		w.under = w.under[1:]
	}
	if late != nil || !w.s.nc.IsConnected() {
		w.under = nil
		w.ready = time.Time{}                          // what has taken the one bucket away may have taken both
		return errors.Join(late, w.s.PutLease(ctx, l)) // which makes the bucket again if it is gone
	}
	return w.send(ctx, l)
}

func (w *LeaseWriter) send(ctx context.Context, l control.Lease) error {
	data, err := encodeLease(&l)
	if err != nil {
		return err
	}
	w.keep(ctx, l, data) // before the lease: who has seen that finds this
	f, err := w.s.js.PublishAsync(kvSubject(LiveBucket, leaseKey(l.Group, l.Instance)), data)
	if err != nil {
		return fmt.Errorf("renew lease of %s in %s: %w", l.Instance, l.Group, err)
	}
	w.under = append(w.under, f)
	return nil
}

// keep stores a lease as the last word. Nobody waits for that or is told of it:
// the instances of a group would otherwise hear each other all the time, for the
// one moment in which one of them dies. The lease itself matters more.
func (w *LeaseWriter) keep(ctx context.Context, l control.Lease, data []byte) {
	key := leaseKey(l.Group, l.Instance) + "." + EncodeKey(l.Boot)
	var err error
	if time.Now().After(w.ready) { // the first is waited for, to see that the bucket is there
		w.ready = time.Now().Add(keepAgain)
		if err = w.s.last.put(ctx, key, data); err == nil {
			w.ready = time.Now().Add(keepSure)
		}
	} else {
		err = w.s.nc.Publish(kvSubject(LastBucket, key), data)
	}
	if err != nil {
		w.s.log.Debug("keep last word", "group", l.Group, "instance", l.Instance, "error", err)
	}
}
