package conformance

import (
	"context"
	"fmt"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/fleet"
)

// scenario is one story.
type scenario struct {
	name string
	what string
	play func(ctx context.Context, s *stand) error
}

// scenarios are all of them. Those that take longest come first, since several
// are played at the same time.
func scenarios() []scenario {
	all := []scenario{}
	for _, ph := range []control.Phase{control.Prepare, control.Drain, control.Seed, control.Decide, control.Announce} {
		all = append(all, scenario{"crash-" + string(ph), fmt.Sprintf("kill -9 of the acting instance at %s, and a restart", ph), func(ctx context.Context, s *stand) error { return crash(ctx, s, ph) }})
	}
	return append(all,
		scenario{"throttle", "a rate is kept, lifted, and ends by itself", throttled},
		scenario{"agent-gone-drain", "the agent falls silent after drain: they go back to work", goneDrained},
		scenario{"agent-gone-decide", "the agent falls silent after the decision: they go on, on new", goneDecided},
		scenario{"agent-gone-announce", "the agent falls silent after announce: they live on new", goneAnnounced},
		scenario{"rebalance", "instances come and go in the middle of a switch", rebalanced},
		scenario{"pause", "a pause, a resume, and a pause that ends by itself", paused},
		scenario{"rewind", "records are handled again from a place on", rewound},
		scenario{"back", "a switch there and back, while the standby lasts", thereAndBack},
		scenario{"late", "an instance that starts after a switch, with the placement lost", late},
		scenario{"orders", "each order of a switch by hand: acknowledged, once, by whom it names", orders},
		scenario{"older", "an order of an older epoch changes nothing", older},
		scenario{"switch", "a switch under traffic", switched},
		scenario{"skip", "a record that blocks its handler is passed, with a copy", skipped},
		scenario{"unreadable", "what cannot be read in NATS changes nothing and stops nothing", unreadable},
		scenario{"join", "instances join, report, and commit marks", joined},
		scenario{"stop", "an orderly end loses nothing, repeats nothing, and gives everything back", stopped},
	)
}

// pair starts two instances with some records, and waits until they work.
func (s *stand) pair(ctx context.Context) error {
	if err := s.produce(ctx, 5); err != nil {
		return err
	}
	for _, name := range []starferry.InstanceID{"a", "b"} {
		if _, err := s.start(name); err != nil {
			return err
		}
	}
	if err := s.stands(ctx, oldName, 0, "a", "b"); err != nil {
		return err
	}
	return s.settled(ctx)
}

// to moves the group with an agent's own driver, and waits for the end of it.
func (s *stand) to(ctx context.Context, target starferry.ClusterName, phase func(string)) error {
	o := fleet.SwitchOrder{Group: s.group, Source: oldName, Target: newName, Link: link, Within: s.patient, DrainDeadline: 3 * time.Second,
		Patience: 3 * s.g.session, Verify: 200 * time.Millisecond, By: "conformance", Why: "scenario " + s.name}
	if target == oldName {
		o.Source, o.Target = newName, oldName
	}
	if phase != nil {
		o.Progress = func(p, _ string) { phase(p) }
	}
	if _, err := s.fleet.Switch(ctx, o); err != nil {
		return s.unmet("6", fmt.Sprintf("a switch from %s to %s that ends well", o.Source, o.Target), err.Error())
	}
	return nil
}

// joined: section 2 and 3, on one cluster.
func joined(ctx context.Context, s *stand) error {
	if err := s.pair(ctx); err != nil {
		return err
	}
	if err := s.marked(ctx, "3", oldName, control.Home, 0); err != nil {
		return err
	}
	err := s.until(ctx, "2.6", "low-water marks to be committed", func() (string, error) {
		ms, err := s.marks(ctx, oldName)
		for tp, m := range ms {
			if m.offset != s.wrote[tp.Partition] {
				return fmt.Sprintf("%s at %d of %d", tp, m.offset, s.wrote[tp.Partition]), err
			}
		}
		return "", err
	})
	if err != nil {
		return err
	}
	if err := s.never(ctx, "3", "every commit to bear a mark", time.Second, func() (string, error) {
		_, err := s.marks(ctx, oldName)
		return "", err
	}); err != nil {
		return err
	}
	return s.until(ctx, "2", "members with their instance id as client id, and user data with their boot id", func() (string, error) {
		d, err := s.g.wires[oldName].DescribeGroup(ctx, s.group)
		if err != nil {
			return "", err
		}
		if len(d.Members) != 2 || d.State != "Stable" {
			return fmt.Sprintf("%d members, %s", len(d.Members), d.State), nil
		}
		for _, m := range d.Members {
			l, ok := s.live()[starferry.InstanceID(m.ClientID)]
			boot, ours := control.ReadUserData(m.UserData)
			if !ok || !ours || boot != "" && boot != l.Boot || on(l, oldName).Member != m.ID {
				return fmt.Sprintf("member %s, client id %q, user data %q; its lease: boot %q, memberships %+v", m.ID, m.ClientID, m.UserData, l.Boot, l.Memberships), nil
			}
		}
		return "", nil
	})
}

// switched: everything of section 6 with a real driver.
func switched(ctx context.Context, s *stand) error {
	if err := s.pair(ctx); err != nil {
		return err
	}
	if err := s.traffic(ctx, func() error { return s.to(ctx, newName, nil) }); err != nil {
		return err
	}
	return s.landed(ctx, newName, 1)
}

// landed waits until all is handled and the group's marks say where it lives.
func (s *stand) landed(ctx context.Context, c starferry.ClusterName, e starferry.Epoch) error {
	before := s.total(c)
	if err := s.produce(ctx, 3); err != nil {
		return err
	}
	if err := s.settled(ctx); err != nil {
		return err
	}
	if s.total(c) <= before {
		return s.unmet("4", fmt.Sprintf("new records to be handled on %s", c), "none were")
	}
	if err := s.marked(ctx, "4.3", c, control.Home, e); err != nil {
		return err
	}
	other := oldName
	if c == oldName {
		other = newName
	}
	return s.decision(ctx, other, e)
}

// decision: nothing is committed over it.
func (s *stand) decision(ctx context.Context, c starferry.ClusterName, e starferry.Epoch) error {
	return s.never(ctx, "2 and 6", fmt.Sprintf("the decision to stand on %s: moved e=%d of all partitions", c, e), 200*time.Millisecond, func() (string, error) {
		ms, err := s.marks(ctx, c)
		for _, tp := range s.partitions() {
			if m := ms[tp]; err == nil && (m.State != control.Moved || m.Epoch != e) {
				return fmt.Sprintf("%s: %q", tp, m.Mark.String()), nil
			}
		}
		return "", err
	})
}

func thereAndBack(ctx context.Context, s *stand) error {
	if err := s.pair(ctx); err != nil {
		return err
	}
	err := s.traffic(ctx, func() error {
		if err := s.to(ctx, newName, nil); err != nil {
			return err
		}
		return s.to(ctx, oldName, nil)
	})
	if err != nil {
		return err
	}
	return s.landed(ctx, oldName, 2)
}

// late: Kafka decides, also for who has heard nothing.
func late(ctx context.Context, s *stand) error {
	if err := s.pair(ctx); err != nil {
		return err
	}
	if err := s.to(ctx, newName, nil); err != nil {
		return err
	}
	if err := s.lose(ctx, "placement"); err != nil {
		return err
	}
	if _, err := s.start("c"); err != nil {
		return err
	}
	before := s.total(oldName)
	if err := s.stands(ctx, newName, 1, "a", "b", "c"); err != nil {
		return err
	}
	if err := s.landed(ctx, newName, 1); err != nil {
		return err
	}
	if n := s.total(oldName) - before; n > 0 {
		return s.unmet("4", "nothing handled on old once the group has moved", fmt.Sprintf("%d records", n))
	}
	return nil
}

// crash: whatever a kill does to a switch, nothing is lost, only what the killed
// process had is repeated, and another switch ends well.
func crash(ctx context.Context, s *stand, at control.Phase) error {
	if err := s.pair(ctx); err != nil {
		return err
	}
	reached := make(chan struct{})
	over := make(chan error, 1)
	err := s.traffic(ctx, func() error {
		go func() {
			seen := false
			over <- s.to(ctx, newName, func(p string) {
				if p == string(at) && !seen {
					seen = true
					close(reached)
				}
			})
		}()
		select {
		case <-reached:
			s.all[0].kill()
			if _, err := s.start("a"); err != nil {
				return err
			}
			<-over // done or undone: both are right
		case err := <-over:
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.settled(ctx); err != nil {
		return err
	}
	h, err := s.fleet.Home(ctx, s.group)
	if err != nil {
		return err
	}
	if err := s.stands(ctx, h.Cluster, anyEpoch, "a", "b"); err != nil {
		return err
	}
	if h.Cluster == oldName {
		if err := s.to(ctx, newName, nil); err != nil {
			return err
		}
	}
	return s.stays(ctx, newName)
}

// stays: new records are handled on a cluster and nowhere else.
func (s *stand) stays(ctx context.Context, c starferry.ClusterName) error {
	all, here := s.total(""), s.total(c)
	if err := s.produce(ctx, 3); err != nil {
		return err
	}
	if err := s.settled(ctx); err != nil {
		return err
	}
	if elsewhere := s.total("") - all - (s.total(c) - here); elsewhere > 0 {
		return s.unmet("4", fmt.Sprintf("records to be handled on %s alone", c), fmt.Sprintf("%d elsewhere", elsewhere))
	}
	return nil
}

// rebalanced: deploys go on in the middle of a switch.
func rebalanced(ctx context.Context, s *stand) error {
	if err := s.pair(ctx); err != nil {
		return err
	}
	prepare, drain := make(chan struct{}, 1), make(chan struct{}, 1)
	over := make(chan error, 1)
	var ended error
	err := s.traffic(ctx, func() error {
		go func() {
			over <- s.to(ctx, newName, func(p string) {
				c := map[string]chan struct{}{"prepare": prepare, "drain": drain}[p]
				select {
				case c <- struct{}{}:
				default: // told before, or of no interest
				}
			})
		}()
		<-prepare
		if _, err := s.start("c"); err != nil {
			return err
		}
		select {
		case <-drain:
			if err := s.all[1].stop(); err != nil {
				return s.unmet("Trying a client", "b to end with code 0", err.Error())
			}
			ended = <-over
		case ended = <-over:
		}
		return nil
	})
	if err != nil {
		return err
	}
	if ended != nil { // undone is right as well
		if err := s.settled(ctx); err != nil {
			return err
		}
		if err := s.to(ctx, newName, nil); err != nil {
			return err
		}
	}
	return s.stays(ctx, newName)
}

// stopped: an orderly end.
func stopped(ctx context.Context, s *stand) error {
	if err := s.pair(ctx); err != nil {
		return err
	}
	err := s.traffic(ctx, func() error {
		if err := s.all[0].stop(); err != nil {
			return s.unmet("Trying a client", "a to end with code 0 after SIGTERM", err.Error())
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = s.until(ctx, "7.1", "the lease of an instance that has ended in good order to be deleted, and its membership to be left", func() (string, error) {
		if _, there := s.live()["a"]; there {
			return "the lease is there", nil
		}
		d, err := s.g.wires[oldName].DescribeGroup(ctx, s.group)
		if err == nil && len(d.Members) != 1 {
			return fmt.Sprintf("%d members", len(d.Members)), nil
		}
		return "", err
	})
	if err != nil {
		return err
	}
	return s.settled(ctx)
}
