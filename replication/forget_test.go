package replication

import (
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/chaos/proxy"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

// What the rules of resending rest on, asked of a real broker: a leader forgets
// a producer by the times of its records, not of their arrival, and then takes
// any sequence; so a batch of old records that is sent twice may stand twice.
func TestLeadersForgetProducersOfOldRecords(t *testing.T) {
	if !kafkatest.Real() {
		t.Skip("a fake never forgets a producer; make test-kafka runs this on real brokers")
	}
	b := kafkatest.RealBroker(t, map[string]string{"producer.id.expiration.check.interval.ms": "100"})
	c := starferry.Cluster{Name: "new", Brokers: []string{b.Addr}}
	w := kafkatest.Open(t, c)
	resend := func(ms []kafka.Message, pause time.Duration) (starferry.Offset, starferry.Offset) {
		tp := starferry.TopicPartition{Topic: kafkatest.Topic(t, c, 1, nil)}
		var p wire.Producer
		require.NoError(t, again(t.Context(), func() (err error) {
			p, err = w.InitProducer(t.Context(), "", time.Minute, wire.Producer{ID: -1, Epoch: -1})
			return err
		}))
		first, err := kafkatest.ProduceBatch(w, tp, "", kafkatest.Batch(ms, p, 0, false))
		require.NoError(t, err)
		require.NoError(t, wait(t.Context(), pause))
		second, err := kafkatest.ProduceBatch(w, tp, "", kafkatest.Batch(ms, p, 0, false))
		require.NoError(t, err)
		return first, second
	}
	young := numbered(0, 3)
	for i := range young {
		young[i].Time = time.Now()
	}
	first, second := resend(young, time.Second)
	require.Equal(t, first, second, "a duplicate is told its place")
	first, second = resend(numbered(0, 3), time.Second)
	require.NotEqual(t, first, second, "the rule may be relaxed: leaders no longer go by the records' times")
}

// behindAProxy is a world whose target is a real broker of this test alone,
// reached through a proxy.
func behindAProxy(t *testing.T, props map[string]string) (*world, *proxy.Proxy) {
	if !kafkatest.Real() {
		t.Skip("a fake never forgets a producer; make test-kafka runs this on real brokers")
	}
	src, _ := kafkatest.Pair(t)
	b := kafkatest.RealBroker(t, props)
	p, err := proxy.Open(b.Addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.Close() })
	addr, err := p.Address(b.Addr)
	require.NoError(t, err)
	return worldOf(t, src, starferry.Cluster{Name: "new", Brokers: []string{addr}}), p
}

// The answer for a batch of old records is lost, and the leader forgets the
// producer before the batch could be sent again: it stands once all the same.
func TestABatchIsNotSentAgainToALeaderThatForgot(t *testing.T) {
	w, p := behindAProxy(t, map[string]string{"producer.id.expiration.check.interval.ms": "20"})
	topic := w.topic(2, nil)
	w.shard("s", t.TempDir())
	w.link(topic)
	w.put(topic, 0, numbered(0, 3)...)
	w.caughtUp()
	for round := 1; round <= 3; round++ {
		lost := p.Play(proxy.Trick{Key: kmsg.Produce, Deed: proxy.LoseAnswer})
		w.put(topic, 0, numbered(3*round, 3)...)
		require.Eventually(t, func() bool { return lost.Done() == 1 }, patience, tick)
		p.Set(proxy.Weather{Refused: true})
		p.Cut()
		require.NoError(t, wait(t.Context(), 500*time.Millisecond)) // while the leader forgets
		p.Set(proxy.Weather{})
		w.caughtUp()
	}
	w.everythingIsThere(topic, 2)
}

// Leaders that forget a producer after a second, and coordinators that forget
// its id after three: an idle lane goes on, and so does a busy one.
func TestBothExpirationsInSeconds(t *testing.T) {
	w, _ := behindAProxy(t, map[string]string{
		"producer.id.expiration.ms": "1000", "producer.id.expiration.check.interval.ms": "100",
		"transactional.id.expiration.ms": "3000", "transaction.remove.expired.transaction.cleanup.interval.ms": "200",
	})
	topic := w.topic(4, nil)
	s := w.shard("s", t.TempDir())
	w.link(topic)
	n := 0
	put := func() {
		for p := range starferry.Partition(3) {
			w.put(topic, p, numbered(n, 3)...)
		}
		n += 3
	}
	put()
	w.caughtUp()
	tp := starferry.TopicPartition{Topic: topic}
	was := w.producerOf(s, tp)
	require.NoError(t, wait(t.Context(), 5*time.Second)) // everything is forgotten that is not renewed
	put()
	w.caughtUp()
	require.Equal(t, was.ID, w.producerOf(s, tp).ID, "the id was not renewed in time")
	require.NoError(t, s.Close())
	require.NoError(t, wait(t.Context(), 5*time.Second)) // the id is forgotten while nobody owns it
	put()
	s = w.shard("s", t.TempDir(), func(c *ShardConfig) { c.UnfencedWait = 500 * time.Millisecond })
	w.caughtUp()
	require.NotEqual(t, was.ID, w.producerOf(s, tp).ID, "the id was not forgotten: the test is void")
	w.everythingIsThere(topic, 4)
}
