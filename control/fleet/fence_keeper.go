package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
)

// fencePoll is how often agents look which fences ought to stand.
const fencePoll = time.Second

// Fences says where a group is to be fenced.
func (f *Fleet) Fences(ctx context.Context, g starferry.Group) (control.Fences, error) {
	v, _, err := f.c.Store.Fences(ctx, g)
	if errors.Is(err, desired.ErrNotFound) {
		return control.Fences{Group: g}, nil
	}
	return v, err
}

// changeFences changes which fences of a group ought to stand, by compare and
// set. mutate reports whether it changed anything; it may run several times.
func (f *Fleet) changeFences(ctx context.Context, g starferry.Group, mutate func(map[starferry.ClusterName]control.Fence) bool) error {
	for attempt := 0; ; attempt++ {
		v, rev, err := f.c.Store.Fences(ctx, g)
		if err != nil && !errors.Is(err, desired.ErrNotFound) {
			return err
		}
		v.Group = g
		if v.On == nil {
			v.On = map[starferry.ClusterName]control.Fence{}
		}
		if !mutate(v.On) {
			return nil
		}
		if _, err = f.c.Store.PutFences(ctx, v, rev); err == nil || !errors.Is(err, desired.ErrConflict) || attempt == 20 {
			return err
		}
	}
}

// wantFence asks the agents to fence a group, from a time on.
func (f *Fleet) wantFence(ctx context.Context, g starferry.Group, c starferry.ClusterName, w control.Fence) error {
	w.At = f.c.Now().UnixMilli()
	return f.changeFences(ctx, g, func(on map[starferry.ClusterName]control.Fence) bool {
		old, there := on[c]
		if there && old.Epoch == w.Epoch && old.From == w.From {
			return false
		}
		on[c] = w
		return true
	})
}

// LiftFence lets clients into a group on a cluster again, and returns when no
// fence stands there. Lifting one that does not stand is no error.
func (f *Fleet) LiftFence(ctx context.Context, g starferry.Group, c starferry.ClusterName, by, why string) error {
	if _, err := f.cluster(c); err != nil {
		return fmt.Errorf("lift fence of %s: %w", g, err)
	}
	event := desired.Event{Group: g, What: "lift fence", Who: by, Why: why, When: f.c.Now().UnixMilli(), Detail: "on " + string(c)}
	if err := f.c.Store.Audit(ctx, event); err != nil {
		return fmt.Errorf("lift fence of %s: %w", g, err)
	}
	if _, err := f.dropFence(ctx, g, c, nil); err != nil {
		return fmt.Errorf("lift fence of %s on %s: %w", g, c, err)
	}
	return nil
}

// RaiseFence keeps everybody out of a group on a cluster where it does not live,
// and returns when the fence stands: an agent that keeps fences has to run.
func (f *Fleet) RaiseFence(ctx context.Context, g starferry.Group, c starferry.ClusterName, by, why string) error {
	if _, err := f.cluster(c); err != nil {
		return fmt.Errorf("fence %s: %w", g, err)
	}
	h, err := f.Home(ctx, g)
	switch {
	case err != nil:
		return fmt.Errorf("fence %s on %s: %w", g, c, err)
	case h.Phase != control.Steady:
		return fmt.Errorf("fence %s on %s: a switch is open (%s, epoch %d); wait until it has ended", g, c, h.Phase, h.Epoch)
	case h.Cluster == c:
		return fmt.Errorf("fence %s on %s: that is where it lives; a fence keeps clients out of clusters that their group has left", g, c)
	}
	event := desired.Event{Group: g, What: "fence", Who: by, Why: why, When: f.c.Now().UnixMilli(), Detail: "on " + string(c)}
	if err := f.c.Store.Audit(ctx, event); err != nil {
		return fmt.Errorf("fence %s on %s: %w", g, c, err)
	}
	if err := f.wantFence(ctx, g, c, control.Fence{Epoch: h.Epoch, By: by, Why: why}); err != nil {
		return fmt.Errorf("fence %s on %s: %w", g, c, err)
	}
	ctx, cancel := context.WithTimeout(ctx, fenceJoin)
	defer cancel()
	for {
		seen, err := f.describe(ctx, c, g)
		if err == nil && fencing(seen) && seen.State == "Stable" {
			return nil
		}
		select {
		case <-ctx.Done():
			e := &OccupiedError{Cluster: c, Group: g}
			if !fencing(seen) {
				e.Members = seen.Members
			}
			return fmt.Errorf("%w; it is asked for and will be taken when the group is empty", e)
		case <-time.After(fencePoll / 10):
		}
	}
}

// dropFence takes a fence out of what ought to stand, unless keep says no, and
// waits until those who held it have left. It returns what was taken out.
func (f *Fleet) dropFence(ctx context.Context, g starferry.Group, c starferry.ClusterName, keep func(control.Fence) bool) (*control.Fence, error) {
	var was *control.Fence
	err := f.changeFences(ctx, g, func(on map[starferry.ClusterName]control.Fence) bool {
		was = nil
		w, there := on[c]
		if !there || keep != nil && keep(w) {
			return false
		}
		was = &w
		delete(on, c)
		return true
	})
	if err != nil || was == nil && keep != nil {
		return was, err
	}
	ctx, cancel := context.WithTimeout(ctx, fenceJoin)
	defer cancel()
	for {
		seen, err := f.describe(ctx, c, g)
		if err == nil && (!fencing(seen) || len(seen.Members) == 0) {
			return was, nil
		}
		select {
		case <-ctx.Done():
			return was, fmt.Errorf("%d members still hold it: %s; it is no longer asked for, and they leave when they hear of that", len(seen.Members), seen.Members)
		case <-time.After(fencePoll / 10):
		}
	}
}

type fenceKey struct {
	cluster starferry.ClusterName
	group   starferry.Group
}

// KeepFences holds the fences that ought to stand, until ctx ends. Any number of
// agents do so for the same fences: each is a member, and a fence stands as long
// as one of them lives. When ctx ends, the memberships are left to their
// sessions, so that another agent can take them up without a gap.
func (f *Fleet) KeepFences(ctx context.Context) {
	kept := map[fenceKey]func(lifted bool){}
	var keepers sync.WaitGroup
	defer func() {
		for _, end := range kept {
			end(false)
		}
		keepers.Wait()
	}()
	tick := time.NewTicker(fencePoll)
	defer tick.Stop()
	told := ""
	for {
		wanted, err := f.wantedFences(ctx)
		switch {
		case err != nil && ctx.Err() == nil && told != err.Error():
			told = err.Error()
			f.log.Warn("fences cannot be read; those that stand are kept", "error", err)
		case err == nil:
			told = ""
			f.adjust(ctx, kept, wanted, &keepers)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (f *Fleet) wantedFences(ctx context.Context) (map[fenceKey]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	all, err := f.c.Store.AllFences(ctx)
	if err != nil {
		return nil, err
	}
	wanted := map[fenceKey]bool{}
	for _, v := range all {
		for c, w := range v.On {
			if _, err := f.cluster(c); err == nil && w.From <= f.c.Now().UnixMilli() {
				wanted[fenceKey{c, v.Group}] = true
			}
		}
	}
	return wanted, nil
}

// adjust lifts the fences that are no longer wanted and begins to take the new
// ones.
func (f *Fleet) adjust(ctx context.Context, kept map[fenceKey]func(bool), wanted map[fenceKey]bool, keepers *sync.WaitGroup) {
	for key, end := range kept {
		if !wanted[key] {
			end(true)
			delete(kept, key)
		}
	}
	for key := range wanted {
		if kept[key] != nil {
			continue
		}
		life, cancel := context.WithCancelCause(ctx)
		kept[key] = func(lifted bool) {
			if lifted {
				cancel(errLifted)
			}
			cancel(context.Canceled)
		}
		keepers.Go(func() { f.keep(life, key) })
	}
}

var errLifted = errors.New("the fence is lifted")

// keep takes one fence and holds it until ctx ends.
func (f *Fleet) keep(ctx context.Context, key fenceKey) {
	log := f.log.With("group", key.group, "cluster", key.cluster)
	var x *fence
	for told := ""; x == nil; {
		var err error
		if x, err = f.openFence(ctx, key.cluster, key.group, 0); err == nil {
			log.Info("fence stands")
			break
		}
		if ctx.Err() != nil {
			return
		}
		if told != err.Error() {
			told = err.Error()
			log.Warn("fence cannot be taken; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(fencePoll):
		}
	}
	<-ctx.Done()
	if !errors.Is(context.Cause(ctx), errLifted) {
		x.vanish()
		return
	}
	if err := x.close(ctx); err != nil {
		log.Warn("lift fence", "error", err)
	}
	log.Info("fence is lifted")
}

// handOver ends a membership in a fence when one of the agents that keep fences
// has joined it. Where none comes, it is left to its session.
func (f *Fleet) handOver(ctx context.Context, c starferry.ClusterName, x *fence) {
	ctx, cancel := context.WithTimeout(ctx, 3*fencePoll)
	defer cancel()
	for {
		seen, err := f.describe(ctx, c, x.group)
		if err == nil && seen.State == "Stable" && len(seen.Members) > 1 {
			if err := x.close(ctx); err != nil {
				f.log.Debug("hand a fence over", "error", err)
			}
			return
		}
		wanted, werr := f.Fences(ctx, x.group)
		if _, ok := wanted.On[c]; werr == nil && !ok || ctx.Err() != nil {
			x.vanish()
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(fencePoll / 10):
		}
	}
}
