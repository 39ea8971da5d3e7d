package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nuid"
	"golang.org/x/time/rate"

	"github.com/starferry/starferry"
)

// VerifyRequest says what of a link to compare, and how.
type VerifyRequest struct {
	// Topics, by their names on the source; empty: all of the link.
	Topics []starferry.Topic
	// Partitions of these topics; empty: all.
	Partitions []starferry.Partition
	// Range is a range of source offsets in each partition; To 0: up to where
	// the copy is now.
	Range starferry.Range
	// Rate limits what is read from both clusters together, bytes per second; 0:
	// no limit.
	Rate int64
	// Contents shows the beginning of what differs. Records may be secret:
	// otherwise sizes and hashes are shown.
	Contents bool
	// Hash computes a hash of each side's records. All batches are opened then,
	// which takes several times longer.
	Hash bool
	// Continuous goes on with what is copied meanwhile, until the context ends,
	// which is then no error.
	Continuous bool
	// Progress, if set, is told now and then how far the proof is. It must not
	// keep its argument.
	Progress func(Proof)
}

const (
	lanesAtOnce    = 4                // compared at the same time
	verifyPatience = 30 * time.Second // how long nobody may answer for a lane
	stepBytes      = 16 << 20
)

// Verify compares the copies of a link with their source. The shards that own
// the lanes do it, in steps of bounded size, beside the copy; nothing is
// changed. An error means that nothing was compared; what went wrong in one
// lane stands in its proof.
func (c *Client) Verify(ctx context.Context, link starferry.LinkName, q VerifyRequest) (Proof, error) {
	out := Proof{Link: link}
	if q.Range.From < 0 || q.Range.To < 0 || q.Range.To > 0 && q.Range.To <= q.Range.From || q.Rate < 0 {
		return out, fmt.Errorf("verify link %s: range %d to %d at rate %d: want offsets that ascend and bytes per second", link, q.Range.From, q.Range.To, q.Rate)
	}
	st, err := c.open(ctx)
	if err != nil {
		return out, fmt.Errorf("verify link %s: %w", link, err)
	}
	spec, err := st.Link(ctx, link)
	if err != nil {
		return out, fmt.Errorf("verify link %s: %w", link, err)
	}
	if len(spec.Scrub) > 0 {
		return out, fmt.Errorf("verify link %s: it scrubs %s, so its copies differ from their source on purpose; there is nothing to compare", link, strings.Join(spec.Scrub, ", "))
	}
	lanes, err := c.verifiable(ctx, spec, q)
	if err != nil {
		return out, fmt.Errorf("verify link %s: %w", link, err)
	}
	v := &verifying{c: c, spec: spec, q: q, proof: out}
	v.lookUp(ctx)
	if q.Rate > 0 {
		v.limit = rate.NewLimiter(rate.Limit(q.Rate), maxStepBytes)
		v.limit.AllowN(time.Now(), maxStepBytes) // no burst to begin with
	}
	for _, tp := range lanes {
		v.proof.Lanes = append(v.proof.Lanes, LaneProof{Partition: tp, From: q.Range.From, Next: q.Range.From})
	}
	v.run(ctx)
	if err := ctx.Err(); err != nil && !q.Continuous {
		return v.proof, fmt.Errorf("verify link %s: %w", link, context.Cause(ctx))
	}
	return v.proof, nil
}

// verifiable lists the lanes that are asked for.
func (c *Client) verifiable(ctx context.Context, spec LinkSpec, q VerifyRequest) ([]starferry.TopicPartition, error) {
	for _, t := range q.Topics {
		if !slices.Contains(spec.Topics, t) {
			return nil, fmt.Errorf("topic %s is not on it; it copies %v", t, spec.Topics)
		}
	}
	all, _, err := c.lanes(ctx, spec)
	if err != nil {
		return nil, err
	}
	var out []starferry.TopicPartition
	for _, tp := range all {
		if len(q.Topics) > 0 && !slices.Contains(q.Topics, tp.Topic) || len(q.Partitions) > 0 && !slices.Contains(q.Partitions, tp.Partition) {
			continue
		}
		out = append(out, tp)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no partition of topics %v is among %v", spec.Topics, q.Partitions)
	}
	return out, nil
}

// verifying is a Verify under way.
type verifying struct {
	c     *Client
	spec  LinkSpec
	q     VerifyRequest
	limit *rate.Limiter // nil: none

	mu    sync.Mutex
	proof Proof
	table Table
}

// run compares the lanes, a few at a time.
func (v *verifying) run(ctx context.Context) {
	for first := true; first || v.q.Continuous; first = false {
		next := make(chan int)
		var wg sync.WaitGroup
		for range min(lanesAtOnce, len(v.proof.Lanes)) {
			wg.Go(func() {
				for i := range next {
					v.lane(ctx, i)
				}
			})
		}
		for i := range v.proof.Lanes {
			next <- i
		}
		close(next)
		wg.Wait()
		if v.q.Continuous && wait(ctx, proveIdle) != nil {
			return
		}
	}
}

// change notes what was found out about a lane and tells of it.
func (v *verifying) change(i int, f func(*LaneProof)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f(&v.proof.Lanes[i])
	if v.q.Progress != nil {
		v.q.Progress(v.proof)
	}
}

// lane compares one lane to its end, step by step.
func (v *verifying) lane(ctx context.Context, i int) {
	v.mu.Lock()
	l := v.proof.Lanes[i]
	v.mu.Unlock()
	if l.Differences >= maxDifferences {
		return
	}
	q := verifyStep{
		Link: v.spec.Name, Lane: l.Partition, Session: nuid.Next(), From: v.q.Range.From, To: v.q.Range.To,
		Budget: stepBytes, Contents: v.q.Contents, Digest: v.q.Hash,
	}
	if v.limit != nil {
		q.Budget = min(q.Budget, max(verifyPage/4, v.q.Rate))
	}
	if q.To == 0 {
		q.To = -1
	}
	if l.place != nil {
		q.Place, q.States = l.place, l.states
	}
	failing := time.Time{}
	for ctx.Err() == nil {
		r, err := v.ask(ctx, q)
		if err != nil {
			if failing.IsZero() {
				failing = time.Now()
			}
			if r.Final || time.Since(failing) > verifyPatience {
				v.change(i, func(l *LaneProof) { l.Error = err.Error() })
				return
			}
			if wait(ctx, 250*time.Millisecond) != nil {
				v.change(i, func(l *LaneProof) { l.Error = err.Error() })
				return
			}
			continue
		}
		failing = time.Time{}
		if r.Lost {
			q.Place, q.States = nil, [2][]byte{}
			v.change(i, func(l *LaneProof) { *l = LaneProof{Partition: l.Partition, From: v.q.Range.From} })
			continue
		}
		if q.Place = &r.Place; !v.q.Continuous {
			q.To = r.To
		}
		q.States = r.States
		enough := false
		v.change(i, func(l *LaneProof) {
			l.add(r.Found)
			l.Next, l.To, l.Error = r.Place.At, r.To, ""
			l.SourceHash, l.TargetHash = r.Found.SourceHash, r.Found.TargetHash
			l.place, l.states = q.Place, q.States
			if r.Done {
				l.Rounds++
			}
			enough = l.Differences >= maxDifferences
		})
		if v.limit != nil {
			_ = v.limit.WaitN(ctx, min(int(r.Found.Bytes), v.limit.Burst()))
		}
		if r.Done || enough {
			return
		}
	}
}

// ask puts a step to the lane's owner.
func (v *verifying) ask(ctx context.Context, q verifyStep) (r verifyReply, err error) {
	n := v.spec.BucketOf(q.Lane)
	v.mu.Lock()
	owner := ownerOf(v.table, n)
	v.mu.Unlock()
	defer func() {
		if err != nil { // another one may own it now
			v.lookUp(ctx)
		}
	}()
	if owner == "" {
		return r, fmt.Errorf("bucket %d of %s has no owner: are shards running?", n, q.Lane)
	}
	if err := v.c.ask(ctx, owner, "verify", q, &r, stepPatience); err != nil {
		return r, err
	}
	if r.Error != "" {
		return r, errors.New(r.Error)
	}
	return r, nil
}

func (v *verifying) lookUp(ctx context.Context) {
	st, err := v.c.open(ctx)
	if err != nil {
		return
	}
	if table, err := st.Table(ctx, v.spec.Name); err == nil {
		v.mu.Lock()
		v.table = table
		v.mu.Unlock()
	}
}
