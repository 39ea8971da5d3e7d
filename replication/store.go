package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/jet"
)

// The buckets of JetStream's key-value store that links live in.
const (
	linksBucket  = "starferry_links"
	ownersBucket = "starferry_owners"
	shardsBucket = "starferry_shards"
)

// DefaultLeaseTTL is how long a shard that fell silent keeps its buckets.
const DefaultLeaseTTL = 6 * time.Second

// store is the shared memory of shards and agent: what is wanted, who owns what
// and who is alive. All of it may be emptied; links are then asked for again.
type store struct {
	links, owners, shards jetstream.KeyValue
	maxValue              int // bytes that NATS takes

	mu    sync.Mutex
	specs map[starferry.LinkName]readSpec // decoded last
}

// readSpec is a spec as it stood in an entry. Revisions begin again when the
// bucket is made anew, so the time belongs to it.
type readSpec struct {
	spec LinkSpec
	at   time.Time
}

// openStore makes the buckets where they are missing. The time to live of the
// leases is that of whoever comes first.
func openStore(ctx context.Context, nc *nats.Conn, ttl time.Duration) (*store, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("open links: %w", err)
	}
	s := &store{maxValue: int(nc.MaxPayload()) - 512, specs: map[starferry.LinkName]readSpec{}} // headers travel too
	for _, b := range []struct {
		kv  *jetstream.KeyValue
		cfg jetstream.KeyValueConfig
	}{
		{&s.links, jetstream.KeyValueConfig{Bucket: linksBucket, Description: "starferry: links that are wanted", History: 8}},
		{&s.owners, jetstream.KeyValueConfig{Bucket: ownersBucket, Description: "starferry: which shard owns which bucket", History: 4}},
		{&s.shards, jetstream.KeyValueConfig{Bucket: shardsBucket, Description: "starferry: leases of the shards", TTL: ttl, Storage: jetstream.MemoryStorage}},
	} {
		kv, err := jet.KeyValue(ctx, js, b.cfg)
		if err != nil {
			return nil, fmt.Errorf("open key-value bucket %s: %w; NATS must run with JetStream", b.cfg.Bucket, err)
		}
		*b.kv = kv
	}
	return s, nil
}

// errChanged says that somebody else changed a key since it was read.
var errChanged = errors.New("changed meanwhile by somebody else")

// errNoLink says that a link is not there.
var errNoLink = errors.New("no such link")

// Link reads one spec.
func (s *store) Link(ctx context.Context, name starferry.LinkName) (LinkSpec, error) {
	e, err := s.links.Get(ctx, string(name))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return LinkSpec{}, fmt.Errorf("link %s: %w", name, errNoLink)
	}
	if err != nil {
		return LinkSpec{}, fmt.Errorf("read %s of %s: %w", name, s.links.Bucket(), err)
	}
	s.mu.Lock()
	last := s.specs[name]
	s.mu.Unlock()
	if last.spec.Revision == e.Revision() && last.at.Equal(e.Created()) {
		return last.spec, nil
	}
	spec, err := decodeSpec(e.Value())
	if err != nil {
		return spec, fmt.Errorf("read %s of %s: %w; the value is damaged or of another version of starferry: stop the link and ask for it again", name, s.links.Bucket(), err)
	}
	spec.Revision = e.Revision()
	s.mu.Lock()
	s.specs[name] = readSpec{spec, e.Created()}
	s.mu.Unlock()
	return spec, nil
}

// Links reads all specs.
func (s *store) Links(ctx context.Context) ([]LinkSpec, error) {
	names, err := keys(ctx, s.links)
	if err != nil {
		return nil, err
	}
	var out []LinkSpec
	for _, n := range names {
		spec, err := s.Link(ctx, starferry.LinkName(n))
		if errors.Is(err, errNoLink) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, spec)
	}
	return out, nil
}

// PutLink writes a spec over the revision it was read at.
func (s *store) PutLink(ctx context.Context, spec LinkSpec) (uint64, error) {
	b, err := encodeSpec(spec)
	if err != nil {
		return 0, fmt.Errorf("write %s of %s: %w", spec.Name, s.links.Bucket(), err)
	}
	if len(b) > s.maxValue {
		return 0, fmt.Errorf("link %s: its %d topics take %d bytes, and NATS takes %d in a value: share the topics between several links, or raise max_payload of NATS",
			spec.Name, len(spec.Topics), len(b), s.maxValue)
	}
	return put(ctx, s.links, string(spec.Name), spec.Revision, b)
}

// DropLink forgets a link and its table, if the spec still has a revision; 0 is
// any.
func (s *store) DropLink(ctx context.Context, name starferry.LinkName, at uint64) error {
	var only []jetstream.KVDeleteOpt
	if at != 0 {
		only = append(only, jetstream.LastRevision(at))
	}
	err := s.links.Delete(ctx, string(name), only...)
	if isConflict(err) {
		return fmt.Errorf("delete link %s: %w", name, errChanged)
	}
	if err == nil || errors.Is(err, jetstream.ErrKeyNotFound) {
		err = s.owners.Delete(ctx, string(name))
	}
	if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

// Table reads a link's table; a link without one has the empty table.
func (s *store) Table(ctx context.Context, name starferry.LinkName) (Table, error) {
	var t Table
	rev, err := read(ctx, s.owners, string(name), &t)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Table{Version: 1, Link: name}, nil
	}
	t.Revision = rev
	return t, err
}

// PutTable writes a table over the revision it was read at.
func (s *store) PutTable(ctx context.Context, t Table) (uint64, error) {
	return write(ctx, s.owners, string(t.Link), t.Revision, t)
}

// Live lists the shards whose leases stand.
func (s *store) Live(ctx context.Context) ([]ShardID, error) {
	names, err := keys(ctx, s.shards)
	if err != nil {
		return nil, err
	}
	out := make([]ShardID, len(names))
	for i, n := range names {
		out[i] = ShardID(n)
	}
	return out, nil
}

func keys(ctx context.Context, kv jetstream.KeyValue) ([]string, error) {
	l, err := kv.ListKeys(ctx)
	if err != nil {
		if errors.Is(err, jetstream.ErrNoKeysFound) {
			return nil, nil
		}
		return nil, fmt.Errorf("list %s: %w", kv.Bucket(), err)
	}
	defer func() { _ = l.Stop() }()
	var out []string
	for {
		select {
		case k, ok := <-l.Keys():
			if !ok {
				return out, ctx.Err()
			}
			out = append(out, k)
		case <-ctx.Done():
			return nil, fmt.Errorf("list %s: %w", kv.Bucket(), ctx.Err())
		}
	}
}

func read(ctx context.Context, kv jetstream.KeyValue, key string, into any) (uint64, error) {
	e, err := kv.Get(ctx, key)
	if err != nil {
		return 0, fmt.Errorf("read %s of %s: %w", key, kv.Bucket(), err)
	}
	if err := json.Unmarshal(e.Value(), into); err != nil {
		return 0, fmt.Errorf("read %s of %s: %w; the value was not written by this version of starferry", key, kv.Bucket(), err)
	}
	return e.Revision(), nil
}

func write(ctx context.Context, kv jetstream.KeyValue, key string, at uint64, v any) (uint64, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return 0, fmt.Errorf("write %s of %s: %w", key, kv.Bucket(), err)
	}
	return put(ctx, kv, key, at, b)
}

// isConflict reports whether somebody else has written first.
func isConflict(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, jetstream.ErrKeyExists) || errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

func put(ctx context.Context, kv jetstream.KeyValue, key string, at uint64, b []byte) (rev uint64, err error) {
	if at == 0 {
		rev, err = kv.Create(ctx, key, b)
	} else {
		rev, err = kv.Update(ctx, key, b, at)
	}
	switch {
	case err == nil:
		return rev, nil
	case isConflict(err):
		return 0, fmt.Errorf("write %s of %s: %w", key, kv.Bucket(), errChanged)
	}
	return 0, fmt.Errorf("write %s of %s: %w", key, kv.Bucket(), err)
}
