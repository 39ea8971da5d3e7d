package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/fleet"
)

// acknowledged writes settings and waits until all live instances have them.
func (s *stand) acknowledged(ctx context.Context, v control.Settings) error {
	_, rev, err := s.store.Settings(ctx, s.group)
	if err != nil && !errors.Is(err, desired.ErrNotFound) {
		return err
	}
	if rev, err = s.store.PutSettings(ctx, v, rev); err != nil {
		return err
	}
	return s.known(ctx, rev)
}

// known waits until all live instances have the settings of a revision.
func (s *stand) known(ctx context.Context, rev uint64) error {
	return s.until(ctx, "8", fmt.Sprintf("settings_revision %d", rev), func() (string, error) {
		for n, l := range s.live() {
			if l.SettingsRevision < rev {
				return fmt.Sprintf("%s has %d", n, l.SettingsRevision), nil
			}
		}
		return "", nil
	})
}

// hand is what an agent's order came to.
func (s *stand) hand(what string, err error) error {
	if err == nil {
		return nil
	}
	return s.unmet("8", what+" to be acknowledged by all", err.Error())
}

// throttled: the rate is the group's, and a promise.
func throttled(ctx context.Context, s *stand) error {
	if err := s.pair(ctx); err != nil {
		return err
	}
	const rate = 60
	o := fleet.ThrottleOrder{Group: s.group, Limit: control.Throttle{Rate: rate}, By: "conformance", Why: s.name}
	if _, err := s.fleet.Throttle(ctx, o); err != nil {
		return s.hand("a throttle", err)
	}
	before, began := s.total(""), time.Now()
	if err := s.produce(ctx, 100); err != nil {
		return err
	}
	for time.Since(began) < 1200*time.Millisecond {
		n, took := s.total("")-before, time.Since(began)
		if allowed := rate*took.Seconds()*1.3 + 15; float64(n) > allowed {
			return s.unmet("8", fmt.Sprintf("at most %d records a second of the group, since settings_revision says so", rate), fmt.Sprintf("%d in %v", n, took.Round(time.Millisecond)))
		}
		if !rest(ctx, 20*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
	if s.total("") == before {
		return s.unmet("8", "records to be handled at the rate", "none are")
	}
	// A limit that ends by itself takes the place of the other.
	o.Limit.Rate, o.For = 1, 500*time.Millisecond
	if _, err := s.fleet.Throttle(ctx, o); err != nil {
		return s.hand("a throttle with an end", err)
	}
	return s.settled(ctx)
}

// paused: members stay, and begin nothing.
func paused(ctx context.Context, s *stand) error {
	if err := s.pair(ctx); err != nil {
		return err
	}
	generation := on(s.live()["a"], oldName).Generation
	if _, err := s.fleet.Pause(ctx, fleet.PauseOrder{Group: s.group, By: "conformance", Why: s.name}); err != nil {
		return s.hand("a pause", err)
	}
	before := s.total("")
	if err := s.produce(ctx, 3); err != nil {
		return err
	}
	err := s.never(ctx, "8", "nothing to be handled while the group is paused", 400*time.Millisecond, func() (string, error) {
		if n := s.total("") - before; n > 0 {
			return fmt.Sprintf("%d records", n), nil
		}
		return "", nil
	})
	if err != nil {
		return err
	}
	if now := on(s.live()["a"], oldName).Generation; now != generation {
		return s.unmet("8", "members to stay members while paused", fmt.Sprintf("generation %d became %d", generation, now))
	}
	if _, err := s.fleet.Resume(ctx, fleet.ResumeOrder{Group: s.group, By: "conformance", Why: s.name}); err != nil {
		return s.hand("a resume", err)
	}
	if err := s.settled(ctx); err != nil {
		return err
	}
	if _, err := s.fleet.Pause(ctx, fleet.PauseOrder{Group: s.group, For: 700 * time.Millisecond, By: "conformance", Why: s.name}); err != nil {
		return s.hand("a pause with an end", err)
	}
	if err := s.produce(ctx, 3); err != nil {
		return err
	}
	return s.settled(ctx)
}

// skipped: the handler lets go, a copy is kept, the commit passes it.
func skipped(ctx context.Context, s *stand) error {
	if err := s.pair(ctx); err != nil {
		return err
	}
	tp := s.tp(1)
	at := s.wrote[1]
	if err := s.both(ctx, tp, []string{block, "record", "record"}); err != nil {
		return err
	}
	err := s.until(ctx, "7.4", fmt.Sprintf("somebody to say that it has %s@%d in hand", tp, at), func() (string, error) {
		for _, l := range s.live() {
			for _, p := range l.Partitions {
				if p.Partition == tp && p.InFlight > 0 {
					return "", nil
				}
			}
		}
		return "nobody does", nil
	})
	if err != nil {
		return err
	}
	r, err := s.fleet.Skip(ctx, fleet.SkipOrder{Group: s.group, Cluster: oldName, Partition: tp, Range: starferry.Range{From: at, To: at + 1}, By: "conformance", Why: s.name})
	if err != nil {
		return s.hand("a skip", err)
	}
	if err := s.settled(ctx); err != nil {
		return err
	}
	err = s.until(ctx, "8", "the commit to pass the record that was skipped", func() (string, error) {
		ms, err := s.marks(ctx, oldName)
		if m := ms[tp]; m.offset < at+3 {
			return fmt.Sprintf("%s at %d", tp, m.offset), err
		}
		return "", err
	})
	if err != nil {
		return err
	}
	return s.kept(ctx, r.Keep, fmt.Sprint(at))
}

// kept looks for the copy of a record on old.
func (s *stand) kept(ctx context.Context, t starferry.Topic, offset string) error {
	md, err := s.g.wires[oldName].Metadata(ctx, t)
	if err != nil {
		return err
	}
	for p := range md.Topics[t].Partitions {
		tp := starferry.TopicPartition{Topic: t, Partition: starferry.Partition(p)}
		found, err := s.fleet.Peek(ctx, oldName, tp, 0, 0, 10)
		if err != nil {
			return err
		}
		for _, r := range found {
			for _, h := range r.Headers {
				if h.Key == "starferry.offset" && string(h.Value) == offset && string(r.Value) == block {
					return nil
				}
			}
		}
	}
	return s.unmet("8", fmt.Sprintf("a copy of the skipped record in %s, with the header starferry.offset", t), "there is none")
}

// rewound: from a place on, again.
func rewound(ctx context.Context, s *stand) error {
	if err := s.pair(ctx); err != nil {
		return err
	}
	s.again = true
	tp := s.tp(2)
	_, err := s.fleet.Rewind(ctx, fleet.RewindOrder{Group: s.group, Places: map[starferry.TopicPartition]starferry.Offset{tp: 2}, By: "conformance", Why: s.name})
	if err != nil {
		return s.hand("a rewind", err)
	}
	if err := s.produce(ctx, 2); err != nil {
		return err
	}
	if err := s.settled(ctx); err != nil {
		return err
	}
	return s.until(ctx, "8", fmt.Sprintf("%s to be handled again from 2 on, and nothing else", tp), func() (string, error) {
		var wrong []string
		for p, of := range s.counts() {
			for o, n := range of {
				want := 1
				if p == tp && o >= 2 && o < s.wrote[2]-2 {
					want = 2
				}
				if n != want {
					wrong = append(wrong, fmt.Sprintf("%s@%d %d times", p, o, n))
				}
			}
		}
		slices.Sort(wrong)
		if len(wrong) == 0 {
			return "", nil
		}
		return fmt.Sprint(wrong), nil
	})
}
