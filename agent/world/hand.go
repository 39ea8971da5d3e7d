package world

import (
	"context"
	"fmt"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/control/switchover"
)

// Hand implements builtins.Hand over the fleet.
type Hand struct{ fleet *fleet.Fleet }

var (
	_ builtins.Hand = (*Hand)(nil)
)

// Switch implements builtins.Hand.
func (h *Hand) Switch(ctx context.Context, r builtins.SwitchRequest) (builtins.SwitchReport, error) {
	o := fleet.SwitchOrder{
		Group: r.Group, Source: r.Source, Target: r.Target, Link: r.Link, Within: r.Within, Patience: r.Patience, Standby: r.Standby, Fence: r.Fence, OnStraggler: switchover.OnStraggler(r.OnStraggler),
		By: r.By, Why: r.Why, Token: r.Token, Watch: watching(r),
	}
	if r.External != nil {
		return h.switchExternal(ctx, o, *r.External)
	}
	rep, err := h.fleet.Switch(ctx, o)
	if err != nil {
		return builtins.SwitchReport{}, refused(err)
	}
	out := switchReport(rep)
	if r.Fence {
		out.Fenced = r.Source
	}
	return out, nil
}

// switchReport is a report as scripts see it.
func switchReport(rep switchover.Report) builtins.SwitchReport {
	out := builtins.SwitchReport{
		Group: rep.Group, Source: rep.Source, Target: rep.Target, Epoch: rep.Epoch, Cut: rep.Cut, Seeds: rep.Seeds,
		Exact: rep.Exact, Pauses: rep.Pauses, ControlMS: rep.ControlMS, Instances: rep.Instances, Repeats: rep.Repeats, Attempts: rep.Attempts,
		Behind: rep.Behind, Began: rep.Began, Ended: rep.Ended, Notes: rep.Notes, By: rep.By, Why: rep.Why,
	}
	out.PauseP50MS, out.PauseMaxMS = fleet.Pauses(rep.Pauses)
	for _, p := range rep.Phases {
		out.Phases = append(out.Phases, builtins.SwitchPhase(p))
	}
	for _, p := range rep.Members {
		m := builtins.SwitchMember{Instance: p.Instance, Boot: p.Boot, Host: p.Host}
		if p.Old != nil {
			m.SourceMember, m.SourceGeneration = p.Old.Member, p.Old.Generation
		}
		if p.New != nil {
			m.TargetMember, m.TargetGeneration = p.New.Member, p.New.Generation
		}
		out.Members = append(out.Members, m)
	}
	for _, e := range rep.Evicted {
		m := builtins.SwitchMember{Instance: e.Instance, Host: e.Host}
		if e.Cluster == rep.Source {
			m.SourceMember = e.Member
		} else {
			m.TargetMember = e.Member
		}
		for _, x := range e.Perhaps {
			m.Perhaps = append(m.Perhaps, fmt.Sprintf("%s [%d, %d)", x.Partition, x.Range.From, x.Range.To))
		}
		out.Evicted = append(out.Evicted, m)
	}
	return out
}

// Home implements builtins.Hand.
func (h *Hand) Home(ctx context.Context, g starferry.Group) (builtins.GroupHome, error) {
	home, err := h.fleet.Home(ctx, g)
	return builtins.GroupHome{Group: home.Group, Cluster: home.Cluster, Epoch: home.Epoch, Phase: string(home.Phase), Token: home.Token}, err
}

// Skip implements builtins.Hand.
func (h *Hand) Skip(ctx context.Context, r builtins.SkipRequest) (builtins.Receipt, error) {
	return receipt(h.fleet.Skip(ctx, fleet.SkipOrder{
		Group: r.Group, Cluster: r.Cluster, Partition: r.Partition, Range: r.Range, Keep: r.Keep, Drop: r.Drop, By: r.By, Why: r.Why, Token: r.Token,
	}))
}

// Throttle implements builtins.Hand.
func (h *Hand) Throttle(ctx context.Context, r builtins.ThrottleRequest) (builtins.Receipt, error) {
	return receipt(h.fleet.Throttle(ctx, fleet.ThrottleOrder{
		Group: r.Group, Partition: r.Partition, For: r.For, By: r.By, Why: r.Why, Token: r.Token,
		Limit: control.Throttle{Rate: r.Limit.Rate, Parallelism: r.Limit.Parallelism, DelayMS: r.Limit.DelayMS, QueueHigh: r.Limit.QueueHigh, QueueLow: r.Limit.QueueLow},
	}))
}

// Settings implements builtins.Hand.
func (h *Hand) Settings(ctx context.Context, g starferry.Group) (builtins.GroupSettings, error) {
	s, rev, err := h.fleet.Settings(ctx, g)
	return settings(s, rev), err
}

// Unskip implements builtins.Hand. The journal knows who asked; the audit trail
// is told the reason, which names the run.
func (h *Hand) Unskip(ctx context.Context, g starferry.Group, id, reason string) (builtins.Receipt, error) {
	return receipt(h.fleet.Unskip(ctx, g, id, "agent", reason))
}

func receipt(r fleet.Receipt, err error) (builtins.Receipt, error) {
	return builtins.Receipt{Group: r.Group, Revision: r.Revision, ID: r.ID, Keep: r.Keep, Instances: r.Instances, Before: settings(r.Before, 0)}, err
}

func settings(s control.Settings, rev uint64) builtins.GroupSettings {
	out := builtins.GroupSettings{Revision: rev}
	if s.Throttle != nil {
		out.Limit = limit(*s.Throttle)
	}
	for tp, t := range s.Throttles {
		if out.Limits == nil {
			out.Limits = map[starferry.TopicPartition]builtins.Limit{}
		}
		out.Limits[tp] = limit(t)
	}
	if o := s.Overflow; o != nil {
		out.Redistribution = &builtins.GroupSpread{Partition: o.Partition, Topic: o.Topic, Order: string(o.Order), Phase: string(o.Phase), Until: o.Until, By: o.By, Why: o.Why}
	}
	for _, h := range s.Holds {
		out.Holds = append(out.Holds, builtins.GroupHold{ID: h.ID, On: heldOn(h), Until: h.Until, By: h.By, Why: h.Why})
	}
	for _, k := range s.Skips {
		out.Skips = append(out.Skips, builtins.GroupSkip{ID: k.ID, Cluster: k.Cluster, Partition: k.Partition, Range: k.Range, Keep: k.Keep})
	}
	return out
}

func limit(t control.Throttle) builtins.Limit {
	return builtins.Limit{Rate: t.Rate, Parallelism: t.Parallelism, DelayMS: t.DelayMS, QueueHigh: t.QueueHigh, QueueLow: t.QueueLow, Until: t.Until}
}
