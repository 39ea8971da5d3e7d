package replication

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
)

// A paused link copies nothing and answers; resumed, it goes on where it was.
func TestAPausedLinkAnswersAndCopiesNothing(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(2, nil)
	tp := starferry.TopicPartition{Topic: topic}
	w.put(topic, 0, numbered(0, 20)...)
	s := w.shard("s1", t.TempDir())
	w.link(topic)
	w.caughtUp()
	status, err := w.client.Pause(t.Context(), w.name())
	require.NoError(t, err)
	state, reason := status.State()
	require.Equal(t, Paused, state)
	require.Contains(t, reason, "resume")
	w.put(topic, 0, numbered(20, 5)...)
	source := kafkatest.Records(t, w.src, topic, 0)
	target := w.sameRecords(topic, 0, numbered(0, 20))
	w.exactMap(topic, 0, source[:20], target)
	behind, err := w.client.Translate(t.Context(), w.name(), starferry.Forward, starferry.Cut{tp: {Next: 23}})
	require.NoError(t, err)
	require.Contains(t, behind.Missing[tp], "paused 3 offsets before it")

	// Another shard takes the paused link over without its map, and answers too.
	require.NoError(t, s.Close())
	w.shard("s2", t.TempDir())
	w.settled(func(s LinkStatus) bool { st, _ := s.State(); return st == Paused })
	w.exactMap(topic, 0, source[:20], w.sameRecords(topic, 0, numbered(0, 20)))

	e := w.link(topic)
	state, _ = e.State()
	require.Equal(t, Paused, state, "asking for the link again resumed it")
	status, err = w.client.Resume(t.Context(), w.name())
	require.NoError(t, err)
	state, _ = status.State()
	require.Equal(t, Copying, state)
	w.caughtUp()
	source = kafkatest.Records(t, w.src, topic, 0)
	w.exactMap(topic, 0, source, w.sameRecords(topic, 0, source))
}

// settled waits until the link stands as wanted.
func (w *world) settled(ok func(LinkStatus) bool) LinkStatus {
	w.t.Helper()
	var last LinkStatus
	require.Eventually(w.t, func() bool {
		s, err := w.client.Status(w.t.Context(), w.name())
		last = s
		return err == nil && len(s.Lanes) > 0 && ok(s)
	}, patience, 20*time.Millisecond, "%+v", &last)
	return last
}

// A drain copies what was there when it was asked for, and then pauses.
func TestADrainEndsPaused(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(3, nil)
	w.shard("s1", t.TempDir())
	w.asks.RateBytes = 1 << 20
	w.link(topic)
	for p := range 3 {
		for b := range 10 {
			w.put(topic, starferry.Partition(p), numbered(100*b, 50)...)
		}
	}
	var told []Drained
	status, err := w.client.Drain(t.Context(), w.name(), func(d Drained) { told = append(told, d) })
	require.NoError(t, err)
	require.Equal(t, 3, told[0].Lanes)
	require.Zero(t, told[len(told)-1].Left)
	for _, l := range status.Lanes {
		require.Equal(t, Paused, l.State)
		require.Equal(t, starferry.Offset(500), l.SourceNext)
	}
	_, err = w.client.Drain(t.Context(), w.name(), nil)
	require.ErrorContains(t, err, "resume it first")
	_, err = w.client.Drain(t.Context(), "nolink", nil)
	require.ErrorIs(t, err, ErrNoLink)
}

// Topics come onto a link and go off it while the others are copied without a
// break: their lanes keep their fence.
func TestTopicsComeAndGoWithoutABreakForTheOthers(t *testing.T) {
	w := newWorld(t)
	one := w.topic(1, nil)
	s := w.shard("s1", t.TempDir())
	w.link(one)
	w.caughtUp()
	c, _ := s.link(w.name())
	two := w.topic(1, nil)
	for c.spec.BucketOf(starferry.TopicPartition{Topic: one}) == c.spec.BucketOf(starferry.TopicPartition{Topic: two}) {
		two = w.topic(1, nil)
	}
	before := w.producerOf(s, starferry.TopicPartition{Topic: one})
	w.put(two, 0, numbered(0, 5)...)
	e := w.link(one, two)
	require.ElementsMatch(t, []starferry.Topic{one, two}, e.Spec.Topics)
	w.caughtUp()
	w.sameRecords(two, 0, numbered(0, 5))

	require.NoError(t, w.client.Narrow(t.Context(), w.name(), []starferry.Topic{two, "unknown"}))
	require.Eventually(t, func() bool {
		l, _ := c.lane(starferry.TopicPartition{Topic: two})
		return l == nil
	}, patience, 10*time.Millisecond)
	w.put(one, 0, numbered(0, 5)...)
	w.put(two, 0, numbered(5, 5)...)
	w.caughtUp()
	w.sameRecords(one, 0, numbered(0, 5))
	w.sameRecords(two, 0, numbered(0, 5))
	require.Equal(t, before, w.producerOf(s, starferry.TopicPartition{Topic: one}), "the topic that stayed was fenced anew")

	// Of two runs that have added topics each takes its own off again, in any order:
	// the last one ends the link.
	require.NoError(t, w.client.Narrow(t.Context(), w.name(), []starferry.Topic{one}))
	_, err := w.client.Status(t.Context(), w.name())
	require.ErrorIs(t, err, ErrNoLink)
}

// A spec of very many topics fits into one value, whatever they are called.
func TestASpecOfManyTopicsFitsIntoOneValue(t *testing.T) {
	w := newWorld(t)
	spec := LinkSpec{Name: w.name(), Source: w.src.Name, Target: w.tgt.Name, Made: 1, AddedBy: map[starferry.Topic]string{"": "run-1/1/1"}}
	hash := uint64(1)
	for range 20_000 {
		name := ""
		for len(name) < 60 { // as little like each other as names can be
			hash ^= hash << 13
			hash ^= hash >> 7
			hash ^= hash << 17
			name += fmt.Sprintf("%c", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._"[hash%64])
		}
		spec.Topics = append(spec.Topics, starferry.Topic(name))
	}
	spec = spec.normal()
	for i, topic := range spec.Topics {
		spec.AddedBy[topic] = fmt.Sprintf("run-%d/1/%d", i%7, i%100)
	}
	st, err := w.client.open(t.Context())
	require.NoError(t, err)
	rev, err := st.PutLink(t.Context(), spec)
	require.NoError(t, err)
	other, err := openStore(t.Context(), w.nc, testTTL)
	require.NoError(t, err)
	got, err := other.Link(t.Context(), spec.Name)
	require.NoError(t, err)
	require.Equal(t, rev, got.Revision)
	got.Revision = 0
	require.Equal(t, spec, got)

	st.maxValue = 1000
	spec.Revision = rev
	_, err = st.PutLink(t.Context(), spec)
	require.ErrorContains(t, err, "share the topics between several links")
}

// A stored spec that is damaged, or of another version, is refused in words.
func TestADamagedSpecIsRefused(t *testing.T) {
	w := newWorld(t)
	st, err := w.client.open(t.Context())
	require.NoError(t, err)
	for value, want := range map[string]string{
		"":                       "damaged or of another version",
		"{":                      "unexpected end",
		"\x28\xb5\x2f\xfdrest":   "damaged",
		`{"v":1,"topics":["a"]}`: "damaged or of another version",
		`{"v":3,"topics":[]}`:    "version 3",
		`{"v":2,"name":"x","source":"a","target":"b","topics":[{"n":"t","by":1}]}`:        "token 1 of 0",
		`{"v":2,"name":"x","source":"a","target":"b","topics":[{"n":"b"},{"n":"a"}]}`:     "out of order",
		`{"v":2,"name":"x","source":"a","target":"b","topics":[{"n":"starferry.state"}]}`: "belongs to a cluster itself",
		`{"v":2,"name":"x","source":"a","target":"b","topics":[{"n":"b"}],"made_by":-1}`:  "token -1",
	} {
		_, err := st.links.Put(t.Context(), "x", []byte(value))
		require.NoError(t, err)
		_, err = st.Link(t.Context(), "x")
		require.ErrorContains(t, err, want, value)
	}
}
