package replication

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
)

// There and back is no ring; over a third topic it is one, and is refused.
func TestRingsAreRefused(t *testing.T) {
	link := func(from, to starferry.ClusterName, r Rename, topics ...starferry.Topic) LinkSpec {
		return LinkSpec{Name: starferry.LinkName(from + "-" + to), Source: from, Target: to, Topics: topics, Rename: r}
	}
	chain := []LinkSpec{link("a", "b", nil, "t"), link("b", "a", nil, "t"), link("b", "c", nil, "t"), link("c", "b", nil, "t")}
	for name, c := range map[string]struct {
		specs []LinkSpec
		want  LinkSpec
		ring  string
	}{
		"there and back":  {chain[:1], chain[1], ""},
		"a chain":         {chain[:3], chain[3], ""},
		"asked for again": {chain, chain[0], ""},
		"three clusters":  {chain, link("c", "a", nil, "t"), "c/t → a/t → b/t → c/t"},
		"another topic":   {chain, link("c", "a", nil, "u"), ""},
		"another name":    {chain, link("c", "a", Rename{"t": "x"}, "t"), ""},
		"two names": {[]LinkSpec{link("a", "b", Rename{"t": "x"}, "t"), link("c", "b", nil, "x")},
			LinkSpec{Name: "again", Source: "b", Target: "a", Topics: []starferry.Topic{"x"}, Rename: Rename{"x": "t"}}, ""},
		"back to another": {[]LinkSpec{link("a", "b", Rename{"t": "x", "y": "z"}, "t", "y")},
			LinkSpec{Name: "back", Source: "b", Target: "a", Topics: []starferry.Topic{"x", "z"}, Rename: Rename{"x": "y", "z": "t"}},
			"b/x → a/y → b/z → a/t → b/x"},
	} {
		t.Run(name, func(t *testing.T) {
			err := ring(c.specs, c.want)
			if c.ring == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.ring)
		})
	}
}

// Patterns on both sides, with other names, copy each topic once: what came from
// there is not sent there again under a longer name.
func TestPatternsBothWaysCopyEachTopicOnce(t *testing.T) {
	w := newWorld(t)
	near, far := w.topic(1, nil), kafkatest.Topic(t, w.tgt, 1, nil)
	base := string(near[:strings.LastIndexByte(string(near), '-')])
	back := w.back()
	w.asks.Patterns, w.asks.Rename = []string{`.*` + base + `.*`}, Rename{EveryTopic: "far.{topic}"}
	back.asks.Patterns, back.asks.Rename = w.asks.Patterns, Rename{EveryTopic: "near.{topic}"}
	t.Cleanup(func() { w.dropCopies(near); back.dropCopies(far) })
	w.put(near, 0, numbered(0, 5)...)
	back.put(far, 0, numbered(1_000_000, 5)...)
	w.shard("s1", t.TempDir(), func(c *ShardConfig) { c.refresh = 50 * time.Millisecond })
	w.link()
	back.link()
	w.link() // now that there are copies on both sides
	settledBoth(w, back)
	w.sameRecords("far."+near, 0, numbered(0, 5))
	back.sameRecords("near."+far, 0, numbered(1_000_000, 5))
	later := starferry.Topic(base + "-later")
	kafkatest.MakeTopic(t, w.src, later, 1, nil)
	t.Cleanup(func() { w.dropCopies(later) })
	require.Eventually(t, func() bool { return w.status().Spec.has(later) }, patience, 20*time.Millisecond)
	settledBoth(w, back)
	require.ElementsMatch(t, []starferry.Topic{near, later}, w.status().Spec.Topics)
	require.Equal(t, []starferry.Topic{far}, back.status().Spec.Topics)
}

// A copy's topic is made before the link that brings it says so: until then its
// name tells that it is none of its own cluster's.
func TestACopyIsKnownByItsNameBeforeItsLinkSaysSo(t *testing.T) {
	there := LinkSpec{Name: "there", Source: "a", Target: "b", Patterns: []string{".*"}, Rename: Rename{EveryTopic: "far.{topic}"}}
	back := LinkSpec{Name: "back", Source: "b", Target: "a", Patterns: []string{"order.*"}, Rename: Rename{EveryTopic: "near.{topic}"}}
	links := []LinkSpec{there, back}
	require.True(t, mayBring(links, there, "near.orders"))
	require.False(t, mayBring(links, there, "near.payments"), "back does not bring that")
	require.False(t, mayBring(links, there, "orders"))
	require.False(t, mayBring(links[:1], there, "near.orders"))
}
