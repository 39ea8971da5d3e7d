package consumer

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/internal/records"
	"github.com/starferry/starferry/internal/wire"
)

// The bounds of one transaction. While it is open, readers of the overflow wait
// at its first record, so it is kept short.
const (
	chunkRecords = 2000
	chunkBytes   = 2 << 20
	batchBytes   = 256 << 10 // of one batch; a larger record has one of its own
	txnWithin    = 10 * time.Second
	txnTimeout   = 20 * time.Second // after which the broker aborts it
)

// mover moves the backlog of a hot partition into the overflow, chunk by chunk:
// records and the group's own offset in one transaction, committed as the member
// that owns the partition. A crash anywhere leaves each chunk done or not.
//
// Whatever goes wrong has one remedy: take the producer id over, which ends what
// is open, and read from Kafka where the group stands.
type mover struct {
	p        *part
	o        *control.Overflow
	txid     string
	producer wire.Producer
	open     bool // producer is ours, as far as is known
	sequence map[starferry.TopicPartition]int32
	over     []starferry.TopicPartition // partitions of the overflow
	turn     int                        // of records without a key
	picked   []records.Record           // of the piece in hand
	moved    bool                       // something has been committed by it
}

// errElsewhere: the group's offset is neither where a chunk begins nor where it
// ends. Somebody else has set it, so all is read anew.
var errElsewhere = errors.New("the group's offset was set by somebody else")

// redistribute moves what there is to be moved of this partition, and waits for
// it to be handled where that is promised. It returns what was fetched beyond;
// false when the session halts first.
func (p *part) redistribute() (chunk, bool) {
	o := p.s.overflow
	if o == nil || o.Partition != p.tp {
		return chunk{}, true
	}
	if p.s.c.cfg.Failure.stage(p.tp.Topic) > 0 {
		p.s.c.log.Error("a retry topic is not redistributed: its records wait for their time", "partition", p.tp)
		p.settle()
		return chunk{}, true
	}
	m := &mover{p: p, o: o, txid: o.TransactionalID(p.s.c.cfg.Group), sequence: map[starferry.TopicPartition]int32{}}
	if !p.s.c.quiet(p.ctx) {
		return chunk{}, false
	}
	rest, ok := m.run()
	if ok = ok && m.await(); ok {
		p.settle()
	}
	return rest, ok
}

// settle lets the partition's progress be committed as that of any other.
func (p *part) settle() {
	p.s.c.post(func() { p.moving = false })
}

// quiet waits until no commit of this instance is under way: one that was
// applied behind a transaction's would take the group back.
func (c *Consumer) quiet(ctx context.Context) bool {
	for {
		none := make(chan bool, 1)
		c.post(func() { none <- len(c.commits) == 0 })
		select {
		case <-ctx.Done():
			return false
		case ok := <-none:
			if ok {
				return true
			}
		}
		if !idle(ctx, 10*time.Millisecond) {
			return false
		}
	}
}

// idle waits; false when ctx ends first.
func idle(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (m *mover) run() (chunk, bool) {
	p := m.p
	if p.next() < m.o.Until {
		p.s.c.log.Info("moves the backlog", "partition", p.tp, "from", p.next(), "to", m.o.Until, "into", m.o.Topic, "order", m.o.Order)
	}
	for p.next() < m.o.Until {
		k, ok := p.take()
		if !ok {
			return chunk{}, false
		}
		for len(k.records) > 0 || k.from < k.next {
			var piece chunk
			if piece, k = k.piece(m.o.Until); piece.from >= piece.next {
				return k, true
			}
			if !m.move(piece) {
				return chunk{}, false
			}
			p.dequeue(len(piece.records))
		}
	}
	return chunk{}, true
}

// piece splits off what one transaction moves; nothing at or beyond until.
func (k chunk) piece(until starferry.Offset) (piece, rest chunk) {
	n, size := 0, 0
	for n < len(k.records) && n < chunkRecords && starferry.Offset(k.records[n].Offset) < until {
		r := &k.records[n]
		if size += len(r.Key) + len(r.Value); size > chunkBytes && n > 0 {
			break
		}
		n++
	}
	end := min(k.next, until)
	if n < len(k.records) {
		end = min(starferry.Offset(k.records[n].Offset), until)
	}
	end = max(end, k.from)
	return chunk{k.records[:n:n], k.from, end}, chunk{k.records[n:], end, k.next}
}

// move moves one piece, however often that takes; false when the session halts
// or has to begin anew.
func (m *mover) move(k chunk) bool {
	p := m.p
	before, after := p.places(starferry.Range{From: k.from, To: k.next})
	if !m.pick(k) {
		return false
	}
	for pause := p.s.c.cfg.RetryMin; ; pause = min(2*pause, p.s.c.cfg.RetryMax) {
		err := m.once(before, after)
		if err == nil {
			p.pass(starferry.Range{From: k.from, To: k.next})
			p.refuse("")
			p.s.c.post(func() { p.committed = after })
			m.moved = true
			return true
		}
		if errors.Is(err, errElsewhere) {
			p.s.c.log.Warn("reads its place anew", "partition", p.tp, "error", err)
			p.s.abandon(p)
			p.s.member.renew()
			return false
		}
		if p.ctx.Err() != nil {
			return false
		}
		p.refuse(fmt.Sprintf("%s on %s stands still: its backlog cannot be moved: %v; mend that, or stop the redistribution", p.tp, p.s.cluster, err))
		p.s.c.log.Warn("backlog cannot be moved; it is tried again", "partition", p.tp, "offset", k.from, "in", pause, "error", err)
		if !idle(p.ctx, pause) {
			return false
		}
	}
}

// once tries one transaction. What becomes of it is known when it returns: nil
// says that it stands, errElsewhere that the partition was given up, any other
// error that nothing of it stands.
func (m *mover) once(before, after starferry.Place) error {
	s := m.p.s
	if m.p.ctx.Err() != nil {
		return context.Cause(m.p.ctx)
	}
	ctx, cancel := context.WithTimeout(s.handling, txnWithin)
	defer cancel()
	if !m.open {
		if stands, err := m.takeOver(ctx, before, after); stands || err != nil {
			return err // what an owner before this one has done counts as well
		}
	}
	err := m.transact(ctx, after)
	if err == nil {
		return nil
	}
	m.open = false
	for pause := s.c.cfg.RetryMin; ; pause = min(2*pause, time.Second) { // not before it is known
		tctx, cancel := context.WithTimeout(s.handling, txnWithin)
		stands, terr := m.takeOver(tctx, before, after)
		cancel()
		switch {
		case stands:
			return nil
		case terr == nil:
			return err
		case errors.Is(terr, errElsewhere):
			return terr
		case !idle(s.handling, pause):
			s.abandon(m.p) // what stands is for Kafka to say, not for this instance
			return errors.Join(err, terr)
		}
	}
}

// takeOver makes the producer id this instance's, which ends what is open of
// it, and reads where the group stands: at the end of a piece, or at its
// beginning.
func (m *mover) takeOver(ctx context.Context, before, after starferry.Place) (stands bool, err error) {
	s := m.p.s
	m.step("init")
	producer, err := s.wc.InitProducer(ctx, m.txid, txnTimeout, nobody())
	if err != nil {
		return false, err
	}
	if m.over, err = s.overflowPartitions(ctx, m.o.Topic); err != nil {
		return false, err
	}
	got, err := s.wc.Committed(ctx, s.c.cfg.Group, []starferry.TopicPartition{m.p.tp})
	if err != nil {
		return false, err
	}
	m.producer, m.open = producer, true
	clear(m.sequence)
	com, ok := got[m.p.tp]
	switch {
	case ok && com.Offset == after.Next:
		return true, nil
	case ok && com.Offset == before.Next, !ok && !m.moved: // the start policy's place is not committed yet
		return false, nil
	}
	return false, fmt.Errorf("%w: it is %d on %s, and %d was expected", errElsewhere, com.Offset, s.cluster, before.Next)
}

func (s *session) overflowPartitions(ctx context.Context, t starferry.Topic) ([]starferry.TopicPartition, error) {
	md, err := s.wc.Metadata(ctx, t)
	if err != nil {
		return nil, err
	}
	n := len(md.Topics[t].Partitions)
	if n == 0 {
		s.wc.Forget(t)
		return nil, fmt.Errorf("overflow topic %s is not on %s: %w", t, s.cluster, errors.Join(md.Topics[t].Err))
	}
	tps := make([]starferry.TopicPartition, n)
	for i := range tps {
		tps[i] = starferry.TopicPartition{Topic: t, Partition: starferry.Partition(i)}
	}
	return tps, nil
}

// transact is one transaction: the records into the overflow, the group's own
// offset past them, as the member that owns the partition.
func (m *mover) transact(ctx context.Context, after starferry.Place) error {
	s := m.p.s
	sets := m.spread()
	if len(sets) > 0 {
		m.step("add partitions")
		var tps []starferry.TopicPartition
		for tp := range sets {
			tps = append(tps, tp)
		}
		if err := s.wc.AddPartitionsToTxn(ctx, m.txid, m.producer, tps); err != nil {
			return err
		}
		m.step("produce")
		if err := m.produce(ctx, sets); err != nil {
			return err
		}
	}
	m.step("add offsets")
	if err := s.wc.AddOffsetsToTxn(ctx, m.txid, m.producer, s.c.cfg.Group); err != nil {
		return err
	}
	m.step("commit offsets")
	mark := control.Mark{State: control.Home, Epoch: s.epoch, Handled: after.Handled}
	err := s.wc.TxnCommit(ctx, m.txid, m.producer, wire.Commit{
		Group: s.c.cfg.Group, Member: s.memberID, Instance: s.c.cfg.name(), Generation: s.generation,
		Offsets: map[starferry.TopicPartition]wire.Committed{m.p.tp: {Offset: after.Next, LeaderEpoch: -1, Metadata: mark.String()}},
	})
	if err != nil {
		return err
	}
	m.step("end")
	if err := s.wc.EndTxn(ctx, m.txid, m.producer, true); err != nil {
		return err
	}
	m.step("ended")
	return nil
}

// step tells a test which step comes next.
func (m *mover) step(name string) {
	if f := m.p.s.c.cfg.steps; f != nil {
		f(name)
	}
}

// pick chooses what of a piece is moved. What is handled already or to be skipped
// is left out, the latter once copies of it are kept: the group's offset passes
// it. False when the session halts first.
func (m *mover) pick(k chunk) bool {
	m.picked = m.picked[:0]
	for i := range k.records {
		v := m.p.judge(k.records[i])
		for v.skip != nil {
			kept, ok := m.p.keep(v.skip, k.records[i:i+1])
			if !ok {
				return false
			}
			if kept {
				break
			}
			v = m.p.judge(k.records[i]) // taken back meanwhile
		}
		if v == (verdict{}) {
			m.picked = append(m.picked, k.records[i])
		}
	}
	return true
}

// spread shares what is moved out over the overflow's partitions.
func (m *mover) spread() map[starferry.TopicPartition][]records.Record {
	out := map[starferry.TopicPartition][]records.Record{}
	now := time.Now().UnixMilli()
	for _, r := range m.picked {
		to := m.over[m.choose(r.Key)]
		out[to] = append(out[to], spill(m.p.tp, r, now))
	}
	return out
}

// choose is the overflow partition of a record. A key has one; records without
// a key, and all where no order is kept, take turns.
func (m *mover) choose(key []byte) int {
	if key == nil || m.o.Order == control.NoOrder {
		m.turn++
		return m.turn % len(m.over)
	}
	h := fnv.New32a()
	h.Write(key)
	return int(h.Sum32() % uint32(len(m.over)))
}

// produce writes to all partitions at once, each in order.
func (m *mover) produce(ctx context.Context, sets map[starferry.TopicPartition][]records.Record) error {
	g, ctx := errgroup.WithContext(ctx)
	for tp, rs := range sets {
		from := m.sequence[tp]
		m.sequence[tp] += int32(len(rs))
		g.Go(func() error {
			for len(rs) > 0 {
				n := batchOf(rs)
				set := records.EncodeTxn(rs[:n], m.producer.ID, m.producer.Epoch, from)
				if _, err := m.p.s.wc.ProduceTxn(ctx, m.txid, tp, set); err != nil {
					return err
				}
				rs, from = rs[n:], from+int32(n)
			}
			return nil
		})
	}
	return g.Wait()
}

// batchOf is how many records go into the next batch.
func batchOf(rs []records.Record) int {
	size := 0
	for n := range rs {
		if size += len(rs[n].Key) + len(rs[n].Value); size > batchBytes && n > 0 {
			return n
		}
	}
	return len(rs)
}

// handledEvery is how often the owner asks whether the overflow is handled.
const handledEvery = 200 * time.Millisecond

// await keeps the partition's later records back until the overflow is handled,
// if the order of keys was promised; false when the session halts first.
func (m *mover) await() bool {
	if m.o.Order == control.NoOrder {
		return true
	}
	s := m.p.s
	for said := false; ; {
		left, err := s.wc.Behind(m.p.ctx, s.c.cfg.Group, m.o.Topic)
		switch {
		case err == nil && left == 0:
			s.c.log.Info("the overflow is handled; goes on", "partition", m.p.tp, "at", m.p.next())
			return true
		case m.p.ctx.Err() != nil:
			return false
		case err != nil:
			s.c.log.Warn("cannot tell whether the overflow is handled; the partition waits", "partition", m.p.tp, "error", err)
		case !said:
			said = true
			s.c.log.Info("waits for the overflow to be handled", "partition", m.p.tp, "topic", m.o.Topic, "left", left)
		}
		if !idle(m.p.ctx, handledEvery) {
			return false
		}
	}
}

// next is the offset below which everything is handled or moved.
func (p *part) next() starferry.Offset {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done.next
}

// places are where the partition stands, and where it will once a range is
// passed.
func (p *part) places(r starferry.Range) (before, after starferry.Place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before = p.done.place()
	w := newWaterline(before)
	w.add(r)
	return before, w.place()
}

// refuse says why the partition stands still; "" if it does not.
func (p *part) refuse(why string) {
	p.mu.Lock()
	p.refusal = why
	p.mu.Unlock()
}

// abandon takes a partition out of the session without a word on where it
// stands: that is committed already, or for the next owner to find out.
func (s *session) abandon(p *part) {
	p.halt()
	s.mu.Lock()
	delete(s.parts, p.tp)
	s.mu.Unlock()
}
