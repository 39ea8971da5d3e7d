package replication

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
)

// Settings that differ are told and not touched; those that belong to a cluster
// stay there, with the reason.
func TestSettingsThatDifferAreTold(t *testing.T) {
	w := newWorld(t)
	made := w.topic(2, map[string]string{"retention.ms": "3600000", "cleanup.policy": "compact", "min.insync.replicas": "1", "flush.messages": "1000"})
	old := w.topic(1, map[string]string{"retention.ms": "3600000"})
	w.asks.Rename = Rename{EveryTopic: "dc2.{topic}"}
	kafkatest.MakeTopic(t, w.tgt, "dc2."+old, 1, map[string]string{"retention.ms": "7200000"})
	t.Cleanup(func() { w.dropCopies(made, old) })
	w.shard("s1", t.TempDir())
	w.link(made, old)
	drift, err := w.client.Drift(t.Context(), w.name())
	require.NoError(t, err)
	by := map[starferry.Topic]TopicDrift{}
	for _, d := range drift {
		by[d.Topic] = d
	}
	// Brokers of other versions have other defaults, which are told as well.
	besides := func(d TopicDrift) []SettingDrift {
		return slices.DeleteFunc(slices.Clone(d.Differs), func(s SettingDrift) bool { return s.Name == "message.timestamp.after.max.ms" })
	}
	require.Empty(t, besides(by[made]), "%+v", by[made])
	left := map[string]string{}
	for _, l := range by[made].Left {
		left[l.Name] = l.Why
	}
	require.Contains(t, left["min.insync.replicas"], "number of replicas")
	require.Contains(t, left["flush.messages"], "brokers keep their files")
	require.True(t, by[old].Drifted())
	require.Equal(t, []SettingDrift{{"retention.ms", "3600000", "7200000"}}, besides(by[old]))
	require.Equal(t, "dc2."+old, by[old].Target)

	confs, err := kafkatest.Open(t, w.tgt).TopicConfigs(t.Context(), "dc2."+old, "dc2."+made)
	require.NoError(t, err)
	require.Equal(t, "7200000", confs["dc2."+old]["retention.ms"].Value, "an existing topic was overwritten")
	require.NotEqual(t, "1000", confs["dc2."+made]["flush.messages"].Value, "what belongs to a cluster was copied")

	require.NoError(t, kafkatest.Open(t, w.tgt).DeleteTopics(t.Context(), "dc2."+old))
	require.Eventually(t, func() bool {
		drift, err := w.client.Drift(t.Context(), w.name())
		if err != nil {
			return false
		}
		for _, d := range drift {
			if d.Topic == old && d.Problem != "" && d.TargetPartitions == 0 {
				return true
			}
		}
		return false
	}, patience, tick)
}

// Every setting that Kafka has is either copied or left for a reason.
func TestEachKnownSettingIsCopiedOrLeft(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	confs, err := kafkatest.Open(t, w.src).TopicConfigs(t.Context(), topic)
	require.NoError(t, err)
	copied := map[string]bool{}
	for _, k := range copiedConfigs() {
		copied[k] = true
		require.Contains(t, whyLeft(k), "does not know it", "%s is copied and left", k)
	}
	require.NotEmpty(t, confs[topic])
	var unknown []string
	for k := range confs[topic] {
		if !copied[k] && strings.Contains(whyLeft(k), "does not know it") {
			unknown = append(unknown, k)
		}
	}
	require.Empty(t, unknown)
}
