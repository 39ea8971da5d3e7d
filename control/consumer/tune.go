package consumer

import (
	"cmp"
	"time"

	"golang.org/x/time/rate"

	"github.com/starferry/starferry/control"
)

// tuning is what counts for one partition: what the service has configured, the
// group's throttle, the partition's own, and whether it is held.
type tuning struct {
	parallelism int
	delay       time.Duration
	high, low   int
	limiter     *rate.Limiter // of its own; nil: none
	held        string        // why nothing is handed out
	over        chan struct{} // closed when another takes its place
}

// tune is what counts for a partition now.
func (p *part) tune() *tuning {
	set, cfg := p.s.c.settings.Load(), &p.s.c.cfg
	t := &tuning{parallelism: cfg.Parallelism, high: cfg.QueueHigh, low: cfg.QueueLow, over: make(chan struct{})}
	take := func(by control.Throttle) {
		t.parallelism = cmp.Or(by.Parallelism, t.parallelism)
		t.delay = cmp.Or(time.Duration(by.DelayMS)*time.Millisecond, t.delay)
		if by.QueueHigh > 0 {
			t.high, t.low = by.QueueHigh, by.QueueHigh/2
		}
		if by.QueueLow > 0 && by.QueueLow < t.high {
			t.low = by.QueueLow
		}
	}
	if set.throttle != nil {
		take(*set.throttle)
	}
	if own, ok := set.throttles[p.tp]; ok {
		if take(own); own.Rate > 0 {
			t.limiter = rate.NewLimiter(rate.Inf, 1)
			setRate(t.limiter, own.Rate)
		}
	}
	if p.s.c.one == nil {
		t.parallelism = 1 // batches follow each other
	}
	t.parallelism = min(max(t.parallelism, 1), maxAhead)
	for _, h := range set.holds {
		if h.Covers(p.tp) {
			t.held = "paused by " + h.ID
		}
	}
	if r, _ := p.rewind(); r != nil {
		t.held = "rewound by " + r.ID
	}
	return t
}

// retune takes over what counts now. After it no record begins that is held.
func (p *part) retune() {
	t := p.tune()
	p.mu.Lock()
	was := p.tuning.Swap(t)
	wake := int32(-1)
	if full := p.queued >= t.high; p.full && !full {
		p.full, wake = false, p.leader
	}
	crew := p.crew
	p.mu.Unlock()
	if was != nil {
		close(was.over)
	}
	p.s.wakeUp(wake)
	if crew != nil {
		crew.resize(t.parallelism)
	}
}

// free waits while the partition is held; false when it halts first.
func (p *part) free() bool {
	for {
		t := p.tuning.Load()
		if t.held == "" {
			return true
		}
		select {
		case <-p.ctx.Done():
			return false
		case <-t.over:
		}
	}
}

// admit waits until group and partition allow n more records.
func (p *part) admit(n int) bool {
	if t := p.tuning.Load(); t.delay > 0 && !p.linger() {
		return false
	}
	if !p.s.c.admit(p.ctx, n) {
		return false
	}
	l := p.tuning.Load().limiter
	return l == nil || allow(p.ctx, l, n)
}

// linger waits for the delay that is asked for, which may be lifted meanwhile.
func (p *part) linger() bool {
	for begun := time.Now(); ; {
		t := p.tuning.Load()
		left := t.delay - time.Since(begun)
		if left <= 0 {
			return true
		}
		timer := time.NewTimer(left)
		select {
		case <-p.ctx.Done():
			timer.Stop()
			return false
		case <-t.over:
			timer.Stop()
		case <-timer.C:
		}
	}
}
