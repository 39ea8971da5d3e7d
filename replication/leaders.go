package replication

import (
	"context"
	"errors"
	"fmt"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// leading is what a lane knows of who leads one of its partitions: the leader epoch
// under which it last read or wrote there. A later leader may have been elected
// uncleanly and lack the end of the log, and by the time somebody looks, other
// records may stand in its place; so a new one is asked where that epoch ends.
type leading struct {
	known bool
	epoch int32
}

// leadingOf takes the epoch from a cluster's metadata.
func leadingOf(m *wire.Metadata, tp starferry.TopicPartition) leading {
	for _, p := range m.Topics[tp.Topic].Partitions {
		if p.Partition == tp.Partition && p.Leader >= 0 && p.LeaderEpoch >= 0 {
			return leading{true, p.LeaderEpoch}
		}
	}
	return leading{}
}

// follow notes a partition's present leader, which was asked for where the log
// is cut off for the lane: at NoOffset it is not.
func (w leading) follow(ctx context.Context, c *wire.Cluster, tp starferry.TopicPartition, broker, epoch int32, upTo starferry.Offset) (leading, starferry.Offset, error) {
	now := leading{epoch >= 0, epoch}
	if !w.known || !now.known || epoch <= w.epoch {
		return now, starferry.NoOffset, nil
	}
	end, err := c.EpochEnd(ctx, tp, broker, epoch, w.epoch)
	var version *wire.VersionError
	switch {
	case errors.As(err, &version), errors.Is(err, kafka.TopicAuthorizationFailed), errors.Is(err, wire.ErrNoEpoch):
		return now, starferry.NoOffset, nil // nobody to ask
	case err != nil:
		return w, starferry.NoOffset, err
	case end < upTo:
		return now, end, nil
	}
	return now, starferry.NoOffset, nil
}

// sourceStands makes sure before a lane fetches from a leader that what it has
// fetched is still there.
func (c *copier) sourceStands(l *lane, term uint64, broker, epoch int32) error {
	l.mu.Lock()
	was, upTo := l.ledSource, l.fetch
	l.mu.Unlock()
	now, cut, err := was.follow(c.ctx, c.src, l.tp, broker, epoch, upTo)
	if err != nil {
		return err
	}
	l.mu.Lock()
	current := l.term == term
	if current {
		l.ledSource = now
	}
	l.mu.Unlock()
	if cut == starferry.NoOffset || !current {
		return nil
	}
	l.stop(c.truncated(l, cut, upTo))
	return nil
}

// truncated says that a lane's source has lost what was read from it.
func (c *copier) truncated(l *lane, cut, upTo starferry.Offset) error {
	return fmt.Errorf("source %s of %s was truncated at offset %d by an unclean election, and offsets up to %d had been fetched: %s may hold copies of records that are gone or other ones now; compare the two clusters, delete topic %s on %s and ask for the link again",
		l.tp, c.spec.Source, cut, upTo-1, c.spec.Target, l.to.Topic, c.spec.Target)
}

// errTruncated says that the target lost copies: they are found missing by
// reading back, and copied again.
var errTruncated = errors.New("the target's new leader lacks copies that were acknowledged")

// targetStands makes sure before a lane writes to a leader that what it has
// written is still there.
func (c *copier) targetStands(l *lane, term uint64, broker, epoch int32) error {
	l.mu.Lock()
	was := l.ledTarget
	var upTo starferry.Offset
	if l.omap != nil {
		_, upTo = l.omap.Next()
	}
	for _, e := range l.pipe.queue {
		if e.phase == acked && e.batch != nil {
			upTo = max(upTo, e.target+starferry.Offset(e.records))
		}
	}
	l.mu.Unlock()
	now, cut, err := was.follow(c.ctx, c.tgt, l.to, broker, epoch, upTo)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.term != term || !l.active {
		return nil
	}
	l.ledTarget = now
	if cut != starferry.NoOffset {
		err := fmt.Errorf("%s was truncated at offset %d, and copies up to %d were acknowledged: %w", l.to, cut, upTo-1, errTruncated)
		c.log.Warn("target truncated", "link", c.spec.Name, "lane", l.tp, "err", err)
		l.haltLocked(Recovering, err.Error())
		l.bucket.refence(l, err)
	}
	return nil
}
