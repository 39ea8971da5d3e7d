package replication

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/replication/batch"
)

// Merging keeps every record, every hole and every byte of the account.
func TestMergingKeepsWhatWaits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p pipeline
		p.reset()
		p.window = 1000
		var want []starferry.Offset // of records, in order
		at, total := starferry.Offset(0), int64(0)
		for range rapid.IntRange(1, 40).Draw(t, "entries") {
			n := starferry.Offset(rapid.IntRange(1, 3).Draw(t, "offsets"))
			if rapid.IntRange(0, 4).Draw(t, "hole") == 0 {
				p.add(hole(at, at+n, starferry.Control))
				at += n
				continue
			}
			var records []batch.Record
			size := rapid.SampledFrom([]int{10, 10, 10, 9000, tinyBatch, mergedBytes}).Draw(t, "size")
			for i := range n {
				records = append(records, batch.Record{Offset: at + i, Value: make([]byte, size)})
				want = append(want, at+i)
			}
			b, err := batch.Build(records, batch.Options{Codec: rapid.SampledFrom([]batch.Codec{batch.None, batch.None, batch.LZ4}).Draw(t, "codec")})
			require.NoError(t, err)
			p.add(&entry{pieces: []piece{{at, int64(n), ""}}, batch: b, records: int32(n), passed: true})
			at += n
		}
		limit := rapid.SampledFrom([]int{2000, 50_000, 1 << 20}).Draw(t, "limit")
		for range p.queue {
			p.merge(limit)
			if e, _ := p.take(); e != nil && !e.passed {
				require.LessOrEqual(t, len(e.batch), min(limit, mergedBytes))
			}
		}
		next := starferry.Offset(0)
		for _, e := range p.queue {
			total += int64(len(e.batch))
			if e.batch != nil {
				require.NoError(t, batch.Batch(e.batch).Verify())
				require.Equal(t, int(e.records), batch.Batch(e.batch).Count())
			}
			for _, pc := range e.pieces {
				require.Equal(t, next, pc.source)
				next = pc.end()
				for o := pc.source; pc.hole == "" && o < pc.end(); o++ {
					require.Equal(t, want[0], o)
					want = want[1:]
				}
			}
		}
		require.Empty(t, want)
		require.Equal(t, at, next)
		require.Equal(t, total, p.bytes)
	})
}

// Batches of one record each that wait are merged; places stay exact, also when
// the map is rebuilt from the target alone.
func TestTinyBatchesAreMergedWhileBehind(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	for i := range 60 {
		w.put(topic, 0, numbered(i, 1)...)
	}
	kafkatest.ProduceTxn(t, w.src, topic, 0, false, numbered(900, 2)...)
	kafkatest.ProduceTxn(t, w.src, topic, 0, true, numbered(60, 2)...)
	for i := range 20 {
		w.put(topic, 0, numbered(62+i, 1)...)
	}
	w.shard("s", t.TempDir())
	w.link(topic)
	w.everythingIsCommitted(topic, 82)
	batches := w.targetBatches(topic)
	require.Less(t, batches, 20, "82 batches of the source became %d", batches)
	require.NoError(t, w.client.Stop(t.Context(), w.name()))
	w.shard("other", t.TempDir()) // knows nothing of the first one's map
	w.link(topic)
	w.everythingIsCommitted(topic, 82)
}

// everythingIsCommitted is everythingIsThere with aborted records in the source.
func (w *world) everythingIsCommitted(topic starferry.Topic, n int) {
	w.t.Helper()
	w.caughtUp()
	target := w.sameRecords(topic, 0, numbered(0, n))
	source := kafkatest.Records(w.t, w.src, topic, 0)
	committed := source[:0]
	for _, r := range source {
		if string(r.Key) < "k900" || len(r.Key) < 4 {
			committed = append(committed, r)
		}
	}
	w.exactMap(topic, 0, committed, target)
}

// targetBatches counts the batches with records of a target partition.
func (w *world) targetBatches(topic starferry.Topic) (n int) {
	p, err := fetchOnce(w.t.Context(), kafkatest.Open(w.t, w.tgt), starferry.TopicPartition{Topic: topic}, 0, glance{maxBytes: 1 << 20})
	require.NoError(w.t, err)
	for set := p.RecordBatches; len(set) > 0; {
		b, rest, err := batch.Next(set)
		require.NoError(w.t, err)
		if set = rest; !b.Control() {
			n++
		}
	}
	return n
}
