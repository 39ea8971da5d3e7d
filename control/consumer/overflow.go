package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/switchover"
	"github.com/starferry/starferry/internal/records"
	"github.com/starferry/starferry/internal/wire"
)

// The instance's side of a redistribution: it reads the group's overflow topic
// beside its own, and hands its records out as what they were. mover.go is the
// side of the hot partition's owner.

// topics are what the instance subscribes to.
func (c *Consumer) topics() []starferry.Topic {
	if o := c.settings.Load().wish.Overflow; o.ReadBy(c.cfg.Instance) {
		return append(slices.Clone(c.cfg.Topics), o.Topic)
	}
	return c.cfg.Topics
}

// overflowOf is the redistribution that holds once settings are adopted. One
// under way ends by being closed and in no other way: where settings have lost
// it, it is kept, for its records are read by nobody else. It runs on the loop.
func (c *Consumer) overflowOf(v control.Settings) *control.Overflow {
	was := c.settings.Load().wish.Overflow
	if v.Overflow == nil && was != nil && was.Phase == control.OverflowMove {
		c.log.Warn("the settings have lost a redistribution under way; it goes on", "partition", was.Partition, "topic", was.Topic)
		return was
	}
	return v.Overflow
}

// resubscribe has the memberships take up what has changed of a redistribution:
// all of them if the topics have, and the owner of the hot partition, which
// begins anew with what is committed. It runs on the loop.
func (c *Consumer) resubscribe(was, is *control.Overflow) {
	changed := was.ReadBy(c.cfg.Instance) != is.ReadBy(c.cfg.Instance) || was.ReadBy(c.cfg.Instance) && was.Topic != is.Topic
	for _, m := range c.members {
		if changed {
			m.renew()
		}
	}
	if s := c.session; s != nil && !changed && !sameOverflow(s.overflow, moving(is, s.cluster)) {
		for _, o := range []*control.Overflow{s.overflow, is} {
			if o != nil && s.owns(o.Partition) {
				s.member.renew()
			}
		}
	}
}

func sameOverflow(a, b *control.Overflow) bool {
	return a == nil && b == nil || a != nil && b != nil && a.ID == b.ID && a.Until == b.Until
}

// moving is the redistribution if the backlog is to be moved on a cluster.
func moving(o *control.Overflow, on starferry.ClusterName) *control.Overflow {
	if o != nil && o.Phase == control.OverflowMove && o.Cluster == on {
		return o
	}
	return nil
}

func (s *session) owns(tp starferry.TopicPartition) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parts[tp] != nil || slices.Contains(s.begin, tp) // its beginning may be looked for still
}

// spilled reports whether a topic is the overflow.
func (s *session) spilled(t starferry.Topic) bool { return s.spill != "" && t == s.spill }

// beginnings asks where partitions begin that have no commit: the overflow at
// its first record, all others where the start policy says.
func (s *session) beginnings() (map[starferry.TopicPartition]starferry.Offset, error) {
	at := wire.Earliest
	if s.c.cfg.Start == Latest {
		at = wire.Latest
	}
	own, rest := s.parted(s.begin)
	got, err := s.wc.Offsets(s.handling, rest, at)
	if err != nil {
		return nil, err
	}
	spilled, err := s.wc.Offsets(s.handling, own, wire.Earliest)
	for tp, o := range spilled {
		got[tp] = o
	}
	return got, err
}

func (s *session) parted(tps []starferry.TopicPartition) (spilled, rest []starferry.TopicPartition) {
	for _, tp := range tps {
		if s.spilled(tp.Topic) {
			spilled = append(spilled, tp)
		} else {
			rest = append(rest, tp)
		}
	}
	return spilled, rest
}

// unstableAfter is how long commits of an open transaction are waited for
// before it is ended.
const unstableAfter = 500 * time.Millisecond

// commitsOf reads the commits of the group. What a transaction of a hot
// partition's dead owner holds back is not waited for: whoever reads them in a
// new generation knows that the owner is not at it any more.
func (c *Consumer) commitsOf(ctx context.Context, w *wire.Cluster) (map[starferry.TopicPartition]wire.Committed, error) {
	o := moving(c.settings.Load().wish.Overflow, w.Name())
	if o == nil {
		return w.Committed(ctx, c.cfg.Group, nil)
	}
	short, cancel := context.WithTimeout(ctx, unstableAfter)
	defer cancel()
	got, err := w.Committed(short, c.cfg.Group, nil)
	if !errors.Is(err, kafka.UnstableOffsetCommit) {
		return got, err
	}
	c.log.Info("ends the transaction of a redistribution whose owner has gone", "partition", o.Partition)
	if _, ferr := w.InitProducer(ctx, o.TransactionalID(c.cfg.Group), txnTimeout, nobody()); ferr != nil {
		return nil, ferr
	}
	return w.Committed(ctx, c.cfg.Group, nil)
}

// nobody is the owner of a producer id who takes it over from whoever has it.
func nobody() wire.Producer { return wire.Producer{ID: -1, Epoch: -1} }

// spill is a record as it is put into the overflow topic, with its origin.
func spill(tp starferry.TopicPartition, r records.Record, now int64) records.Record {
	origin := fmt.Sprintf("%s@%d %d", tp, r.Offset, r.Timestamp)
	r.Headers = append(slices.Clone(r.Headers), records.Header{Key: control.OverflowHeader, Value: []byte(origin)})
	r.Timestamp = now // an old one would be removed by retention, one in the future refused
	return r
}

// unspill is the record as it was; false for what others have put there.
func unspill(r records.Record) (starferry.TopicPartition, records.Record, bool) {
	n := len(r.Headers) - 1
	if n < 0 || r.Headers[n].Key != control.OverflowHeader {
		return starferry.TopicPartition{}, r, false
	}
	origin, stamp, _ := strings.Cut(string(r.Headers[n].Value), " ")
	at, err := starferry.ParsePosition(origin)
	when, err2 := strconv.ParseInt(stamp, 10, 64)
	if errors.Join(err, err2) != nil {
		return starferry.TopicPartition{}, r, false
	}
	r.Offset, r.Timestamp, r.Headers = int64(at.Offset), when, r.Headers[:n:n]
	if n == 0 {
		r.Headers = nil
	}
	return at.TopicPartition, r, true
}

// skip is what a record is to be passed over by: by its place, or if it comes
// out of the overflow, by where it was before; nil: nothing.
func (p *part) skip(r records.Record) *control.Skip {
	sk := p.s.c.skips(p.s.cluster, p.tp, starferry.Offset(r.Offset))
	if sk != nil || !p.s.c.skipping() || !p.s.spilled(p.tp.Topic) {
		return sk
	}
	if tp, was, ok := unspill(r); ok {
		return p.s.c.skips(p.s.cluster, tp, starferry.Offset(was.Offset))
	}
	return nil
}

// startable are the partitions without a commit that may begin: with the policy
// to refuse, those of the overflow alone.
func (c *Consumer) startable(e switchover.Fetch) (begin, refused []starferry.TopicPartition) {
	if c.cfg.Start != Refuse {
		return e.Start, nil
	}
	o := c.settings.Load().wish.Overflow
	for _, tp := range e.Start {
		if o != nil && tp.Topic == o.Topic {
			begin = append(begin, tp)
		} else {
			refused = append(refused, tp)
		}
	}
	return begin, refused
}
