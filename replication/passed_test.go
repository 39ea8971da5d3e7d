package replication

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

// Whether the copy has passed the end of a log is told by the link alone, also
// where another one leads back; what a paused lane lacks is an error that names it.
func TestWhetherTheCopyHasPassedTheEnds(t *testing.T) {
	w := newWorld(t)
	back := w.back()
	topic := w.topic(2, nil)
	w.put(topic, 0, numbered(0, 20)...)
	w.shard("s1", t.TempDir())
	w.link(topic)
	back.link(topic)
	settledBoth(w, back)
	ask := func(end starferry.Offset, within time.Duration) (map[starferry.TopicPartition]int64, error) {
		return w.client.Passed(t.Context(), w.name(), map[starferry.TopicPartition]starferry.Offset{{Topic: topic}: end, {Topic: topic, Partition: 1}: 0}, within)
	}
	tp := starferry.TopicPartition{Topic: topic}
	ends, err := kafkatest.Open(t, w.src).Offsets(t.Context(), []starferry.TopicPartition{tp}, wire.Latest)
	require.NoError(t, err)
	end := ends[tp] // behind the marker of the link back
	behind, err := ask(end, patience)
	require.NoError(t, err)
	require.Empty(t, behind)
	behind, err = ask(end+3, time.Millisecond)
	require.NoError(t, err)
	require.Equal(t, map[starferry.TopicPartition]int64{{Topic: topic}: 3}, behind)

	waited := make(chan map[starferry.TopicPartition]int64, 1)
	go func() {
		left, err := ask(end+3, patience)
		assert.NoError(t, err)
		waited <- left
	}()
	w.put(topic, 0, numbered(20, 3)...)
	require.Empty(t, <-waited, "the copy wakes whoever waits for it")

	_, err = w.client.Pause(t.Context(), w.name())
	require.NoError(t, err)
	w.put(topic, 0, numbered(23, 2)...)
	_, err = ask(end+5, time.Millisecond)
	require.ErrorContains(t, err, fmt.Sprintf("%s/0@%d: %s", topic, end+5, Paused))
}

// Who follows a copy by the names of the source does not find it under another.
func TestACopyOfAnotherNameIsNotPassed(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	w.asks.Rename = Rename{EveryTopic: "dc2.{topic}"}
	w.put(topic, 0, numbered(0, 5)...)
	w.shard("s1", t.TempDir())
	w.link(topic)
	t.Cleanup(func() { w.dropCopies(topic) })
	w.caughtUp()
	_, err := w.client.Passed(t.Context(), w.name(), map[starferry.TopicPartition]starferry.Offset{{Topic: topic}: 5}, time.Millisecond)
	require.ErrorContains(t, err, "under another name (dc2."+string(topic))
}
