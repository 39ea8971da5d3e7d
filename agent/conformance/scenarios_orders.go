package conformance

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
)

// How long instances stand still without a word: where the agent falls silent,
// and where it does not.
const (
	silence = 3 * time.Second
	steady  = 30 * time.Second
)

// order writes the next placement of a switch by hand.
func (s *stand) order(ctx context.Context, change func(*control.Placement)) error {
	p := s.placement
	p.Group, p.At, p.By = s.group, time.Now().UnixMilli(), "conformance"
	change(&p)
	rev, err := s.store.PutPlacement(ctx, p, s.revision)
	if err != nil {
		return err
	}
	s.placement, s.revision = p, rev
	return nil
}

// phase orders the next phase.
func (s *stand) phase(ctx context.Context, ph control.Phase) error {
	return s.order(ctx, func(p *control.Placement) { p.Phase = ph })
}

// heed waits until both instances answer the present order, and more.
func (s *stand) heed(ctx context.Context, section, expected string, more func(control.Lease) string) error {
	return s.until(ctx, section, fmt.Sprintf("%s: a and b to answer revision %d, %s", s.placement.Phase, s.revision, expected), func() (string, error) {
		live := s.live()
		for _, n := range []starferry.InstanceID{"a", "b"} {
			l, ok := live[n]
			switch {
			case !ok:
				return fmt.Sprintf("no lease of %s", n), nil
			case l.Revision != s.revision || l.Epoch < s.placement.Epoch:
				return fmt.Sprintf("%s answers revision %d, obeys epoch %d, refusal %q", n, l.Revision, l.Epoch, l.Refusal), nil
			}
			if seen := more(l); seen != "" {
				return fmt.Sprintf("%s %s", n, seen), nil
			}
		}
		return "", nil
	})
}

// actor is an order's one member.
func (s *stand) actor(n starferry.InstanceID, c starferry.ClusterName) *control.Actor {
	l := s.live()[n]
	a := &control.Actor{Instance: n, Boot: l.Boot}
	if m := on(l, c); m != nil {
		a.Member, a.Generation = m.Member, m.Generation
	}
	return a
}

// drained takes the group by hand to where both stand still, and checks each step.
func (s *stand) drained(ctx context.Context, deadline time.Duration) error {
	err := s.order(ctx, func(p *control.Placement) {
		p.Epoch, p.Phase, p.Active, p.Target, p.Link, p.DrainDeadlineMS = 1, control.Prepare, oldName, newName, link, deadline.Milliseconds()
	})
	if err != nil {
		return err
	}
	err = s.heed(ctx, "6", "each with a good membership on new too", func(l control.Lease) string {
		if m := on(l, newName); m == nil || !m.Good {
			return fmt.Sprintf("has memberships %+v", l.Memberships)
		}
		return ""
	})
	if err != nil {
		return err
	}
	if seen := s.covered(s.live(), newName, []starferry.InstanceID{"a", "b"}); seen != "" {
		if err := s.until(ctx, "6", "all partitions to be held on new in one generation", func() (string, error) {
			return s.covered(s.live(), newName, []starferry.InstanceID{"a", "b"}), nil
		}); err != nil {
			return err
		}
	}
	if err := s.phase(ctx, control.Drain); err != nil {
		return err
	}
	err = s.heed(ctx, "6", "and to say drained 1", func(l control.Lease) string {
		if l.Drained != 1 {
			return fmt.Sprintf("says drained %d, refusal %q", l.Drained, l.Refusal)
		}
		return ""
	})
	if err != nil {
		return err
	}
	return s.cut(ctx)
}

// cut compares what the drained say with what they have committed, at once:
// an acknowledgement follows the coordinator's answer.
func (s *stand) cut(ctx context.Context) error {
	ms, err := s.marks(ctx, oldName)
	if err != nil {
		return err
	}
	s.placement.Cut = starferry.Cut{}
	for _, l := range s.live() {
		for tp, place := range l.DrainedAt {
			m := ms[tp]
			if m.State != control.Draining || m.Epoch != 1 || m.offset != place.Next {
				return s.unmet("7.2", fmt.Sprintf("%s to be committed as draining e=1 at %d, as %s says", tp, place.Next, l.Instance), fmt.Sprintf("%d %q", m.offset, m.Mark.String()))
			}
			s.placement.Cut[tp] = place
		}
	}
	if len(s.placement.Cut) != partitions {
		return s.unmet("6", "drained_at to name all partitions between them", fmt.Sprintf("%d of %d", len(s.placement.Cut), partitions))
	}
	s.placement.Seeds = starferry.Cut{}
	for tp, place := range s.placement.Cut {
		s.placement.Seeds[tp] = moved(tp.Partition, place, starferry.Forward)
	}
	return nil
}

// seeded has one of them seed new.
func (s *stand) seeded(ctx context.Context) error {
	if err := s.order(ctx, func(p *control.Placement) { p.Phase, p.Actor = control.Seed, s.actor("a", newName) }); err != nil {
		return err
	}
	first := s.revision
	said := func() (string, error) {
		if l := s.live()["a"]; l.Seeded < s.revision {
			return fmt.Sprintf("a says seeded %d", l.Seeded), nil
		}
		return "", nil
	}
	if err := s.until(ctx, "6", fmt.Sprintf("seed: a to say seeded %d", first), said); err != nil {
		return err
	}
	if err := s.sown(ctx); err != nil {
		return err
	}
	if err := s.order(ctx, func(p *control.Placement) { p.Beat++ }); err != nil {
		return err
	}
	if err := s.until(ctx, "6.2", fmt.Sprintf("the same order to seed, in revision %d, to be acknowledged", s.revision), said); err != nil {
		return err
	}
	return s.sown(ctx)
}

// sown looks at what new was seeded with.
func (s *stand) sown(ctx context.Context) error {
	ms, err := s.marks(ctx, newName)
	if err != nil {
		return err
	}
	for tp, place := range s.placement.Seeds {
		if m := ms[tp]; m.State != control.Seeded || m.Epoch != 1 || m.Cluster != oldName || m.offset != place.Next {
			return s.unmet("6", fmt.Sprintf("%s on new to be committed as seeded e=1 c=old at %d", tp, place.Next), fmt.Sprintf("%d %q", m.offset, m.Mark.String()))
		}
	}
	return nil
}

// decided has one of them decide.
func (s *stand) decided(ctx context.Context) error {
	if err := s.order(ctx, func(p *control.Placement) { p.Phase, p.Actor = control.Decide, s.actor("b", oldName) }); err != nil {
		return err
	}
	err := s.until(ctx, "6", "decide: b to say decided 1, accepted", func() (string, error) {
		d := s.live()["b"].Decided
		if d == nil || d.Epoch != 1 || d.Result != control.Accepted {
			return fmt.Sprintf("b says %+v", d), nil
		}
		return "", nil
	})
	if err != nil {
		return err
	}
	ms, err := s.marks(ctx, oldName)
	if err != nil {
		return err
	}
	for tp, place := range s.placement.Cut {
		if m := ms[tp]; m.State != control.Moved || m.Epoch != 1 || m.Cluster != newName || m.offset != place.Next {
			return s.unmet("6", fmt.Sprintf("%s on old to be committed as moved e=1 c=new at %d, as b has said", tp, place.Next), fmt.Sprintf("%d %q", m.offset, m.Mark.String()))
		}
	}
	return nil
}

func (s *stand) announced(ctx context.Context) error {
	err := s.order(ctx, func(p *control.Placement) {
		p.Phase, p.Active, p.Actor, p.Standby, p.StandbyUntil = control.Announce, newName, nil, oldName, time.Now().Add(time.Minute).UnixMilli()
	})
	if err != nil {
		return err
	}
	return s.heed(ctx, "6", "and to live on new", func(l control.Lease) string {
		if l.Home != newName || l.HomeEpoch != 1 {
			return fmt.Sprintf("says home %q, home_epoch %d", l.Home, l.HomeEpoch)
		}
		return ""
	})
}

// orders: each by hand.
func orders(ctx context.Context, s *stand) error {
	if err := s.pair(ctx); err != nil {
		return err
	}
	if err := s.drained(ctx, steady); err != nil {
		return err
	}
	still := s.total("")
	if err := s.produce(ctx, 3); err != nil {
		return err
	}
	if err := s.void(ctx); err != nil {
		return err
	}
	if err := s.seeded(ctx); err != nil {
		return err
	}
	if n := s.total("") - still; n > 0 {
		return s.unmet("6", "nothing to be handled between drain and decision", fmt.Sprintf("%d records", n))
	}
	if err := s.decided(ctx); err != nil {
		return err
	}
	if err := s.announced(ctx); err != nil {
		return err
	}
	if err := s.phase(ctx, control.Steady); err != nil {
		return err
	}
	return s.landed(ctx, newName, 1)
}

// void: an order to decide that names a generation that is none is answered
// refused, and nothing is committed.
func (s *stand) void(ctx context.Context) error {
	err := s.order(ctx, func(p *control.Placement) {
		p.Phase, p.Actor = control.Decide, s.actor("a", oldName)
		p.Actor.Generation += 7
	})
	if err != nil {
		return err
	}
	err = s.until(ctx, "6.1", "an order to decide in a generation that is none to be answered refused", func() (string, error) {
		d := s.live()["a"].Decided
		if d == nil || d.Revision != s.revision || d.Result != control.Refused {
			return fmt.Sprintf("a says %+v", d), nil
		}
		return "", nil
	})
	if err != nil {
		return err
	}
	return s.marked(ctx, "6.1", oldName, control.Draining, 1)
}

// goneDrained: the way out.
func goneDrained(ctx context.Context, s *stand) error {
	if err := s.pair(ctx); err != nil {
		return err
	}
	if err := s.drained(ctx, silence); err != nil {
		return err
	}
	was := on(s.live()["a"], oldName).Generation
	if err := s.produce(ctx, 3); err != nil {
		return err
	}
	if err := s.settled(ctx); err != nil {
		return err
	}
	if n := s.total(newName); n > 0 {
		return s.unmet("6, the way out", "everything to be handled on old", fmt.Sprintf("%d records on new", n))
	}
	if now := on(s.live()["a"], oldName).Generation; now <= was {
		return s.unmet("6, the way out", fmt.Sprintf("a generation of old above %d", was), fmt.Sprint(now))
	}
	if err := s.marked(ctx, "6, the way out", oldName, control.Home, 1); err != nil {
		return err
	}
	// The epoch is burnt: the dead agent's order, said again, stops nobody.
	if err := s.order(ctx, func(p *control.Placement) { p.Beat++ }); err != nil {
		return err
	}
	return s.works(ctx, "6, the way out", oldName, 1)
}

// works: for a while nothing stops them, and nobody drains.
func (s *stand) works(ctx context.Context, section string, c starferry.ClusterName, e starferry.Epoch) error {
	if err := s.never(ctx, section, "nobody to obey it", 500*time.Millisecond, func() (string, error) {
		ms, err := s.marks(ctx, c)
		for tp, m := range ms {
			if m.State != control.Home || m.Epoch != e {
				return fmt.Sprintf("%s on %s is committed as %q", tp, c, m.Mark.String()), err
			}
		}
		for n, l := range s.live() {
			if l.Drained != 0 {
				return fmt.Sprintf("%s says drained %d", n, l.Drained), nil
			}
		}
		return "", err
	}); err != nil {
		return err
	}
	return s.stays(ctx, c)
}

func goneDecided(ctx context.Context, s *stand) error {
	if err := s.pair(ctx); err != nil {
		return err
	}
	if err := s.drained(ctx, silence); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{s.seeded, s.decided} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := s.stands(ctx, newName, 1, "a", "b"); err != nil {
		return err
	}
	return s.landed(ctx, newName, 1)
}

func goneAnnounced(ctx context.Context, s *stand) error {
	if err := s.pair(ctx); err != nil {
		return err
	}
	if err := s.drained(ctx, steady); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{s.seeded, s.decided, s.announced} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if _, err := s.start("c"); err != nil {
		return err
	}
	if err := s.stands(ctx, newName, 1, "a", "b", "c"); err != nil {
		return err
	}
	return s.landed(ctx, newName, 1)
}

// older: what a restored backup would bring back.
func older(ctx context.Context, s *stand) error {
	if err := s.pair(ctx); err != nil {
		return err
	}
	if err := s.to(ctx, newName, nil); err != nil {
		return err
	}
	if err := s.to(ctx, oldName, nil); err != nil {
		return err
	}
	if err := s.landed(ctx, oldName, 2); err != nil {
		return err
	}
	p, rev, err := s.store.Placement(ctx, s.group)
	if err != nil {
		return err
	}
	p.Epoch, p.Phase, p.Active, p.Target, p.Standby, p.DrainDeadlineMS = 1, control.Drain, oldName, newName, "", steady.Milliseconds()
	if _, err := s.store.PutPlacement(ctx, p, rev); err != nil {
		return err
	}
	if err := s.acknowledged(ctx, control.Settings{Group: s.group}); err != nil { // by then they have seen the order too
		return err
	}
	return s.works(ctx, "6", oldName, 2)
}

// unreadable: versions to come, and garbage.
func unreadable(ctx context.Context, s *stand) error {
	if err := s.pair(ctx); err != nil {
		return err
	}
	kv, err := s.bucket(ctx)
	if err != nil {
		return err
	}
	key := desired.EncodeKey(string(s.group))
	for _, text := range []string{
		`{"v":2,"group":"` + string(s.group) + `","epoch":7,"phase":"drain","active":"old","target":"new","at":1}`,
		`drain, please`,
		`{"v":1,"group":"` + string(s.group) + `","epoch":7,"phase":"rest","active":"old","target":"new","at":1}`,
		`{"v":1,"group":"another","epoch":7,"phase":"drain","active":"old","target":"new","at":1}`,
	} {
		if _, err := kv.Put(ctx, key+".placement", []byte(text)); err != nil {
			return err
		}
		if err := s.works(ctx, "9", oldName, 0); err != nil {
			return err
		}
	}
	if _, err := kv.Put(ctx, key+".settings", []byte(`{"v":2,"group":"`+string(s.group)+`","at":1,"holds":[{"id":"h","at":1}]}`)); err != nil {
		return err
	}
	if err := s.works(ctx, "9", oldName, 0); err != nil {
		return err
	}
	// What fits is obeyed again, also what an unknown field stands in.
	rev, err := kv.Put(ctx, key+".settings", []byte(`{"v":1,"group":"`+string(s.group)+`","at":1,"holds":[],"of_a_later_writer":{"a":[1]}}`))
	if err != nil {
		return err
	}
	return s.known(ctx, rev)
}

func (s *stand) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	js, err := jetstream.New(s.g.conn)
	if err != nil {
		return nil, err
	}
	return js.KeyValue(ctx, desired.DesiredBucket)
}

// lose takes a key of the group away.
func (s *stand) lose(ctx context.Context, last string) error {
	kv, err := s.bucket(ctx)
	if err != nil {
		return err
	}
	return kv.Delete(ctx, desired.EncodeKey(string(s.group))+"."+last)
}
