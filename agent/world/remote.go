package world

import (
	"cmp"
	"context"
	"encoding/base64"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/fleet"
)

var _ builtins.Remote = (*Hand)(nil)

// NewHand is the hand over a fleet.
func NewHand(f *fleet.Fleet) *Hand { return &Hand{f} }

// scope reads what a pause is about.
func scope(on string) (starferry.Topic, *starferry.Partition, error) {
	if !strings.Contains(on, "/") {
		return starferry.Topic(on), nil, nil
	}
	tp, err := starferry.ParseTopicPartition(on)
	return tp.Topic, &tp.Partition, err
}

func heldOn(h control.Hold) string {
	if h.Partition == nil {
		return string(h.Topic)
	}
	return starferry.TopicPartition{Topic: h.Topic, Partition: *h.Partition}.String()
}

// Pause implements builtins.Remote.
func (h *Hand) Pause(ctx context.Context, r builtins.PauseRequest) (builtins.Receipt, error) {
	topic, partition, err := scope(r.On)
	if err != nil {
		return builtins.Receipt{}, err
	}
	return receipt(h.fleet.Pause(ctx, fleet.PauseOrder{Group: r.Group, Topic: topic, Partition: partition, For: r.For, By: r.By, Why: r.Why, Token: r.Token}))
}

// Resume implements builtins.Remote.
func (h *Hand) Resume(ctx context.Context, r builtins.ResumeRequest) (builtins.Receipt, error) {
	topic, partition, err := scope(r.On)
	if err != nil {
		return builtins.Receipt{}, err
	}
	return receipt(h.fleet.Resume(ctx, fleet.ResumeOrder{Group: r.Group, ID: r.ID, Topic: topic, Partition: partition, By: r.By, Why: r.Why, Token: r.Token}))
}

// Rewind implements builtins.Remote.
func (h *Hand) Rewind(ctx context.Context, r builtins.RewindRequest) (builtins.RewindReport, error) {
	done, err := h.fleet.Rewind(ctx, fleet.RewindOrder{Group: r.Group, Places: r.Places, Within: r.Within, By: r.By, Why: r.Why, Token: r.Token})
	return builtins.RewindReport{Group: r.Group, Cluster: done.Cluster, Revision: done.Revision, Instances: done.Instances, Before: done.Before, After: done.After}, err
}

// State implements builtins.Remote.
func (h *Hand) State(ctx context.Context, g starferry.Group) (builtins.GroupState, error) {
	v, err := h.fleet.Group(ctx, g)
	if err != nil {
		return builtins.GroupState{}, err
	}
	s := builtins.GroupState{Group: g, Home: v.Home.Cluster, Epoch: v.Home.Epoch, Phase: string(v.Home.Phase), Settings: settings(v.Settings, v.SettingsRevision)}
	parts := map[starferry.TopicPartition]builtins.PartitionState{}
	side := v.On[v.Home.Cluster]
	for tp, place := range side.Committed {
		parts[tp] = builtins.PartitionState{Partition: tp.String(), Position: starferry.NoOffset, Committed: place.Next, Lag: side.Lag[tp], Blocked: starferry.NoOffset}
		s.Lag += side.Lag[tp]
	}
	for _, l := range v.Leases {
		s.Instances = append(s.Instances, builtins.InstanceState{Name: l.Instance, Host: l.Host, Home: string(l.Home), Revision: l.SettingsRevision, Refusal: l.Refusal})
		for _, p := range l.Partitions {
			at := parts[p.Partition]
			if at.Partition == "" {
				at = builtins.PartitionState{Partition: p.Partition.String(), Committed: p.Committed, Lag: max(0, int64(p.End-p.Committed))}
			}
			at.Instance, at.Position, at.Blocked, at.BusyMS, at.Held, at.Skipped = l.Instance, p.Position, starferry.NoOffset, p.BusyMS, p.Held, p.Skipped
			if p.Blocked != nil {
				at.Blocked = *p.Blocked
			}
			parts[p.Partition] = at
		}
	}
	for _, tp := range partitionsOf(parts) {
		s.Partitions = append(s.Partitions, parts[tp])
	}
	slices.SortFunc(s.Instances, func(a, b builtins.InstanceState) int { return cmp.Compare(a.Name, b.Name) })
	return s, nil
}

func partitionsOf(parts map[starferry.TopicPartition]builtins.PartitionState) []starferry.TopicPartition {
	var out []starferry.TopicPartition
	for tp := range parts {
		out = append(out, tp)
	}
	slices.SortFunc(out, starferry.TopicPartition.Compare)
	return out
}

// Peek implements builtins.Remote.
func (h *Hand) Peek(ctx context.Context, r builtins.PeekRequest) ([]builtins.PeekedRecord, error) {
	got, err := h.fleet.Peek(ctx, r.Cluster, r.Partition, r.From, r.Below, r.Most)
	if err != nil {
		return nil, err
	}
	var out []builtins.PeekedRecord
	for _, p := range got {
		at := starferry.Position{TopicPartition: p.Partition, Offset: starferry.Offset(p.Offset)}
		k := builtins.PeekedRecord{
			Position: at.String(), Time: time.UnixMilli(p.Timestamp).UTC().Format(time.RFC3339Nano), Headers: map[string]string{},
			Bytes: len(p.Key) + len(p.Value), Digest: p.Digest(), Binary: !utf8.Valid(p.Key) || !utf8.Valid(p.Value),
		}
		text := func(b []byte) string {
			if k.Binary {
				return base64.StdEncoding.EncodeToString(b)
			}
			return string(b)
		}
		k.Key, k.Value = text(p.Key), text(p.Value)
		for _, x := range p.Headers {
			k.Headers[x.Key] = strings.ToValidUTF8(string(x.Value), "�")
		}
		out = append(out, k)
	}
	return out, nil
}

// Replay implements builtins.Remote.
func (h *Hand) Replay(ctx context.Context, r builtins.ReplayRequest) (builtins.ReplayReport, error) {
	done, err := h.fleet.Replay(ctx, fleet.ReplayOrder{Group: r.Group, Skip: r.Skip, From: r.From, To: r.To, Again: r.Again, By: r.By, Why: r.Why, Token: r.Token})
	return builtins.ReplayReport{Group: r.Group, Cluster: done.Cluster, From: done.From, To: done.To, Records: done.Records, Repeated: done.Repeated, Before: done.Before}, err
}
