package replication

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

// lanes returns the status of the world's lanes by partition.
func (w *world) lanes(topic starferry.Topic) map[starferry.Partition]LaneStatus {
	out := map[starferry.Partition]LaneStatus{}
	for _, l := range w.status().Lanes {
		if l.Partition.Topic == topic {
			out[l.Partition.Partition] = l
		}
	}
	return out
}

// copies waits until lanes copy and lag by nothing.
func (w *world) copies(topic starferry.Topic, parts ...starferry.Partition) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		all := w.lanes(topic)
		for _, p := range parts {
			if l := all[p]; l.State != Copying || l.Lag != 0 {
				return false
			}
		}
		return true
	}, patience, 5*tick, "lanes do not copy: %v", w.lanes(topic))
}

// A target partition without a leader holds up its lane alone: the others of
// its bucket are taken over, and it follows when it is back.
func TestAnAwayPartitionWaitsAlone(t *testing.T) {
	w, _, tgt := faulty(t)
	topic := w.topic(8, nil) // 1 and 5 share a bucket
	s := w.shard("s", t.TempDir())
	w.link(topic)
	for p := range starferry.Partition(8) {
		w.put(topic, p, numbered(0, 5)...)
	}
	w.caughtUp()
	s.Kill()
	away := tgt.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.ListOffsets, kmsg.Fetch, kmsg.Produce}, Topic: string(topic), Partitions: []int32{5},
		Err: kerr.UnknownTopicOrPartition, Count: -1,
	})
	var named atomic.Bool
	tgt.ControlKey(int16(kmsg.AddPartitionsToTxn), func(req kmsg.Request) (kmsg.Response, error, bool) {
		tgt.KeepControl()
		for _, rt := range req.(*kmsg.AddPartitionsToTxnRequest).Topics {
			for _, p := range rt.Partitions {
				if p == 5 {
					named.Store(true)
				}
			}
		}
		return nil, nil, false
	})
	for p := range starferry.Partition(8) {
		w.put(topic, p, numbered(5, 5)...)
	}
	w.shard("other", t.TempDir())
	w.copies(topic, 0, 1, 2, 3, 4, 6, 7)
	require.False(t, named.Load(), "a transaction over a partition that is away would not end")
	l := w.lanes(topic)[5]
	require.Equal(t, Recovering, l.State)
	require.Contains(t, l.Reason, "away")
	away.Remove()
	w.everythingIsThere(topic, 8)
}

// A lane in doubt is fenced and read back alone; the others of its bucket go on
// under the epoch they have.
func TestADoubtfulLaneIsFencedAlone(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(8, nil)
	s := w.shard("s", t.TempDir())
	w.link(topic)
	stop := w.traffic(topic, 8)
	doubtful, other := starferry.TopicPartition{Topic: topic, Partition: 1}, starferry.TopicPartition{Topic: topic, Partition: 5}
	require.Eventually(t, func() bool { return w.lanes(topic)[5].Copied > 10 }, patience, tick)
	c, _ := s.link(w.name())
	l, _ := c.lane(doubtful)
	o, _ := c.lane(other)
	require.Same(t, l.bucket, o.bucket)
	was, beside := w.producerOf(s, doubtful), w.producerOf(s, other)
	l.halt(Recovering, "")
	l.bucket.refence(l, errNoMarker)
	require.Eventually(t, func() bool { p := w.producerOf(s, doubtful); return p.ID == was.ID && p.Epoch > was.Epoch }, patience, tick)
	if kafkatest.Real() { // a fake's leaders learn of the new epoch at once
		require.Equal(t, beside, w.producerOf(s, other))
	}
	stop()
	w.everythingIsThere(topic, 8)
}

// A target of three brokers loses the only replica of one partition while the
// bucket changes hands.
func TestAPartitionOnAStoppedBrokerWaitsAlone(t *testing.T) {
	kafkatest.Waits(t)
	w, tgt := threeBrokers(t, nil)
	topic := w.topic(8, nil)
	placed(t, tgt, topic, 8, [][]int32{{1}, {1}, {1}, {1}, {1}, {3}, {1}, {1}})
	s := w.shard("s", t.TempDir())
	w.link(topic)
	for p := range starferry.Partition(8) {
		w.put(topic, p, numbered(0, 5)...)
	}
	w.caughtUp()
	s.Kill()
	require.NoError(t, tgt.Nodes[2].Kill())
	for p := range starferry.Partition(8) {
		w.put(topic, p, numbered(5, 5)...)
	}
	w.shard("other", t.TempDir())
	w.copies(topic, 0, 1, 2, 3, 4, 6, 7)
	require.Equal(t, Recovering, w.lanes(topic)[5].State)
	require.NoError(t, tgt.Nodes[2].Start(t.Context()))
	w.everythingIsThere(topic, 8)
}

// threeBrokers is a world whose target has three brokers of this test alone. The
// internal topics survive the loss of one.
func threeBrokers(t *testing.T, props map[string]string) (*world, *kafkatest.Brokers) {
	if !kafkatest.Real() {
		t.Skip("a fake's brokers share one log; make test-kafka runs this on real brokers")
	}
	src, _ := kafkatest.Pair(t)
	all := map[string]string{
		"transaction.state.log.replication.factor": "3", "transaction.state.log.min.isr": "1",
		"offsets.topic.replication.factor": "3", "default.replication.factor": "3",
	}
	for k, v := range props {
		all[k] = v
	}
	tgt := kafkatest.RealBrokers(t, "new", 3, all)
	return worldOf(t, src, tgt.Cluster), tgt
}

// placed makes a topic whose partitions have the given replicas.
func placed(t *testing.T, c *kafkatest.Brokers, topic starferry.Topic, partitions int, replicas [][]int32) {
	req := kmsg.NewPtrCreateTopicsRequest()
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = string(topic), -1, -1
	for p, nodes := range replicas {
		a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
		a.Partition, a.Replicas = int32(p), nodes
		rt.ReplicaAssignment = append(rt.ReplicaAssignment, a)
	}
	req.Topics, req.TimeoutMillis = append(req.Topics, rt), 10_000
	w := kafkatest.Open(t, c.Cluster)
	resp, err := w.DoController(context.Background(), req)
	require.NoError(t, err)
	require.NoError(t, wire.Code(resp.(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode))
	require.NoError(t, settled(t.Context(), w, topic, partitions))
}

// A target whose new leader was elected uncleanly lacks acknowledged copies:
// they are copied again, in order, and none stands twice.
func TestAnUncleanTargetIsCopiedToAgain(t *testing.T) {
	w, tgt := threeBrokers(t, map[string]string{"producer.id.expiration.check.interval.ms": "100"})
	topic := w.topic(1, nil)
	placed(t, tgt, topic, 1, [][]int32{{3, 2}})
	allowUnclean(t, tgt.Cluster, topic)
	w.shard("s", t.TempDir())
	w.link(topic)
	w.put(topic, 0, numbered(0, 10)...)
	w.caughtUp()
	require.NoError(t, tgt.Nodes[1].Kill()) // the follower lacks what comes now
	w.put(topic, 0, numbered(10, 10)...)
	w.caughtUp()
	require.NoError(t, tgt.Nodes[2].Kill()) // the only one that has it
	require.NoError(t, tgt.Nodes[1].Start(t.Context()))
	w.put(topic, 0, numbered(20, 10)...)
	w.everythingIsThere(topic, 1)
	require.NoError(t, tgt.Nodes[2].Start(t.Context()))
	w.put(topic, 0, numbered(30, 10)...)
	w.everythingIsThere(topic, 1)
}

// allowUnclean lets a topic elect leaders that lack records.
func allowUnclean(t *testing.T, c starferry.Cluster, topic starferry.Topic) {
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	res := kmsg.NewIncrementalAlterConfigsRequestResource()
	res.ResourceType, res.ResourceName = kmsg.ConfigResourceTypeTopic, string(topic)
	conf := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	conf.Name, conf.Value = "unclean.leader.election.enable", kmsg.StringPtr("true")
	res.Configs = append(res.Configs, conf)
	req.Resources = append(req.Resources, res)
	resp, err := kafkatest.Open(t, c).Do(t.Context(), req)
	require.NoError(t, err)
	require.NoError(t, wire.Code(resp.(*kmsg.IncrementalAlterConfigsResponse).Resources[0].ErrorCode))
}
