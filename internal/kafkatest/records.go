package kafkatest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// within bounds each helper's conversation with a cluster.
const within = 30 * time.Second

// Open opens a cluster for the length of the test.
func Open(t testing.TB, c starferry.Cluster, opts ...wire.Option) *wire.Cluster {
	t.Helper()
	w, err := wire.Open(c, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	return w
}

// unique returns a name that no other test has, telling this test's.
func unique(t testing.TB) string {
	b := make([]byte, 4)
	_, err := rand.Read(b)
	require.NoError(t, err)
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, t.Name())
	return name[:min(len(name), 80)] + "-" + hex.EncodeToString(b)
}

// Topic makes a topic with a unique name, removed when the test ends.
func Topic(t testing.TB, c starferry.Cluster, partitions int, configs map[string]string) starferry.Topic {
	t.Helper()
	topic := starferry.Topic(unique(t))
	MakeTopic(t, c, topic, partitions, configs)
	return topic
}

// MakeTopic makes a topic with a given name, removed when the test ends.
func MakeTopic(t testing.TB, c starferry.Cluster, topic starferry.Topic, partitions int, configs map[string]string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	w, err := wire.Open(c)
	require.NoError(t, err)
	defer w.Close()
	require.NoError(t, w.CreateTopic(ctx, wire.TopicSpec{Topic: topic, Partitions: partitions, Replication: -1, Configs: configs}))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), within)
		defer cancel()
		w, err := wire.Open(c)
		require.NoError(t, err)
		defer w.Close()
		_ = w.DeleteTopics(ctx, topic) // the cluster may be gone, the topic deleted by the test
	})
}

// Group returns a unique group name.
func Group(t testing.TB) starferry.Group {
	t.Helper()
	return starferry.Group(unique(t))
}

// TxID returns a unique transactional id.
func TxID(t testing.TB) string {
	t.Helper()
	return unique(t)
}

// Values makes n records with the values "prefix0" to "prefix<n-1>", each also
// its key.
func Values(prefix string, n int) []kafka.Message {
	ms := make([]kafka.Message, n)
	for i := range ms {
		v := []byte(fmt.Sprint(prefix, i))
		ms[i] = kafka.Message{Key: v, Value: v}
	}
	return ms
}

// Produce writes records as one batch and returns the offset of the first. A
// record's Key, Value, Headers and Time count, a zero Time is now.
func Produce(t testing.TB, c starferry.Cluster, topic starferry.Topic, partition starferry.Partition, records ...kafka.Message) starferry.Offset {
	t.Helper()
	w, err := wire.Open(c)
	require.NoError(t, err)
	defer w.Close()
	off, err := ProduceBatch(w, starferry.TopicPartition{Topic: topic, Partition: partition}, "", Batch(records, wire.Producer{ID: -1, Epoch: -1}, -1, false))
	require.NoError(t, err)
	return off
}

// ProduceTxn writes records as one transaction of a producer of its own and
// ends it; it returns the offset of the first record. The marker takes the
// offset after the last.
func ProduceTxn(t testing.TB, c starferry.Cluster, topic starferry.Topic, partition starferry.Partition, commit bool, records ...kafka.Message) starferry.Offset {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	w, err := wire.Open(c)
	require.NoError(t, err)
	defer w.Close()
	tp := starferry.TopicPartition{Topic: topic, Partition: partition}
	txid := unique(t)
	p, err := w.InitProducer(ctx, txid, time.Minute, wire.Producer{ID: -1, Epoch: -1})
	require.NoError(t, err)
	require.NoError(t, w.AddPartitionsToTxn(ctx, txid, p, []starferry.TopicPartition{tp}))
	off, err := ProduceBatch(w, tp, txid, Batch(records, p, 0, true))
	require.NoError(t, err)
	require.NoError(t, w.EndTxn(ctx, txid, p, commit))
	end := off + starferry.Offset(len(records)) + 1
	require.Eventually(t, func() bool { // the marker comes after the coordinator's answer
		at, err := w.Offsets(ctx, []starferry.TopicPartition{tp}, wire.LatestStable)
		return err == nil && at[tp] >= end
	}, within, 10*time.Millisecond, "the transaction's marker never came")
	return off
}

// Batch encodes records as an uncompressed record batch (magic 2). Seq is the
// sequence number of its first record, −1 without a producer.
func Batch(records []kafka.Message, p wire.Producer, seq int32, transactional bool) []byte {
	now := time.Now().UnixMilli()
	b := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, LastOffsetDelta: int32(len(records) - 1), NumRecords: int32(len(records)),
		ProducerID: p.ID, ProducerEpoch: p.Epoch, FirstSequence: seq, FirstTimestamp: now, MaxTimestamp: now,
	}
	if transactional {
		b.Attributes |= 1 << 4
	}
	stamp := func(m kafka.Message) int64 {
		if m.Time.IsZero() {
			return now
		}
		return m.Time.UnixMilli()
	}
	if len(records) > 0 {
		b.FirstTimestamp, b.MaxTimestamp = stamp(records[0]), stamp(records[0])
	}
	for i, m := range records {
		ts := stamp(m)
		b.MaxTimestamp = max(b.MaxTimestamp, ts)
		r := kmsg.Record{TimestampDelta64: ts - b.FirstTimestamp, OffsetDelta: int32(i), Key: m.Key, Value: m.Value}
		for _, h := range m.Headers {
			r.Headers = append(r.Headers, kmsg.Header{Key: h.Key, Value: h.Value})
		}
		r.Length = int32(len(r.AppendTo(nil)) - 1) // the length 0 that AppendTo put there takes one byte
		b.Records = r.AppendTo(b.Records)
	}
	raw := b.AppendTo(nil)
	b.Length = int32(len(raw) - 12)
	raw = b.AppendTo(raw[:0])
	b.CRC = int32(crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b.AppendTo(raw[:0])
}

// ProduceBatch writes one encoded batch with acks=all and returns its first
// offset.
func ProduceBatch(w *wire.Cluster, tp starferry.TopicPartition, txid string, batch []byte) (starferry.Offset, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	broker, _, err := w.Leader(ctx, tp)
	if err != nil {
		return starferry.NoOffset, err
	}
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, int32(within.Milliseconds())
	if txid != "" {
		req.TransactionID = &txid
	}
	t := kmsg.NewProduceRequestTopic()
	t.Topic = string(tp.Topic)
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = int32(tp.Partition), batch
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	r, err := w.DoOn(ctx, broker, req)
	if err != nil {
		return starferry.NoOffset, err
	}
	got := r.(*kmsg.ProduceResponse).Topics[0].Partitions[0]
	if err := wire.Code(got.ErrorCode); err != nil {
		return starferry.NoOffset, fmt.Errorf("produce to %s: %w", tp, err)
	}
	return starferry.Offset(got.BaseOffset), nil
}

// Records reads a partition from its first to its last record, whatever became
// of their transactions. Markers are left out.
func Records(t testing.TB, c starferry.Cluster, topic starferry.Topic, partition starferry.Partition) []kafka.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	w, err := wire.Open(c)
	require.NoError(t, err)
	defer w.Close()
	tp := starferry.TopicPartition{Topic: topic, Partition: partition}
	first, err := w.Offsets(ctx, []starferry.TopicPartition{tp}, wire.Earliest)
	require.NoError(t, err)
	last, err := w.Offsets(ctx, []starferry.TopicPartition{tp}, wire.Latest)
	require.NoError(t, err)
	broker, _, err := w.Leader(ctx, tp)
	require.NoError(t, err)
	var all []kafka.Message
	for next := int64(first[tp]); next < int64(last[tp]); {
		r, err := w.DoOn(ctx, broker, fetch(tp, next))
		require.NoError(t, err)
		got := r.(*kmsg.FetchResponse).Topics[0].Partitions[0]
		require.NoError(t, wire.Code(got.ErrorCode))
		ms, to := decodeBatches(t, tp, got.RecordBatches, next)
		all = append(all, ms...)
		require.Greater(t, to, next, "the fetch of %s from %d brought nothing", tp, next)
		next = to
	}
	return all
}

func fetch(tp starferry.TopicPartition, from int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 1000, 1, 8<<20, -1
	t := kmsg.NewFetchRequestTopic()
	t.Topic = string(tp.Topic)
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = int32(tp.Partition), from, 8<<20
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

// decodeBatches returns the records at or after from, and the offset after the
// last batch.
func decodeBatches(t testing.TB, tp starferry.TopicPartition, raw []byte, from int64) (ms []kafka.Message, next int64) {
	t.Helper()
	next = from
	for len(raw) > 17 {
		var b kmsg.RecordBatch
		size := 12 + int(int32(uint32(raw[8])<<24|uint32(raw[9])<<16|uint32(raw[10])<<8|uint32(raw[11])))
		if size > len(raw) {
			break // the rest of a batch that was cut off
		}
		require.NoError(t, b.ReadFrom(raw[:size]))
		raw = raw[size:]
		next = b.FirstOffset + int64(b.LastOffsetDelta) + 1
		if b.Attributes&(1<<5) != 0 {
			continue // a marker
		}
		records, err := kfake.BatchRecords(b)
		require.NoError(t, err)
		for _, r := range records {
			m := kafka.Message{
				Topic: string(tp.Topic), Partition: int(tp.Partition), Offset: b.FirstOffset + int64(r.OffsetDelta),
				Key: r.Key, Value: r.Value, Time: time.UnixMilli(b.FirstTimestamp + r.TimestampDelta64),
			}
			for _, h := range r.Headers {
				m.Headers = append(m.Headers, kafka.Header{Key: h.Key, Value: h.Value})
			}
			if m.Offset >= from {
				ms = append(ms, m)
			}
		}
	}
	return ms, next
}
