package desired

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/starferry/starferry/internal/jet"
)

// The names of what is kept in JetStream.
const (
	DesiredBucket = "starferry_desired"
	LiveBucket    = "starferry_live"
	LastBucket    = "starferry_last"
	AuditStream   = "starferry_audit"
	auditPrefix   = "starferry.audit."
)

// ErrNotFound is returned where nothing is stored for a group.
var ErrNotFound = errors.New("nothing stored")

// ErrConflict is returned by a compare-and-set that lost: somebody else has
// written since the expected revision. Read again and decide again.
var ErrConflict = errors.New("changed by somebody else")

// Options are what a deployment may choose. The zero value is good.
type Options struct {
	// LeaseTTL is how long a lease lives unless it is renewed; 0 means 6 s. It
	// is fixed by whoever creates the bucket first.
	LeaseTTL time.Duration
	// Poll is how often followers read the whole again; 0 means 2 s.
	Poll time.Duration
	// Replicas is how many NATS servers keep each bucket; 0 means 1.
	Replicas int
	// AuditAge is how long audit events are kept; 0 means for ever.
	AuditAge time.Duration
	// Logger is told of lost and recovered watches; nil discards.
	Logger *slog.Logger
}

// Store is the desired state in NATS. It is safe for concurrent use, owns no
// goroutine and does not own the connection.
type Store struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	o       Options
	log     *slog.Logger
	desired *bucket
	live    *bucket
	last    *bucket
	ttl     time.Duration
}

// Open reaches JetStream over nc and creates what is missing there. It is for
// agents and operators; see OpenService.
func Open(ctx context.Context, nc *nats.Conn, o Options) (*Store, error) {
	s, err := newStore(nc, o)
	if err != nil {
		return nil, err
	}
	if err := s.ensure(ctx); err != nil {
		return nil, fmt.Errorf("open desired state at %s: %w", where(nc), err)
	}
	return s, nil
}

func newStore(nc *nats.Conn, o Options) (*Store, error) {
	if o.LeaseTTL <= 0 {
		o.LeaseTTL = 6 * time.Second
	}
	if o.Poll <= 0 {
		o.Poll = 2 * time.Second
	}
	if o.Replicas <= 0 {
		o.Replicas = 1
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("open desired state: %w", err)
	}
	s := &Store{nc: nc, js: js, o: o, log: o.Logger}
	s.desired = &bucket{s: s, cfg: jetstream.KeyValueConfig{
		Bucket: DesiredBucket, Description: "starferry: what groups should be doing",
		History: 16, Storage: jetstream.FileStorage, Replicas: o.Replicas, RePublish: republish(DesiredBucket),
	}}
	s.live = &bucket{s: s, cfg: jetstream.KeyValueConfig{
		Bucket: LiveBucket, Description: "starferry: what instances say of themselves",
		History: 1, TTL: o.LeaseTTL, Storage: jetstream.MemoryStorage, Replicas: o.Replicas,
	}}
	s.last = &bucket{s: s, cfg: jetstream.KeyValueConfig{
		Bucket: LastBucket, Description: "starferry: what instances said last, for those that take over",
		History: 1, TTL: LastWordAge, Storage: jetstream.MemoryStorage, Replicas: o.Replicas,
	}}
	return s, nil
}

// LeaseTTL is how long a lease lives unless it is renewed, as the bucket in
// NATS has it.
func (s *Store) LeaseTTL() time.Duration { return s.ttl }

func (s *Store) ensure(ctx context.Context) error {
	if _, err := s.desired.open(ctx); err != nil {
		return err
	}
	kv, err := s.live.open(ctx)
	if err != nil {
		return err
	}
	st, err := kv.Status(ctx)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", LiveBucket, err)
	}
	if s.ttl = st.TTL(); s.ttl <= 0 {
		return fmt.Errorf("bucket %s: it has no time to live, so dead instances would stay; delete the bucket and start again", LiveBucket)
	}
	if _, err := s.last.open(ctx); err != nil {
		return err
	}
	return s.ensureAudit(ctx)
}

func where(nc *nats.Conn) string {
	if u := nc.ConnectedUrlRedacted(); u != "" {
		return u
	}
	return "no connected NATS server"
}

// bucket opens a KV bucket and makes it again if it is gone: a memory bucket
// does not survive a restart of a lone server, and a bucket may be deleted.
type bucket struct {
	s   *Store
	cfg jetstream.KeyValueConfig

	mu sync.Mutex
	kv jetstream.KeyValue // nil: to be opened
}

func (b *bucket) open(ctx context.Context) (jetstream.KeyValue, error) {
	b.mu.Lock()
	kv := b.kv
	b.mu.Unlock()
	if kv != nil {
		return kv, nil
	}
	open := jet.SharedKeyValue
	if !b.shared() {
		open = jet.KeyValue
	}
	kv, err := open(ctx, b.s.js, b.cfg)
	if err != nil {
		return nil, explain("bucket "+b.cfg.Bucket, b.s.refused(err))
	}
	b.mu.Lock()
	b.kv = kv
	b.mu.Unlock()
	return kv, nil
}

// shared reports whether services write into the bucket, each its own keys.
func (b *bucket) shared() bool { return b.cfg.Storage == jetstream.MemoryStorage }

func (b *bucket) forget() {
	b.mu.Lock()
	b.kv = nil
	b.mu.Unlock()
}

// do runs f on the bucket, once more if the bucket turns out to be gone.
func (b *bucket) do(ctx context.Context, f func(jetstream.KeyValue) error) error {
	kv, err := b.open(ctx)
	if err != nil {
		return err
	}
	if err = f(kv); !gone(err) || !b.s.nc.IsConnected() {
		return err
	}
	b.forget()
	if kv, err = b.open(ctx); err != nil {
		return err
	}
	return f(kv)
}

// explain adds what to do to the errors a new installation meets.
func explain(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount),
		errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%s: %w; JetStream does not answer: start nats-server with -js", what, err)
	case errors.Is(err, nats.ErrPermissionViolation):
		return fmt.Errorf("%s: %w", what, err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return fmt.Errorf("%s: %w; check that NATS is reachable and has a JetStream leader", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// gone reports errors that mean the stream behind a bucket does not exist.
func gone(err error) bool {
	return errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrNoStreamResponse) ||
		errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrBucketNotFound) ||
		errors.Is(err, nats.ErrStreamNotFound)
}
