package replication

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

// An epoch is an int16: when it has run out, the coordinator gives another
// producer id, which fences nothing. Who held the old one is waited out, and the
// copy goes on exactly.
func TestEpochsRunOut(t *testing.T) {
	w := newWorld(t)
	if kafkatest.Real() {
		kafkatest.Waits(t) // 32,000 epochs
	}
	topic := w.topic(1, nil)
	tp := starferry.TopicPartition{Topic: topic}
	w.put(topic, 0, numbered(0, 5)...)
	const left = 300 * time.Millisecond
	patient := func(c *ShardConfig) { c.UnfencedWait = left }
	s := w.shard("s", t.TempDir(), patient)
	w.link(topic)
	w.caughtUp()
	was := w.producerOf(s, tp)
	c, _ := s.link(w.name())
	txid := c.spec.txid(c.spec.BucketOf(tp))
	require.NoError(t, s.Close())
	w.exhaust(txid, was)
	w.put(topic, 0, numbered(5, 5)...)
	s = w.shard("s", t.TempDir(), patient)
	w.caughtUp()
	first := w.producerOf(s, tp)
	for n := 10; w.producerOf(s, tp).ID == was.ID; n += 5 { // up to the last epochs, one fence after the other
		require.Less(t, n, 100, "the epochs do not run out: the test is void")
		l, _ := w.copier(s).lane(tp)
		l.halt(Recovering, "")
		l.bucket.refence(l, errNoMarker)
		w.put(topic, 0, numbered(n, 5)...)
		w.caughtUp()
	}
	require.NotEqual(t, first.ID, w.producerOf(s, tp).ID)
	_, own := w.copier(s).state.PIDs(w.name(), c.spec.BucketOf(tp))
	require.Len(t, own, 2, "both ids are claimed")
	w.everythingIsThere(topic, 1)
	require.NoError(t, s.Close())
	w.put(topic, 0, numbered(200, 5)...)
	w.shard("other", t.TempDir(), patient, without)
	w.everythingIsThere(topic, 1) // a map of both ids' epochs
}

// copier is the world's link inside a shard.
func (w *world) copier(s *Shard) *copier {
	c, _ := s.link(w.name())
	return c
}

// exhaust takes epochs of a transactional id until few are left.
func (w *world) exhaust(txid string, p wire.Producer) {
	w.t.Helper()
	tgt := kafkatest.Open(w.t, w.tgt)
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID, req.TransactionTimeoutMillis, req.ProducerID, req.ProducerEpoch = &txid, 60_000, -1, -1
	for epoch := p.Epoch; epoch < math.MaxInt16-5; {
		resp, err := tgt.DoTxn(context.Background(), txid, req)
		require.NoError(w.t, err)
		got := resp.(*kmsg.InitProducerIDResponse)
		require.NoError(w.t, wire.Code(got.ErrorCode))
		require.Equal(w.t, p.ID, got.ProducerID)
		epoch = got.ProducerEpoch
	}
}
