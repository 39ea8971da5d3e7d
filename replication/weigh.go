package replication

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/starferry/starferry"
)

// Buckets are shared by weight as well as by number: a quarter of a bucket's
// weight is that of any bucket, three quarters are its share of the bytes per
// second, so that an idle link is shared evenly and a busy one by its load. The
// weights stand in the table, so all shards compute from the same.
const (
	evenWeight = 250  // of a thousand, per mean bucket
	rateWeight = 750  // of a thousand, per mean rate
	imbalance  = 0.25 // of the mean share: nothing moves for less
	settledAt  = 0.10 // of the mean share: what moves stops here
)

// weights turns rates into weights, about a thousand each on average; nil if
// nothing flows.
func weights(rates []int64) []int64 {
	var sum int64
	for _, r := range rates {
		sum += max(r, 0)
	}
	if sum == 0 {
		return nil
	}
	mean := float64(sum) / float64(len(rates))
	out := make([]int64, len(rates))
	for b, r := range rates {
		out[b] = evenWeight + int64(rateWeight*float64(max(r, 0))/mean)
	}
	return out
}

// balance gives the buckets that nobody has to the shards with the least load,
// and evens out loads that differ by more than the imbalance. It moves the bucket
// that helps most, one after the other.
func (t Table) balance(live []ShardID) {
	load := map[ShardID]int64{}
	var free []int
	var total int64
	for b, o := range t.Owners {
		total += t.Weights[b]
		if o.Shard == "" {
			free = append(free, b)
		} else {
			load[o.Shard] += t.Weights[b]
		}
	}
	slices.SortStableFunc(free, func(a, b int) int { return cmp.Compare(t.Weights[b], t.Weights[a]) })
	for _, b := range free {
		_, s := extremes(live, load, t.Link)
		t.give(b, s, load)
	}
	mean := float64(total) / float64(len(live))
	if hi, lo := extremes(live, load, t.Link); float64(load[hi]-load[lo]) <= imbalance*mean {
		return
	}
	for range t.Owners {
		hi, lo := extremes(live, load, t.Link)
		if float64(load[hi]-load[lo]) <= settledAt*mean {
			return
		}
		b := t.best(hi, load[hi]-load[lo])
		if b < 0 {
			return
		}
		t.give(b, lo, load)
	}
}

// extremes are the shards with the most and the least load.
func extremes(live []ShardID, load map[ShardID]int64, link starferry.LinkName) (most, least ShardID) {
	order := func(a, b ShardID) int {
		return cmp.Or(cmp.Compare(load[a], load[b]), cmp.Compare(weight(link, a), weight(link, b)), cmp.Compare(a, b))
	}
	return slices.MaxFunc(live, order), slices.MinFunc(live, order)
}

// best is the bucket of a shard that evens out a difference best: the nearest to
// half of it. −1: none makes it less.
func (t Table) best(of ShardID, difference int64) int {
	found, least := -1, difference
	for b, o := range t.Owners {
		if o.Shard != of || t.Weights[b] >= difference {
			continue
		}
		if off := max(difference-2*t.Weights[b], 2*t.Weights[b]-difference); off < least {
			found, least = b, off
		}
	}
	return found
}

func (t Table) give(b int, to ShardID, load map[ShardID]int64) {
	if was := t.Owners[b].Shard; was != "" {
		load[was] -= t.Weights[b]
	}
	load[to] += t.Weights[b]
	t.Owners[b] = Ownership{Shard: to, Epoch: t.Owners[b].Epoch + 1}
}

// weighEvery is how often the first of the living shards asks the others how
// much flows through their buckets.
const weighEvery = time.Minute

type ratesReply struct {
	Bytes map[int]int64 `json:"bytes"` // copied by each bucket since this shard has it
	Error string        `json:"error,omitempty"`
}

// answerRates tells how much this shard's buckets of a link have copied.
func (s *Shard) answerRates(_ context.Context, data []byte) any {
	var q lagRequest
	if err := json.Unmarshal(data, &q); err != nil {
		return ratesReply{Error: "read request: " + err.Error()}
	}
	c, why := s.link(q.Link)
	if c == nil {
		return ratesReply{Error: why}
	}
	out := ratesReply{Bytes: map[int]int64{}}
	for _, r := range c.running() {
		out.Bytes[r.n] = r.bytes.Load()
	}
	return out
}

// scales remember what buckets had copied when they were last weighed.
type scales struct {
	at    time.Time
	owner []ShardID
	bytes []int64
}

// weigh asks all owners for the rates of a link's buckets, and puts the weights
// into the table, if the time has come and this shard is the first of the living.
// Without an answer of all the table stays as it is.
func (s *Shard) weigh(ctx context.Context, live []ShardID, t Table) Table {
	if len(live) < 2 || slices.Min(live) != s.cfg.ID || len(t.Owners) == 0 {
		return t
	}
	was, now := s.scales[t.Link], time.Now()
	if now.Sub(was.at) < s.cfg.weigh {
		return t
	}
	bytes, err := s.askRates(ctx, t)
	if err != nil {
		s.log.Debug("buckets not weighed", "link", t.Link, "err", err)
		return t
	}
	next := scales{at: now, bytes: bytes, owner: make([]ShardID, len(t.Owners))}
	rates := make([]int64, len(t.Owners))
	for b, o := range t.Owners {
		next.owner[b] = o.Shard
		if len(was.owner) == len(t.Owners) && was.owner[b] == o.Shard && bytes[b] >= was.bytes[b] {
			rates[b] = int64(float64(bytes[b]-was.bytes[b]) / now.Sub(was.at).Seconds())
		} else if len(was.owner) == len(t.Owners) {
			s.scales[t.Link] = next
			return t // buckets have just moved: not yet
		}
	}
	s.scales[t.Link] = next
	if w := weights(rates); w != nil && len(was.owner) == len(t.Owners) {
		t.Weights = w // a link that rests keeps its weights
	}
	return t
}

// askRates asks every owner.
func (s *Shard) askRates(ctx context.Context, t Table) ([]int64, error) {
	q, err := json.Marshal(lagRequest{Link: t.Link})
	if err != nil {
		return nil, fmt.Errorf("ask for rates: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	out := make([]int64, len(t.Owners))
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs error
	for owner, buckets := range t.byShard() {
		wg.Go(func() {
			var r ratesReply
			m, err := s.cfg.NATS.RequestWithContext(ctx, subject(owner, "rates"), q)
			if err == nil {
				err = json.Unmarshal(m.Data, &r)
			}
			if err == nil && r.Error != "" {
				err = errors.New(r.Error)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, b := range buckets {
				bytes, ok := r.Bytes[b]
				if !ok && err == nil {
					err = fmt.Errorf("bucket %d is not there", b)
				}
				out[b] = bytes
			}
			if err != nil {
				errs = errors.Join(errs, fmt.Errorf("ask shard %s for rates: %w", owner, err))
			}
		})
	}
	wg.Wait()
	return out, errs
}

// forgetScales drops what was weighed of links that are gone.
func (s *Shard) forgetScales(wanted map[starferry.LinkName]bool) {
	maps.DeleteFunc(s.scales, func(l starferry.LinkName, _ scales) bool { return !wanted[l] })
}
