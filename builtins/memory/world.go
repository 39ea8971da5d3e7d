// Package memory is a world in memory for trying scripts and builtins: two
// clusters named old and new, the group "billing" on old, and a clock that moves
// only when something waits.
package memory

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/scripting"
)

// World implements the ports of builtins and a clock. It counts every
// effect by its token, so that a test can tell one that ran twice.
type World struct {
	mu sync.Mutex // branches of a parallel act at once

	Time       time.Time
	On         map[starferry.ClusterName]map[starferry.Topic]int
	Links      map[starferry.LinkName]builtins.LinkInfo
	Lives      builtins.GroupHome
	Set        builtins.GroupSettings
	Behind     map[starferry.TopicPartition]int64
	Unmeasured map[starferry.TopicPartition]string
	Stands     map[starferry.TopicPartition]starferry.Offset // where rewinds have taken the group
	Done       map[string]builtins.RewindReport              // by token
	Proof      *builtins.VerifyReport                        // nil: the copies are the same
	Exact      int                                           // partitions that a switch finds a place for, of 5
	Writes     int
	Effects    map[string]int // by what and token
	CaughtUp   int64          // how much each poll's sleep shortens the lag
	BreakOn    string         // an effect that fails
	// Census are groups beside billing, Homes where those live that have moved.
	Census []builtins.GroupInfo
	Homes  map[starferry.Group]builtins.GroupHome
	// Refuses are groups that cannot be switched now.
	Refuses map[starferry.Group]string
	Fenced  []starferry.ClusterName
	Spread  map[string]builtins.RedistributeReport // by token
	// Instances are those of billing; Free: no record blocks orders/0.
	Instances []starferry.InstanceID
	Free      bool
	Written   Written
}

// New returns a world in which nothing has moved yet.
func New() *World {
	return &World{
		Time:      time.UnixMilli(1_700_000_000_000),
		On:        map[starferry.ClusterName]map[starferry.Topic]int{"old": {"orders": 3, "payments": 2}, "new": {}},
		Links:     map[starferry.LinkName]builtins.LinkInfo{},
		Lives:     builtins.GroupHome{Group: "billing", Cluster: "old", Epoch: 1, Phase: "steady"},
		Behind:    map[starferry.TopicPartition]int64{{Topic: "orders", Partition: 0}: 5},
		Exact:     5,
		Effects:   map[string]int{},
		Homes:     map[starferry.Group]builtins.GroupHome{},
		Stands:    map[starferry.TopicPartition]starferry.Offset{},
		Done:      map[string]builtins.RewindReport{},
		Refuses:   map[starferry.Group]string{},
		Spread:    map[string]builtins.RedistributeReport{},
		Instances: []starferry.InstanceID{"a"},
		Written:   Written{Home: builtins.TopicHome{Topic: "orders", Cluster: "old", Producers: map[starferry.InstanceID]starferry.ClusterName{"web": "old", "batch": "old"}}},
	}
}

// Ports are the world as builtins see it.
func (w *World) Ports() builtins.Ports {
	return builtins.Ports{Clusters: w, Times: w, Copier: w, Hand: w, Remote: w, Prover: w, Census: census{w}, Fencer: w, Spreader: w, Producers: w}
}

func (w *World) effect(what, token string) error {
	w.Writes++
	w.Effects[what+" "+token]++
	if w.BreakOn == what {
		return fmt.Errorf("%s: the world said no", what)
	}
	return nil
}

// Now and Sleep make the world its own clock: time passes only by waiting.
func (w *World) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.Time
}
func (w *World) Sleep(ctx context.Context, d time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Time = w.Time.Add(d)
	for tp, n := range w.Behind {
		w.Behind[tp] = max(0, n-w.CaughtUp)
	}
	return ctx.Err()
}

func (w *World) Names() []starferry.ClusterName { return []starferry.ClusterName{"new", "old"} }
func (w *World) Describe(_ context.Context, c starferry.ClusterName) (builtins.ClusterInfo, error) {
	return builtins.ClusterInfo{Name: c, ID: "id-" + string(c), Brokers: 1, Version: "4.3"}, nil
}
func (w *World) TopicsOf(_ context.Context, c starferry.ClusterName, g starferry.Group) ([]starferry.Topic, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, other := range w.Census {
		if other.Name == g {
			return other.Topics, nil
		}
	}
	if g != "billing" {
		return nil, nil
	}
	return []starferry.Topic{"orders", "payments"}, nil
}
func (w *World) Topics(_ context.Context, c starferry.ClusterName, names []starferry.Topic) (map[starferry.Topic]builtins.TopicInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[starferry.Topic]builtins.TopicInfo{}
	for _, n := range names {
		if p, ok := w.On[c][n]; ok {
			out[n] = builtins.TopicInfo{Name: n, Partitions: p}
		}
	}
	return out, nil
}
func (w *World) measured() builtins.Lag {
	return builtins.Lag{Records: maps.Clone(w.Behind), Unknown: w.Unmeasured}
}
func (w *World) GroupLag(context.Context, starferry.ClusterName, starferry.Group) (builtins.Lag, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.measured(), nil
}
func (w *World) Committed(context.Context, starferry.ClusterName, starferry.Group) (starferry.Cut, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	cut := starferry.Cut{{Topic: "orders", Partition: 0}: {Next: 7, Handled: []starferry.Range{{From: 9, To: 11}}}}
	for tp, o := range w.Stands {
		cut[tp] = starferry.Place{Next: o}
	}
	return cut, nil
}

// OffsetsAt finds one record a second since the world began.
func (w *World) OffsetsAt(_ context.Context, c starferry.ClusterName, topics []starferry.Topic, at time.Time) (starferry.Cut, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	cut := starferry.Cut{}
	for _, t := range topics {
		partitions, ok := w.On[c][t]
		if !ok {
			return nil, fmt.Errorf("%s has no topic %s", c, t)
		}
		for p := range partitions {
			age := at.Sub(time.UnixMilli(1_700_000_000_000))
			cut[starferry.TopicPartition{Topic: t, Partition: starferry.Partition(p)}] = starferry.Place{Next: starferry.Offset(max(0, age/time.Second))}
		}
	}
	return cut, nil
}

func (w *World) Replicate(_ context.Context, r builtins.ReplicateRequest) (builtins.LinkInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.effect("replicate", r.Token); err != nil {
		return builtins.LinkInfo{}, err
	}
	info, exists := w.Links[r.Link]
	if !exists {
		info = builtins.LinkInfo{Name: r.Link, Source: r.Source, Target: r.Target, State: "copying", Settings: r.Settings}
		info.Settings.Match = nil
	}
	out := info
	for _, m := range r.Settings.Match {
		if !slices.Contains(info.Settings.Match, m) {
			info.Settings.Match = append(info.Settings.Match, m)
		}
	}
	for _, t := range r.Topics {
		if !slices.Contains(info.Topics, t) {
			info.Topics = append(info.Topics, t)
			out.Added = append(out.Added, t)
			w.On[r.Target][t] = w.On[r.Source][t]
		}
	}
	w.Links[r.Link] = info
	out.Topics, out.Created, out.Lanes = info.Topics, !exists, 5
	return out, nil
}
func (w *World) Link(_ context.Context, n starferry.LinkName) (builtins.LinkInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l, ok := w.Links[n]
	if !ok {
		return l, fmt.Errorf("link %s: %w", n, builtins.ErrNotFound)
	}
	return l, nil
}
func (w *World) LinkLag(_ context.Context, n starferry.LinkName) (builtins.Lag, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.Links[n]; !ok {
		return builtins.Lag{}, builtins.ErrNotFound
	}
	return w.measured(), nil
}
func (w *World) Translate(_ context.Context, _ starferry.LinkName, _ starferry.Direction, c starferry.Cut) (starferry.Translation, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return starferry.Translation{Cut: c}, nil
}
func (w *World) Stop(_ context.Context, n starferry.LinkName) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.Links, n)
	return w.effect("stop", string(n))
}

// Verify compares nothing: the report is the one that was set, or one of 12
// records that are the same.
func (w *World) Verify(_ context.Context, r builtins.VerifyRequest) (builtins.VerifyReport, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.Links[r.Link]; !ok {
		return builtins.VerifyReport{}, fmt.Errorf("link %s: %w", r.Link, builtins.ErrNotFound)
	}
	if w.Proof != nil {
		return *w.Proof, nil
	}
	return builtins.VerifyReport{Verdict: "PASS", Identical: 12, Compared: 12, Lanes: 5}, nil
}

func (w *World) Switch(_ context.Context, r builtins.SwitchRequest) (builtins.SwitchReport, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	lives := w.home(r.Group)
	if lives.Cluster == r.Target && lives.Phase == "announce" { // another's, decided and not at its end
		w.Lives.Phase = "steady"
		return builtins.SwitchReport{Group: r.Group, Source: r.Source, Target: r.Target, Epoch: lives.Epoch}, nil
	}
	if lives.Token != r.Token {
		if why := w.Refuses[r.Group]; why != "" {
			return builtins.SwitchReport{}, fmt.Errorf("refused: %s", why)
		}
		if err := w.effect("switch", r.Token); err != nil {
			return builtins.SwitchReport{}, err
		}
		if lives.Cluster != r.Source {
			return builtins.SwitchReport{}, fmt.Errorf("group lives on %s", lives.Cluster)
		}
		lives = builtins.GroupHome{Group: r.Group, Cluster: r.Target, Epoch: lives.Epoch + 1, Phase: "steady", Token: r.Token}
		if r.Group == w.Lives.Group {
			w.Lives = lives
		} else {
			w.Homes[r.Group] = lives
		}
	}
	cut, seeds := starferry.Cut{}, starferry.Cut{}
	for p := range 5 {
		tp := starferry.TopicPartition{Topic: "orders", Partition: starferry.Partition(p)}
		cut[tp] = starferry.Place{Next: 7}
		if p < w.Exact {
			seeds[tp] = starferry.Place{Next: 9}
		}
	}
	report := builtins.SwitchReport{Group: r.Group, Source: r.Source, Target: r.Target, Epoch: lives.Epoch, Cut: cut, Seeds: seeds, Exact: 1, Attempts: 1, Notes: []string{}}
	w.Fenced = slices.DeleteFunc(w.Fenced, func(c starferry.ClusterName) bool { return c == r.Target })
	if r.Fence || r.External != nil {
		report.Fenced = r.Source
		w.Fenced = append(w.Fenced, r.Source)
	}
	return report, nil
}
func (w *World) Home(_ context.Context, g starferry.Group) (builtins.GroupHome, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.home(g), nil
}

// home is where a group lives: those of the census on old until they move.
func (w *World) home(g starferry.Group) builtins.GroupHome {
	if h, moved := w.Homes[g]; moved {
		return h
	}
	for _, other := range w.Census {
		if other.Name == g {
			return builtins.GroupHome{Group: g, Cluster: "old", Epoch: 1, Phase: "steady"}
		}
	}
	return w.Lives
}

// census is the world as builtins.Census. Patterns are those of package path.
type census struct{ *World }

// Groups lists the groups of World.Census that live on a cluster.
func (w census) Groups(_ context.Context, c starferry.ClusterName, pattern string) ([]builtins.GroupInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []builtins.GroupInfo
	for _, g := range w.World.Census {
		if fits, err := path.Match(pattern, string(g.Name)); err != nil {
			return nil, err
		} else if fits && (g.Unknown != "" || w.home(g.Name).Cluster == c) {
			out = append(out, g)
		}
	}
	return out, nil
}

func (w *World) Skip(_ context.Context, r builtins.SkipRequest) (builtins.Receipt, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.Set
	if err := w.effect("skip", r.Token); err != nil {
		return builtins.Receipt{}, err
	}
	id := "skip-" + r.Token
	w.Set.Skips = append(slices.Clone(w.Set.Skips), builtins.GroupSkip{ID: id, Cluster: r.Cluster, Partition: r.Partition, Range: r.Range, Keep: r.Keep})
	w.Set.Revision++
	return builtins.Receipt{Group: r.Group, Revision: w.Set.Revision, ID: id, Before: before}, nil
}
func (w *World) Throttle(_ context.Context, r builtins.ThrottleRequest) (builtins.Receipt, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.Set
	if err := w.effect("throttle", r.Token); err != nil {
		return builtins.Receipt{}, err
	}
	if r.For > 0 {
		r.Limit.Until = w.Time.Add(r.For).UnixMilli()
	}
	if r.Partition == nil {
		w.Set.Limit = r.Limit
	} else {
		w.Set.Limits = maps.Clone(w.Set.Limits)
		if w.Set.Limits == nil {
			w.Set.Limits = map[starferry.TopicPartition]builtins.Limit{}
		}
		w.Set.Limits[*r.Partition] = r.Limit
	}
	w.Set.Revision++
	return builtins.Receipt{Group: r.Group, Revision: w.Set.Revision, Before: before}, nil
}
func (w *World) Settings(context.Context, starferry.Group) (builtins.GroupSettings, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.Set, nil
}
func (w *World) Unskip(_ context.Context, g starferry.Group, id, reason string) (builtins.Receipt, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Set.Skips = slices.DeleteFunc(slices.Clone(w.Set.Skips), func(s builtins.GroupSkip) bool { return s.ID == id })
	w.Set.Revision++
	return builtins.Receipt{Group: g, Revision: w.Set.Revision, ID: id}, w.effect("unskip", id)
}

var _ scripting.Clock = (*World)(nil)
