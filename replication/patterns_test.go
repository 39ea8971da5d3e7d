package replication

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

// Patterns match whole names, and never what belongs to a cluster itself.
func TestPatternsMatchWholeNames(t *testing.T) {
	ps, err := compile([]string{`orders\..*|bills`, `.*_v[0-9]+`})
	require.NoError(t, err)
	for name, want := range map[starferry.Topic]int{
		"orders.eu": 0, "bills": 0, "orders_v2": 1, "orders": -1, "my-bills": -1, "bills2": -1, "xorders.eu": -1,
	} {
		require.Equal(t, want, ps.which(name), name)
	}
	all, err := compile([]string{`.*`})
	require.NoError(t, err)
	for _, own := range []starferry.Topic{"starferry.state", "__consumer_offsets", "__transaction_state", "__amazon_msk_canary"} {
		require.Equal(t, -1, all.which(own), own)
	}
	require.Equal(t, 0, all.which("_schemas"))
	for _, bad := range []string{"", "orders(", "(?<=x)y", strings.Repeat("a", maxPattern+1)} {
		_, err := compile([]string{bad})
		require.ErrorContains(t, err, "pattern")
	}
	_, err = compile(make([]string, maxPatterns+1))
	require.ErrorContains(t, err, "join them with |")
	err = LinkSpec{Name: "l", Source: "a", Target: "b", Patterns: []string{"x"}, Until: Latest}.Check()
	require.ErrorContains(t, err, "name the topics")
}

// Topics that match are copied, also those that come later, under their names;
// those that do not match are not, and what cannot be copied is told.
func TestTopicsThatMatchAreFollowed(t *testing.T) {
	w := newWorld(t)
	base := string(w.topic(1, nil))
	made := func(suffix string, partitions int) starferry.Topic {
		topic := starferry.Topic(base + suffix)
		kafkatest.MakeTopic(t, w.src, topic, partitions, nil)
		w.deletedAfter(topic)
		return topic
	}
	w.asks = LinkSpec{Patterns: []string{base + `\.in\..*`}, Rename: Rename{EveryTopic: "dc2.{topic}"}}
	w.shard("s1", t.TempDir(), func(c *ShardConfig) { c.refresh = 100 * time.Millisecond })
	w.shard("s2", t.TempDir(), func(c *ShardConfig) { c.refresh = 100 * time.Millisecond })
	e, err := w.ensure()
	require.NoError(t, err)
	state, reason := e.State()
	require.Equal(t, Copying, state)
	require.Contains(t, reason, "no topic of old matches")

	one, two, other := made(".in.one", 2), made(".in.two", 1), made(".out.one", 1)
	w.put(one, 1, numbered(0, 5)...)
	w.put(two, 0, numbered(0, 7)...)
	w.put(other, 0, numbered(0, 7)...)
	has := func(topics ...starferry.Topic) func(LinkStatus) bool {
		return func(s LinkStatus) bool {
			for _, topic := range topics {
				if !s.Spec.has(topic) {
					return false
				}
			}
			for _, l := range s.Lanes {
				if l.State != Copying || l.Lag != 0 {
					return false
				}
			}
			return true
		}
	}
	w.settled(has(one, two))
	w.sameRecords("dc2."+one, 1, numbered(0, 5))
	w.sameRecords("dc2."+two, 0, numbered(0, 7))

	// One that is there with other partitions does not hold up the rest.
	odd := starferry.Topic(base + ".in.odd")
	kafkatest.MakeTopic(t, w.tgt, "dc2."+odd, 3, nil)
	made(".in.odd", 2)
	three := made(".in.three", 1)
	w.put(three, 0, numbered(0, 3)...)
	s := w.settled(func(s LinkStatus) bool { return has(three)(s) && len(s.Problems) > 0 })
	require.False(t, s.Spec.has(other))
	require.Contains(t, s.Problems[odd], "has 2 partitions on old and")
	_, reason = s.State()
	require.Contains(t, reason, "matches and is not copied")

	err = w.client.Narrow(t.Context(), w.name(), []starferry.Topic{two})
	require.ErrorContains(t, err, "would be back in seconds")
	w.asks.Patterns = []string{base + `\.out\..*`}
	e, err = w.ensure()
	require.NoError(t, err)
	require.Equal(t, []starferry.Topic{other}, e.Added)
	require.NoError(t, w.client.Narrow(t.Context(), w.name(), nil, base+`\.in\..*`))
	require.Equal(t, []starferry.Topic{other}, w.status().Spec.Topics)
}

// New partitions of a source topic are copied within seconds.
func TestNewPartitionsAreFollowedUnderOtherNames(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	w.asks.Rename = Rename{EveryTopic: "dc2.{topic}"}
	w.shard("s1", t.TempDir(), func(c *ShardConfig) { c.refresh = 100 * time.Millisecond })
	w.link(topic)
	t.Cleanup(func() { w.dropCopies(topic) })
	require.NoError(t, follow(t.Context(), kafkatest.Open(t, w.src), topic, 1, 3))
	w.put(topic, 2, numbered(0, 5)...)
	w.settled(func(s LinkStatus) bool { return len(s.Lanes) == 3 && s.Lanes[2].SourceNext == 5 })
	w.sameRecords("dc2."+topic, 2, numbered(0, 5))
}

// deletedAfter deletes a topic and its copy when the test ends.
func (w *world) deletedAfter(topic starferry.Topic) {
	w.t.Cleanup(func() {
		for _, c := range []starferry.Cluster{w.src, w.tgt} {
			if k, err := wire.Open(c); err == nil {
				_ = k.DeleteTopics(context.Background(), topic, w.asks.TargetOf(topic))
				_ = k.Close()
			}
		}
	})
}
