package replication

import (
	"context"
	"errors"
	"maps"
	"math"
	"time"

	"golang.org/x/time/rate"
)

const (
	proveIdle  = time.Second // between looks at lanes that have nothing new
	proveSteps = 64          // on one lane before the next has its turn
	proveTries = 5           // failures in a row after which a lane's proof begins again
)

// provenLane is a lane under a continuous proof.
type provenLane struct {
	*proof
	failed int // steps in a row
}

// prove compares the lanes of the link with their source, on and on as the copy
// does, at the rate that the link's spec gives.
func (c *copier) prove(v *proofs) {
	limit := rate.NewLimiter(1, maxStepBytes)
	limit.AllowN(time.Now(), maxStepBytes) // no burst to begin with
	running := map[*lane]*provenLane{}
	for c.ctx.Err() == nil {
		busy := false
		if n := c.wanted().VerifyBytes; n > 0 {
			limit.SetLimit(rate.Limit(n))
			busy = c.proveAll(v, running, limit)
		} else {
			for l := range running {
				l.unprove()
			}
			clear(running)
		}
		if !busy && wait(c.ctx, proveIdle) != nil {
			return
		}
	}
}

// proveAll goes on with each lane for a while, and reports whether one of them
// has not reached the end of its copy.
func (c *copier) proveAll(v *proofs, running map[*lane]*provenLane, limit *rate.Limiter) (busy bool) {
	lanes := map[*lane]bool{}
	for _, l := range c.all() {
		lanes[l] = true
		more, err := c.proveLane(v, running, l, limit)
		if err != nil && c.ctx.Err() == nil {
			l.prove(func(f *LaneProof) { f.Partition, f.Error = l.tp, err.Error() })
		}
		busy = busy || more
	}
	maps.DeleteFunc(running, func(l *lane, _ *provenLane) bool { return !lanes[l] })
	return busy
}

// proveLane goes on with a lane for a while; more says that it has not reached
// the end of the copy.
func (c *copier) proveLane(v *proofs, running map[*lane]*provenLane, l *lane, limit *rate.Limiter) (more bool, err error) {
	if _, err := l.mapped(); err != nil {
		delete(running, l) // it is being taken up, or stopped before that
		return false, nil
	}
	p := running[l]
	if p == nil || p.failed >= proveTries {
		begun, err := v.prove(l, verifyStep{})
		if err != nil {
			return false, err
		}
		p = &provenLane{proof: begun}
		running[l] = p
		l.prove(func(f *LaneProof) { *f = LaneProof{Partition: l.tp, From: p.at, Next: p.at, To: p.to} })
	}
	defer p.release()
	p.own, _ = c.state.PIDs(c.spec.Name, l.bucket.n)
	if p.extend(math.MaxInt64); p.at == p.to {
		return false, nil
	}
	for range proveSteps {
		ctx, cancel := context.WithTimeout(c.ctx, stepPatience)
		p.found = LaneProof{}
		done, err := p.step(ctx, verifyPage)
		cancel()
		l.prove(func(f *LaneProof) {
			f.add(p.found)
			f.Next, f.To, f.Error = p.at, p.to, ""
			if done {
				f.Rounds++
			}
		})
		if n := min(int(p.found.Bytes), limit.Burst()); n > 0 {
			err = errors.Join(err, limit.WaitN(c.ctx, n))
		}
		if err != nil {
			p.failed++
			return false, err
		}
		if p.failed = 0; done {
			return false, nil
		}
	}
	return true, nil
}

// release lets go of what was read and not used.
func (p *proof) release() {
	p.src.rewind(p.at)
	p.tgt.rewind(p.tat)
	p.segs, p.records, p.opened = nil, nil, -1
}

// unprove lets the lane's status say nothing of a proof.
func (l *lane) unprove() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proof = nil
}

// prove changes what the lane's status says of its proof.
func (l *lane) prove(f func(*LaneProof)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := LaneProof{}
	if l.proof != nil {
		next = *l.proof
	}
	holes := next.Holes
	next.Holes = nil
	for r, n := range holes { // the one before may be on its way to somebody
		next.hole(r, n)
	}
	f(&next)
	l.proof = &next
}
