package consumer

import (
	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/switchover"
)

// fetchAhead lets the standby fetch as soon as the places are known at which
// the group would go on, so that its first records are here when the switch is
// decided. It hands out nothing: that begins with Fetch alone, which the truth
// in Kafka gives, and only from the very places that Kafka names then. It runs on
// the loop.
func (c *Consumer) fetchAhead(p control.Placement) {
	wanted := p.Phase == control.Seed || p.Phase == control.Decide || p.Phase == control.Announce
	if c.next != nil && (!wanted || c.next.epoch != p.Epoch) {
		c.forgetAhead()
	}
	if c.next != nil || c.session != nil || !wanted || p.Phase == control.Announce || c.wires[p.Target] == nil ||
		p.Target == c.machine.Home() || c.closing() {
		return
	}
	own, every := c.machine.Partitions(p.Target)
	cut := starferry.Cut{}
	for _, tp := range own {
		if place, ok := p.Seeds[tp]; ok {
			cut[tp] = place
		}
	}
	if len(cut) == 0 || len(cut) != len(own) {
		return
	}
	s := newSession(c, switchover.Fetch{Cluster: p.Target, Cut: cut, Epoch: p.Epoch}, len(every))
	s.ahead = true
	s.fetchers.Add(1)
	go func() { defer s.fetchers.Done(); s.route() }()
	c.next = s
}

// fetchedAhead is the session that has fetched ahead what is now to be handed
// out; nil if there is none, or if it began anywhere else.
func (c *Consumer) fetchedAhead(e switchover.Fetch) *session {
	s := c.next
	if s == nil {
		return nil
	}
	fits := s.cluster == e.Cluster && s.epoch == e.Epoch && len(e.Start) == 0 && len(s.parts) == len(e.Cut)
	for tp, place := range e.Cut {
		p := s.parts[tp]
		fits = fits && p != nil && p.committed.Equal(place)
	}
	if !fits {
		c.forgetAhead()
		return nil
	}
	c.next = nil
	return s
}

// forgetAhead gives up what was fetched ahead.
func (c *Consumer) forgetAhead() {
	s := c.next
	c.next = nil
	s.halt()
	s.giveUp()
	c.spawn(s.fetchers.Wait)
}
