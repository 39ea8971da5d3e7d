package replication

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

// Names lead to the target and back.
func TestRenamedTopicsAreFoundBothWays(t *testing.T) {
	s := LinkSpec{Rename: Rename{EveryTopic: "dc2.{topic}.copy", "orders": "orders_v2"}}
	for from, to := range map[starferry.Topic]starferry.Topic{"orders": "orders_v2", "bills": "dc2.bills.copy"} {
		require.Equal(t, to, s.TargetOf(from))
		back, ok := s.SourceOf(to)
		require.True(t, ok)
		require.Equal(t, from, back)
	}
	for _, none := range []starferry.Topic{"bills", "dc2.orders.copy", "dc2..copy", "orders", ""} {
		_, ok := s.SourceOf(none)
		require.False(t, ok, "%s is nobody's copy", none)
	}
	back, ok := LinkSpec{}.SourceOf("orders")
	require.True(t, ok)
	require.Equal(t, starferry.Topic("orders"), back)
}

// What cannot be a topic's name, or would mix two topics, is refused in words.
func TestBadRenamesAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		rename Rename
		topics []starferry.Topic
		want   string
	}{
		"no placeholder":   {Rename{EveryTopic: "copy"}, []starferry.Topic{"a"}, "want {topic} in it"},
		"two of them":      {Rename{EveryTopic: "{topic}{topic}"}, []starferry.Topic{"a"}, "want {topic} in it, once"},
		"a space":          {Rename{EveryTopic: "my {topic}"}, []starferry.Topic{"a"}, "letters, digits"},
		"too long":         {Rename{EveryTopic: "dc2.{topic}"}, []starferry.Topic{starferry.Topic(strings.Repeat("a", 246))}, "at most 249"},
		"nothing":          {Rename{"a": ""}, []starferry.Topic{"a"}, "empty topic name"},
		"a dot":            {Rename{"a": "."}, []starferry.Topic{"a"}, "no topic name"},
		"two into one":     {Rename{"a": "c", "b": "c"}, []starferry.Topic{"a", "b"}, "topics a and b would both be copied into c"},
		"into another":     {Rename{"a": "b"}, []starferry.Topic{"a", "b"}, "would both be copied into b"},
		"into the state":   {Rename{"a": "starferry.state"}, []starferry.Topic{"a"}, "belongs to that cluster itself"},
		"into the offsets": {Rename{EveryTopic: "__consumer_{topic}"}, []starferry.Topic{"offsets"}, "belongs to that cluster itself"},
	} {
		t.Run(name, func(t *testing.T) {
			err := LinkSpec{Name: "l", Source: "old", Target: "new", Topics: c.topics, Rename: c.rename}.Check()
			require.ErrorContains(t, err, c.want)
		})
	}
}

// Copies arrive under other names, and cuts go by the names of their side.
func TestTopicsAreCopiedUnderOtherNames(t *testing.T) {
	w := newWorld(t)
	one, two := w.topic(2, nil), w.topic(1, nil)
	single := starferry.Topic("single." + string(two))
	w.asks.Rename = Rename{EveryTopic: "dc2.{topic}", two: string(single)}
	for p, topic := range []starferry.Topic{one, one, two} {
		w.put(topic, starferry.Partition(p%2), numbered(100*p, 20)...)
	}
	w.shard("s1", t.TempDir())
	w.link(one, two)
	t.Cleanup(func() { w.dropCopies(one, two) })
	w.caughtUp()
	for _, lane := range []starferry.TopicPartition{{Topic: one}, {Topic: one, Partition: 1}, {Topic: two}} {
		source := kafkatest.Records(t, w.src, lane.Topic, lane.Partition)
		target := w.sameRecords(w.asks.TargetOf(lane.Topic), lane.Partition, source)
		w.exactMap(lane.Topic, lane.Partition, source, target)
	}
	there, err := kafkatest.Open(t, w.tgt).Metadata(t.Context(), one, two, single)
	require.NoError(t, err)
	require.Empty(t, there.Topics[one].Partitions, "the target has a topic of the old name")
	require.Len(t, there.Topics[single].Partitions, 1)

	answer, err := w.client.Translate(t.Context(), w.name(), starferry.Back, starferry.Cut{{Topic: one}: {Next: 1}})
	require.NoError(t, err)
	require.Contains(t, answer.Missing[starferry.TopicPartition{Topic: one}], "copies no topic to "+string(one))

	w.asks.Rename = nil
	_, err = w.ensure(one)
	require.ErrorContains(t, err, "made with rename")
}

// A map of renamed topics that was lost is rebuilt from the target's log.
func TestARenamedLaneIsRecovered(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	w.asks.Rename = Rename{EveryTopic: "dc2.{topic}"}
	w.put(topic, 0, numbered(0, 20)...)
	s := w.shard("s1", t.TempDir())
	w.link(topic)
	t.Cleanup(func() { w.dropCopies(topic) })
	w.caughtUp()
	require.NoError(t, s.Close())
	w.put(topic, 0, numbered(20, 20)...)
	w.shard("s2", t.TempDir())
	w.caughtUp()
	source := kafkatest.Records(t, w.src, topic, 0)
	w.exactMap(topic, 0, source, w.sameRecords("dc2."+topic, 0, source))
}

// dropCopies deletes renamed topics where clusters are shared by tests.
func (w *world) dropCopies(topics ...starferry.Topic) {
	c, err := wire.Open(w.tgt)
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	for _, t := range topics {
		_ = c.DeleteTopics(context.Background(), w.asks.TargetOf(t))
	}
}
