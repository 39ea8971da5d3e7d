// Package world is what builtins act on, made of the other rooms: clusters over
// the wire connection, links over replication, groups over the fleet. It is the
// only package that knows both sides of those seams.
package world

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/internal/wire"
)

// Clusters implements builtins.Clusters, and keeps one connection to each
// cluster for the whole process. It connects when it is first asked.
type Clusters struct {
	cfg  *config.Config
	opts []wire.Option

	mu   sync.Mutex
	open map[starferry.ClusterName]*wire.Cluster
}

var _ builtins.Clusters = (*Clusters)(nil)

// NewClusters makes no connection.
func NewClusters(cfg *config.Config, opts ...wire.Option) *Clusters {
	return &Clusters{cfg: cfg, opts: opts, open: map[starferry.ClusterName]*wire.Cluster{}}
}

// Close ends all connections.
func (w *Clusters) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, c := range w.open {
		errs = append(errs, c.Close())
	}
	clear(w.open)
	return errors.Join(errs...)
}

// Wire returns the connection to a cluster.
func (w *Clusters) Wire(name starferry.ClusterName) (*wire.Cluster, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.open[name]; c != nil {
		return c, nil
	}
	conf, err := w.cfg.Cluster(name)
	if err != nil {
		return nil, err
	}
	c, err := wire.Open(conf, w.opts...)
	if err != nil {
		return nil, err
	}
	w.open[name] = c
	return c, nil
}

// Names implements builtins.Clusters.
func (w *Clusters) Names() []starferry.ClusterName { return w.cfg.Names() }

// Describe implements builtins.Clusters.
func (w *Clusters) Describe(ctx context.Context, name starferry.ClusterName) (builtins.ClusterInfo, error) {
	c, err := w.Wire(name)
	if err != nil {
		return builtins.ClusterInfo{}, err
	}
	meta, err := c.Metadata(ctx)
	if err != nil {
		return builtins.ClusterInfo{}, fmt.Errorf("reach cluster %s: %w", name, err)
	}
	info := builtins.ClusterInfo{Name: name, ID: meta.ClusterID, Brokers: len(meta.Brokers), Version: "unknown"}
	ask := kmsg.NewPtrApiVersionsRequest()
	ask.ClientSoftwareName, ask.ClientSoftwareVersion = "starferry", "1" // brokers refuse empty ones (KIP-511)
	answer, err := c.Do(ctx, ask)
	if err != nil {
		return builtins.ClusterInfo{}, fmt.Errorf("ask cluster %s for its version: %w", name, err)
	}
	if v, ok := answer.(*kmsg.ApiVersionsResponse); ok && v.ErrorCode == 0 {
		info.Version = release(kversion.FromApiVersionsResponse(v).VersionGuess())
	}
	return info, nil
}

// release makes "4.3" of "v4.3", and of "between v3.9 and v4.0" what is certain.
func release(guess string) string {
	for word := range strings.FieldsSeq(guess) {
		if v, ok := strings.CutPrefix(word, "v"); ok && v != "" && v[0] >= '0' && v[0] <= '9' {
			return v
		}
	}
	return "unknown"
}

// Topics implements builtins.Clusters.
func (w *Clusters) Topics(ctx context.Context, name starferry.ClusterName, names []starferry.Topic) (map[starferry.Topic]builtins.TopicInfo, error) {
	out := map[starferry.Topic]builtins.TopicInfo{}
	if len(names) == 0 {
		return out, nil
	}
	c, err := w.Wire(name)
	if err != nil {
		return nil, err
	}
	meta, err := c.Metadata(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("describe topics of %s: %w", name, err)
	}
	var found []starferry.Topic
	for t, m := range meta.Topics {
		switch {
		case errors.Is(m.Err, kafka.UnknownTopicOrPartition):
		case m.Err != nil:
			return nil, fmt.Errorf("describe topic %s of %s: %w", t, name, m.Err)
		default:
			out[t] = builtins.TopicInfo{Name: t, Partitions: len(m.Partitions), Configs: map[string]string{}}
			found = append(found, t)
		}
	}
	if len(found) == 0 {
		return out, nil
	}
	configs, err := c.TopicConfigs(ctx, found...)
	if err != nil {
		return nil, fmt.Errorf("read configs of topics of %s: %w", name, err)
	}
	for t, entries := range configs {
		for k, e := range entries {
			if !e.Default && !e.Sensitive {
				out[t].Configs[k] = e.Value
			}
		}
	}
	return out, nil
}

// TopicsOf implements builtins.Clusters.
func (w *Clusters) TopicsOf(ctx context.Context, name starferry.ClusterName, g starferry.Group) ([]starferry.Topic, error) {
	c, err := w.Wire(name)
	if err != nil {
		return nil, err
	}
	topics := map[starferry.Topic]bool{}
	desc, err := c.DescribeGroup(ctx, g)
	if err != nil {
		return nil, fmt.Errorf("describe group %s on %s: %w", g, name, err)
	}
	for _, m := range desc.Members {
		for _, t := range m.Topics {
			topics[t] = true
		}
	}
	committed, err := c.Committed(ctx, g, nil)
	if err != nil {
		return nil, fmt.Errorf("read commits of group %s on %s: %w", g, name, err)
	}
	for tp := range committed {
		topics[tp.Topic] = true
	}
	return slices.Sorted(maps.Keys(topics)), nil
}

// Committed implements builtins.Clusters.
func (w *Clusters) Committed(ctx context.Context, name starferry.ClusterName, g starferry.Group) (starferry.Cut, error) {
	c, err := w.Wire(name)
	if err != nil {
		return nil, err
	}
	committed, err := c.Committed(ctx, g, nil)
	if err != nil {
		return nil, fmt.Errorf("read commits of group %s on %s: %w", g, name, err)
	}
	cut := starferry.Cut{}
	for tp, at := range committed {
		cut[tp] = starferry.Place{Next: at.Offset, Handled: handledOf(at.Metadata)}
	}
	return cut, nil
}

// GroupLag implements builtins.Clusters. A partition of a topic that the group
// reads and has no commit for is unknown, because where it would start to read
// is its own affair.
func (w *Clusters) GroupLag(ctx context.Context, name starferry.ClusterName, g starferry.Group) (builtins.Lag, error) {
	lag := builtins.Lag{Records: map[starferry.TopicPartition]int64{}, Unknown: map[starferry.TopicPartition]string{}}
	c, err := w.Wire(name)
	if err != nil {
		return lag, err
	}
	topics, err := w.TopicsOf(ctx, name, g)
	if err != nil || len(topics) == 0 {
		return lag, err
	}
	committed, err := c.Committed(ctx, g, nil)
	if err != nil {
		return lag, fmt.Errorf("read commits of group %s on %s: %w", g, name, err)
	}
	meta, err := c.Metadata(ctx, topics...)
	if err != nil {
		return lag, fmt.Errorf("describe topics of %s: %w", name, err)
	}
	var tps []starferry.TopicPartition
	for t, m := range meta.Topics {
		for _, p := range m.Partitions {
			tps = append(tps, starferry.TopicPartition{Topic: t, Partition: p.Partition})
		}
	}
	ends, err := c.Offsets(ctx, tps, wire.LatestStable)
	failed := partitionErrors(err)
	if err != nil && len(failed) == 0 {
		return lag, fmt.Errorf("read ends of partitions of %s: %w", name, err)
	}
	for _, tp := range tps {
		at, known := committed[tp]
		end, reached := ends[tp]
		switch {
		case !reached:
			lag.Unknown[tp] = cmpText(failed[tp], "its end was not told")
		case !known && end == 0:
			lag.Records[tp] = 0 // nothing was ever written
		case !known:
			lag.Unknown[tp] = "no committed offset"
		case at.Offset > end:
			lag.Unknown[tp] = fmt.Sprintf("committed offset %d lies behind the end %d", at.Offset, end)
		default:
			lag.Records[tp] = behind(at, end)
		}
	}
	return lag, nil
}

// behind counts what is left to read, without what is handled already.
func behind(at wire.Committed, end starferry.Offset) int64 {
	n := int64(end - at.Offset)
	for _, r := range handledOf(at.Metadata) {
		n -= int64(min(r.To, end) - min(r.From, end))
	}
	return n
}

func cmpText(err error, otherwise string) string {
	if err != nil {
		return err.Error()
	}
	return otherwise
}

// partitionErrors takes the partitions' own errors out of a joined one.
func partitionErrors(err error) map[starferry.TopicPartition]error {
	out := map[starferry.TopicPartition]error{}
	var walk func(error)
	walk = func(err error) {
		var pe *wire.PartitionError
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range joined.Unwrap() {
				walk(e)
			}
		} else if errors.As(err, &pe) {
			out[pe.TopicPartition] = pe.Err
		}
	}
	if err != nil {
		walk(err)
	}
	return out
}
