package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/kafkatest"
)

func TestMain(m *testing.M) { kafkatest.Main(m) }

const patience = 20 * time.Second

// estate is two clusters with one topic on both and a group that reads it.
type estate struct {
	t        *testing.T
	old, new starferry.Cluster
	topic    starferry.Topic
	group    starferry.Group
	seen     *ledger
}

func newEstate(t *testing.T, partitions int) *estate {
	t.Helper()
	old, target := kafkatest.Pair(t)
	e := &estate{t: t, old: old, new: target, group: kafkatest.Group(t), seen: newLedger()}
	e.topic = kafkatest.Topic(t, old, partitions, nil)
	kafkatest.MakeTopic(t, target, e.topic, partitions, nil)
	return e
}

func (e *estate) tp(p int) starferry.TopicPartition {
	return starferry.TopicPartition{Topic: e.topic, Partition: starferry.Partition(p)}
}

func (e *estate) config(name string) consumer.Config {
	return consumer.Config{
		Group: e.group, Topics: []starferry.Topic{e.topic}, Clusters: []starferry.Cluster{e.old, e.new}, Home: e.old.Name,
		Instance: starferry.InstanceID(name), Start: consumer.Earliest, CommitInterval: 20 * time.Millisecond,
		SessionTimeout: 6 * time.Second, HeartbeatInterval: 100 * time.Millisecond, Logger: logger(name),
	}
}

func logger(name string) *slog.Logger {
	if os.Getenv("STARFERRY_TEST_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("i", name)
}

// open starts an instance that writes down what it handles.
func (e *estate) open(name string, change ...func(*consumer.Config)) *consumer.Consumer {
	e.t.Helper()
	cfg := e.config(name)
	for _, f := range change {
		f(&cfg)
	}
	c, err := consumer.Open(context.Background(), cfg, e.seen.handle(name))
	require.NoError(e.t, err)
	e.t.Cleanup(func() { closeIn(e.t, c) })
	return c
}

func closeIn(t *testing.T, c *consumer.Consumer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, c.Close(ctx))
}

// produce writes n records to a partition of every cluster given.
func (e *estate) produce(p, n int, to ...starferry.Cluster) {
	e.t.Helper()
	from := e.seen.produced(e.tp(p), n)
	var recs []kafka.Message
	for i := range n {
		recs = append(recs, kafka.Message{Key: fmt.Appendf(nil, "k%d", i%3), Value: fmt.Appendf(nil, "%d/%d", p, from+i)})
	}
	for _, c := range to {
		kafkatest.Produce(e.t, c, e.topic, starferry.Partition(p), recs...)
	}
}

// ledger writes down which record was handled by whom.
type ledger struct {
	mu    sync.Mutex
	wrote map[starferry.TopicPartition]int
	times map[string]int    // by value
	who   map[string]string // by value
	order map[starferry.TopicPartition][]string
	block map[string]chan struct{} // values whose handler waits
	fail  map[string]bool          // values whose handler fails
	moved func(consumer.Record)
}

func newLedger() *ledger {
	return &ledger{
		wrote: map[starferry.TopicPartition]int{}, times: map[string]int{}, who: map[string]string{},
		order: map[starferry.TopicPartition][]string{}, block: map[string]chan struct{}{}, fail: map[string]bool{},
	}
}

func (l *ledger) produced(tp starferry.TopicPartition, n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := l.wrote[tp]
	l.wrote[tp] += n
	return from
}

func (l *ledger) handle(name string) consumer.Handler {
	return func(ctx context.Context, r consumer.Record) error {
		v := string(r.Value)
		l.mu.Lock()
		wait, fail := l.block[v], l.fail[v]
		l.mu.Unlock()
		if wait != nil {
			select {
			case <-wait:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if fail {
			return errors.New("no luck with " + v)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.times[v]++
		l.who[v] = name
		l.order[r.TopicPartition()] = append(l.order[r.TopicPartition()], v)
		if l.moved != nil {
			l.moved(r)
		}
		return nil
	}
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.times)
}

func (l *ledger) total() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.times {
		n += k
	}
	return n
}

func (l *ledger) handledBy(name string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.who {
		if w == name {
			n++
		}
	}
	return n
}

// settled waits until n different records were handled, and checks that none
// was handled twice and each partition in order.
func (e *estate) settled(n int) {
	e.t.Helper()
	require.Eventually(e.t, func() bool { return e.seen.count() >= n }, patience, 5*time.Millisecond, "handled %d of %d", e.seen.count(), n)
	e.seen.mu.Lock()
	defer e.seen.mu.Unlock()
	require.Len(e.t, e.seen.times, n)
	for v, k := range e.seen.times {
		require.Equal(e.t, 1, k, "record %s was handled %d times", v, k)
	}
	for tp, order := range e.seen.order {
		for i, v := range order {
			require.Equal(e.t, fmt.Sprintf("%d/%d", tp.Partition, i), v, "order of %s", tp)
		}
	}
}

func TestOneInstanceHandlesEverythingOnceAndInOrder(t *testing.T) {
	e := newEstate(t, 4)
	for p := range 4 {
		e.produce(p, 50, e.old)
	}
	e.open("a")
	e.settled(200)
	for p := range 4 {
		e.produce(p, 50, e.old)
	}
	e.settled(400)
}

func TestTwoInstancesShareAGroupAndHandOverWhenOneLeaves(t *testing.T) {
	e := newEstate(t, 4)
	e.open("a")
	for p := range 4 {
		e.produce(p, 20, e.old)
	}
	e.settled(80)
	b := e.open("b")
	total := 80
	require.Eventually(t, func() bool {
		for p := range 4 {
			e.produce(p, 1, e.old)
		}
		total += 4
		return e.seen.handledBy("b") > 0
	}, patience, 10*time.Millisecond, "b never got a partition")
	e.settled(total)
	closeIn(t, b)
	for p := range 4 {
		e.produce(p, 20, e.old)
	}
	e.settled(total + 80)
}

func TestAnInstanceResumesFromItsCommits(t *testing.T) {
	e := newEstate(t, 2)
	e.produce(0, 30, e.old)
	a := e.open("a")
	e.settled(30)
	closeIn(t, a)
	e.produce(0, 30, e.old)
	e.open("a")
	e.settled(60)
}

func TestAKillRepeatsOnlyWhatWasHandedOutAndNotCommitted(t *testing.T) {
	e := newEstate(t, 1)
	cfg := func(c *consumer.Config) { c.CommitInterval = time.Hour; c.SessionTimeout = 6 * time.Second }
	e.produce(0, 10, e.old)
	a := e.open("a", func(c *consumer.Config) { c.CommitInterval = 5 * time.Millisecond })
	e.settled(10)
	w := kafkatest.Open(t, e.old)
	require.Eventually(t, func() bool {
		got, err := w.Committed(context.Background(), e.group, nil)
		return err == nil && got[e.tp(0)].Offset == 10
	}, patience, 5*time.Millisecond)
	closeIn(t, a)
	a = e.open("a", cfg) // commits nothing more by itself
	e.produce(0, 10, e.old)
	e.settled(20)
	a.Kill()
	e.open("b")
	require.Eventually(t, func() bool { return e.seen.total() == 30 }, patience, 10*time.Millisecond)
	e.seen.mu.Lock()
	defer e.seen.mu.Unlock()
	for i := range 20 {
		want := 1
		if i >= 10 {
			want = 2
		}
		require.Equal(t, want, e.seen.times[fmt.Sprintf("0/%d", i)], "record %d", i)
	}
}

func TestAPartitionWithoutACommitIsRefusedUnlessThePolicySaysWhere(t *testing.T) {
	e := newEstate(t, 1)
	e.produce(0, 5, e.old)
	refused := e.open("a", func(c *consumer.Config) { c.Start = consumer.Refuse })
	w := kafkatest.Open(t, e.old)
	require.Eventually(t, func() bool {
		d, err := w.DescribeGroup(context.Background(), e.group)
		return err == nil && d.State == "Stable"
	}, patience, 5*time.Millisecond)
	require.Never(t, func() bool { return e.seen.count() > 0 }, 300*time.Millisecond, 20*time.Millisecond)
	closeIn(t, refused)
	e.open("a")
	e.settled(5)
}

func TestAFailedRecordIsHandedOutAgainAndHoldsItsPartition(t *testing.T) {
	e := newEstate(t, 2)
	e.seen.fail["0/1"] = true
	e.produce(0, 3, e.old)
	e.produce(1, 3, e.old)
	e.open("a", func(c *consumer.Config) { c.RetryMin, c.RetryMax = time.Millisecond, 5*time.Millisecond })
	require.Eventually(t, func() bool { return e.seen.count() == 4 }, patience, 5*time.Millisecond)
	e.seen.mu.Lock()
	delete(e.seen.fail, "0/1")
	e.seen.mu.Unlock()
	e.settled(6)
}

func TestAbortedTransactionsAreInvisible(t *testing.T) {
	e := newEstate(t, 1)
	e.produce(0, 3, e.old)
	kafkatest.ProduceTxn(t, e.old, e.topic, 0, false, kafka.Message{Value: []byte("aborted")})
	kafkatest.ProduceTxn(t, e.old, e.topic, 0, true, kafka.Message{Value: []byte("0/3")})
	e.seen.produced(e.tp(0), 1)
	e.produce(0, 2, e.old)
	e.open("a")
	e.settled(6)
}

func TestOpenNamesWhatIsWrong(t *testing.T) {
	for name, cfg := range map[string]struct {
		cfg  consumer.Config
		want string
	}{
		"nothing":  {consumer.Config{}, "group is empty"},
		"home":     {consumer.Config{Group: "g", Topics: []starferry.Topic{"t"}, Clusters: []starferry.Cluster{{Name: "a", Brokers: []string{"x:1"}}}, Home: "b"}, `home "b" is none of the clusters`},
		"interval": {consumer.Config{Group: "g", SessionTimeout: time.Second, HeartbeatInterval: time.Second}, "heartbeat interval"},
	} {
		_, err := consumer.Open(context.Background(), cfg.cfg, func(context.Context, consumer.Record) error { return nil })
		require.ErrorContains(t, err, cfg.want, name)
	}
}
