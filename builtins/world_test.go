package builtins_test

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/scripting"
)

// world is two clusters, a group and its links in memory. It counts every
// effect by its token, so that a test can tell one that ran twice.
type world struct {
	now      time.Time
	topics   map[starferry.ClusterName]map[starferry.Topic]int
	links    map[starferry.LinkName]builtins.LinkInfo
	home     builtins.GroupHome
	settings builtins.GroupSettings
	lag      map[starferry.TopicPartition]int64
	unknown  map[starferry.TopicPartition]string
	exact    int
	writes   int
	effects  map[string]int // by what and token
	perSleep int64          // how much each poll's sleep shortens the lag
	breakOn  string         // an effect that fails
}

func newWorld() *world {
	return &world{
		now:     time.UnixMilli(1_700_000_000_000),
		topics:  map[starferry.ClusterName]map[starferry.Topic]int{"old": {"orders": 3, "payments": 2}, "new": {}},
		links:   map[starferry.LinkName]builtins.LinkInfo{},
		home:    builtins.GroupHome{Group: "billing", Cluster: "old", Epoch: 1, Phase: "steady"},
		lag:     map[starferry.TopicPartition]int64{{Topic: "orders", Partition: 0}: 5},
		exact:   5,
		effects: map[string]int{},
	}
}

func (w *world) ports() builtins.Ports { return builtins.Ports{Clusters: w, Copier: w, Hand: w} }

func (w *world) effect(what, token string) error {
	w.writes++
	w.effects[what+" "+token]++
	if w.breakOn == what {
		return fmt.Errorf("%s: the world said no", what)
	}
	return nil
}

// Now and Sleep make the world its own clock: time passes only by waiting.
func (w *world) Now() time.Time { return w.now }
func (w *world) Sleep(ctx context.Context, d time.Duration) error {
	w.now = w.now.Add(d)
	for tp, n := range w.lag {
		w.lag[tp] = max(0, n-w.perSleep)
	}
	return ctx.Err()
}

func (w *world) Names() []starferry.ClusterName { return []starferry.ClusterName{"new", "old"} }
func (w *world) Describe(_ context.Context, c starferry.ClusterName) (builtins.ClusterInfo, error) {
	return builtins.ClusterInfo{Name: c, ID: "id-" + string(c), Brokers: 1, Version: "4.3"}, nil
}
func (w *world) TopicsOf(_ context.Context, c starferry.ClusterName, g starferry.Group) ([]starferry.Topic, error) {
	if g != "billing" {
		return nil, nil
	}
	return []starferry.Topic{"orders", "payments"}, nil
}
func (w *world) Topics(_ context.Context, c starferry.ClusterName, names []starferry.Topic) (map[starferry.Topic]builtins.TopicInfo, error) {
	out := map[starferry.Topic]builtins.TopicInfo{}
	for _, n := range names {
		if p, ok := w.topics[c][n]; ok {
			out[n] = builtins.TopicInfo{Name: n, Partitions: p}
		}
	}
	return out, nil
}
func (w *world) measured() builtins.Lag { return builtins.Lag{Records: w.lag, Unknown: w.unknown} }
func (w *world) GroupLag(context.Context, starferry.ClusterName, starferry.Group) (builtins.Lag, error) {
	return w.measured(), nil
}
func (w *world) Committed(context.Context, starferry.ClusterName, starferry.Group) (starferry.Cut, error) {
	return starferry.Cut{{Topic: "orders", Partition: 0}: {Next: 7}}, nil
}

func (w *world) Replicate(_ context.Context, r builtins.ReplicateRequest) (builtins.LinkInfo, error) {
	if err := w.effect("replicate", r.Token); err != nil {
		return builtins.LinkInfo{}, err
	}
	info, exists := w.links[r.Link]
	if !exists {
		info = builtins.LinkInfo{Name: r.Link, Source: r.Source, Target: r.Target, State: "copying"}
	}
	out := info
	for _, t := range r.Topics {
		if !slices.Contains(info.Topics, t) {
			info.Topics = append(info.Topics, t)
			out.Added = append(out.Added, t)
			w.topics[r.Target][t] = w.topics[r.Source][t]
		}
	}
	w.links[r.Link] = info
	out.Topics, out.Created, out.Lanes = info.Topics, !exists, 5
	return out, nil
}
func (w *world) Link(_ context.Context, n starferry.LinkName) (builtins.LinkInfo, error) {
	l, ok := w.links[n]
	if !ok {
		return l, fmt.Errorf("link %s: %w", n, builtins.ErrNotFound)
	}
	return l, nil
}
func (w *world) LinkLag(_ context.Context, n starferry.LinkName) (builtins.Lag, error) {
	if _, ok := w.links[n]; !ok {
		return builtins.Lag{}, builtins.ErrNotFound
	}
	return w.measured(), nil
}
func (w *world) Translate(_ context.Context, _ starferry.LinkName, _ starferry.Direction, c starferry.Cut) (starferry.Translation, error) {
	return starferry.Translation{Cut: c}, nil
}
func (w *world) Stop(_ context.Context, n starferry.LinkName) error {
	delete(w.links, n)
	return w.effect("stop", string(n))
}

func (w *world) Switch(_ context.Context, r builtins.SwitchRequest) (builtins.SwitchReport, error) {
	if w.home.Token != r.Token {
		if err := w.effect("switch", r.Token); err != nil {
			return builtins.SwitchReport{}, err
		}
		if w.home.Cluster != r.Source {
			return builtins.SwitchReport{}, fmt.Errorf("group lives on %s", w.home.Cluster)
		}
		w.home = builtins.GroupHome{Group: r.Group, Cluster: r.Target, Epoch: w.home.Epoch + 1, Phase: "steady", Token: r.Token}
	}
	seeds := starferry.Cut{}
	for p := range 5 {
		seeds[starferry.TopicPartition{Topic: "orders", Partition: starferry.Partition(p)}] = starferry.Place{Next: 7}
	}
	return builtins.SwitchReport{Group: r.Group, Source: r.Source, Target: r.Target, Epoch: w.home.Epoch, Seeds: seeds, Exact: w.exact, Attempts: 1}, nil
}
func (w *world) Home(_ context.Context, g starferry.Group) (builtins.GroupHome, error) {
	return w.home, nil
}

func (w *world) Skip(_ context.Context, r builtins.SkipRequest) (builtins.Receipt, error) {
	before := w.settings
	if err := w.effect("skip", r.Token); err != nil {
		return builtins.Receipt{}, err
	}
	id := "s-" + r.Token[:6]
	w.settings.Skips = append(slices.Clone(w.settings.Skips), builtins.GroupSkip{ID: id, Cluster: r.Cluster, Partition: r.Partition, Range: r.Range})
	w.settings.Revision++
	return builtins.Receipt{Group: r.Group, Revision: w.settings.Revision, ID: id, Before: before}, nil
}
func (w *world) Throttle(_ context.Context, r builtins.ThrottleRequest) (builtins.Receipt, error) {
	before := w.settings
	if err := w.effect("throttle", r.Token); err != nil {
		return builtins.Receipt{}, err
	}
	w.settings.Rate, w.settings.Until = r.Rate, 0
	if r.For > 0 {
		w.settings.Until = w.now.Add(r.For).UnixMilli()
	}
	w.settings.Revision++
	return builtins.Receipt{Group: r.Group, Revision: w.settings.Revision, Before: before}, nil
}
func (w *world) Settings(context.Context, starferry.Group) (builtins.GroupSettings, error) {
	return w.settings, nil
}
func (w *world) Unskip(_ context.Context, g starferry.Group, id, reason string) (builtins.Receipt, error) {
	w.settings.Skips = slices.DeleteFunc(slices.Clone(w.settings.Skips), func(s builtins.GroupSkip) bool { return s.ID == id })
	w.settings.Revision++
	return builtins.Receipt{Group: g, Revision: w.settings.Revision, ID: id}, w.effect("unskip", id)
}

var _ scripting.Clock = (*world)(nil)
