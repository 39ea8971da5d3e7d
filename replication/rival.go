package replication

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// A link that was made again with another number of buckets has other owners for
// the same lanes, under other transactional ids: a bucket's own fence shuts none
// of them out. Those that have anchored an epoch on a lane are fenced under their
// own ids, and the lane's anchors say which producers that has barred.
//
// A shard that NATS cannot reach goes on with the old spec as long as its lease
// lasts, and may take a lane over at the very time when its new owner does. Each
// of the two writes its anchor and then looks for the other's, so that at least
// one sees it, and shuts the other out before it writes anything.

// barred says below which epoch batches of a producer id are refused on a lane's
// target partition. It is about the ids of other buckets only.
type barred map[int64]int16

// barredBy is what anchors of one lane say, all together; of ids that none of
// them bears any more it says nothing.
func barredBy(as []anchor) barred {
	out := barred{}
	for _, a := range as {
		for _, o := range as {
			if epoch, ok := o.Barred[a.PID]; ok {
				out[a.PID] = max(out[a.PID], epoch)
			}
		}
	}
	return out
}

// rivals are the other buckets whose owners may still write a lane, with their
// producer ids, by its anchors and what is barred.
func (s *stateLog) rivals(as []anchor, bucket int, known barred) map[int][]int64 {
	out := map[int][]int64{}
	for _, a := range as {
		if n, ok := s.BucketOf(a.Link, a.PID); ok && n != bucket && a.Epoch >= known[a.PID] {
			out[n] = append(out[n], a.PID)
		}
	}
	return out
}

// shutOthers fences lanes whose anchors tell of owners of other buckets.
func (b *bucket) shutOthers(ctx context.Context, f *fence) error {
	c := b.c
	f.barred = map[starferry.TopicPartition]barred{}
	others := map[int]map[*lane][]int64{}
	for _, l := range f.lanes {
		as := c.state.Anchors(c.spec.Name, l.tp)
		f.barred[l.tp] = barredBy(as)
		for n, pids := range c.state.rivals(as, b.n, f.barred[l.tp]) {
			if others[n] == nil {
				others[n] = map[*lane][]int64{}
			}
			others[n][l] = pids
		}
	}
	for n, lanes := range others {
		p, err := b.shutOther(ctx, n, lanes)
		if err != nil {
			return fmt.Errorf("fence lanes that bucket %d wrote before on %s: %w", n, c.spec.Target, err)
		}
		for l, pids := range lanes {
			for _, id := range pids {
				f.barred[l.tp][id] = math.MaxInt16 // was waited for, unless it is the present one
			}
			f.barred[l.tp][p.ID] = p.Epoch
		}
	}
	return nil
}

// shutOther fences lanes under the transactional id of another bucket. It
// returns the producer whose markers stand in all of them.
func (b *bucket) shutOther(ctx context.Context, n int, lanes map[*lane][]int64) (p wire.Producer, err error) {
	c, txid, nobody := b.c, b.c.spec.txid(n), wire.Producer{ID: -1, Epoch: -1}
	tps := make([]starferry.TopicPartition, 0, len(lanes))
	for l := range lanes {
		tps = append(tps, l.to)
	}
	err = again(ctx, func() error {
		if p, err = c.tgt.InitProducer(ctx, txid, time.Minute, nobody); err != nil {
			return err
		}
		if err = c.tgt.AddPartitionsToTxn(ctx, txid, p, tps); err != nil {
			return err
		}
		if err = c.tgt.EndTxn(ctx, txid, p, false); err != nil {
			return err
		}
		_, err = c.tgt.InitProducer(ctx, txid, time.Minute, nobody) // succeeds only once the markers stand
		return err
	})
	if err != nil {
		return p, err
	}
	_, theirs := c.state.PIDs(c.spec.Name, n)
	return p, b.outwait(ctx, theirs, p)
}

// errRival says that an owner of another bucket has begun to write a lane.
var errRival = errors.New("the lane's owner by another number of buckets has come meanwhile, and is shut out first")

// alone makes sure that nobody else has begun to write a lane since the fence. It
// is asked between the epoch's anchor and its first batch. Start is where the
// target log starts.
func (b *bucket) alone(ctx context.Context, a anchor, start starferry.Offset) error {
	s := b.c.state
	if err := s.Look(ctx, a.To.Topic); err != nil {
		return fmt.Errorf("find out who else writes %s of %s: %w", a.To, b.c.spec.Target, err)
	}
	all := s.Anchors(a.Link, a.Lane)
	if len(s.rivals(all, b.n, barredBy(append(all[:len(all):len(all)], a)))) == 0 {
		return s.prune(ctx, a, all, start)
	}
	b.c.dispute() // the spec may be another one by now
	// Nothing was written under it. Left, it would end the other's epoch in the map.
	if err := s.put(ctx, a.key(), nil); err != nil {
		return err
	}
	return errRival
}
