package replication

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

// producerOf is the identity a shard writes a lane under; none while it does not copy.
func (w *world) producerOf(s *Shard, tp starferry.TopicPartition) wire.Producer {
	if c, _ := s.link(w.name()); c != nil {
		if l, _ := c.lane(tp); l != nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.active {
				return l.producer
			}
		}
	}
	return wire.Producer{ID: -1, Epoch: -1}
}

// A shard whose lease had an end fences anew before it writes, even if it got
// the lease back before it noticed.
func TestALapsedLeaseIsNotTakenUpWhereItWas(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	tp := starferry.TopicPartition{Topic: topic}
	var frozen atomic.Int64
	s := w.shard("s", t.TempDir(), func(c *ShardConfig) {
		c.clock = func() time.Duration { return bootTime() + time.Duration(frozen.Load()) }
	})
	w.link(topic)
	w.put(topic, 0, numbered(0, 5)...)
	w.caughtUp()
	before := w.producerOf(s, tp)
	frozen.Store(int64(24 * time.Hour))
	require.False(t, s.lease.Valid())
	w.put(topic, 0, numbered(5, 5)...)
	require.Eventually(t, func() bool { p := w.producerOf(s, tp); return p.ID >= 0 && p != before }, patience, 5*time.Millisecond)
	w.everythingIsThere(topic, 1)
}

// A renewal that comes after the end does not make the old rights valid again.
func TestARenewalAfterTheEndIsANewLease(t *testing.T) {
	w := newWorld(t)
	st, err := openStore(t.Context(), w.nc, testTTL)
	require.NoError(t, err)
	now := time.Duration(0)
	l := &lease{kv: st.shards, id: "s", boot: "b", ttl: testTTL, now: func() time.Duration { return now }}
	require.NoError(t, l.renew(t.Context()))
	require.True(t, l.Valid())
	now += testTTL / 2
	require.NoError(t, l.renew(t.Context()))
	require.True(t, l.Valid(), "renewed in time")
	now += 24 * time.Hour
	require.NoError(t, l.renew(t.Context()))
	require.False(t, l.Valid(), "what was fenced a day ago would write again")
	l.resume()
	require.True(t, l.Valid())
}

// Owners renew their transactional ids under traffic: they keep the id, and
// nothing is lost or doubled. On real brokers the lanes do not even notice.
func TestRenewalUnderTraffic(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(2, nil)
	tp := starferry.TopicPartition{Topic: topic}
	s := w.shard("s", t.TempDir(), func(c *ShardConfig) { c.renew = 150 * time.Millisecond })
	w.link(topic)
	stop := w.traffic(topic, 2)
	seen, signs := map[wire.Producer]bool{}, map[int64]bool{}
	c, _ := s.link(w.name())
	n := c.spec.BucketOf(tp)
	require.Eventually(t, func() bool {
		if p := w.producerOf(s, tp); p.ID >= 0 {
			seen[p] = true
		}
		_, own := c.state.PIDs(w.name(), n)
		signs[c.state.LastSign(w.name(), own)] = true
		return len(signs) >= 5 && len(seen) > 0
	}, patience, 5*time.Millisecond)
	require.NoError(t, s.Close())
	ids := map[int64]bool{}
	for p := range seen {
		ids[p.ID] = true
	}
	require.Len(t, ids, 1, "renewing keeps the id")
	if kafkatest.Real() { // a fake's leaders learn of the new epoch at once
		require.Len(t, seen, 1, "the lane was fenced by a renewal")
	}
	stop()
	w.shard("s", t.TempDir())
	w.everythingIsThere(topic, 2)
}

// An id that comes unasked fences nothing: the old one is waited out.
func TestAForgottenIDIsWaitedOut(t *testing.T) {
	w, _, tgt := faulty(t)
	topic := w.topic(1, nil)
	tp := starferry.TopicPartition{Topic: topic}
	w.put(topic, 0, numbered(0, 5)...)
	s := w.shard("s", t.TempDir())
	w.link(topic)
	w.caughtUp()
	old := w.producerOf(s, tp)
	require.NoError(t, s.Close())
	w.put(topic, 0, numbered(5, 5)...)
	w.forgetIDs(tgt)
	const left = 700 * time.Millisecond
	began := time.Now()
	s = w.shard("s", t.TempDir(), func(c *ShardConfig) { c.UnfencedWait = left })
	require.Eventually(t, func() bool { return w.producerOf(s, tp).ID >= 0 }, patience, 5*time.Millisecond)
	require.NotEqual(t, old.ID, w.producerOf(s, tp).ID, "the fake did not forget: the test is void")
	require.GreaterOrEqual(t, time.Since(began), left)
	w.everythingIsThere(topic, 1)
}

// forgetIDs makes the coordinator forget the transactional ids it knows, as
// after transactional.id.expiration.ms: requests name other ones from now on.
func (w *world) forgetIDs(c *kfake.Cluster) {
	rename := func(id *string) { *id = "after." + *id }
	for _, key := range []kmsg.Key{kmsg.InitProducerID, kmsg.AddPartitionsToTxn, kmsg.EndTxn, kmsg.FindCoordinator} {
		c.ControlKey(int16(key), func(req kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			switch r := req.(type) {
			case *kmsg.InitProducerIDRequest:
				rename(r.TransactionalID)
			case *kmsg.AddPartitionsToTxnRequest:
				rename(&r.TransactionalID)
			case *kmsg.EndTxnRequest:
				rename(&r.TransactionalID)
			case *kmsg.FindCoordinatorRequest:
				if r.CoordinatorType == 1 {
					rename(&r.CoordinatorKey)
				}
			}
			return nil, nil, false
		})
	}
}

// A link that is made again with another number of buckets shuts out whoever
// wrote its lanes under the old ones.
func TestAnotherNumberOfBucketsFencesToo(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(4, nil)
	for p := range starferry.Partition(4) {
		w.put(topic, p, numbered(0, 5)...)
	}
	s := w.shard("s", t.TempDir())
	w.link(topic) // 4 buckets
	w.caughtUp()
	olds := map[starferry.Partition]wire.Producer{}
	for p := range starferry.Partition(4) {
		olds[p] = w.producerOf(s, starferry.TopicPartition{Topic: topic, Partition: p})
	}
	require.NoError(t, w.client.Stop(t.Context(), w.name()))
	require.NoError(t, s.Close())
	w.shard("s", t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := w.client.Ensure(ctx, LinkSpec{Name: w.name(), Source: w.src.Name, Target: w.tgt.Name, Topics: []starferry.Topic{topic}, Buckets: 3})
	require.NoError(t, err)
	w.caughtUp()
	tgt := kafkatest.Open(t, w.tgt)
	for p, old := range olds {
		late := kafkatest.Batch(numbered(900, 1), old, 5, false)
		_, err := kafkatest.ProduceBatch(tgt, starferry.TopicPartition{Topic: topic, Partition: p}, "", late)
		require.ErrorIs(t, err, kafka.InvalidProducerEpoch, "partition %d", p)
	}
	w.everythingIsThere(topic, 4)
}
