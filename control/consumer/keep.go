package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/internal/records"
)

// keepAtOnce and keepBytes bound what is put into a skip's topic with one
// request.
const (
	keepAtOnce = 500
	keepBytes  = 512 << 10
)

// bypass passes records that are to be skipped, once copies of them are kept. It
// returns how many it has passed: less than all if the skip is taken back
// meanwhile, or the session halts, which is told by ok.
func (p *part) bypass(sk *control.Skip, j job) (passed int, ok bool) {
	for passed < len(j.records) {
		n := piece(j.records[passed:])
		if kept, ok := p.keep(sk, j.records[passed:passed+n]); !kept {
			return passed, ok
		}
		p.mu.Lock()
		for _, r := range j.spans[passed : passed+n] {
			p.done.add(r)
		}
		p.skipped += int64(n)
		p.mu.Unlock()
		p.dequeue(n)
		passed += n
	}
	return passed, true
}

// piece is how many records go into one request, at least one.
func piece(rs []records.Record) int {
	size := 0
	for i, r := range rs {
		size += len(r.Key) + len(r.Value)
		if i == keepAtOnce || i > 0 && size > keepBytes {
			return i
		}
	}
	return len(rs)
}

// keep puts copies of records into the skip's topic, however often that takes.
// It gives up when the skip is taken back, or the session halts: then ok is
// false.
func (p *part) keep(sk *control.Skip, rs []records.Record) (kept, ok bool) {
	if sk.Keep == "" {
		return true, true
	}
	for pause := p.s.c.cfg.RetryMin; ; pause = min(2*pause, p.s.c.cfg.RetryMax) {
		err := p.keepOnce(sk, rs)
		if err == nil {
			return true, true
		}
		if p.ctx.Err() != nil {
			return false, false
		}
		p.s.c.log.Error("skipped records cannot be kept; their partition waits", "partition", p.tp, "offset", rs[0].Offset, "skip", sk.ID, "in", pause, "error", err)
		select {
		case <-p.ctx.Done():
			return false, false
		case <-time.After(pause):
		}
		now := p.skip(rs[0])
		if now == nil || now.Keep != sk.Keep {
			return false, true
		}
	}
}

func (p *part) keepOnce(sk *control.Skip, rs []records.Record) error {
	why := errors.New("skipped: " + sk.Why)
	var out []records.Record
	for _, r := range rs {
		seen := p.export(r)
		hs := append(p.s.c.origin(seen, 0, why),
			records.Header{Key: headerSkip, Value: []byte(sk.ID)}, records.Header{Key: headerBy, Value: []byte(sk.By)})
		out = append(out, records.Record{Timestamp: time.Now().UnixMilli(), Key: seen.Key, Value: seen.Value, Headers: hs})
	}
	return p.put(sk.Keep, p.tp.Partition, out)
}

// put writes records to a topic of the group's, what shares a partition to one
// partition: it stays in order. A crash before the commit writes them twice;
// never not at all.
func (p *part) put(to starferry.Topic, partition starferry.Partition, rs []records.Record) error {
	ctx, cancel := context.WithTimeout(p.ctx, parkWithin)
	defer cancel()
	meta, err := p.s.wc.Metadata(ctx, to)
	if err != nil {
		return fmt.Errorf("look up topic %s: %w", to, err)
	}
	n := len(meta.Topics[to].Partitions)
	if n == 0 {
		return fmt.Errorf("topic %s is not on %s: %w; create it there", to, p.s.cluster, errors.Join(meta.Topics[to].Err))
	}
	tp := starferry.TopicPartition{Topic: to, Partition: starferry.Partition(int(partition) % n)}
	if _, err := p.s.wc.Produce(ctx, tp, records.Encode(rs)); err != nil {
		p.s.wc.Forget(to)
		return err
	}
	return nil
}
