package fleet

import (
	"context"
	"errors"
	"fmt"

	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
)

// unfence lets instances into the cluster they are to move to: an earlier switch
// may have had it fenced. It returns what puts the fence back if the group stays
// where it is. A group that is moved without the library just now is refused.
func (f *Fleet) unfence(ctx context.Context, o SwitchOrder) (back func(context.Context), err error) {
	p, _, err := f.c.Store.Placement(ctx, o.Group)
	if err != nil && !errors.Is(err, desired.ErrNotFound) {
		return nil, err
	}
	if p.Open() && p.External {
		return nil, openElsewhere(p)
	}
	was, err := f.dropFence(ctx, o.Group, o.Target, func(control.Fence) bool { return false })
	if err != nil {
		return nil, fmt.Errorf("lift the fence on %s: %w", o.Target, err)
	}
	if was == nil {
		return func(context.Context) {}, nil
	}
	f.log.Info("fence is lifted, since the group moves back", "group", o.Group, "cluster", o.Target)
	return func(ctx context.Context) {
		if err := f.wantFence(ctx, o.Group, o.Target, *was); err != nil {
			f.log.Warn("a fence that was lifted for a switch is not put back", "group", o.Group, "cluster", o.Target, "error", err)
		}
	}, nil
}

// fenceOff has the old home fenced once nobody stands by there any more.
func (f *Fleet) fenceOff(ctx context.Context, o SwitchOrder) error {
	p, _, err := f.c.Store.Placement(ctx, o.Group)
	if err != nil && !errors.Is(err, desired.ErrNotFound) {
		return err
	}
	return f.wantFence(ctx, o.Group, o.Source, control.Fence{Epoch: p.Epoch, From: p.StandbyUntil, By: o.By, Why: o.Why})
}
