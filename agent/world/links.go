package world

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/replication"
)

// farBehind is the lag of a lane that cannot tell its lag yet: it has to be
// waited for.
const farBehind = 1 << 40

// Links implements builtins.Copier over the shards.
type Links struct {
	cfg    *config.Config
	client *replication.Client
}

var (
	_ builtins.Copier   = (*Links)(nil)
	_ builtins.Narrower = (*Links)(nil)
	_ builtins.Matcher  = (*Links)(nil)
	_ fleet.Copies      = copies{}
)

// copies is Links as the fleet sees them.
type copies struct{ *Links }

// NewLinks makes no connection of its own.
func NewLinks(cfg *config.Config, nc *nats.Conn, log *slog.Logger) *Links {
	return &Links{cfg, replication.NewClient(nc, cfg.Clusters, log)}
}

// Close closes the connections to the clusters.
func (l *Links) Close() error { return l.client.Close() }

// Replicate implements builtins.Copier.
func (l *Links) Replicate(ctx context.Context, r builtins.ReplicateRequest) (builtins.LinkInfo, error) {
	for _, name := range []starferry.ClusterName{r.Source, r.Target} {
		if _, err := l.cfg.Cluster(name); err != nil {
			return builtins.LinkInfo{}, err
		}
	}
	spec := replication.LinkSpec{
		Name: r.Link, Source: r.Source, Target: r.Target, Topics: r.Topics,
		Patterns: r.Settings.Match, From: r.Settings.From, Begin: r.Settings.Begin, Until: r.Settings.Until, Ends: r.Settings.Ends,
		Sample: r.Settings.Sample, Scrub: r.Settings.Scrub, OnLoss: replication.OnLoss(r.Settings.OnLoss),
		Buckets: l.cfg.Shards.Buckets, RateBytes: r.Rate, RateRecords: r.RateRecords, VerifyBytes: r.Verify, Token: r.Token,
	}
	for from, to := range r.Settings.Rename {
		if spec.Rename == nil {
			spec.Rename = replication.Rename{}
		}
		spec.Rename[starferry.Topic(from)] = to
	}
	if spec.RateBytes == 0 {
		spec.RateBytes = l.cfg.Shards.Rate
	}
	e, err := l.client.Ensure(ctx, spec)
	if err != nil {
		return builtins.LinkInfo{}, err
	}
	info := describe(e.LinkStatus)
	info.Created, info.Added = e.Created, e.Added
	return info, nil
}

// Link implements builtins.Copier.
func (l *Links) Link(ctx context.Context, name starferry.LinkName) (builtins.LinkInfo, error) {
	s, err := l.Status(ctx, name)
	if err != nil {
		return builtins.LinkInfo{}, err
	}
	return describe(s), nil
}

// Status asks the shards about all lanes of a link.
func (l *Links) Status(ctx context.Context, name starferry.LinkName) (replication.LinkStatus, error) {
	s, err := l.client.Status(ctx, name)
	return s, notFound(name, err)
}

// All lists the names of all links.
func (l *Links) All(ctx context.Context) ([]starferry.LinkName, error) {
	specs, err := l.client.Links(ctx)
	names := make([]starferry.LinkName, len(specs))
	for i, s := range specs {
		names[i] = s.Name
	}
	slices.Sort(names)
	return names, err
}

// describe makes a link as scripts see it.
func describe(s replication.LinkStatus) builtins.LinkInfo {
	state, reason := s.State()
	info := builtins.LinkInfo{
		Name: s.Spec.Name, Source: s.Spec.Source, Target: s.Spec.Target, Topics: s.Spec.Topics,
		Lanes: len(s.Lanes), State: string(state), Reason: reason,
		Settings: builtins.LinkSettings{
			Match: s.Spec.Patterns, From: s.Spec.From, Until: s.Spec.Until, Begin: s.Spec.Begin, Ends: s.Spec.Ends,
			Sample: s.Spec.Sample, Scrub: s.Spec.Scrub, OnLoss: string(s.Spec.OnLoss),
		},
	}
	for from, to := range s.Spec.Rename {
		if info.Settings.Rename == nil {
			info.Settings.Rename = map[string]string{}
		}
		info.Settings.Rename[string(from)] = to
	}
	if len(s.Spec.Rename) > 0 {
		for _, t := range s.Spec.Topics {
			info.TargetTopics = append(info.TargetTopics, s.Spec.TargetOf(t))
		}
	}
	switch state {
	case replication.Recovering, replication.Unowned:
		info.State = "starting"
	case replication.Stalled, replication.Stopped, replication.Copying, replication.Paused, replication.Done:
	}
	return info
}

// LinkLag implements builtins.Copier.
func (l *Links) LinkLag(ctx context.Context, name starferry.LinkName) (builtins.Lag, error) {
	s, err := l.Status(ctx, name)
	if err != nil {
		return builtins.Lag{}, err
	}
	lag := builtins.Lag{
		Records: map[starferry.TopicPartition]int64{}, Unknown: map[starferry.TopicPartition]string{}, Stopped: map[starferry.TopicPartition]string{},
		Stalled: map[starferry.TopicPartition]string{},
	}
	for _, lane := range s.Lanes {
		if lane.State == replication.Stalled {
			lag.Stalled[lane.Partition] = lane.Reason
		}
		switch {
		case lane.State == replication.Stopped, lane.State == replication.Paused && lane.Lag > 0:
			lag.Stopped[lane.Partition] = lane.Reason
		case lane.Lag < 0 || lane.State == replication.Unowned:
			reason := string(lane.State)
			if lane.Reason != "" {
				reason += ": " + lane.Reason
			}
			lag.Unknown[lane.Partition] = reason
		default:
			lag.Records[lane.Partition] = lane.Lag
		}
	}
	return lag, nil
}

// Translate implements builtins.Copier.
func (l *Links) Translate(ctx context.Context, name starferry.LinkName, d starferry.Direction, c starferry.Cut) (starferry.Translation, error) {
	t, err := l.client.Translate(ctx, name, d, c)
	return t, notFound(name, err)
}

func notFound(name starferry.LinkName, err error) error {
	if errors.Is(err, replication.ErrNoLink) {
		return fmt.Errorf("link %s: %w: make it with replicate first", name, builtins.ErrNotFound)
	}
	return err
}

// Stop implements builtins.Copier.
func (l *Links) Stop(ctx context.Context, name starferry.LinkName) error {
	return l.client.Stop(ctx, name)
}

// Narrow implements builtins.Narrower.
func (l *Links) Narrow(ctx context.Context, name starferry.LinkName, topics []starferry.Topic, patterns ...string) error {
	return notFound(name, l.client.Narrow(ctx, name, topics, patterns...))
}

// Drift compares the settings of a link's topics with those of their copies.
func (l *Links) Drift(ctx context.Context, name starferry.LinkName) ([]replication.TopicDrift, error) {
	d, err := l.client.Drift(ctx, name)
	return d, notFound(name, err)
}

// Matching implements builtins.Matcher.
func (l *Links) Matching(ctx context.Context, c starferry.ClusterName, patterns []string) ([]starferry.Topic, error) {
	return l.client.Matching(ctx, c, patterns)
}

// Pause stops the copy of a link that stays; translations go on being answered.
func (l *Links) Pause(ctx context.Context, name starferry.LinkName) (replication.LinkStatus, error) {
	s, err := l.client.Pause(ctx, name)
	return s, notFound(name, err)
}

// Resume lets a paused link copy again.
func (l *Links) Resume(ctx context.Context, name starferry.LinkName) (replication.LinkStatus, error) {
	s, err := l.client.Resume(ctx, name)
	return s, notFound(name, err)
}

// Drain copies what the source holds now, then pauses.
func (l *Links) Drain(ctx context.Context, name starferry.LinkName, progress func(replication.Drained)) (replication.LinkStatus, error) {
	s, err := l.client.Drain(ctx, name, progress)
	return s, notFound(name, err)
}

// Ends implements fleet.Copies.
func (l copies) Ends(ctx context.Context, name starferry.LinkName) (source, target starferry.ClusterName, err error) {
	specs, err := l.client.Links(ctx)
	if err != nil {
		return "", "", err
	}
	for _, s := range specs {
		if s.Name == name {
			return s.Source, s.Target, nil
		}
	}
	return "", "", notFound(name, replication.ErrNoLink)
}

// Opposite implements fleet.Copies.
func (l copies) Opposite(ctx context.Context, name starferry.LinkName, topics ...starferry.Topic) (starferry.LinkName, error) {
	o, err := l.client.Opposite(ctx, name, topics...)
	return o, notFound(name, err)
}

// Translate implements fleet.Copies. A group finds its topics under the same
// names on both sides, or it cannot be switched.
func (l copies) Translate(ctx context.Context, name starferry.LinkName, d starferry.Direction, c starferry.Cut, wait time.Duration) (starferry.Translation, error) {
	t, err := l.client.TranslateWithin(ctx, name, d, c, wait)
	for tp := range t.Cut {
		if _, asked := c[tp]; !asked && err == nil {
			return t, fmt.Errorf("link %s gives topics other names (%s): a group is switched only where its topics keep their names; replicate them without rename", name, tp.Topic)
		}
	}
	return t, notFound(name, err)
}

// Passed implements fleet.Copies.
func (l copies) Passed(ctx context.Context, name starferry.LinkName, ends map[starferry.TopicPartition]starferry.Offset, wait time.Duration) (map[starferry.TopicPartition]int64, error) {
	behind, err := l.client.Passed(ctx, name, ends, wait)
	return behind, notFound(name, err)
}

// Health implements fleet.Copies.
func (l copies) Health(ctx context.Context, name starferry.LinkName, topics []starferry.Topic) (fleet.Health, error) {
	h := fleet.Health{Lag: map[starferry.TopicPartition]int64{}, Stopped: map[starferry.TopicPartition]string{}}
	s, err := l.Status(ctx, name)
	if err != nil {
		return h, err
	}
	for _, lane := range s.Lanes {
		switch {
		case !slices.Contains(topics, lane.Partition.Topic):
		case lane.State == replication.Stopped, lane.State == replication.Paused && lane.Lag > 0:
			h.Stopped[lane.Partition] = lane.Reason
		case lane.State == replication.Paused || lane.State == replication.Done:
			h.Lag[lane.Partition] = lane.Lag
		case lane.Lag < 0 || lane.State != replication.Copying:
			h.Lag[lane.Partition] = max(lane.Lag, farBehind)
		default:
			h.Lag[lane.Partition] = lane.Lag
		}
	}
	return h, nil
}

// Statuses asks about the named links, or about all.
func (l *Links) Statuses(ctx context.Context, only []string) ([]replication.LinkStatus, error) {
	names := make([]starferry.LinkName, len(only))
	for i, n := range only {
		names[i] = starferry.LinkName(n)
	}
	if len(only) == 0 {
		var err error
		if names, err = l.All(ctx); err != nil {
			return nil, err
		}
	}
	out := []replication.LinkStatus{}
	for _, n := range names {
		s, err := l.Status(ctx, n)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}
