package sidecar

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/starferry/starferry/control/consumer"
)

// gatherer puts records that are handed out one by one into common deliveries:
// as many as have come while the deliveries before were under way. Nothing waits
// for more to come.
type gatherer struct {
	s *Sidecar

	mu      sync.Mutex
	waiting []*passenger
	sending int
}

// passenger is a record in, or before, a common delivery.
type passenger struct {
	record consumer.Record
	told   chan told
	cancel context.CancelCauseFunc // of its delivery; nil while it waits
}

// told is what became of a record. Beside: it failed with others, and nobody
// knows for which.
type told struct {
	err    error
	beside bool
}

var errBroken = errors.New("its delivery was broken off for another record's sake")

// deliver waits until a record's delivery is answered. If the record's context
// ends, the delivery is broken off: nobody knows what keeps the service, and the
// others come again.
func (g *gatherer) deliver(ctx context.Context, r consumer.Record) told {
	p := &passenger{record: r, told: make(chan told, 1)}
	g.mu.Lock()
	g.waiting = append(g.waiting, p)
	if g.sending < g.s.cfg.Requests {
		g.sending++
		g.s.wg.Go(g.send)
	}
	g.mu.Unlock()
	select {
	case t := <-p.told:
		return t
	case <-ctx.Done():
		g.leave(p)
		return told{err: context.Cause(ctx)}
	}
}

func (g *gatherer) leave(p *passenger) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.cancel != nil {
		p.cancel(errBroken)
		return
	}
	g.waiting = slices.DeleteFunc(g.waiting, func(o *passenger) bool { return o == p })
}

// send makes deliveries as long as records wait.
func (g *gatherer) send() {
	for {
		ctx, cancel := context.WithCancelCause(g.s.ctx)
		all := g.take(cancel)
		if len(all) == 0 {
			cancel(nil)
			return
		}
		rs := make([]consumer.Record, len(all))
		for i, p := range all {
			rs[i] = p.record
		}
		errs, err := g.s.deliver(ctx, rs)
		if err != nil && ctx.Err() != nil {
			err = &consumer.Again{Untried: true, Err: err}
		}
		cancel(nil)
		for i, p := range all {
			t := told{err: err, beside: err != nil && len(all) > 1 && !untried(err)}
			if err == nil {
				t.err = errs[i]
			}
			p.told <- t
		}
	}
}

// take is the next delivery; empty: this sender is done.
func (g *gatherer) take(cancel context.CancelCauseFunc) []*passenger {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := min(len(g.waiting), g.s.cfg.Consumer.BatchMax)
	if n == 0 {
		g.sending--
		return nil
	}
	all := g.waiting[:n:n]
	g.waiting = slices.Clone(g.waiting[n:])
	for _, p := range all {
		p.cancel = cancel
	}
	return all
}
