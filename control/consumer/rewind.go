package consumer

import (
	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// rewind returns the rewind in force for a partition, nil if there is none, and
// the place it gives.
func (p *part) rewind() (*control.Rewind, starferry.Offset) {
	all := p.s.c.settings.Load().rewinds
	for i := range all {
		if to, ok := all[i].Places[p.tp]; ok && all[i].Cluster == p.s.cluster {
			return &all[i], to
		}
	}
	return nil, starferry.NoOffset
}

// reposition takes every partition to the place that a rewind gives it. It is
// held meanwhile, so that doing this twice, or another instance doing it again,
// changes nothing. It runs on the loop.
func (c *Consumer) reposition() {
	if c.session == nil {
		return
	}
	for _, p := range c.session.list() {
		if r, to := p.rewind(); r != nil && p.rewound != r.ID && !p.leaving {
			c.replace(p, r.ID, to)
		}
	}
}

// replace puts another part in the place of p, once nothing of p is in hand.
func (c *Consumer) replace(p *part, id string, to starferry.Offset) {
	s := p.s
	p.leaving = true
	p.retire()
	c.spawn(func() {
		select {
		case <-p.over:
		case <-c.ctx.Done():
			return
		}
		c.post(func() {
			if c.session != s || s.ctx.Err() != nil {
				return // the next session begins with what is committed, and rewinds it
			}
			next := newPart(s, p.tp, starferry.Place{Next: to})
			next.committed, next.rewound = p.committed, id
			s.mu.Lock()
			s.parts[p.tp] = next
			s.mu.Unlock()
			s.launch(next)
			c.log.Info("partition rewound", "cluster", s.cluster, "partition", p.tp, "to", to, "by", id)
			c.enforce() // it may be over already
			c.progress()
			c.publish()
		})
	})
}

// retire ends a part before its session ends: what is queued is dropped, and who
// has a record is told to stop.
func (p *part) retire() {
	p.halt()
	p.cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.flights {
		if f.release != nil {
			f.release()
		}
	}
}
