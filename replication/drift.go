package replication

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// TopicDrift says how a topic and its copy differ, beside their records. Topics
// that are made for a link take over the settings of the source; later changes,
// and topics that were there before, are told and never overwritten.
type TopicDrift struct {
	Topic  starferry.Topic `json:"topic"`
	Target starferry.Topic `json:"target"`
	// How many partitions each side has; a link needs as many.
	SourcePartitions int `json:"source_partitions"`
	TargetPartitions int `json:"target_partitions"`
	// Differs are settings that are copied when a topic is made, and differ now.
	Differs []SettingDrift `json:"differs,omitempty"`
	// Left are settings of the source's topic that are not copied, and why.
	Left []SettingLeft `json:"left,omitempty"`
	// Problem says why the two could not be compared.
	Problem string `json:"problem,omitempty"`
}

// SettingDrift is one setting with its values on both sides.
type SettingDrift struct {
	Name   string `json:"name"`
	Source string `json:"source"`
	Target string `json:"target"`
}

// SettingLeft is one setting that stays on the source.
type SettingLeft struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	Why   string `json:"why"`
}

// Drifted reports whether the two differ in what a link copies.
func (d TopicDrift) Drifted() bool {
	return len(d.Differs) > 0 || d.SourcePartitions != d.TargetPartitions || d.Problem != ""
}

// leftSettings are the settings that are not copied, by prefix, and why.
func leftSettings() [][2]string {
	return [][2]string{
		{"leader.replication.throttled", "it names brokers of that cluster"},
		{"follower.replication.throttled", "it names brokers of that cluster"},
		{"min.insync.replicas", "it goes with the number of replicas, which each cluster chooses"},
		{"unclean.leader.election.enable", "what may be risked is each cluster's choice"},
		{"remote.", "tiered storage is each cluster's own"},
		{"local.retention.", "tiered storage is each cluster's own"},
		{"flush.", "how brokers keep their files is each cluster's own"},
		{"segment.index.bytes", "how brokers keep their files is each cluster's own"},
		{"segment.jitter.ms", "how brokers keep their files is each cluster's own"},
		{"index.interval.bytes", "how brokers keep their files is each cluster's own"},
		{"file.delete.delay.ms", "how brokers keep their files is each cluster's own"},
		{"preallocate", "how brokers keep their files is each cluster's own"},
		{"message.format.version", "it goes with the brokers' version"},
		{"message.downconversion.enable", "it goes with the brokers' version"},
		{"message.timestamp.difference.max.ms", "newer brokers have message.timestamp.before.max.ms and after.max.ms instead"},
		{"compression.gzip.level", "how hard brokers compress goes with their version (KIP-390)"},
		{"compression.lz4.level", "how hard brokers compress goes with their version (KIP-390)"},
		{"compression.zstd.level", "how hard brokers compress goes with their version (KIP-390)"},
		{"confluent.", "it is the vendor's own"},
	}
}

// whyLeft says why a setting is not copied.
func whyLeft(name string) string {
	for _, l := range leftSettings() {
		if strings.HasPrefix(name, l[0]) {
			return l[1]
		}
	}
	return "this version of starferry does not know it; set it on the target if it matters there"
}

// Drift compares the settings of a link's topics with those of their copies now,
// in the order of the topics. It changes nothing.
func (c *Client) Drift(ctx context.Context, name starferry.LinkName) ([]TopicDrift, error) {
	st, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	spec, err := st.Link(ctx, name)
	if err != nil {
		return nil, err
	}
	var sides [2]side
	for i, s := range []struct {
		cluster starferry.ClusterName
		topics  []starferry.Topic
	}{{spec.Source, spec.Topics}, {spec.Target, spec.targets()}} {
		k, err := c.cluster(s.cluster)
		if err != nil {
			return nil, err
		}
		if sides[i], err = readSide(ctx, k, s.topics); err != nil {
			return nil, fmt.Errorf("compare settings of link %s: %w", name, err)
		}
	}
	out := make([]TopicDrift, 0, len(spec.Topics))
	for _, t := range spec.Topics {
		d := TopicDrift{Topic: t, Target: spec.TargetOf(t)}
		d.SourcePartitions, d.TargetPartitions = len(sides[0].meta.Topics[t].Partitions), len(sides[1].meta.Topics[d.Target].Partitions)
		d.compare(sides[0].confs[t], sides[1].confs[d.Target], spec)
		out = append(out, d)
	}
	return out, nil
}

// side is one cluster's view of its topics.
type side struct {
	meta  *wire.Metadata
	confs map[starferry.Topic]map[string]wire.ConfigEntry
}

func readSide(ctx context.Context, k *wire.Cluster, topics []starferry.Topic) (s side, err error) {
	if len(topics) == 0 {
		return side{meta: &wire.Metadata{}}, nil
	}
	if s.meta, err = k.Metadata(ctx, topics...); err != nil {
		return s, fmt.Errorf("look up topics on %s: %w", k.Name(), err)
	}
	if s.confs, err = k.TopicConfigs(ctx, topics...); err != nil && len(s.confs) == 0 {
		return s, fmt.Errorf("read topic settings on %s: %w", k.Name(), err)
	}
	return s, nil
}

func (d *TopicDrift) compare(source, target map[string]wire.ConfigEntry, spec LinkSpec) {
	for _, missing := range []struct {
		confs   map[string]wire.ConfigEntry
		topic   starferry.Topic
		cluster starferry.ClusterName
	}{{source, d.Topic, spec.Source}, {target, d.Target, spec.Target}} {
		if missing.confs == nil {
			d.Problem = fmt.Sprintf("the settings of topic %s on %s cannot be read: is it there, and may the principal describe its configs?", missing.topic, missing.cluster)
			return
		}
	}
	copied := copiedConfigs()
	for _, k := range copied {
		s, inSource := source[k]
		t, inTarget := target[k]
		if inSource && inTarget && !s.Sensitive && !t.Sensitive && s.Value != t.Value {
			d.Differs = append(d.Differs, SettingDrift{k, s.Value, t.Value})
		}
	}
	for k, e := range source {
		if !e.Default && !e.Sensitive && !slices.Contains(copied, k) {
			d.Left = append(d.Left, SettingLeft{k, e.Value, whyLeft(k)})
		}
	}
	slices.SortFunc(d.Left, func(a, b SettingLeft) int { return strings.Compare(a.Name, b.Name) })
}
