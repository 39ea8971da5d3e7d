package replication

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/batch"
	"github.com/starferry/starferry/replication/offsetmap"
)

// faulty is a world of two fakes, whatever else runs: only they fail on command.
func faulty(t *testing.T) (w *world, src, tgt *kfake.Cluster) {
	src, s := kafkatest.Fake(t, "old")
	tgt, g := kafkatest.Fake(t, "new")
	return worldOf(t, s, g), src, tgt
}

// Whatever the target answers to a produce request, carried out or not, each
// record arrives exactly once and in order.
func TestEveryProduceErrorIsSurvived(t *testing.T) {
	for name, err := range map[string]*kerr.Error{
		"refused":        kerr.NotLeaderForPartition,
		"reply lost":     kerr.RequestTimedOut, // carried out all the same
		"after append":   kerr.NotEnoughReplicasAfterAppend,
		"out of order":   kerr.OutOfOrderSequenceNumber,
		"old epoch":      kerr.InvalidProducerEpoch,
		"unknown id":     kerr.UnknownProducerID,
		"in transaction": kerr.InvalidTxnState, // a fence is under way
		"corrupt":        kerr.CorruptMessage,
		"something else": kerr.UnknownServerError,
		"storage":        kerr.KafkaStorageError,
	} {
		t.Run(name, func(t *testing.T) {
			w, _, tgt := faulty(t)
			topic := w.topic(2, nil)
			w.shard("s", t.TempDir())
			w.link(topic)
			stop := w.traffic(topic, 2)
			hits, times := 0, 5
			if err == kerr.CorruptMessage {
				times = maxRefusals - 1 // it may hit the same batch each time
			}
			h := tgt.Fault(kfake.Fault{
				Keys: []kmsg.Key{kmsg.Produce}, Topic: string(topic), Err: err, Count: times,
				When: func(kmsg.Request) bool { hits++; return hits%4 == 0 },
			})
			require.Eventually(t, func() bool { return h.Hits() >= times }, patience, 10*time.Millisecond)
			stop()
			w.everythingIsThere(topic, 2)
		})
	}
}

// Connections that break, leaders that move and errors of all kinds, on both
// sides at once.
func TestTroubleOnBothSides(t *testing.T) {
	w, src, tgt := faulty(t)
	topic := w.topic(4, nil)
	w.shard("s", t.TempDir())
	w.link(topic)
	stop := w.traffic(topic, 4)
	quarter := func(kmsg.Request) bool { return rand.IntN(4) == 0 }
	src.Fault(
		kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: string(topic), Err: kerr.NotLeaderForPartition, Count: 5, When: quarter},
		kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: string(topic), Err: kerr.UnknownServerError, Count: 5, When: quarter},
	)
	h := tgt.Fault(
		kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: string(topic), Err: kerr.RequestTimedOut, Count: 10, When: quarter},
		kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: string(topic), Err: kerr.NotLeaderForPartition, Count: 10, When: quarter},
		kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, Err: kerr.RequestTimedOut, Count: 1},
		kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, Err: kerr.CoordinatorLoadInProgress, Count: 2},
	)
	for range 5 {
		before := w.status().Lanes[0].SourceNext
		src.ShufflePartitionLeaders()
		tgt.ShufflePartitionLeaders()
		tgt.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
			return nil, errors.New("connection cut by the test"), true
		})
		src.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
			return nil, errors.New("connection cut by the test"), true
		})
		require.Eventually(t, func() bool { return w.status().Lanes[0].SourceNext > before+30 }, patience, 10*time.Millisecond)
	}
	require.Positive(t, h.Hits())
	stop()
	w.put(topic, 0, numbered(0, 3)...)
	w.everythingIsThere(topic, 4)
}

// A lane that cannot go on says why, the others go on.
func TestALaneThatCannotGoOnSaysSo(t *testing.T) {
	w, src, _ := faulty(t)
	topic := w.topic(2, nil)
	w.shard("s", t.TempDir())
	w.link(topic)
	w.put(topic, 0, numbered(0, 5)...)
	w.put(topic, 1, numbered(0, 5)...)
	w.caughtUp()
	require.NoError(t, src.DeleteTopic(string(topic)))
	require.NoError(t, src.CreateTopic(string(topic), 2, nil))
	require.Eventually(t, func() bool {
		l := w.status().Lanes[0]
		return l.State == Stopped && l.Reason != ""
	}, patience, 50*time.Millisecond)
	t.Log(w.status().Lanes[0].Reason)
}

// Retention that overtakes the copy stops the lane, which names what is gone.
func TestRetentionThatOvertakesIsTold(t *testing.T) {
	w, src, _ := faulty(t)
	topic := w.topic(1, nil)
	w.put(topic, 0, numbered(0, 5)...)
	dir := t.TempDir()
	s := w.shard("s", dir)
	w.link(topic)
	w.caughtUp()
	require.NoError(t, s.Close())
	w.put(topic, 0, numbered(5, 10)...)
	w.put(topic, 0, numbered(15, 10)...)
	require.NoError(t, src.DeleteRecords(string(topic), 0, 15))
	w.shard("s", dir)
	require.Eventually(t, func() bool { return w.status().Lanes[0].State == Stopped }, patience, 50*time.Millisecond)
	require.Contains(t, w.status().Lanes[0].Reason, "offsets 5 to 14 are gone")
}

// A batch that the target does not accept stops its lane with the setting to raise.
func TestTooLargeABatchIsTold(t *testing.T) {
	w, _, tgt := faulty(t)
	topic := w.topic(1, nil)
	require.NoError(t, tgt.CreateTopic(string(topic), 1, map[string]string{"max.message.bytes": "500"}))
	w.put(topic, 0, numbered(0, 3)...)
	w.put(topic, 0, numbered(3, 100)...)
	w.shard("s", t.TempDir())
	_, _ = w.ensure(topic) // tells it too, if it is soon enough
	require.Eventually(t, func() bool { return w.status().Lanes[0].State == Stopped }, patience, 50*time.Millisecond)
	reason := w.status().Lanes[0].Reason
	for _, word := range []string{"source offset 3", "new accepts 500", "max.message.bytes", string(topic)} {
		require.Contains(t, reason, word)
	}
	w.sameRecords(topic, 0, numbered(0, 3))
}

// What held an idle lane up is forgotten when it is over, not with the next record.
func TestAnIdleLaneRecoversFromAStall(t *testing.T) {
	w, src, _ := faulty(t)
	topic := w.topic(1, nil)
	w.shard("s", t.TempDir())
	w.link(topic)
	w.put(topic, 0, numbered(0, 3)...)
	w.caughtUp()
	h := src.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: string(topic), Err: kerr.UnknownServerError, Count: stallAfter + 1})
	require.Eventually(t, func() bool { return h.Hits() > stallAfter }, patience, 5*time.Millisecond)
	require.Eventually(t, func() bool { return w.status().Lanes[0].State == Copying }, patience, 10*time.Millisecond)
}

// A map that refuses an entry leaves nothing of the shard's memory taken.
func TestARefusedEntryGivesItsMemoryBack(t *testing.T) {
	store, err := offsetmap.OpenStore(t.TempDir(), offsetmap.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	m, err := store.Lane(offsetmap.LaneKey{Link: "l", TopicPartition: starferry.TopicPartition{Topic: "t"}})
	require.NoError(t, err)
	require.NoError(t, m.Reset(0, 0))
	b := newBudget(1 << 20)
	c := &copier{budget: b}
	l := &lane{c: c, bucket: newBucket(c, 0, 1), omap: m, active: true}
	l.pipe.reset()
	for i := range 3 { // the map begins at 0: none of them follows
		l.pipe.add(&entry{pieces: []piece{{starferry.Offset(5 + i), 1, ""}}, batch: make([]byte, 100), load: l.own(100), records: 1, phase: acked})
	}
	l.applyLocked()
	require.Zero(t, b.used)
}

// The first producer id and epoch of a cluster are 0 and 0: no other than them.
func TestAMapIsRebuiltUnderTheFirstProducerOfAll(t *testing.T) {
	first := wire.Producer{ID: 0, Epoch: 0}
	w, _, _ := faulty(t)
	topic := w.topic(1, nil)
	w.put(topic, 0, numbered(0, 5)...)
	s := w.shard("s", t.TempDir())
	w.link(topic)
	w.caughtUp()
	c, _ := s.link(w.name())
	l, _ := c.lane(starferry.TopicPartition{Topic: topic})
	f := &fence{producer: first}
	r := l.readback(f, anchor{Link: w.name(), Lane: l.tp}, []anchor{{PID: 0, Epoch: 0, Source: 0}})
	m, err := c.maps.Lane(offsetmap.LaneKey{Link: "other", TopicPartition: l.tp})
	require.NoError(t, err)
	require.NoError(t, m.Reset(0, 0))
	r.m = m
	late := batch.Batch(kafkatest.Batch(numbered(3, 2), first, 3, false))
	binary.BigEndian.PutUint64(late, 3)
	require.NoError(t, r.own(t.Context(), late))
	a, err := m.Forward(3)
	require.NoError(t, err)
	require.Equal(t, starferry.Answer{Offset: 3, Status: starferry.Exact}, a, "the batch begins with the fourth record")
}

// One broker that does not know a topic for a moment does not stop its lanes.
func TestATopicThatIsMissingOnceIsLookedForAgain(t *testing.T) {
	w, src, _ := faulty(t)
	topic := w.topic(1, nil)
	s := w.shard("s", t.TempDir())
	w.link(topic)
	w.put(topic, 0, numbered(0, 3)...)
	w.caughtUp()
	c, _ := s.link(w.name())
	l, _ := c.lane(starferry.TopicPartition{Topic: topic})
	gone := &wire.Metadata{Topics: map[starferry.Topic]wire.TopicMeta{topic: {Err: kafka.UnknownTopicOrPartition}}}
	there, err := c.src.Metadata(t.Context(), topic)
	require.NoError(t, err)
	c.sameTopic(place{w.src.Name, topic}, topic, gone)
	c.sameTopic(place{w.src.Name, topic}, topic, there)
	c.sameTopic(place{w.src.Name, topic}, topic, gone)
	require.Equal(t, Copying, l.status().State)
	require.NoError(t, src.DeleteTopic(string(topic)))
	require.Eventually(t, func() bool { return l.status().State == Stopped }, patience, 50*time.Millisecond)
	require.Contains(t, l.status().Reason, "is gone")
}

// Brokers follow the controller's log: one that lags does not know a topic that
// the controller refuses to make again.
func TestATopicThatABrokerDoesNotKnowYetIsWaitedFor(t *testing.T) {
	w, _, tgt := faulty(t)
	topic := w.topic(2, nil)
	kafkatest.MakeTopic(t, w.tgt, topic, 2, nil)
	host, port, err := net.SplitHostPort(w.tgt.Brokers[0])
	require.NoError(t, err)
	var blind atomic.Int32
	blind.Store(4)
	tgt.ControlKey(kmsg.Metadata.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		tgt.KeepControl()
		req := r.(*kmsg.MetadataRequest)
		if len(req.Topics) != 1 || req.Topics[0].Topic == nil || *req.Topics[0].Topic != string(topic) || blind.Add(-1) < 0 {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.MetadataResponse)
		b := kmsg.NewMetadataResponseBroker()
		b.Host = host
		n, _ := strconv.Atoi(port)
		b.Port = int32(n)
		gone := kmsg.NewMetadataResponseTopic()
		gone.Topic, gone.ErrorCode = kmsg.StringPtr(string(topic)), kerr.UnknownTopicOrPartition.Code
		resp.Brokers, resp.Topics = append(resp.Brokers, b), append(resp.Topics, gone)
		return resp, nil, true
	})
	w.shard("s", t.TempDir())
	w.link(topic)
	require.Negative(t, blind.Load(), "it was asked again")
}

// A lane that was stopped while it was read back stays so.
func TestAStoppedLaneIsNotStartedBehindItsBack(t *testing.T) {
	w, _, _ := faulty(t)
	topic := w.topic(1, nil)
	s := w.shard("s", t.TempDir())
	w.link(topic)
	w.caughtUp()
	c, _ := s.link(w.name())
	l, _ := c.lane(starferry.TopicPartition{Topic: topic})
	p := w.producerOf(s, l.tp)
	l.stop(kafka.UnknownTopicOrPartition)
	l.start(p, rules{})
	require.Equal(t, Stopped, l.status().State)
	require.Equal(t, wire.Producer{ID: -1, Epoch: -1}, w.producerOf(s, l.tp))
}
