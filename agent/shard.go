package agent

import (
	"context"
	"log/slog"
	"path/filepath"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/agent/world"
	"github.com/starferry/starferry/replication"
)

// OpenShard starts a replicator with its offset maps in the data directory. A
// JetStream that does not answer yet is waited for. Ctx is the shard's life.
func OpenShard(ctx context.Context, cfg *config.Config, nc *nats.Conn, id replication.ShardID, log *slog.Logger) (s *replication.Shard, err error) {
	w := newWaiter(cfg.NATS, log)
	w.nc = nc
	err = w.until(ctx, func(context.Context) error {
		s, err = world.OpenShard(ctx, cfg, nc, id, filepath.Join(cfg.DataDir, "shards", string(id)), log)
		return err
	})
	return s, err
}
