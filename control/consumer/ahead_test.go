package consumer_test

import (
	"testing"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

func TestWhatAStandbyFetchedAheadIsHandedOutOnceItIsDecided(t *testing.T) {
	e := newEstate(t, 4)
	h, nats := e.withNATS()
	e.open("a", nats)
	e.open("b", nats)
	total := 0
	feed := func() {
		for p := range 4 {
			e.produce(p, 25, e.old, e.new)
		}
		total += 100
	}
	feed()
	e.settled(total)
	h.put(func(p *control.Placement) { p.Epoch = 1 })

	// A switch that is given up after its seeds are known: the standby has
	// fetched, and the old home goes on as if it had not.
	h.prepare(2, e.new.Name)
	cut := h.drain(2)
	feed()
	seeder := h.actor(e.new.Name)
	h.put(func(p *control.Placement) { p.Phase, p.Cut, p.Seeds, p.Actor = control.Seed, cut, cut, seeder })
	h.one("seed", func(l control.Lease) bool { return l.Seeded == h.rev })
	h.put(func(p *control.Placement) { p.Phase, p.Actor, p.Cut, p.Seeds = control.Steady, nil, nil, nil })
	h.all(2, "back at work", func(l control.Lease) bool { return l.Home == e.old.Name && l.HomeEpoch == h.at.Epoch && l.Drained == 0 })
	e.settled(total)

	// And one whose seeds Kafka knows to be others than the order said: what was
	// fetched from the wrong places is not handed out.
	h.prepare(2, e.new.Name)
	cut = h.drain(2)
	wrong := starferry.Cut{}
	for tp := range cut {
		wrong[tp] = starferry.Place{Next: 0}
	}
	late := h.actor(e.new.Name)
	h.put(func(p *control.Placement) { p.Phase, p.Cut, p.Seeds, p.Actor = control.Seed, cut, wrong, late })
	h.one("seed", func(l control.Lease) bool { return l.Seeded == h.rev })
	feed()
	h.finish(2, e.new.Name, cut)
	e.settled(total)
}
