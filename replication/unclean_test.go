package replication

import (
	"testing"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

// A source of three brokers elects a leader that lacks acknowledged records, which
// were copied, and takes others in their place. The lane stops and says where the
// histories part; what was copied stays.
func TestAnUncleanSourceStopsItsLane(t *testing.T) {
	kafkatest.Waits(t)
	if !kafkatest.Real() {
		t.Skip("a fake's brokers share one log; make test-kafka runs this on real brokers")
	}
	src := kafkatest.RealBrokers(t, "old", 3, map[string]string{
		"offsets.topic.replication.factor": "3", "default.replication.factor": "3",
		"broker.session.timeout.ms": "2000", "broker.heartbeat.interval.ms": "300", // the dead are soon known
	})
	_, tgt := kafkatest.Fake(t, "new")
	w := worldOf(t, src.Cluster, tgt)
	topic := starferry.Topic(w.name())
	placed(t, src, topic, 1, [][]int32{{3, 2}})
	allowUnclean(t, src.Cluster, topic)
	w.shard("s", t.TempDir())
	w.link(topic)
	w.put(topic, 0, numbered(0, 10)...)
	w.caughtUp()
	require.NoError(t, src.Nodes[1].Kill()) // the follower lacks what comes now
	w.put(topic, 0, numbered(10, 10)...)
	w.caughtUp()
	require.NoError(t, src.Nodes[2].Kill()) // the only one that has it
	require.NoError(t, src.Nodes[1].Start(t.Context()))
	w.putAtLeastOnce(topic, numbered(100, 30)...)
	require.Eventually(t, func() bool { return w.status().Lanes[0].State == Stopped }, 2*patience, tick)
	for _, word := range []string{string(topic) + "/0 of old was truncated at offset 10", "up to 19", "compare the two"} {
		require.Contains(t, w.status().Lanes[0].Reason, word)
	}
	w.sameRecords(topic, 0, numbered(0, 20))
}

// putAtLeastOnce writes records to partition 0 of the source while it elects a leader.
func (w *world) putAtLeastOnce(topic starferry.Topic, records ...kafka.Message) {
	b := kafkatest.Batch(records, wire.Producer{ID: -1, Epoch: -1}, -1, false)
	require.Eventually(w.t, func() bool {
		w.wire.Forget(topic)
		_, err := kafkatest.ProduceBatch(w.wire, starferry.TopicPartition{Topic: topic}, "", b)
		return err == nil
	}, 2*patience, tick)
}
