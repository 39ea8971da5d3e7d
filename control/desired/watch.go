package desired

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// Update is all that is desired of a group: nil where nothing is stored or what
// is stored cannot be read, in which case Err says why.
type Update struct {
	Placement         *control.Placement
	PlacementRevision uint64
	Settings          *control.Settings
	SettingsRevision  uint64
	Err               error
}

// WatchGroup calls f with the desired state of a group: once when it has been
// read first, even if nothing is stored, and then after every change. Calls
// never overlap, and changes that come in fast may be seen as one. It blocks
// until ctx ends and survives the loss of NATS: meanwhile f is not called.
// Revisions grow, unless the bucket was emptied or restored from a backup.
func (s *Store) WatchGroup(ctx context.Context, g starferry.Group, f func(Update)) error {
	if err := checkGroup(g); err != nil {
		return err
	}
	keys := []string{groupKey(g, placementToken), groupKey(g, settingsToken)}
	return s.heed(ctx, s.desired, keys, func(all map[string]entry) { f(decodeUpdate(g, all)) })
}

func decodeUpdate(g starferry.Group, all map[string]entry) Update {
	var u Update
	if e, ok := all[groupKey(g, placementToken)]; ok {
		u.PlacementRevision = e.revision
		p := new(control.Placement)
		if err := decode(DesiredBucket, groupKey(g, placementToken), e.value, p); err != nil {
			u.Err = err
		} else {
			u.Placement = p
		}
	}
	if e, ok := all[groupKey(g, settingsToken)]; ok {
		u.SettingsRevision = e.revision
		v := new(control.Settings)
		if err := decode(DesiredBucket, groupKey(g, settingsToken), e.value, v); err != nil {
			u.Err = err
		} else {
			u.Settings = v
		}
	}
	return u
}

// WatchLeases calls f with the leases of all live instances of a group: first
// with those there are, then after every change. An instance that vanished is
// noticed within the lease's time to live and one poll. Calls never overlap. It
// blocks until ctx ends. The error beside the leases names those that cannot be
// read.
func (s *Store) WatchLeases(ctx context.Context, g starferry.Group, f func([]control.Lease, error)) error {
	if err := checkGroup(g); err != nil {
		return err
	}
	known := remembered[control.Lease]{}
	return s.follow(ctx, s.live, groupKey(g, "*"), func(all map[string]entry) { f(decodeLeases(known, all)) })
}

// entry is one stored value.
type entry struct {
	value    []byte
	revision uint64
	seen     time.Time // when it came in here
}

// list reads all values whose keys match the filter, within ctx's deadline or,
// if it has none, a few seconds.
func (s *Store) list(ctx context.Context, b *bucket, filter string) (map[string]entry, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
	}
	all := map[string]entry{}
	err := b.do(ctx, func(kv jetstream.KeyValue) error {
		w, err := kv.Watch(ctx, filter)
		if err != nil {
			return err
		}
		defer stop(w)
		shown := map[string]bool{}
		for {
			select {
			case e, ok := <-w.Updates():
				switch {
				case !ok:
					return fmt.Errorf("watch of %s %s closed early; check the NATS connection", b.cfg.Bucket, filter)
				case e == nil:
					return s.complete(ctx, kv, filter, all, shown)
				}
				shown[e.Key()] = true
				apply(all, e)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	return all, err
}

// complete adds what a watch has not shown although it says that it has shown
// all there was: it counts, and a value that is overwritten meanwhile counts
// twice, at the cost of another that is still to come.
func (s *Store) complete(ctx context.Context, kv jetstream.KeyValue, filter string, all map[string]entry, shown map[string]bool) error {
	stream, err := s.js.Stream(ctx, "KV_"+kv.Bucket())
	if err != nil {
		return err
	}
	prefix := "$KV." + kv.Bucket() + "."
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(prefix+filter))
	if err != nil {
		return err
	}
	for subject := range info.State.Subjects {
		key := strings.TrimPrefix(subject, prefix)
		if shown[key] {
			continue
		}
		e, err := kv.Get(ctx, key)
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
		case err != nil:
			return err
		default:
			apply(all, e)
		}
	}
	return nil
}

func apply(all map[string]entry, e jetstream.KeyValueEntry) {
	if e.Operation() != jetstream.KeyValuePut {
		delete(all, e.Key())
		return
	}
	all[e.Key()] = entry{value: e.Value(), revision: e.Revision(), seen: time.Now()}
}

// stop ends a watcher and empties its channel, which its callback may be
// blocked on.
func stop(w jetstream.KeyWatcher) {
	_ = w.Stop() // fails only if it is closed already
	timeout := time.NewTimer(time.Second)
	defer timeout.Stop()
	for {
		select {
		case _, ok := <-w.Updates():
			if !ok {
				return
			}
		case <-timeout.C:
			return
		}
	}
}

// follow keeps one session after another until ctx ends.
func (s *Store) follow(ctx context.Context, b *bucket, filter string, changed func(map[string]entry)) error {
	// Those that begin together, after a restart, do not read the whole together.
	f := &follower{s: s, b: b, filter: filter, changed: changed, quiet: rand.IntN(fullPoll)}
	wait := 100 * time.Millisecond
	for ctx.Err() == nil {
		began := time.Now()
		err := f.session(ctx)
		if ctx.Err() != nil {
			break
		}
		if gone(err) {
			b.forget()
		}
		if time.Since(began) > 10*time.Second {
			wait = 100 * time.Millisecond
		}
		s.log.Info("watch of desired state ended, starting another", "bucket", b.cfg.Bucket, "filter", filter, "reason", err, "wait", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, 2*time.Second)
	}
	return ctx.Err()
}

type follower struct {
	s       *Store
	b       *bucket
	filter  string
	changed func(map[string]entry)

	told  map[string]uint64 // revisions that changed was last called with; nil: never called
	all   map[string]entry
	stale int    // polls in a row that knew more than the watch
	high  uint64 // the newest revision that has come in
	quiet int    // polls in a row that found nothing newer
}

// session follows one watch until it is lost, falls behind the poll, or ctx
// ends.
func (f *follower) session(ctx context.Context) error {
	kv, err := f.b.open(ctx)
	if err != nil {
		return err
	}
	back := f.s.nc.StatusChanged(nats.CONNECTED)
	defer f.s.nc.RemoveStatusListener(back)
	w, err := kv.Watch(ctx, f.filter)
	if err != nil {
		return err
	}
	defer stop(w)

	poll := time.NewTicker(f.s.o.Poll)
	defer poll.Stop()
	first, shown, ready, unready := map[string]entry{}, map[string]bool{}, false, 0
	f.stale = 0
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-back:
			return fmt.Errorf("the connection to NATS was lost and is back")
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return fmt.Errorf("the watch was closed")
			case e != nil && !ready:
				f.high = e.Revision()
				shown[e.Key()] = true
				apply(first, e)
				continue
			case e != nil:
				f.high = e.Revision()
				apply(f.all, e)
			case !ready:
				if err := f.s.complete(ctx, kv, f.filter, first, shown); err != nil {
					return fmt.Errorf("read what is stored: %w", err)
				}
				f.all, ready = first, true
			}
			if len(w.Updates()) == 0 { // take what has come in together as one change
				f.tell()
			}
		case <-poll.C:
			if unready++; !ready && unready < beginPolls {
				continue // many may begin at once, after a restart of the server
			}
			if !ready {
				return fmt.Errorf("the watch has not shown the stored values within %v", beginPolls*f.s.o.Poll)
			}
			if err := f.poll(ctx); err != nil {
				return err
			}
		}
	}
}

const (
	// fullPoll is how many polls may only look for something newer before one reads
	// the whole again.
	fullPoll = 15
	// beginPolls is how many polls a watch may take to show what is stored.
	beginPolls = 5
)

// poll looks for something newer than the watch has shown. If there is, or what
// is known may have run out, it reads the whole again and corrects what was
// missed: reading costs the server a consumer each time, and there may be
// thousands of watchers.
func (f *follower) poll(ctx context.Context) error {
	asked := time.Now()
	newest, err := f.s.newest(ctx, f.b, f.filter)
	if err == nil && newest == f.high && f.quiet < fullPoll && !f.outlived(asked) {
		f.quiet++
		f.stale = 0
		return nil
	}
	f.quiet = 0
	if err == nil {
		f.high = newest // also if it is less: what was newer is gone
	}
	all, err := f.s.list(ctx, f.b, f.filter)
	if err != nil {
		return fmt.Errorf("poll: %w", err)
	}
	missed := false
	for key, e := range all {
		old, ok := f.all[key]
		if !ok || e.revision > old.revision || old.seen.Before(asked) && e.revision != old.revision {
			f.all[key] = e
			missed = true
		}
	}
	for key, old := range f.all {
		if _, ok := all[key]; !ok && old.seen.Before(asked) {
			delete(f.all, key) // its time to live ran out: a watch says nothing of that
		}
	}
	f.tell()
	if !missed {
		f.stale = 0
	} else if f.stale++; f.stale > 1 { // once may be a race with the watch
		return fmt.Errorf("the watch has missed changes")
	}
	return nil
}

// outlived reports whether something may have reached the end of its time to live.
func (f *follower) outlived(now time.Time) bool {
	ttl := f.b.cfg.TTL
	if f.b == f.s.live || f.b.cfg.Bucket == ProducingBucket {
		ttl = f.s.ttl
	}
	for _, e := range f.all {
		if ttl > 0 && now.Sub(e.seen) >= ttl {
			return true
		}
	}
	return false
}

// newest is the revision of the newest value, or deletion, that matches the
// filter; 0 if there is none.
func (s *Store) newest(ctx context.Context, b *bucket, filter string) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	ask, err := json.Marshal(map[string]string{"last_by_subj": "$KV." + b.cfg.Bucket + "." + filter})
	if err != nil {
		return 0, err
	}
	m, err := s.nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET.KV_"+b.cfg.Bucket, ask)
	switch {
	case err != nil:
		return 0, err
	case m.Header.Get("Status") == "404":
		return 0, nil
	case m.Header.Get("Status") != "":
		return 0, fmt.Errorf("look for what is newest in %s: %s", b.cfg.Bucket, m.Header.Get("Description"))
	}
	return strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
}

// tell calls changed if anything differs from what it was told last.
func (f *follower) tell() {
	now := make(map[string]uint64, len(f.all))
	for key, e := range f.all {
		now[key] = e.revision
	}
	if f.told != nil && maps.Equal(f.told, now) {
		return
	}
	f.told = now
	f.changed(f.all)
}
