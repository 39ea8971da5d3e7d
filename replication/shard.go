package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/offsetmap"
)

// DefaultInFlightBytes bounds what a shard holds fetched and unacknowledged.
const DefaultInFlightBytes = 64 << 20

// ShardConfig says what a shard needs.
type ShardConfig struct {
	ID       ShardID
	Clusters map[starferry.ClusterName]starferry.Cluster
	NATS     *nats.Conn // with JetStream; stays open when the shard closes
	Dir      string     // of the offset maps; may be deleted between runs
	Logger   *slog.Logger
	// LeaseTTL is how long the shard keeps its buckets after it fell silent;
	// 0: DefaultLeaseTTL. All shards must agree: the store has it from the first.
	LeaseTTL time.Duration
	// InFlightBytes bounds what is fetched and unacknowledged; 0: the default.
	InFlightBytes int64
	// UnfencedWait is after how long a producer that could not be fenced has no
	// connection left; 0: 11 minutes (brokers close idle ones after 10).
	UnfencedWait time.Duration

	// Snapshots says how maps are kept in JetStream, for whoever takes over.
	Snapshots SnapshotConfig

	clock clock         // of the lease; nil: the time since boot
	renew time.Duration // how often buckets renew their ids; 0: hourly
	// refresh is how often links look for topics and partitions; 0: refreshEvery.
	refresh time.Duration
	weigh   time.Duration // how often buckets are weighed; 0: every minute
	settle  time.Duration // how often what is wanted is read, unasked; 0: settleEvery, or a third of the lease
}

// settleEvery is how often what is wanted is read, unasked.
const settleEvery = 2 * time.Second

// Shard owns buckets of links and copies their lanes.
type Shard struct {
	cfg     ShardConfig
	log     *slog.Logger
	store   *store
	maps    *offsetmap.Store
	lease   *lease
	budget  *budget
	snaps   *snapshots
	filling fillings
	proofs  *proofs

	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   chan struct{}
	scales map[starferry.LinkName]scales // of the reconciling goroutine
	subs   []*nats.Subscription

	mu       sync.Mutex
	copiers  map[starferry.LinkName]*copier
	clusters map[starferry.ClusterName]*wire.Cluster
	states   map[starferry.ClusterName]*stateLog

	once sync.Once
}

// OpenShard starts a shard. It takes up its share of all links and runs until
// Close, or until the context ends.
func OpenShard(ctx context.Context, cfg ShardConfig) (*Shard, error) {
	if !nameForm.MatchString(string(cfg.ID)) {
		return nil, fmt.Errorf("open shard: id %q: want 1 to 64 letters, digits, - or _", cfg.ID)
	}
	if cfg.NATS == nil || cfg.Dir == "" {
		return nil, fmt.Errorf("open shard %s: want a NATS connection and a directory", cfg.ID)
	}
	if cfg.LeaseTTL == 0 {
		cfg.LeaseTTL = DefaultLeaseTTL
	}
	if cfg.InFlightBytes == 0 {
		cfg.InFlightBytes = DefaultInFlightBytes
	}
	if cfg.UnfencedWait == 0 {
		cfg.UnfencedWait = unfencedWait
	}
	if cfg.clock == nil {
		cfg.clock = bootTime
	}
	if cfg.weigh == 0 {
		cfg.weigh = weighEvery
	}
	if cfg.settle == 0 {
		cfg.settle = min(settleEvery, cfg.LeaseTTL/3)
	}
	if cfg.renew == 0 {
		cfg.renew = renewEvery
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Shard{
		cfg: cfg, log: cfg.Logger.With("shard", cfg.ID), budget: newBudget(cfg.InFlightBytes), wake: make(chan struct{}, 1),
		scales:  map[starferry.LinkName]scales{},
		copiers: map[starferry.LinkName]*copier{}, clusters: map[starferry.ClusterName]*wire.Cluster{},
		states: map[starferry.ClusterName]*stateLog{},
	}
	s.proofs = newProofs(s)
	var err error
	if s.store, err = openStore(ctx, cfg.NATS, cfg.LeaseTTL); err != nil {
		return nil, fmt.Errorf("open shard %s: %w", cfg.ID, err)
	}
	if s.maps, err = offsetmap.OpenStore(cfg.Dir, offsetmap.Options{Logger: cfg.Logger}); err != nil {
		return nil, fmt.Errorf("open shard %s: %w", cfg.ID, err)
	}
	s.lease = &lease{kv: s.store.shards, id: cfg.ID, boot: nuid.Next(), ttl: cfg.LeaseTTL, now: cfg.clock}
	if s.snaps, err = newSnapshots(cfg.Snapshots, s); err != nil {
		return nil, errors.Join(fmt.Errorf("open shard %s: %w", cfg.ID, err), s.maps.Close())
	}
	run, cancel := context.WithCancel(ctx)
	s.cancel = cancel
	if err := s.serve(run); err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("open shard %s: %w", cfg.ID, err), s.maps.Close())
	}
	if err := s.lease.renew(ctx); err != nil {
		s.log.Warn("no lease yet", "err", err)
	}
	s.wg.Go(func() { s.lease.run(run, s.log, s.poke) })
	s.wg.Go(func() { s.reconcile(run) })
	s.wg.Go(func() { s.flush(run) })
	s.wg.Go(func() { s.upkeep(run) })
	return s, nil
}

// ID is the shard's id.
func (s *Shard) ID() ShardID { return s.cfg.ID }

// Close stops copying, gives up the lease so that others take over at once, and
// waits.
func (s *Shard) Close() error {
	var err error
	s.once.Do(func() {
		s.stop()
		short, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.lease.release(short)
		err = s.maps.Close()
	})
	return err
}

func (s *Shard) stop() {
	for _, sub := range s.subs {
		_ = sub.Unsubscribe()
	}
	s.cancel()
	s.wg.Wait()
	s.proofs.close()
	s.mu.Lock()
	clusters := slices.Collect(maps.Values(s.clusters))
	s.mu.Unlock()
	for _, c := range clusters {
		if err := c.Close(); err != nil {
			s.log.Debug("cluster not closed cleanly", "cluster", c.Name(), "err", err)
		}
	}
}

// Kill stops the shard as a crash would: the lease stays until it runs out. For
// tests and rehearsals.
func (s *Shard) Kill() {
	s.once.Do(func() {
		s.snaps.off.Store(true)
		s.stop()
		_ = s.maps.Close()
	})
}

func (s *Shard) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// flush hands gathered map entries to the store, off the hot path.
func (s *Shard) flush(ctx context.Context) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.maps.Flush(); err != nil {
			s.log.Error("offset maps not written", "err", err)
		}
	}
}

// reconcile makes what runs what is wanted, when told and every few seconds:
// watches can close silently, and a lease that ends tells nobody.
func (s *Shard) reconcile(ctx context.Context) {
	defer s.drop()
	for _, kv := range []jetstream.KeyValue{s.store.links, s.store.owners, s.store.shards} {
		s.wg.Go(func() { s.watch(ctx, kv) })
	}
	tick := time.NewTicker(s.cfg.settle)
	defer tick.Stop()
	for {
		err := s.settle(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.Warn("links not read", "err", err)
		}
		if (err != nil || !s.lease.Valid()) && ctx.Err() == nil {
			// What is gone is made again, the bucket of the leases among it:
			// without that a lease that has run out could never be renewed.
			if _, err := openStore(ctx, s.cfg.NATS, s.cfg.LeaseTTL); err != nil && ctx.Err() == nil {
				s.log.Warn("store not there", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.wake:
		}
	}
}

// watch pokes for every change of a bucket; a watch that ends is begun again.
func (s *Shard) watch(ctx context.Context, kv jetstream.KeyValue) {
	for ctx.Err() == nil {
		w, err := kv.WatchAll(ctx, jetstream.UpdatesOnly())
		if err == nil {
			for range w.Updates() {
				s.poke()
			}
			_ = w.Stop()
		}
		if wait(ctx, time.Second) != nil {
			return
		}
	}
}

func (s *Shard) drop() {
	s.mu.Lock()
	cs := slices.Collect(maps.Values(s.copiers))
	s.copiers = map[starferry.LinkName]*copier{}
	s.mu.Unlock()
	for _, c := range cs {
		c.close()
	}
}

// settle goes through all links once.
func (s *Shard) settle(ctx context.Context) error {
	if !s.lease.Valid() {
		s.drop()
		s.lease.resume()
		if !s.lease.Valid() {
			return nil
		}
	}
	short, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	specs, err := s.store.Links(short)
	if err != nil {
		return err
	}
	live, err := s.store.Live(short)
	if err != nil {
		return err
	}
	wanted := map[starferry.LinkName]bool{}
	for _, spec := range specs {
		wanted[spec.Name] = true
		if err := s.settleLink(ctx, short, spec, live); err != nil {
			s.log.Warn("link not taken up", "link", spec.Name, "err", err)
		}
	}
	s.forgetScales(wanted)
	for name, c := range s.running() {
		if !wanted[name] {
			s.log.Info("link ended", "link", name)
			s.forget(name, c)
		}
	}
	return nil
}

func (s *Shard) running() map[starferry.LinkName]*copier {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.copiers)
}

func (s *Shard) forget(name starferry.LinkName, c *copier) {
	s.mu.Lock()
	delete(s.copiers, name)
	s.mu.Unlock()
	c.close()
}

// settleLink writes the link's table if it has to change, and runs our share.
func (s *Shard) settleLink(ctx, short context.Context, spec LinkSpec, live []ShardID) error {
	table, err := s.store.Table(short, spec.Name)
	if err != nil {
		return err
	}
	if next := Assign(spec, live, s.weigh(short, live, table)); slices.Contains(live, s.cfg.ID) && !next.equal(table) {
		_, err := s.store.PutTable(short, next)
		if errors.Is(err, errChanged) {
			s.poke()
			return nil
		}
		if err != nil {
			return err
		}
		table = next
	}
	mine := table.mine(s.cfg.ID)
	c := s.running()[spec.Name]
	if c != nil && !c.update(spec) {
		s.forget(spec.Name, c)
		c = nil
	}
	if c == nil && len(mine) == 0 {
		return nil
	}
	if c == nil {
		if c, err = s.newLink(ctx, spec); err != nil {
			return err
		}
	}
	c.own(mine)
	return nil
}

func (s *Shard) newLink(ctx context.Context, spec LinkSpec) (*copier, error) {
	src, err := s.cluster(spec.Source)
	if err != nil {
		return nil, err
	}
	tgt, err := s.cluster(spec.Target)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range []*wire.Cluster{src, tgt} {
		if s.states[c.Name()] == nil {
			s.states[c.Name()] = newStateLog(c)
		}
	}
	c := newCopier(ctx, spec, s, src, tgt)
	s.copiers[spec.Name] = c
	return c, nil
}

func (s *Shard) cluster(name starferry.ClusterName) (*wire.Cluster, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clusters[name]; c != nil {
		return c, nil
	}
	conf, ok := s.cfg.Clusters[name]
	if !ok {
		return nil, fmt.Errorf("shard %s knows no cluster %q: add it to its configuration", s.cfg.ID, name)
	}
	c, err := wire.Open(conf, wire.WithClientID("starferry-"+string(s.cfg.ID)), wire.WithLogger(s.cfg.Logger))
	if err != nil {
		return nil, err
	}
	s.clusters[name] = c
	return c, nil
}
