package replication

import (
	"encoding/binary"
	"hash/crc32"
	"slices"
	"testing"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/replication/batch"
)

// What the cleaner took becomes holes; what it left is re-encoded densely, and
// a lost map is rebuilt to the same places.
func TestCompactedTopicsKeepExactPlaces(t *testing.T) {
	w, src, _ := faulty(t)
	topic := w.topic(1, map[string]string{"cleanup.policy": "compact", "retention.ms": "-1"})
	tp := starferry.TopicPartition{Topic: topic}
	for round := range 4 {
		records := numbered(0, 10)
		for i := range records {
			if i%3 != 0 { // every third key is written once only
				continue
			}
			if round > 0 {
				records[i].Key = []byte{byte('a' + round), byte('a' + i)}
			}
		}
		w.put(topic, 0, records...)
	}
	src.Compact()
	source := kafkatest.Records(t, w.src, topic, 0)
	require.Less(t, len(source), 40, "nothing was compacted: the test is void")
	require.Greater(t, len(source), 10)
	w.shard("s", t.TempDir())
	w.link(topic)
	w.caughtUp()
	target := w.sameRecords(topic, 0, source)
	w.exactMap(topic, 0, source, target)
	missing := starferry.Offset(1)
	require.NotEqual(t, int64(missing), source[1].Offset)
	require.Equal(t, starferry.Answer{Offset: starferry.Offset(target[1].Offset), Status: starferry.InHole, Reason: starferry.Compacted},
		w.translate(starferry.Forward, starferry.Cut{tp: {Next: missing}}).Answers[tp])
	require.NoError(t, w.client.Stop(t.Context(), w.name()))
	w.shard("other", t.TempDir())
	w.link(topic)
	w.everythingIsThere(topic, 1)
}

// The times that a source's broker gave reach a target that keeps given times.
func TestAppendTimesArriveAsTimes(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, map[string]string{"message.timestamp.type": "LogAppendTime"})
	kafkatest.MakeTopic(t, w.tgt, topic, 1, map[string]string{"message.timestamp.type": "CreateTime"})
	w.stamped(topic, numbered(0, 5))
	source := times(t, w.src, topic)
	require.Greater(t, source[0], numbered(0, 1)[0].Time.UnixMilli(), "the source set no times: the test is void")
	w.shard("s", t.TempDir())
	w.link(topic)
	w.caughtUp()
	require.Equal(t, source, times(t, w.tgt, topic))
}

// times are those that consumers see.
func times(t *testing.T, c starferry.Cluster, topic starferry.Topic) (out []int64) {
	p, err := fetchOnce(t.Context(), kafkatest.Open(t, c), starferry.TopicPartition{Topic: topic}, 0, glance{maxBytes: 1 << 20})
	require.NoError(t, err)
	for set := p.RecordBatches; len(set) > 0; {
		b, rest, err := batch.Next(set)
		require.NoError(t, err)
		set = rest
		if b.Control() {
			continue
		}
		for r, err := range batch.Records(b, 1<<20) {
			require.NoError(t, err)
			out = append(out, r.Time)
		}
	}
	return out
}

// Where both sides set times, batches pass, and the times are the target's.
func TestTargetsOwnTimesAreLeftToIt(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, map[string]string{"message.timestamp.type": "LogAppendTime"})
	w.stamped(topic, numbered(0, 5))
	w.shard("s", t.TempDir())
	w.link(topic)
	w.caughtUp()
	target := kafkatest.Records(t, w.tgt, topic, 0)
	require.Equal(t, values(numbered(0, 5)), values(target))
}

// stamped writes records whose times the source's broker sets.
func (w *world) stamped(topic starferry.Topic, ms []kafka.Message) {
	if !kafkatest.Real() {
		w.t.Skip("the fake knows no LogAppendTime; make test-kafka runs this on real brokers")
	}
	w.put(topic, 0, ms...)
}

func values(ms []kafka.Message) (out []string) {
	for _, m := range ms {
		out = append(out, string(m.Value))
	}
	return out
}

// Classification leaves no gap, whatever offset it starts at.
func TestClassifyStartsInsideABatch(t *testing.T) {
	b, err := batch.Build([]batch.Record{{Offset: 10, Value: []byte("a")}, {Offset: 11, Value: []byte("b")}, {Offset: 12, Value: []byte("c")}}, batch.Options{})
	require.NoError(t, err)
	r := rules{limits: batch.Limits{Decompressed: 1 << 20, Batch: 1 << 20}}
	es, err := classifyBatch(b, batch.Data, 11, r)
	require.NoError(t, err)
	require.Len(t, es, 1)
	require.Equal(t, []piece{{11, 2, ""}}, es[0].pieces)
	require.Equal(t, starferry.Offset(13), es[0].next())
}

// round is the n-th of several rounds of ten records: those of most keys come
// again in the next round, each every-th has a key of its own.
func round(n, every int) []kafka.Message {
	records := numbered(100*n, 10)
	for i := range records {
		if i%every != 0 {
			records[i].Key = []byte{byte('a' + i)}
		}
	}
	return records
}

// A source that is cleaned between the copy and the rebuilding of its map: the
// contents say which records were copied, and the rest is copied once.
func TestASourceCleanedMeanwhileIsNotMiscounted(t *testing.T) {
	w, src, _ := faulty(t)
	topic := w.topic(1, map[string]string{"cleanup.policy": "compact", "retention.ms": "-1"})
	tp := starferry.TopicPartition{Topic: topic}
	w.put(topic, 0, round(0, 3)...)
	w.put(topic, 0, round(1, 3)...)
	s := w.shard("s", t.TempDir())
	w.link(topic)
	w.caughtUp()
	copied := kafkatest.Records(t, w.tgt, topic, 0)
	require.Len(t, copied, 20)
	require.NoError(t, s.Close())
	w.put(topic, 0, round(2, 3)...)
	src.Compact()
	source := kafkatest.Records(t, w.src, topic, 0)
	require.Less(t, len(source), 30, "nothing was compacted: the test is void")
	w.shard("other", t.TempDir())
	w.link(topic)
	w.caughtUp()
	target := kafkatest.Records(t, w.tgt, topic, 0)
	require.Equal(t, append(values(copied), values(round(2, 3))...), values(target))
	places := map[string]starferry.Offset{}
	for _, m := range target {
		places[string(m.Value)] = starferry.Offset(m.Offset)
	}
	for _, m := range source {
		a := w.translate(starferry.Forward, starferry.Cut{tp: {Next: starferry.Offset(m.Offset)}}).Answers[tp]
		require.Equal(t, starferry.Answer{Offset: places[string(m.Value)], Status: starferry.Exact}, a, "source %d", m.Offset)
	}
}

// Messages of magic 0 and 1 become batches at their offsets, with their times.
func TestOldMessagesAreCopied(t *testing.T) {
	p := kmsg.NewFetchResponseTopicPartition()
	p.RecordBatches = slices.Concat(oldMessage(0, 7, 0, "a"), oldMessage(1, 8, 1234, "b"), oldMessage(1, 11, 1235, "c"))
	r := rules{limits: batch.Limits{Decompressed: 1 << 20, Batch: 1 << 20}}
	es, err := classify(&p, 8, r)
	require.NoError(t, err)
	var pieces []piece
	for _, e := range es {
		pieces = append(pieces, e.pieces...)
	}
	require.Equal(t, []piece{{8, 1, ""}, {9, 2, starferry.Compacted}, {11, 1, ""}}, pieces)
	batch.Stamp(es[2].batch, 5, 1, 9)
	require.NoError(t, batch.Batch(es[2].batch).Verify())
	for rec, err := range batch.Records(es[2].batch, 1<<20) {
		require.NoError(t, err)
		require.Equal(t, "c", string(rec.Value))
		require.Equal(t, int64(1235), rec.Time)
	}
}

// oldMessage is an uncompressed message without a key.
func oldMessage(magic byte, o, time int64, value string) []byte {
	body := []byte{magic, 0}
	if magic == 1 {
		body = binary.BigEndian.AppendUint64(body, uint64(time))
	}
	body = binary.BigEndian.AppendUint32(body, ^uint32(0))
	body = append(binary.BigEndian.AppendUint32(body, uint32(len(value))), value...)
	out := binary.BigEndian.AppendUint64(nil, uint64(o))
	out = binary.BigEndian.AppendUint32(out, uint32(4+len(body)))
	out = binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(body))
	return append(out, body...)
}
