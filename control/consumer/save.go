package consumer

import (
	"slices"

	"github.com/starferry/starferry"
)

// save has a job that was handled committed, and waits for that; not beyond the
// end of the session, which commits what is left.
func (p *part) save(f *flight) {
	if len(f.spans) == 0 {
		return
	}
	p.s.c.post(p.s.c.progress)
	last := f.spans[len(f.spans)-1].To - 1
	for {
		p.mu.Lock()
		safe := last < p.saved.Next || slices.ContainsFunc(p.saved.Handled, func(r starferry.Range) bool { return r.Contains(last) })
		if p.saves == nil {
			p.saves = make(chan struct{})
		}
		saves := p.saves
		p.mu.Unlock()
		if safe {
			return
		}
		select {
		case <-saves:
		case <-p.ctx.Done():
			return
		}
	}
}

// stands notes what a commit has made safe.
func (p *part) stands(place starferry.Place) {
	if !p.s.c.cfg.CommitEach {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.saved = place
	if p.saves != nil {
		close(p.saves)
		p.saves = nil
	}
}
