package world

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication"
)

// World holds the connections and clients that ports are made of.
type World struct {
	clusters *Clusters
	links    *Links
	hand     *Hand
	census   *Census
	store    *desired.Store
}

// Open makes the ports. It reaches NATS; clusters are reached when they are
// first asked.
func Open(ctx context.Context, cfg *config.Config, nc *nats.Conn, log *slog.Logger) (*World, error) {
	w := &World{clusters: NewClusters(cfg, wire.WithClientID("starferry-agent"), wire.WithLogger(log))}
	store, err := desired.Open(ctx, nc, desired.Options{Logger: log})
	if err == nil {
		err = store.Ensure(ctx) // what a server makes while it is shut down stays behind
	}
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	w.store = store
	w.links = NewLinks(cfg, nc, log)
	wires := map[starferry.ClusterName]*wire.Cluster{}
	for _, name := range cfg.Names() {
		if wires[name], err = w.clusters.Wire(name); err != nil {
			return nil, errors.Join(err, w.Close())
		}
	}
	f, err := fleet.Open(fleet.Config{Clusters: wires, Store: store, Copies: copies{w.links}, Logger: log})
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	w.hand = &Hand{fleet: f}
	w.census = &Census{cfg, f, w.clusters}
	return w, nil
}

// Ports are what builtins act on.
func (w *World) Ports() builtins.Ports {
	return builtins.Ports{Clusters: w.clusters, Times: w.clusters, Copier: w.links, Hand: w.hand, Remote: w.hand, Prover: w.links, Census: w.census, Fencer: w.hand, Spreader: w.hand, Producers: w.hand}
}

// KeepOverflows takes redistributions that the settings have lost to their end,
// until ctx ends.
func (w *World) KeepOverflows(ctx context.Context) { w.hand.fleet.KeepOverflows(ctx) }

// KeepFences holds the fences of groups that ought to stand, until ctx ends.
func (w *World) KeepFences(ctx context.Context) { w.hand.fleet.KeepFences(ctx) }

// KeepStores sees to it that what groups are asked by is there, until ctx ends.
func (w *World) KeepStores(ctx context.Context) { w.store.Keep(ctx) }

// AnswerLastWords answers services that ask what others of their group said last.
func (w *World) AnswerLastWords(queue string) (*nats.Subscription, error) {
	return w.store.AnswerLastWords(queue)
}

// Close ends all connections but that to NATS, which is the caller's.
func (w *World) Close() error {
	var err error
	if w.links != nil {
		err = w.links.Close()
	}
	return errors.Join(err, w.clusters.Close())
}

// OpenShard starts a replicator on the clusters of a configuration.
func OpenShard(ctx context.Context, cfg *config.Config, nc *nats.Conn, id replication.ShardID, dir string, log *slog.Logger) (*replication.Shard, error) {
	s, err := replication.OpenShard(ctx, replication.ShardConfig{
		ID: id, Clusters: cfg.Clusters, NATS: nc, Dir: dir, Logger: log,
		Snapshots: replication.SnapshotConfig{Every: cfg.Shards.Snapshots},
	})
	if err != nil {
		return nil, fmt.Errorf("open shard %s: %w", id, err)
	}
	return s, nil
}
