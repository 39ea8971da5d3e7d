package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/segmentio/kafka-go"
	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { kafkatest.Main(m) }

const patience = 30 * time.Second

// world is two clusters with an ideal copy between them, NATS, a group that
// reads, and traffic.
type world struct {
	t          *testing.T
	old, new   starferry.Cluster
	oldW, newW *wire.Cluster
	topic      starferry.Topic
	partitions int
	group      starferry.Group
	nc         *nats.Conn
	store      *desired.Store
	fleet      *fleet.Fleet

	mu      sync.Mutex
	handled map[string]int // by value
	on      map[starferry.ClusterName]int
	wrote   int
	hold    func(value string) <-chan struct{} // whose handler waits, for what
}

func newWorld(t *testing.T, partitions int) *world {
	source, target := kafkatest.Pair(t)
	return newWorldOn(t, source, target, partitions)
}

func newWorldOn(t *testing.T, source, target starferry.Cluster, partitions int) *world {
	w := &world{t: t, old: source, new: target, partitions: partitions, handled: map[string]int{}, on: map[starferry.ClusterName]int{}}
	w.oldW, w.newW = kafkatest.Open(t, w.old), kafkatest.Open(t, w.new)
	w.topic = kafkatest.Topic(t, w.old, partitions, nil)
	kafkatest.MakeTopic(t, w.new, w.topic, partitions, nil)
	w.group = kafkatest.Group(t)
	w.nc, _ = kafkatest.NATS(t)
	var err error
	w.store, err = desired.Open(t.Context(), w.nc, desired.Options{})
	require.NoError(t, err)
	w.fleet, err = fleet.Open(fleet.Config{
		Clusters: map[starferry.ClusterName]*wire.Cluster{w.old.Name: w.oldW, w.new.Name: w.newW},
		Store:    w.store, Copies: ideal{w}, Logger: logger("agent"),
	})
	require.NoError(t, err)
	return w
}

func logger(name string) *slog.Logger {
	if os.Getenv("STARFERRY_TEST_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("who", name)
}

func (w *world) tp(p int) starferry.TopicPartition {
	return starferry.TopicPartition{Topic: w.topic, Partition: starferry.Partition(p)}
}

// instance starts an instance of the group.
func (w *world) instance(name string) *consumer.Consumer {
	c, err := consumer.Open(w.t.Context(), consumer.Config{
		Group: w.group, Topics: []starferry.Topic{w.topic}, Clusters: []starferry.Cluster{w.old, w.new}, Home: w.old.Name,
		NATS: w.nc, Instance: starferry.InstanceID(name), Start: consumer.Earliest, CommitInterval: 20 * time.Millisecond,
		SessionTimeout: 6 * time.Second, HeartbeatInterval: 100 * time.Millisecond, Logger: logger(name),
	}, w.handle)
	require.NoError(w.t, err)
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(w.t, c.Close(ctx))
	})
	return c
}

func (w *world) seen() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.handled)
}

func (w *world) handle(ctx context.Context, r consumer.Record) error {
	if w.hold != nil {
		if c := w.hold(string(r.Value)); c != nil {
			select {
			case <-c:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handled[string(r.Value)]++
	w.on[r.Cluster]++
	return nil
}

// produce writes one record to every partition of both clusters.
func (w *world) produce() {
	n := w.wrote
	w.wrote++
	for p := range w.partitions {
		batch := kafkatest.Batch([]kafka.Message{{Value: fmt.Appendf(nil, "%d/%d", p, n)}}, wire.Producer{ID: -1, Epoch: -1}, -1, false)
		for _, c := range []*wire.Cluster{w.oldW, w.newW} {
			w.write(c, w.tp(p), batch)
		}
	}
}

// write produces a batch; a new topic's leader may still be finding itself.
func (w *world) write(c *wire.Cluster, tp starferry.TopicPartition, batch []byte) {
	try := func() bool {
		_, err := kafkatest.ProduceBatch(c, tp, "", batch)
		if errors.Is(err, kafka.NotLeaderForPartition) {
			c.Forget(tp.Topic)
			return false
		}
		require.NoError(w.t, err)
		return true
	}
	if !try() {
		require.Eventually(w.t, try, patience, 10*time.Millisecond)
	}
}

// traffic produces until the returned function is called.
func (w *world) traffic() (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				w.produce()
			}
		}
	}()
	return func() { close(quit); <-done }
}

// settled waits until every record was handled, and tells how many of them more
// than once.
func (w *world) settled() (lost, twice int) {
	count := func() (lost, twice int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		lost = w.wrote * w.partitions
		for _, n := range w.handled {
			lost--
			if n > 1 {
				twice++
			}
		}
		return lost, twice
	}
	require.Eventually(w.t, func() bool { l, _ := count(); return l == 0 }, patience, 10*time.Millisecond, "records are lost")
	return count()
}

func (w *world) handledOn(c starferry.Cluster) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.on[c.Name]
}

// ideal is a copy with the same offsets on both sides.
type ideal struct{ w *world }

func (i ideal) Ends(context.Context, starferry.LinkName) (source, target starferry.ClusterName, err error) {
	return i.w.old.Name, i.w.new.Name, nil
}

func (i ideal) Opposite(context.Context, starferry.LinkName, ...starferry.Topic) (starferry.LinkName, error) {
	return "", nil
}

func (i ideal) Health(ctx context.Context, _ starferry.LinkName, topics []starferry.Topic) (fleet.Health, error) {
	h := fleet.Health{Lag: map[starferry.TopicPartition]int64{}}
	for _, t := range topics {
		if t == i.w.topic {
			for p := range i.w.partitions {
				h.Lag[i.w.tp(p)] = 0
			}
		}
	}
	return h, nil
}

func (i ideal) Passed(ctx context.Context, l starferry.LinkName, ends map[starferry.TopicPartition]starferry.Offset, wait time.Duration) (map[starferry.TopicPartition]int64, error) {
	cut := starferry.Cut{}
	for tp, end := range ends {
		cut[tp] = starferry.Place{Next: end}
	}
	t, err := i.Translate(ctx, l, starferry.Forward, cut, wait)
	return t.Behind, err
}

func (i ideal) Translate(ctx context.Context, _ starferry.LinkName, d starferry.Direction, cut starferry.Cut, wait time.Duration) (starferry.Translation, error) {
	to := i.w.newW
	if d == starferry.Back {
		to = i.w.oldW
	}
	deadline := time.Now().Add(wait)
	t := starferry.Translation{Cut: cut, Answers: map[starferry.TopicPartition]starferry.Answer{}}
	for {
		ends, err := to.Offsets(ctx, cut.Partitions(), wire.Latest)
		if err != nil {
			return t, err
		}
		t.Behind = map[starferry.TopicPartition]int64{}
		for tp, p := range cut {
			t.Answers[tp] = starferry.Answer{Offset: p.Next, Status: starferry.Exact}
			if ends[tp] < p.Next {
				t.Behind[tp] = int64(p.Next - ends[tp])
			}
		}
		if len(t.Behind) == 0 || !time.Now().Before(deadline) {
			return t, nil
		}
	}
}
