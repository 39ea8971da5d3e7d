package desired

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// LeaseHead is what a lease says first. The rest is read when it is asked for:
// every instance hears all leases of its group, many times a second, and needs
// one of them only when its instance is gone.
type LeaseHead struct {
	Instance starferry.InstanceID
	Boot     string

	key string
	raw []byte
}

// Lease reads the whole.
func (h LeaseHead) Lease() (control.Lease, error) {
	var l control.Lease
	err := decode(LiveBucket+" "+h.key, h.raw, &l)
	return l, err
}

// WatchLeaseHeads is [Store.WatchLeases] for those who rarely need more than who
// is there. A lease that cannot be read is left out.
func (s *Store) WatchLeaseHeads(ctx context.Context, g starferry.Group, f func([]LeaseHead)) error {
	if err := checkGroup(g); err != nil {
		return err
	}
	known := remembered[LeaseHead]{}
	return s.follow(ctx, s.live, groupKey(g, "*"), func(all map[string]entry) {
		var heads []LeaseHead
		for _, r := range known.read(all, headOf) {
			if r.err == nil {
				heads = append(heads, r.value)
			}
		}
		f(heads)
	})
}

// headOf reads a lease as far as its first list: who it is of stands before that.
func headOf(key string, raw []byte) (LeaseHead, error) {
	h := LeaseHead{key: key, raw: raw}
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return h, fmt.Errorf("lease %s: no JSON of ours", key)
	}
	for d.More() && (h.Instance == "" || h.Boot == "") {
		field, err := d.Token()
		if err != nil {
			return h, fmt.Errorf("lease %s: %w", key, err)
		}
		switch field {
		case "instance":
			err = d.Decode(&h.Instance)
		case "boot":
			err = d.Decode(&h.Boot)
		default:
			var other json.RawMessage
			err = d.Decode(&other)
		}
		if err != nil {
			return h, fmt.Errorf("lease %s: %w", key, err)
		}
	}
	if h.Instance == "" {
		return h, fmt.Errorf("lease %s names no instance", key)
	}
	return h, nil
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

// LeaseWriter renews the lease of one instance again and again. A renewal does
// not wait for the answer to the one before, as long as few are on their way:
// what an instance says last is heard one way later, not after a round trip. It
// is not safe for concurrent use.
type LeaseWriter struct {
	s     *Store
	under []jetstream.PubAckFuture
}

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
		return errors.Join(late, w.s.PutLease(ctx, l)) // which makes the bucket again if it is gone
	}
	return w.send(ctx, l)
}

func (w *LeaseWriter) send(ctx context.Context, l control.Lease) error {
	data, err := encodeLease(&l)
	if err != nil {
		return err
	}
	if _, err := w.s.live.open(ctx); err != nil {
		return err
	}
	f, err := w.s.js.PublishAsync("$KV."+LiveBucket+"."+leaseKey(l.Group, l.Instance), data)
	if err != nil {
		return fmt.Errorf("renew lease of %s in %s: %w", l.Instance, l.Group, err)
	}
	w.under = append(w.under, f)
	return nil
}
