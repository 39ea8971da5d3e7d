package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// How often an owner renews its transactional id, which a broker forgets after
// transactional.id.expiration.ms, and after how long an unfenced producer
// cannot have a connection any more (connections.max.idle.ms is 10 minutes).
const (
	renewEvery   = time.Hour
	unfencedWait = 11 * time.Minute
)

// bucket is the ownership of one share of a link's lanes by this shard.
type bucket struct {
	c     *copier
	n     int
	epoch int64 // of the table
	poke  chan error
	own   wire.Producer // {-1, -1}: none held

	mu    sync.Mutex
	lanes map[starferry.TopicPartition]*lane
	note  string // why there is nothing to see yet
}

func newBucket(c *copier, n int, epoch int64) *bucket {
	return &bucket{
		c: c, n: n, epoch: epoch, poke: make(chan error, 1), own: wire.Producer{ID: -1, Epoch: -1},
		lanes: map[starferry.TopicPartition]*lane{},
	}
}

// bump asks for a new epoch and for the lanes to be read back. It does not block.
func (b *bucket) bump(why error) {
	select {
	case b.poke <- why:
	default:
	}
}

// errLanes is the cause of a bump that takes up other lanes.
var errLanes = errors.New("the bucket's lanes have changed")

// run owns the bucket until the context ends.
func (b *bucket) run(ctx context.Context) {
	defer b.close()
	pause := 50 * time.Millisecond
	for ctx.Err() == nil {
		began := time.Now()
		err := b.hold(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 10*time.Second || errors.Is(err, errLanes) {
			pause = 50 * time.Millisecond
		}
		if err != nil {
			b.c.log.Info("bucket begins anew", "link", b.c.spec.Name, "bucket", b.n, "why", err)
			b.say(err.Error())
		}
		if wait(ctx, pause) != nil {
			return
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// say tells in the status of all lanes that go on why they do not.
func (b *bucket) say(reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.note = reason
	for _, l := range b.lanes {
		l.note(Recovering, reason)
	}
}

// hold fences, reads back and copies, until something asks for a new epoch.
func (b *bucket) hold(ctx context.Context) error {
	select { // what was asked for before is answered by what follows
	case <-b.poke:
	default:
	}
	lanes, err := b.take(ctx)
	if err != nil {
		return err
	}
	if len(lanes) > 0 {
		f, err := b.fence(ctx, lanes)
		if err != nil {
			return err
		}
		inner, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		for _, l := range lanes {
			wg.Go(func() { b.revive(inner, l, f) })
		}
		defer func() {
			cancel()
			wg.Wait()
			for _, l := range lanes {
				l.halt(Recovering, "")
			}
		}()
	}
	renew := time.NewTimer(b.c.renew)
	defer renew.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-renew.C:
		return nil
	case why := <-b.poke:
		return why
	}
}

// take makes the lanes of the bucket that are not there yet and returns those
// that are to be copied.
func (b *bucket) take(ctx context.Context) ([]*lane, error) {
	tps, err := b.c.lanesOf(ctx, b.n)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []*lane
	for _, tp := range tps {
		l := b.lanes[tp]
		if l == nil {
			l = &lane{tp: tp, to: b.c.spec.targetPart(tp), bucket: b, c: b.c, state: Recovering, end: -1}
			b.lanes[tp] = l
		}
		if l.status().State != Stopped {
			out = append(out, l)
		}
	}
	return out, nil
}

// fence takes over the bucket's transactional id and shuts out whoever wrote
// before, by an empty aborted transaction over all lanes' target partitions.
func (b *bucket) fence(ctx context.Context, lanes []*lane) (*fence, error) {
	c := b.c
	if err := c.state.Refresh(ctx); err != nil {
		return nil, err
	}
	f := &fence{before: map[starferry.TopicPartition]starferry.Offset{}}
	tps := make([]starferry.TopicPartition, len(lanes))
	for i, l := range lanes {
		tps[i] = l.to
	}
	var err error
	if f.source, f.target, err = c.metadata(ctx, lanes); err != nil {
		return nil, err
	}
	if f.before, err = c.tgt.Offsets(ctx, tps, wire.Latest); err != nil && len(f.before) == 0 {
		return nil, fmt.Errorf("find ends on %s: %w", c.spec.Target, err)
	}
	if f.producer, err = b.producer(ctx); err != nil {
		return nil, err
	}
	if f.pids, err = b.claim(ctx, f.producer); err != nil {
		return nil, err
	}
	if !c.lease.Valid() {
		return nil, errLease
	}
	txid := c.spec.txid(b.n)
	if err := again(ctx, func() error { return c.tgt.AddPartitionsToTxn(ctx, txid, f.producer, tps) }); err != nil {
		return nil, b.disowned(fmt.Errorf("fence bucket %d on %s: %w", b.n, c.spec.Target, err))
	}
	if err := again(ctx, func() error { return c.tgt.EndTxn(ctx, txid, f.producer, false) }); err != nil {
		return nil, b.disowned(fmt.Errorf("fence bucket %d on %s: %w", b.n, c.spec.Target, err))
	}
	return f, nil
}

// errLease says that the shard's lease has run out.
var errLease = errors.New("the shard's lease has run out: it writes nothing until NATS has renewed it")

// producer takes a new epoch of the bucket's transactional id. Who still holds
// it says so, and learns by the answer if somebody else has come.
func (b *bucket) producer(ctx context.Context) (wire.Producer, error) {
	if !b.c.lease.Valid() {
		return wire.Producer{}, errLease
	}
	var p wire.Producer
	err := again(ctx, func() (err error) {
		p, err = b.c.tgt.InitProducer(ctx, b.c.spec.txid(b.n), time.Minute, b.own)
		if errors.Is(err, wire.ErrNoAnswer) {
			b.own = wire.Producer{ID: -1, Epoch: -1}
		}
		return err
	})
	if err != nil {
		return p, b.disowned(fmt.Errorf("take over bucket %d on %s: %w", b.n, b.c.spec.Target, err))
	}
	b.own = p
	return p, nil
}

// disowned forgets the producer after any failure: the next try is a takeover.
func (b *bucket) disowned(err error) error {
	b.own = wire.Producer{ID: -1, Epoch: -1}
	if errors.Is(err, kafka.TransactionalIDAuthorizationFailed) {
		return fmt.Errorf("%w: allow the principal to write transactional ids with prefix starferry. on this cluster", err)
	}
	return err
}

// claim writes down that the bucket uses a producer id, and returns all ids the
// link has used. An id that comes unasked, while another stands, fences nothing:
// the old one is waited out.
func (b *bucket) claim(ctx context.Context, p wire.Producer) (map[int64]bool, error) {
	c := b.c
	all, own := c.state.PIDs(c.spec.Name, b.n)
	if len(own) > 0 && !own[p.ID] {
		last := time.UnixMilli(c.state.LastSign(c.spec.Name, own))
		left := min(c.unfenced, time.Until(last.Add(c.renew+c.unfenced)))
		if left > 0 {
			reason := fmt.Sprintf("the cluster has forgotten the bucket's producer id (it was %v): waiting %v until no connection of an owner before can live", pidList(own), left.Round(time.Second))
			c.log.Warn("unfenced producer id", "link", c.spec.Name, "bucket", b.n, "was", pidList(own), "now", p.ID, "wait", left)
			b.say(reason)
			if err := wait(ctx, left); err != nil {
				return nil, err
			}
		}
	}
	if err := c.state.Claim(ctx, claim{Link: c.spec.Name, Bucket: b.n, PID: p.ID, At: time.Now().UnixMilli()}); err != nil {
		return nil, err
	}
	all[p.ID] = true
	return all, nil
}

// revive reads a lane back and lets it copy, however long its partition takes
// to come back.
func (b *bucket) revive(ctx context.Context, l *lane, f *fence) {
	pause := 50 * time.Millisecond
	for {
		err := b.reviveOnce(ctx, l, f)
		var h halting
		switch {
		case err == nil || ctx.Err() != nil:
			return
		case errors.As(err, &h):
			l.stop(err)
			return
		}
		l.note(Recovering, err.Error())
		b.c.log.Debug("lane not read back yet", "link", b.c.spec.Name, "lane", l.tp, "err", err)
		if wait(ctx, pause) != nil {
			return
		}
		pause = min(2*pause, 2*time.Second)
	}
}

func (b *bucket) reviveOnce(ctx context.Context, l *lane, f *fence) error {
	a, start, err := l.recover(ctx, f)
	if err != nil {
		return err
	}
	a.At = time.Now().UnixMilli()
	if err := b.c.state.Anchor(ctx, a, start); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	l.start(f.producer, b.c.rulesOf(l.to.Topic))
	return nil
}

// close lets the maps go. Nothing of the bucket runs any more.
func (b *bucket) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.lanes {
		l.halt(Unowned, "")
		l.mu.Lock()
		if l.omap != nil {
			if err := l.omap.Close(); err != nil {
				b.c.log.Warn("offset map not closed", "lane", l.tp, "err", err)
			}
			l.omap = nil
		}
		for _, w := range l.waiters {
			close(w.done)
		}
		l.waiters = nil
		l.mu.Unlock()
	}
}

func (b *bucket) lane(tp starferry.TopicPartition) *lane {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lanes[tp]
}
