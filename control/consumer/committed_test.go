package consumer_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/starferry/starferry/internal/kafkatest"
)

// writer is a transactional producer of another client.
type writer struct {
	e *estate
	c *kgo.Client
}

func (e *estate) writer(codec kgo.CompressionCodec) *writer {
	e.t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(e.old.Brokers...), kgo.TransactionalID(kafkatest.TxID(e.t)), kgo.DefaultProduceTopic(string(e.topic)),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(codec), kgo.ProducerBatchMaxBytes(300_000))
	require.NoError(e.t, err)
	e.t.Cleanup(c.Close)
	return &writer{e, c}
}

func (w *writer) begin() { require.NoError(w.e.t, w.c.BeginTransaction()) }

func (w *writer) write(values ...[]byte) {
	var recs []*kgo.Record
	for _, v := range values {
		recs = append(recs, &kgo.Record{Value: v})
	}
	require.NoError(w.e.t, w.c.ProduceSync(context.Background(), recs...).FirstErr())
}

func (w *writer) end(how kgo.TransactionEndTry) {
	require.NoError(w.e.t, w.c.EndTransaction(context.Background(), how))
}

// numbered are values as settled expects them.
func (e *estate) numbered(n int) (out [][]byte) {
	from := e.seen.produced(e.tp(0), n)
	for i := range n {
		out = append(out, fmt.Appendf(nil, "0/%d", from+i))
	}
	return out
}

// Only what was committed is handed out, in order: aborted transactions of
// several megabytes that span fetches and lie between other records, in every
// compression, their markers, and a transaction that is still open, before which
// everything waits.
func TestOnlyCommittedRecordsAreHandedOut(t *testing.T) {
	e := newEstate(t, 1)
	junk := func() [][]byte { // random, so that compression leaves it large
		out := make([][]byte, 12)
		for i := range out {
			out[i] = make([]byte, 100_000)
			rand.Read(out[i]) //nolint:errcheck // never fails
		}
		return out
	}
	first := e.open("early")
	n := 0
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}
	var last *writer
	for _, codec := range codecs {
		lost, kept := e.writer(codec), e.writer(codec)
		lost.begin()
		kept.begin()
		lost.write(junk()...)
		kept.write(e.numbered(3)...)
		lost.write(junk()...)
		kept.end(kgo.TryCommit)
		kept.begin()
		kept.write([]byte("aborted"))
		kept.end(kgo.TryAbort)
		lost.end(kgo.TryAbort)
		kept.begin()
		kept.write(e.numbered(2)...)
		kept.end(kgo.TryCommit)
		e.produce(0, 1, e.old)
		n += 6
		last = kept
	}
	e.settled(n)
	last.begin()
	last.write(e.numbered(1)...)
	e.produce(0, 5, e.old)
	require.Never(t, func() bool { return e.seen.count() > n }, 300*time.Millisecond, 20*time.Millisecond, "an open transaction holds up what follows")
	last.end(kgo.TryCommit)
	e.settled(n + 6)
	closeIn(t, first)

	wrote := e.seen.wrote // once more from the beginning, in large fetches
	e.seen, e.group = newLedger(), kafkatest.Group(t)
	e.seen.wrote = wrote
	e.open("late")
	e.settled(n + 6)
}
