package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/switchover"
	"github.com/starferry/starferry/internal/acl"
	"github.com/starferry/starferry/internal/wire"
)

// allowed asks both clusters of a switch that is to begin whether we may do what
// it takes (KIP-430): an ACL that lacks is told before anything is ordered. What
// instances need they say themselves. A cluster that does not answer denies
// nothing; the switch has words for that.
func (f *Fleet) allowed(ctx context.Context, o SwitchOrder, external bool) error {
	if p, _, err := f.c.Store.Placement(ctx, o.Group); err == nil && p.Open() {
		return nil // it is under way, and has to come to its end
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	topics, err := f.topicsOf(ctx, o)
	if err != nil {
		f.log.Debug("topics of the group not read", "group", o.Group, "error", err)
	}
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i, c := range []starferry.ClusterName{o.Source, o.Target} {
		w, err := f.cluster(c)
		if err != nil {
			return err
		}
		wants := append(wire.WantGroup(o.Group, acl.Describe), wire.WantTopics(topics, acl.Describe)...)
		if external || i == 0 && (o.Fence || o.OnStraggler == switchover.Evict) {
			wants = append(wants, wire.WantGroup(o.Group, acl.Read)...)
		}
		if external {
			wants = append(wants, wire.WantTopics(topics, acl.Read)...)
		}
		wg.Go(func() { errs[i] = w.May(ctx, wants...) })
	}
	wg.Wait()
	var denied *wire.DeniedError
	if err := errors.Join(errs...); errors.As(err, &denied) {
		return fmt.Errorf("nothing is ordered yet: %w", err)
	}
	return nil
}

// topicsOf are the topics that a group's instances read, and those it has commits
// for.
func (f *Fleet) topicsOf(ctx context.Context, o SwitchOrder) ([]starferry.Topic, error) {
	seen := map[starferry.Topic]bool{}
	var out []starferry.Topic
	add := func(t starferry.Topic) {
		if !seen[t] {
			seen[t] = true
			out = append(out, t)
		}
	}
	leases, err := f.c.Store.Leases(ctx, o.Group)
	for _, l := range leases {
		for _, t := range l.Topics {
			add(t)
		}
	}
	w, werr := f.cluster(o.Source)
	if werr != nil {
		return out, errors.Join(err, werr)
	}
	commits, werr := w.Committed(ctx, o.Group, nil)
	for tp := range commits {
		add(tp.Topic)
	}
	return out, errors.Join(err, werr)
}
