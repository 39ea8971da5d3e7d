package desired

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/starferry/starferry/internal/jet"
)

// A few keys whose names are known are followed without a consumer of
// JetStream: the server says again what it has stored (RePublish), on a subject
// that belongs to the key, and the truth is read by direct gets of that key. So
// a service needs no right but on its own keys, and thousands of instances cost
// the server no consumers. A right to make consumers would be none to give to a
// service: whoever has it lets the server deliver to any subject.

// kvSubject is what a value of a bucket is written to.
func kvSubject(bucket, key string) string { return "$KV." + bucket + "." + key }

// directSubject asks for the newest value of one key (ADR-31 of NATS).
func directSubject(bucket, key string) string {
	return "$JS.API.DIRECT.GET.KV_" + bucket + "." + kvSubject(bucket, key)
}

// toldSubject is where the server says again what was stored below a key.
func toldSubject(bucket, key string) string { return "starferry.told." + bucket + "." + key }

// republish lets the server say again what a bucket stores.
func republish(bucket string) *jetstream.RePublish {
	return &jetstream.RePublish{Source: kvSubject(bucket, ">"), Destination: toldSubject(bucket, ">")}
}

// held is what a bucket holds below a key: also a deletion has a revision.
type held struct {
	entry
	there bool
}

func heldIn(m *nats.Msg) (h held, err error) {
	h.revision, err = strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
	h.value, h.seen, h.there = m.Data, time.Now(), m.Header.Get("KV-Operation") == ""
	return h, err
}

// direct reads one key of a bucket; what never was is revision 0.
func (b *bucket) direct(ctx context.Context, key string) (held, error) {
	m, err := jet.Request(ctx, b.s.nc, directSubject(b.cfg.Bucket, key), nil)
	if err != nil {
		return held{}, err
	}
	switch m.Header.Get("Status") {
	case "":
		return heldIn(m)
	case "404":
		return held{}, nil
	}
	return held{}, fmt.Errorf("read %s of %s: %s", key, b.cfg.Bucket, m.Header.Get("Description"))
}

// get is direct, once more if the bucket turns out to be gone. ErrNotFound is
// what is not there.
func (b *bucket) get(ctx context.Context, key string) (entry, error) {
	h, err := b.direct(ctx, key)
	if gone(err) && b.s.nc.IsConnected() {
		b.forget()
		if _, err = b.open(ctx); err == nil {
			h, err = b.direct(ctx, key)
		}
	}
	if err == nil && !h.there {
		err = ErrNotFound
	}
	return h.entry, b.s.refused(err)
}

// put writes a value whatever stands there, and makes the bucket if it is gone.
func (b *bucket) put(ctx context.Context, key string, data []byte) error {
	return b.write(ctx, &nats.Msg{Subject: kvSubject(b.cfg.Bucket, key), Data: data})
}

func (b *bucket) delete(ctx context.Context, key string) error {
	m := nats.NewMsg(kvSubject(b.cfg.Bucket, key))
	m.Header.Set("KV-Operation", "DEL")
	return b.write(ctx, m)
}

func (b *bucket) write(ctx context.Context, m *nats.Msg) error {
	_, err := b.s.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
	if gone(err) && b.s.nc.IsConnected() {
		b.forget()
		if _, err = b.open(ctx); err == nil {
			_, err = b.s.js.PublishMsg(ctx, m)
		}
	}
	return b.s.refused(err)
}

// heed follows keys of a bucket until ctx ends: changed is called with those that
// are there, first when they have been read, then after every change.
func (s *Store) heed(ctx context.Context, b *bucket, keys []string, changed func(map[string]entry)) error {
	h := &heeder{s: s, b: b, keys: keys, changed: changed, all: map[string]held{}, fell: map[string]uint64{}}
	wait := 100 * time.Millisecond
	for ctx.Err() == nil {
		began := time.Now()
		err := h.session(ctx)
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > 10*time.Second {
			wait = 100 * time.Millisecond
		}
		level := slog.LevelInfo
		if errors.Is(err, nats.ErrPermissionViolation) {
			level = slog.LevelWarn
		}
		s.log.Log(ctx, level, "desired state is out of sight, looks again", "bucket", b.cfg.Bucket, "keys", keys, "reason", err, "wait", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, 2*time.Second)
	}
	return ctx.Err()
}

// heeder is a follower of known keys.
type heeder struct {
	s       *Store
	b       *bucket
	keys    []string
	changed func(map[string]entry)

	all    map[string]held
	told   map[string]uint64 // revisions that changed was last called with; nil: never called
	fell   map[string]uint64 // revisions below the known one that were read once
	missed int               // reads in a row that knew more than was told
	warned bool
}

func (h *heeder) session(ctx context.Context) error {
	heard := make(chan *nats.Msg, 256)
	for _, key := range h.keys {
		sub, err := h.s.nc.ChanSubscribe(toldSubject(h.b.cfg.Bucket, key), heard)
		if err != nil {
			return err
		}
		defer func() { _ = sub.Unsubscribe() }() // fails only with the connection
	}
	back := h.s.nc.StatusChanged(nats.CONNECTED)
	defer h.s.nc.RemoveStatusListener(back)
	if err := h.read(ctx); err != nil { // behind the subscriptions: nothing falls between
		return err
	}
	poll := time.NewTicker(h.s.o.Poll)
	defer poll.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-back:
			err = h.read(ctx)
		case <-poll.C:
			err = h.read(ctx)
		case m := <-heard:
			err = h.hear(ctx, m)
		}
		if err != nil {
			return err
		}
	}
}

// hear takes what the server says again. What is older than what is known says
// that the bucket was made anew, or that a read was faster: reading tells.
func (h *heeder) hear(ctx context.Context, m *nats.Msg) error {
	v, err := heldIn(m)
	key := m.Header.Get(jetstream.SubjectHeader)
	if pre := kvSubject(h.b.cfg.Bucket, ""); err != nil || len(key) <= len(pre) {
		return h.read(ctx) // not the server's word, or one that is not understood
	} else {
		key = key[len(pre):]
	}
	if v.revision <= h.all[key].revision {
		if v.revision == h.all[key].revision {
			return nil
		}
		return h.read(ctx)
	}
	h.all[key] = v
	h.tell()
	return nil
}

// read asks for all keys, within a few seconds.
func (h *heeder) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	missed := false
	for _, key := range h.keys {
		v, err := h.b.direct(ctx, key)
		if gone(err) && h.s.nc.IsConnected() {
			h.b.forget()
			if _, err = h.b.open(ctx); err == nil {
				h.all = map[string]held{} // whatever was known is gone
				v, err = h.b.direct(ctx, key)
			}
		}
		if err != nil {
			return h.s.refused(err)
		}
		missed = h.compare(key, v) || missed
	}
	first := h.told == nil
	h.tell()
	if !missed || first {
		h.missed = 0
	} else if h.missed++; h.missed > 1 && !h.warned { // once may be a race with what is under way
		h.warned = true
		h.s.log.Warn("changes of the desired state are seen late, by asking every few seconds: NATS does not say them again to this process",
			"subject", toldSubject(h.b.cfg.Bucket, h.keys[0]), "every", h.s.o.Poll, "do", permissionHint, "refused", h.s.nc.LastError())
	}
	return nil
}

// compare takes what was read of a key, and reports whether it is news. A
// revision below the known one must be read twice: one server of several may be
// behind the others.
func (h *heeder) compare(key string, v held) (missed bool) {
	was := h.all[key]
	if v.revision < was.revision {
		if again, ok := h.fell[key]; !ok || again != v.revision {
			h.fell[key] = v.revision
			return false
		}
	}
	delete(h.fell, key)
	if v.revision != was.revision {
		h.all[key] = v
	}
	return v.revision > was.revision
}

// tell calls changed if anything differs from what it was told last.
func (h *heeder) tell() {
	now, values := map[string]uint64{}, map[string]entry{}
	for key, v := range h.all {
		if v.there {
			now[key], values[key] = v.revision, v.entry
		}
	}
	if h.told != nil && maps.Equal(h.told, now) {
		return
	}
	h.told = now
	h.changed(values)
}

// permissionHint says where rights come from.
const permissionHint = "give this process what `starferry nats permissions` prints for it"

// refused adds to an error what NATS has refused to this connection: a server
// does not answer what it does not permit, so that it looks like silence.
func (s *Store) refused(err error) error {
	if errors.Is(err, nats.ErrPermissionViolation) {
		return fmt.Errorf("%w: %s", err, permissionHint)
	}
	if err == nil || !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) {
		return err
	}
	if why := s.nc.LastError(); errors.Is(why, nats.ErrPermissionViolation) {
		return fmt.Errorf("%w; %w: %s", err, why, permissionHint)
	}
	return err
}
