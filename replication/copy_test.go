package replication

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
)

// numbered makes records with keys, values, headers and times of their own.
func numbered(from, n int) []kafka.Message {
	out := make([]kafka.Message, n)
	for i := range out {
		id := fmt.Sprint(from + i)
		out[i] = kafka.Message{
			Key: []byte("k" + id), Value: []byte("v" + id), Headers: []kafka.Header{{Key: "h", Value: []byte(id)}},
			Time: time.UnixMilli(1_700_000_000_000 + int64(from+i)),
		}
	}
	return out
}

// Guarantee 1: A copied record is on the target exactly once, in source order
// per partition, byte for byte.
func TestRecordsAreCopiedByteForByte(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(3, nil)
	for p := range 3 {
		for b := range 5 {
			w.put(topic, starferry.Partition(p), numbered(1000*p+100*b, 20)...)
		}
	}
	w.shard("s1", t.TempDir())
	e := w.link(topic)
	require.True(t, e.Created)
	require.Equal(t, []starferry.Topic{topic}, e.Added)
	w.put(topic, 1, numbered(5000, 3)...)
	w.caughtUp()
	for p := range 3 {
		source := kafkatest.Records(t, w.src, topic, starferry.Partition(p))
		target := w.sameRecords(topic, starferry.Partition(p), source)
		w.exactMap(topic, starferry.Partition(p), source, target)
	}
}

// A record appended now is on the target a moment later.
func TestANewRecordArrivesSoon(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	w.shard("s1", t.TempDir())
	w.link(topic)
	tp := starferry.TopicPartition{Topic: topic}
	w.put(topic, 0, numbered(0, 1)...)
	w.translate(starferry.Forward, starferry.Cut{tp: {Next: 1}})
	var took []time.Duration
	for i := 1; i <= 10; i++ {
		w.put(topic, 0, numbered(i, 1)...)
		began := time.Now()
		got := w.translate(starferry.Forward, starferry.Cut{tp: {Next: starferry.Offset(i + 1)}})
		took = append(took, time.Since(began))
		require.Empty(t, got.Behind)
	}
	t.Log("append to answered translation:", took)
}

// Markers and aborted records are holes; what is committed arrives.
func TestTransactionsLeaveHoles(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	tp := starferry.TopicPartition{Topic: topic}
	w.put(topic, 0, numbered(0, 5)...)                                   // 0–4
	kafkatest.ProduceTxn(t, w.src, topic, 0, true, numbered(5, 5)...)    // 5–9, marker 10
	kafkatest.ProduceTxn(t, w.src, topic, 0, false, numbered(100, 5)...) // 11–15, marker 16
	w.put(topic, 0, numbered(10, 5)...)                                  // 17–21
	kafkatest.ProduceTxn(t, w.src, topic, 0, false, numbered(200, 2)...) // 22–23, marker 24
	w.shard("s1", t.TempDir())
	w.link(topic)
	w.caughtUp()
	target := w.sameRecords(topic, 0, numbered(0, 15))
	for from, want := range map[starferry.Offset]struct {
		index  int
		status starferry.Status
		reason starferry.Reason
	}{
		4:  {4, starferry.Exact, ""},
		9:  {9, starferry.Exact, ""},
		10: {10, starferry.InHole, starferry.Control},
		11: {10, starferry.InHole, starferry.Aborted},
		15: {10, starferry.InHole, starferry.Aborted},
		16: {10, starferry.InHole, starferry.Control},
		17: {10, starferry.Exact, ""},
		21: {14, starferry.Exact, ""},
	} {
		a := w.translate(starferry.Forward, starferry.Cut{tp: {Next: from}}).Answers[tp]
		require.Equal(t, starferry.Answer{Offset: starferry.Offset(target[want.index].Offset), Status: want.status, Reason: want.reason}, a, "source %d", from)
	}
	end := w.translate(starferry.Forward, starferry.Cut{tp: {Next: 25}})
	require.True(t, end.Final(), "%+v", end)
	require.Equal(t, starferry.Offset(target[14].Offset+1), end.Cut[tp].Next)
}

// Each codec passes through untouched.
func TestEveryCodecPasses(t *testing.T) {
	for _, codec := range []string{"gzip", "snappy", "lz4", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			w := newWorld(t)
			topic := w.topic(1, nil)
			transport := &kafka.Transport{}
			t.Cleanup(transport.CloseIdleConnections)
			writer := &kafka.Writer{Transport: transport, Addr: kafka.TCP(w.src.Brokers...), Topic: string(topic), BatchTimeout: time.Millisecond, RequiredAcks: kafka.RequireAll}
			require.NoError(t, writer.Compression.UnmarshalText([]byte(codec)))
			require.NoError(t, writer.WriteMessages(context.Background(), numbered(0, 50)...))
			require.NoError(t, writer.Close())
			w.shard("s1", t.TempDir())
			w.link(topic)
			w.caughtUp()
			w.sameRecords(topic, 0, numbered(0, 50))
		})
	}
}

// A target topic with another number of partitions is refused in words.
func TestAnotherPartitionCountIsRefused(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(3, nil)
	kafkatest.MakeTopic(t, w.tgt, topic, 2, nil)
	_, err := w.ensure(topic)
	require.ErrorContains(t, err, "has 3 partitions on old and")
	_, err = w.ensure("no-such-topic")
	require.ErrorContains(t, err, "check its name")
}

// Settings travel with a topic that is made.
func TestTargetTopicTakesSettingsOver(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(2, map[string]string{"retention.ms": "3600000", "max.message.bytes": "2000000"})
	w.shard("s1", t.TempDir())
	w.link(topic)
	confs, err := kafkatest.Open(t, w.tgt).TopicConfigs(context.Background(), topic)
	require.NoError(t, err)
	require.Equal(t, "3600000", confs[topic]["retention.ms"].Value)
	require.Equal(t, "2000000", confs[topic]["max.message.bytes"].Value)
}
