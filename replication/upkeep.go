package replication

import (
	"context"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/offsetmap"
)

// upkeep looks after the maps, off the hot path: what nobody can read any more
// on either side is forgotten, what has grown is snapshotted, and snapshots of
// ended links are removed.
func (s *Shard) upkeep(ctx context.Context) {
	every := s.snaps.cfg.Every
	if every < 0 {
		every = SnapshotConfig{}.normal().Every
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !s.lease.Valid() {
			continue
		}
		for _, c := range s.running() {
			c.trim(ctx)
			c.snapshot(ctx)
		}
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("old snapshots not removed", "err", err)
		}
	}
}

func (s *Shard) sweep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	links, err := s.store.Links(ctx)
	if err != nil {
		return err
	}
	return s.snaps.sweep(ctx, links)
}

// snapshot keeps the lanes that have grown enough, at the configured rate.
func (c *copier) snapshot(ctx context.Context) {
	for _, l := range c.all() {
		m := l.sound()
		if m == nil {
			continue
		}
		short, cancel := context.WithTimeout(ctx, 30*time.Second)
		n, err := c.snaps.keep(short, m, l.bucket.epoch, c.snaps.cfg.Growth)
		cancel()
		if err != nil && ctx.Err() == nil {
			c.log.Warn("offset map not snapshotted", "link", c.spec.Name, "lane", l.tp, "err", err)
		}
		for n > 0 {
			part := min(n, c.snaps.limiter.Burst())
			if c.snaps.limiter.WaitN(ctx, part) != nil {
				return
			}
			n -= part
		}
	}
}

// trim forgets what lies below the starts of both logs. A lane of less than a
// block has nothing to gain by it.
func (c *copier) trim(ctx context.Context) {
	var src, tgt []starferry.TopicPartition
	maps := map[starferry.TopicPartition]*offsetmap.Lane{}
	to := map[starferry.TopicPartition]starferry.TopicPartition{}
	for _, l := range c.all() {
		if m := l.sound(); m != nil && m.Blocks() > 0 {
			src, tgt = append(src, l.tp), append(tgt, l.to)
			maps[l.tp], to[l.tp] = m, l.to
		}
	}
	if len(src) == 0 {
		return
	}
	short, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	sources, err := c.src.Offsets(short, src, wire.Earliest)
	if err != nil && len(sources) == 0 {
		c.log.Debug("starts of the source not read", "link", c.spec.Name, "err", err)
		return
	}
	targets, err := c.tgt.Offsets(short, tgt, wire.Earliest)
	if err != nil && len(targets) == 0 {
		c.log.Debug("starts of the target not read", "link", c.spec.Name, "err", err)
		return
	}
	for tp, m := range maps {
		source, ok := sources[tp]
		target, reached := targets[to[tp]]
		if !ok || !reached || source < 0 || target < 0 {
			continue
		}
		before, _ := m.Start()
		from, err := m.Trim(source, target)
		if err != nil && ctx.Err() == nil {
			c.log.Warn("offset map not trimmed", "link", c.spec.Name, "lane", tp, "err", err)
		} else if from > before {
			c.log.Debug("offset map forgot what both logs have", "link", c.spec.Name, "lane", tp, "from", from)
		}
	}
}
