package replication

import (
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/batch"
)

// A leader forgets a producer id when the newest record it has of it is older
// than producer.id.expiration.ms, by the record's own time: of a backlog of old
// records, every few minutes and at every restart. It then takes any sequence,
// and a batch that is sent again may stand twice. So what may have arrived is
// sent again only while the leader must remember it; afterwards the target's log
// is asked.

// longIdle is after how long without a batch the next one goes alone: a leader
// that has forgotten the producer would take the second although it refused the
// first.
const longIdle = time.Second

// unsent reports whether a batch certainly was not written by the attempt that
// ended in an error.
func unsent(err error) bool {
	switch {
	case errors.Is(err, wire.ErrNoAnswer):
		return false
	case errors.Is(err, wire.ErrNotSent), errors.Is(err, errLease),
		errors.Is(err, kafka.NotEnoughReplicas), errors.Is(err, kafka.OutOfOrderSequenceNumber):
		return true
	}
	return false // also NotLeader: one that resigned while it waited for its followers
}

// errForgettable says why a batch is not sent again.
var errForgettable = errors.New("a batch was not answered for, and the leader may have forgotten by the records' times what it holds: reading it back")

// stale reports whether a batch whose fate is not known is about to be sent
// again although a leader may have forgotten it: the last of what may have
// arrived decides, and what is older than limit (Unix milliseconds) counts as
// forgotten.
func (p *pipeline) stale(limit int64) bool {
	unsure := false
	for _, e := range p.queue {
		unsure = unsure || e.unsure
		if unsure && e.stamped && e.newest < limit {
			return true
		}
	}
	p.unsure = unsure
	return false
}

// remembered is how old a batch may be so that a leader certainly knows of it.
func (c *copier) remembered() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.expiry.producer == 0 {
		return 0
	}
	return c.expiry.producer / 2
}

// readyLocked looks before a batch is taken whether it may be sent, and how.
// An error asks for a new epoch.
func (l *lane) readyLocked(now time.Time) error {
	if l.pipe.unsure && l.pipe.stale(now.Add(-l.remembered).UnixMilli()) {
		return fmt.Errorf("%s: %w", l.to, errForgettable)
	}
	if l.pipe.out == 0 && now.Sub(l.wrote) > longIdle {
		l.pipe.window = firstWindow
	}
	l.wrote = now
	return nil
}

// newestOf is the time by which a leader remembers a batch that it gets now.
func newestOf(e *entry, r rules, now time.Time) int64 {
	if r.brokerTime {
		return now.UnixMilli()
	}
	return batch.Batch(e.batch).MaxTimestamp()
}
