package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/kafkatest"
)

func headers(hs []kafka.Header) map[string]string {
	out := map[string]string{}
	for _, h := range hs {
		out[h.Key] = string(h.Value)
	}
	return out
}

// A record that keeps failing goes to the dead-letter topic as it is, with where
// it came from and why, and its partition goes on.
func TestWhatIsGivenUpIsKept(t *testing.T) {
	e := newEstate(t, 1)
	dead := kafkatest.Topic(t, e.old, 1, nil)
	e.seen.fail["0/1"] = true
	e.produce(0, 4, e.old)
	e.open("a", func(c *consumer.Config) {
		c.RetryMin, c.RetryMax = time.Millisecond, time.Millisecond
		c.Failure = consumer.Failure{Attempts: 3, DeadLetter: dead}
	})
	e.committed(e.old, 0, 4)
	got := kafkatest.Records(t, e.old, dead, 0)
	require.Len(t, got, 1)
	require.Equal(t, "0/1", string(got[0].Value))
	require.Equal(t, "k1", string(got[0].Key))
	h := headers(got[0].Headers)
	require.Equal(t, string(e.topic), h["starferry.topic"])
	require.Equal(t, "0", h["starferry.partition"])
	require.Equal(t, "1", h["starferry.offset"])
	require.Equal(t, string(e.group), h["starferry.group"])
	require.Equal(t, "3", h["starferry.attempts"])
	require.Equal(t, "no luck with 0/1", h["starferry.error"])
	require.Equal(t, 3, e.seen.count())
}

// Without its topic nothing is given up: the record waits, and goes there when
// the topic is made.
func TestNothingIsDroppedForWantOfATopic(t *testing.T) {
	e := newEstate(t, 1)
	dead := starferry.Topic(kafkatest.Group(t) + "-dead")
	e.seen.fail["0/1"] = true
	e.produce(0, 3, e.old)
	e.open("a", func(c *consumer.Config) {
		c.RetryMin, c.RetryMax = time.Millisecond, 10*time.Millisecond
		c.Failure = consumer.Failure{Attempts: 1, DeadLetter: dead}
	})
	e.committed(e.old, 0, 1)
	require.Never(t, func() bool { return e.seen.count() > 1 }, 200*time.Millisecond, 20*time.Millisecond)
	kafkatest.MakeTopic(t, e.old, dead, 1, nil)
	e.committed(e.old, 0, 3)
	require.Len(t, kafkatest.Records(t, e.old, dead, 0), 1)
}

// A record goes through the retry topics, each after its pause, and handlers
// see it as it was first.
func TestRetriesInTopicsOfTheirOwn(t *testing.T) {
	e := newEstate(t, 2)
	retry, dead := kafkatest.Topic(t, e.old, 2, nil), kafkatest.Topic(t, e.old, 1, nil)
	const pause = 300 * time.Millisecond
	var mu sync.Mutex
	var seen []consumer.Record
	var when []time.Time
	handler := func(_ context.Context, r consumer.Record) error {
		mu.Lock()
		defer mu.Unlock()
		if string(r.Value) != "1/2" {
			return nil
		}
		seen, when = append(seen, r), append(when, time.Now())
		return errors.New("still not")
	}
	cfg := e.config("a")
	cfg.RetryMin, cfg.RetryMax = time.Millisecond, time.Millisecond
	cfg.Failure = consumer.Failure{Attempts: 2, Retries: []consumer.Retry{{Topic: retry, After: pause}}, DeadLetter: dead}
	c, err := consumer.Open(context.Background(), cfg, handler)
	require.NoError(t, err)
	t.Cleanup(func() { closeIn(t, c) })
	e.produce(1, 5, e.old)
	e.committed(e.old, 1, 5)
	var got []kafka.Message
	require.Eventually(t, func() bool { got = kafkatest.Records(t, e.old, dead, 0); return len(got) == 1 }, patience, 20*time.Millisecond)
	require.Equal(t, "4", headers(got[0].Headers)["starferry.attempts"])
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, seen, 4)
	require.GreaterOrEqual(t, when[2].Sub(when[1]), pause-10*time.Millisecond)
	for i, r := range seen {
		require.Equal(t, e.tp(1), r.TopicPartition(), "hand-out %d", i)
		require.Equal(t, starferry.Offset(2), r.Offset)
		require.Empty(t, r.Headers)
		require.Equal(t, seen[0].Timestamp.UnixMilli(), r.Timestamp.UnixMilli())
		require.Equal(t, i/2*2, r.Attempts)
	}
}

// A batch that keeps failing is taken apart, so that only what fails alone is
// given up.
func TestABatchIsTakenApart(t *testing.T) {
	e := newEstate(t, 1)
	dead := kafkatest.Topic(t, e.old, 1, nil)
	e.produce(0, 10, e.old)
	var mu sync.Mutex
	handled := map[string]int{}
	cfg := e.config("a")
	cfg.RetryMin, cfg.RetryMax = time.Millisecond, time.Millisecond
	cfg.Failure = consumer.Failure{Attempts: 2, DeadLetter: dead}
	c, err := consumer.OpenBatches(context.Background(), cfg, func(_ context.Context, rs []consumer.Record) error {
		for _, r := range rs {
			if string(r.Value) == "0/7" {
				return fmt.Errorf("cannot read %s", r.Value)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		for _, r := range rs {
			handled[string(r.Value)]++
		}
		return nil
	})
	require.NoError(t, err)
	t.Cleanup(func() { closeIn(t, c) })
	e.committed(e.old, 0, 10)
	require.Len(t, kafkatest.Records(t, e.old, dead, 0), 1)
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, handled, 9)
	for v, n := range handled {
		require.Equal(t, 1, n, v)
	}
}

func TestAFailurePolicyThatCannotBe(t *testing.T) {
	base := consumer.Config{Group: "g", Topics: []starferry.Topic{"t"}, Clusters: []starferry.Cluster{{Name: "a", Brokers: []string{"x:1"}}}}
	for want, change := range map[string]func(*consumer.Config){
		"need Attempts":      func(c *consumer.Config) { c.Failure.DeadLetter = "dead" },
		"no place for what":  func(c *consumer.Config) { c.Failure.Attempts = 3 },
		`topic "t" is named`: func(c *consumer.Config) { c.Failure = consumer.Failure{Attempts: 1, DeadLetter: "t"} },
		"want a name and":    func(c *consumer.Config) { c.Failure = consumer.Failure{Attempts: 1, Retries: []consumer.Retry{{}}} },
		"parallelism 101":    func(c *consumer.Config) { c.Parallelism = 101 },
	} {
		cfg := base
		change(&cfg)
		_, err := consumer.Open(context.Background(), cfg, func(context.Context, consumer.Record) error { return nil })
		require.ErrorContains(t, err, want)
	}
	base.Parallelism = 2
	_, err := consumer.OpenBatches(context.Background(), base, func(context.Context, []consumer.Record) error { return nil })
	require.ErrorContains(t, err, "batches follow each other")
}
