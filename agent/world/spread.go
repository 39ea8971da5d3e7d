package world

import (
	"context"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/fleet"
)

var _ builtins.Spreader = (*Hand)(nil)

// Redistribute implements builtins.Spreader.
func (h *Hand) Redistribute(ctx context.Context, r builtins.RedistributeRequest) (builtins.RedistributeReport, error) {
	rep, err := h.fleet.Redistribute(ctx, fleet.RedistributeOrder{
		Group: r.Group, Partition: r.Partition, To: r.To, Order: control.OverflowOrder(r.Order), Stop: r.Stop, By: r.By, Why: r.Why, Token: r.Token, Progress: r.Progress,
	})
	return spreadReport(rep), err
}

// Redistributed implements builtins.Spreader.
func (h *Hand) Redistributed(ctx context.Context, g starferry.Group, token string) (builtins.RedistributeReport, bool, error) {
	rep, done, err := h.fleet.Redistributed(ctx, g, token)
	return spreadReport(rep), done, err
}

func spreadReport(r fleet.Redistributed) builtins.RedistributeReport {
	return builtins.RedistributeReport{Group: r.Group, Partition: r.Partition, First: r.Range.From, Next: r.Range.To, Stopped: r.Stopped, Revision: r.Revision, Instances: r.Instances}
}
