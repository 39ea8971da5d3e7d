package world

import (
	"context"
	"maps"
	"slices"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/control/fleet"
)

var _ builtins.Fencer = (*Hand)(nil)

// switchExternal moves a group without the library.
func (h *Hand) switchExternal(ctx context.Context, o fleet.SwitchOrder, x builtins.ExternalSwitch) (builtins.SwitchReport, error) {
	rep, err := h.fleet.SwitchExternal(ctx, fleet.ExternalOrder{SwitchOrder: o, Ranges: x.OnRanges, Missing: x.OnMissing,
		Stop: x.Stop, Start: x.Start, Started: x.Started})
	if err != nil {
		return builtins.SwitchReport{}, refused(err)
	}
	out := switchReport(rep.Report)
	out.Fenced, out.Instances = rep.Fenced, rep.Members
	return out, nil
}

// RaiseFence implements builtins.Fencer.
func (h *Hand) RaiseFence(ctx context.Context, g starferry.Group, c starferry.ClusterName, by, why string) error {
	return h.fleet.RaiseFence(ctx, g, c, by, why)
}

// LiftFence implements builtins.Fencer.
func (h *Hand) LiftFence(ctx context.Context, g starferry.Group, c starferry.ClusterName, by, why string) error {
	return h.fleet.LiftFence(ctx, g, c, by, why)
}

// Fences implements builtins.Fencer.
func (h *Hand) Fences(ctx context.Context, g starferry.Group) ([]starferry.ClusterName, error) {
	f, err := h.fleet.Fences(ctx, g)
	return slices.Sorted(maps.Keys(f.On)), err
}
