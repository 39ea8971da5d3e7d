package replication

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// bucket is the ownership of one share of a link's lanes by this shard.
type bucket struct {
	c     *copier
	n     int
	epoch int64 // of the table
	poke  chan struct{}
	own   wire.Producer // {-1, -1}: none held
	bytes atomic.Int64  // copied

	mu    sync.Mutex
	lanes map[starferry.TopicPartition]*lane
	note  string // why there is nothing to see yet

	askMu sync.Mutex // taken last: lanes ask while they are locked
	asked map[*lane]error
}

func newBucket(c *copier, n int, epoch int64) *bucket {
	return &bucket{
		c: c, n: n, epoch: epoch, poke: make(chan struct{}, 1), own: wire.Producer{ID: -1, Epoch: -1},
		lanes: map[starferry.TopicPartition]*lane{}, asked: map[*lane]error{},
	}
}

// look asks for the lanes to be looked up again. It does not block.
func (b *bucket) look() {
	select {
	case b.poke <- struct{}{}:
	default:
	}
}

// refence asks for a new epoch for one lane, which has halted: it alone is shut
// and read back. It does not block.
func (b *bucket) refence(l *lane, why error) {
	b.askMu.Lock()
	b.asked[l] = why
	b.askMu.Unlock()
	b.look()
}

// takeAsked removes and returns the lanes that ask for a new epoch.
func (b *bucket) takeAsked() map[*lane]error {
	b.askMu.Lock()
	defer b.askMu.Unlock()
	out := b.asked
	b.asked = map[*lane]error{}
	return out
}

// run owns the bucket until the context ends.
func (b *bucket) run(ctx context.Context) {
	defer b.close()
	pause := 50 * time.Millisecond
	for ctx.Err() == nil {
		began := time.Now()
		revision := b.c.wanted().Revision
		err := b.hold(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 10*time.Second {
			pause = 50 * time.Millisecond
		}
		b.c.log.Info("bucket begins anew", "link", b.c.spec.Name, "bucket", b.n, "why", err)
		b.say(err.Error())
		b.c.deny(b.n, revision, err)
		if errors.Is(err, kafka.ProducerFenced) || errors.Is(err, kafka.InvalidProducerEpoch) {
			b.c.dispute() // who fenced us may be the owner by now
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

// holding is one spell of ownership: from a takeover of the transactional id
// until somebody else has it, or the cluster has forgotten it.
type holding struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	// served are the lanes that were shut in this spell, with the identity they
	// may write under; those of one bucket may have different epochs.
	served map[*lane]wire.Producer
}

// awayEvery is how often a partition that is away is looked for.
const awayEvery = time.Second

// hold takes the bucket over and serves its lanes, each as soon as its
// partition is there, until something ends its right to write.
func (b *bucket) hold(ctx context.Context) error {
	h := &holding{served: map[*lane]wire.Producer{}}
	h.ctx, h.cancel = context.WithCancel(ctx)
	defer b.release(h)
	b.takeAsked() // what was asked for before is answered by what follows
	renew := time.NewTimer(b.c.renewal(ctx))
	defer renew.Stop()
	for {
		away, err := b.serve(ctx, h)
		if err != nil {
			return err
		}
		var back <-chan time.Time
		if away > 0 {
			back = time.After(awayEvery)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-b.poke:
		case <-back:
		case <-renew.C:
			again, err := b.keep(ctx, h)
			if err != nil {
				return err
			}
			renew.Reset(again)
		}
	}
}

// release ends a spell: nothing of it writes any more.
func (b *bucket) release(h *holding) {
	h.cancel()
	h.wg.Wait()
	for l := range h.served {
		l.halt(Recovering, "")
	}
}

// serve shuts and reads back the lanes that wait for it and whose partitions
// are there. It returns how many are away.
func (b *bucket) serve(ctx context.Context, h *holding) (away int, err error) {
	lanes, err := b.take(ctx)
	if err != nil {
		return 0, err
	}
	asked := b.takeAsked()
	for l := range h.served {
		if l.left() {
			delete(h.served, l)
			delete(asked, l)
		}
	}
	lanes = slices.DeleteFunc(lanes, func(l *lane) bool {
		_, served := h.served[l]
		return served && asked[l] == nil
	})
	if len(lanes) == 0 {
		return 0, nil
	}
	f, err := b.probe(ctx, lanes)
	if err != nil {
		return 0, err
	}
	for l, why := range asked {
		if !slices.Contains(f.lanes, l) {
			b.refence(l, why)
		}
	}
	if len(f.lanes) == 0 {
		return len(lanes), nil
	}
	if err := b.fence(ctx, h, f); err != nil {
		return 0, err
	}
	b.c.deny(b.n, 0, nil)
	for _, l := range f.lanes {
		h.served[l] = f.producer
		h.wg.Go(func() { b.revive(h.ctx, l, f) })
	}
	return len(lanes) - len(f.lanes), nil
}

// take makes the lanes of the bucket that are not there yet and returns those
// that are to be copied.
func (b *bucket) take(ctx context.Context) ([]*lane, error) {
	tps, err := b.c.lanesOf(ctx, b.n)
	if err != nil {
		return nil, err
	}
	spec := b.c.wanted()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clean(spec)
	var out []*lane
	for _, tp := range tps {
		l := b.lanes[tp]
		if l == nil {
			l = &lane{tp: tp, to: b.c.spec.targetPart(tp), bucket: b, c: b.c, edits: spec.edits(tp), attempt: spec.Attempt, state: Recovering, end: -1}
			b.lanes[tp] = l
		}
		if l.status().State != Stopped {
			out = append(out, l)
		}
	}
	return out, nil
}

// revive reads a lane back and lets it copy, however long its partition takes
// to come back.
func (b *bucket) revive(ctx context.Context, l *lane, f *fence) {
	pause := 50 * time.Millisecond
	for {
		err := b.reviveOnce(ctx, l, f)
		var h halting
		switch {
		case err == nil || ctx.Err() != nil || l.left():
			return
		case errors.As(err, &h):
			l.stop(err)
			return
		}
		if errors.Is(err, errNoMarker) || errors.Is(err, errRival) {
			b.refence(l, err)
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
	if err := b.c.state.Anchor(ctx, a); err != nil {
		return err
	}
	if err := b.alone(ctx, a, start); err != nil {
		return err
	}
	l.mu.Lock()
	l.anchor = a
	l.ledTarget = leadingOf(f.target, l.to)
	if !l.ledSource.known {
		l.ledSource = leadingOf(f.source, l.tp)
	}
	l.mu.Unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	l.start(f.producer, l.laneRules())
	return nil
}

// close lets the maps go. Nothing of the bucket runs any more.
func (b *bucket) close() {
	b.c.snaps.handOver(b.all(), b.epoch)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.lanes {
		l.close()
	}
}

// close ends a lane and lets its map go.
func (l *lane) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.haltLocked(Unowned, "")
	l.closed = true
	if l.omap != nil {
		if err := l.omap.Close(); err != nil {
			l.c.log.Warn("offset map not closed", "lane", l.tp, "err", err)
		}
		l.omap = nil
	}
	for _, w := range l.waiters {
		close(w.done)
	}
	l.waiters = nil
}

// left reports whether the bucket has let the lane go.
func (l *lane) left() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

func (b *bucket) all() []*lane {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Values(b.lanes))
}

func (b *bucket) lane(tp starferry.TopicPartition) *lane {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lanes[tp]
}
