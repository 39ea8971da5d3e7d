package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// After how long a producer that could not be fenced has no connection left:
// brokers close idle ones after connections.max.idle.ms, 10 minutes.
const unfencedWait = 11 * time.Minute

// fence is what a bucket's owner knows after it has shut out whoever wrote
// lanes before it.
type fence struct {
	lanes    []*lane // whose target partitions are there
	producer wire.Producer
	before   map[starferry.TopicPartition]starferry.Offset // target ends before the marker
	source   *wire.Metadata
	target   *wire.Metadata
	barred   map[starferry.TopicPartition]barred // by lane
}

// probeWithin bounds how long a leader that does not answer is asked.
const probeWithin = 3 * time.Second

// probe finds out which lanes' target partitions are there now. The others wait
// alone: one that does not exist would fail the whole transaction, and one
// without a leader would keep it from ending, and with it the bucket.
func (b *bucket) probe(ctx context.Context, lanes []*lane) (*fence, error) {
	c := b.c
	f := &fence{}
	var err error
	if f.source, f.target, err = c.metadata(ctx, lanes); err != nil {
		return nil, err
	}
	why := map[*lane]error{}
	var ask []starferry.TopicPartition
	for _, l := range lanes {
		if why[l] = led(f.target, l.to); why[l] == nil {
			ask = append(ask, l.to)
		}
	}
	short, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	f.before, err = c.tgt.Offsets(short, ask, wire.Latest)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for _, l := range lanes {
		if _, ok := f.before[l.to]; ok {
			f.lanes = append(f.lanes, l)
			continue
		}
		reason := why[l]
		if reason == nil {
			reason = err
		}
		l.note(Recovering, fmt.Sprintf("%s of %s is away: %v; the lane waits for it alone", l.to, c.spec.Target, reason))
	}
	return f, nil
}

// led reports why a partition cannot be written now.
func led(m *wire.Metadata, tp starferry.TopicPartition) error {
	t := m.Topics[tp.Topic]
	if t.Err != nil {
		return t.Err
	}
	for _, p := range t.Partitions {
		switch {
		case p.Partition != tp.Partition:
		case p.Leader >= 0:
			return nil
		case p.Err != nil:
			return p.Err
		default:
			return kafka.LeaderNotAvailable
		}
	}
	return fmt.Errorf("%w: create it, or ask for the link again", kafka.UnknownTopicOrPartition)
}

// fence shuts whoever wrote before out of the lanes' target partitions, by an
// empty aborted transaction over them. It takes a new epoch where one of them
// has written under the present one.
func (b *bucket) fence(ctx context.Context, h *holding, f *fence) error {
	c := b.c
	if err := c.state.Refresh(ctx); err != nil {
		return err
	}
	fresh := b.own.ID < 0 || len(h.served) == 0
	for _, l := range f.lanes {
		p, served := h.served[l]
		fresh = fresh || served && p == b.own
	}
	if fresh {
		if err := b.producer(ctx, len(h.served) > 0); err != nil {
			return err
		}
	}
	f.producer = b.own
	if err := b.claim(ctx, f.producer); err != nil {
		return err
	}
	if err := b.shutOthers(ctx, f); err != nil {
		return err
	}
	if !c.lease.Valid() {
		return errLease
	}
	txid := c.spec.txid(b.n)
	tps := make([]starferry.TopicPartition, len(f.lanes))
	for i, l := range f.lanes {
		tps[i] = l.to
	}
	if err := again(ctx, func() error { return c.tgt.AddPartitionsToTxn(ctx, txid, f.producer, tps) }); err != nil {
		return b.disowned(fmt.Errorf("fence bucket %d on %s: %w", b.n, c.spec.Target, err))
	}
	if err := again(ctx, func() error { return c.tgt.EndTxn(ctx, txid, f.producer, false) }); err != nil {
		return b.disowned(fmt.Errorf("fence bucket %d on %s: %w", b.n, c.spec.Target, err))
	}
	return nil
}

// errLease says that the shard's lease has run out.
var errLease = errors.New("the shard's lease has run out: it writes nothing until NATS has renewed it")

// errForgotten says that the cluster gave another producer id than the one it
// was asked to go on with.
var errForgotten = errors.New("the cluster has forgotten the bucket's producer id, or its epochs have run out")

// producer takes a new epoch of the bucket's transactional id. Who still holds
// it says so, and learns by the answer if somebody else has come. While lanes
// write under the old id, another one is an error: nothing has fenced them.
func (b *bucket) producer(ctx context.Context, writing bool) error {
	if !b.c.lease.Valid() {
		return errLease
	}
	was := b.own
	var p wire.Producer
	err := again(ctx, func() (err error) {
		p, err = b.c.tgt.InitProducer(ctx, b.c.spec.txid(b.n), time.Minute, b.own)
		if errors.Is(err, wire.ErrNoAnswer) {
			b.own = wire.Producer{ID: -1, Epoch: -1}
		}
		return err
	})
	if err != nil {
		return b.disowned(fmt.Errorf("take over bucket %d on %s: %w", b.n, b.c.spec.Target, err))
	}
	b.own = p
	if writing && was.ID >= 0 && p.ID != was.ID {
		return fmt.Errorf("%w: it was %d, now %d", errForgotten, was.ID, p.ID)
	}
	return nil
}

// disowned forgets the producer after any failure: the next try is a takeover.
func (b *bucket) disowned(err error) error {
	b.own = wire.Producer{ID: -1, Epoch: -1}
	return err
}

// keepTries is how soon a renewal that did not succeed is tried again.
const keepTries = 5 * time.Second

// keep renews the transactional id, which its coordinator forgets without a sign
// of life. The lanes go on under the epochs they have: partitions learn of a new
// one only by a marker. It returns when to renew next.
func (b *bucket) keep(ctx context.Context, h *holding) (time.Duration, error) {
	if len(h.served) == 0 {
		return b.c.renewal(ctx), nil
	}
	short, cancel := context.WithTimeout(ctx, keepTries)
	defer cancel()
	was := b.own
	p, err := b.c.tgt.InitProducer(short, b.c.spec.txid(b.n), time.Minute, was)
	switch {
	case err == nil && was.ID >= 0 && p.ID != was.ID:
		b.own = p
		return 0, fmt.Errorf("%w: it was %d, now %d", errForgotten, was.ID, p.ID)
	case err == nil:
		b.own = p
		if err := b.c.state.Sign(ctx, b.sign(p)); err != nil {
			b.c.log.Warn("sign of life not written", "link", b.c.spec.Name, "bucket", b.n, "err", err)
			return min(b.c.renewal(ctx), keepTries), nil
		}
		if err := b.marks(short, h); err != nil {
			b.c.log.Warn("marks not written", "link", b.c.spec.Name, "bucket", b.n, "err", err)
		}
		return b.c.renewal(ctx), nil
	case errors.Is(err, wire.ErrNoAnswer), passing(err), short.Err() != nil:
		// Nobody else can have come while the lease stands; a transaction that
		// cannot end because a partition has just gone away keeps the id alive.
		b.c.log.Info("transactional id not renewed yet", "link", b.c.spec.Name, "bucket", b.n, "err", err)
		return min(b.c.renewal(ctx), keepTries), nil
	}
	return 0, b.disowned(fmt.Errorf("renew bucket %d on %s: %w", b.n, b.c.spec.Target, err))
}

func (b *bucket) sign(p wire.Producer) claim {
	return claim{Link: b.c.spec.Name, Bucket: b.n, PID: p.ID, At: time.Now().UnixMilli()}
}

// claim writes down that the bucket uses a producer id.
func (b *bucket) claim(ctx context.Context, p wire.Producer) error {
	_, own := b.c.state.PIDs(b.c.spec.Name, b.n)
	if err := b.outwait(ctx, own, p); err != nil || own[p.ID] {
		return err
	}
	return b.c.state.Sign(ctx, b.sign(p))
}

// outwait waits until nobody can write any more under the ids that a bucket has
// had, if the one it got now is another: an id that comes unasked fences nothing.
func (b *bucket) outwait(ctx context.Context, had map[int64]bool, p wire.Producer) error {
	if len(had) == 0 || had[p.ID] {
		return nil
	}
	c := b.c
	last := time.UnixMilli(c.state.LastSign(c.spec.Name, had))
	left := min(c.unfenced, time.Until(last.Add(c.renew+c.unfenced)))
	if left <= 0 {
		return nil
	}
	reason := fmt.Sprintf("the cluster has forgotten the bucket's producer id (it was %v): waiting %v until no connection of an owner before can live", pidList(had), left.Round(time.Second))
	c.log.Warn("unfenced producer id", "link", c.spec.Name, "bucket", b.n, "was", pidList(had), "now", p.ID, "wait", left)
	b.say(reason)
	return wait(ctx, left)
}
