package replication

import (
	"cmp"
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
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

func TestMain(m *testing.M) { kafkatest.Main(m) }

const patience = 20 * time.Second

// world is a pair of clusters with shards between them.
type world struct {
	t        *testing.T
	src, tgt starferry.Cluster
	nc       *nats.Conn
	client   *Client
	asks     LinkSpec // what ensure asks for beside topics
	suffix   string   // of the link's name
	log      *slog.Logger

	once sync.Once
	wire *wire.Cluster // the source's, once put has opened it
}

func newWorld(t *testing.T) *world {
	src, tgt := kafkatest.Pair(t)
	return worldOf(t, src, tgt)
}

func worldOf(t *testing.T, src, tgt starferry.Cluster) *world {
	nc, _ := kafkatest.NATS(t)
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("STARFERRY_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	w := &world{t: t, src: src, tgt: tgt, nc: nc, log: log}
	w.client = NewClient(nc, w.clusters(), log)
	w.client.leaseTTL = testTTL
	t.Cleanup(func() { _ = w.client.Close() })
	return w
}

const testTTL = 1500 * time.Millisecond

func (w *world) clusters() map[starferry.ClusterName]starferry.Cluster {
	return map[starferry.ClusterName]starferry.Cluster{w.src.Name: w.src, w.tgt.Name: w.tgt}
}

// shard starts a shard in a directory, which lives until the test ends.
func (w *world) shard(id ShardID, dir string, change ...func(*ShardConfig)) *Shard {
	cfg := ShardConfig{ID: id, Clusters: w.clusters(), NATS: w.nc, Dir: dir, Logger: w.log, LeaseTTL: testTTL}
	for _, f := range change {
		f(&cfg)
	}
	s, err := OpenShard(context.Background(), cfg)
	require.NoError(w.t, err)
	s.budget.spoil.Store(true)
	w.t.Cleanup(func() { _ = s.Close() })
	return s
}

// link ensures a link of the topics with few buckets.
func (w *world) link(topics ...starferry.Topic) Ensured {
	e, err := w.ensure(topics...)
	require.NoError(w.t, err)
	return e
}

func (w *world) ensure(topics ...starferry.Topic) (Ensured, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	spec := w.asks
	spec.Name, spec.Source, spec.Target, spec.Topics = w.name(), w.src.Name, w.tgt.Name, topics
	spec.Buckets, spec.Token = cmp.Or(spec.Buckets, 4), cmp.Or(spec.Token, "t1")
	return w.client.Ensure(ctx, spec)
}

// name is the link's: unique where clusters are shared by tests.
func (w *world) name() starferry.LinkName {
	name := []byte(w.t.Name() + w.suffix)
	for i, b := range name {
		if !(b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9') {
			name[i] = '-'
		}
	}
	return starferry.LinkName(name[max(0, len(name)-60):])
}

func (w *world) status() LinkStatus {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := w.client.Status(ctx, w.name())
	require.NoError(w.t, err)
	return s
}

// caughtUpTo waits until n offsets of each lane of a topic are copied.
func (w *world) caughtUpTo(topic starferry.Topic, n starferry.Offset) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		s := w.status()
		for _, l := range s.Lanes {
			if l.Partition.Topic == topic && l.SourceNext < n {
				return false
			}
		}
		return len(s.Lanes) > 0
	}, patience, tick)
}

const tick = 10 * time.Millisecond

// caughtUp waits until no lane lags.
func (w *world) caughtUp() LinkStatus {
	w.t.Helper()
	var last LinkStatus
	ok := func() bool {
		last = w.status()
		for _, l := range last.Lanes {
			if l.Lag != 0 || l.State != Copying {
				return false
			}
		}
		return len(last.Lanes) > 0
	}
	for end := time.Now().Add(patience); !ok(); {
		require.True(w.t, time.Now().Before(end), "not caught up: %+v", last.Lanes)
		_ = wait(context.Background(), 20*time.Millisecond)
	}
	return last
}

func (w *world) translate(d starferry.Direction, cut starferry.Cut) starferry.Translation {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	t, err := w.client.TranslateWithin(ctx, w.name(), d, cut, 10*time.Second)
	require.NoError(w.t, err)
	require.Empty(w.t, t.Missing)
	return t
}

// sameRecords demands that the target has the wanted records, in order, byte
// for byte, and nothing else. It returns them.
func (w *world) sameRecords(topic starferry.Topic, p starferry.Partition, want []kafka.Message) []kafka.Message {
	w.t.Helper()
	got := kafkatest.Records(w.t, w.tgt, topic, p)
	require.Equal(w.t, texts(want), texts(got), "records of %s/%d", topic, p)
	return got
}

func texts(ms []kafka.Message) []string {
	out := make([]string, len(ms))
	for i, m := range ms {
		out[i] = fmt.Sprintf("%q=%q %d %v", m.Key, m.Value, m.Time.UnixMilli(), m.Headers)
	}
	return out
}

// exactMap demands that the map gives each source record the place of its copy,
// in both directions. Pairs are in order.
func (w *world) exactMap(topic starferry.Topic, p starferry.Partition, source, target []kafka.Message) {
	w.t.Helper()
	require.Len(w.t, target, len(source))
	tp := starferry.TopicPartition{Topic: topic, Partition: p}
	copied := w.asks.targetPart(tp)
	step := max(1, len(source)/50)
	for i := 0; i < len(source); i += step {
		from, to := starferry.Offset(source[i].Offset), starferry.Offset(target[i].Offset)
		f := w.translate(starferry.Forward, starferry.Cut{tp: {Next: from}})
		require.Equal(w.t, starferry.Answer{Offset: to, Status: starferry.Exact}, f.Answers[tp], "forward %d", from)
		require.Equal(w.t, to, f.Cut[copied].Next)
		b := w.translate(starferry.Back, starferry.Cut{copied: {Next: to}})
		require.Equal(w.t, starferry.Answer{Offset: from, Status: starferry.Exact}, b.Answers[copied], "back %d", to)
		require.Equal(w.t, from, b.Cut[tp].Next)
	}
}

func (w *world) topic(partitions int, configs map[string]string) starferry.Topic {
	t := kafkatest.Topic(w.t, w.src, partitions, configs)
	w.t.Cleanup(func() {
		c, err := wire.Open(w.tgt)
		if err == nil {
			_ = c.DeleteTopics(context.Background(), t)
			_ = c.Close()
		}
	})
	return t
}

// put writes records to the source as one batch. A leader that has moved has
// written nothing, so it is asked again; every other error fails the test.
func (w *world) put(topic starferry.Topic, p starferry.Partition, records ...kafka.Message) {
	w.once.Do(func() { w.wire = kafkatest.Open(w.t, w.src) })
	tp := starferry.TopicPartition{Topic: topic, Partition: p}
	b := kafkatest.Batch(records, wire.Producer{ID: -1, Epoch: -1}, -1, false)
	for end := time.Now().Add(patience); ; {
		_, err := kafkatest.ProduceBatch(w.wire, tp, "", b)
		if !errors.Is(err, kafka.NotLeaderForPartition) && !errors.Is(err, kafka.UnknownTopicOrPartition) || time.Now().After(end) {
			require.NoError(w.t, err)
			return
		}
		w.wire.Forget(topic)
		_ = wait(context.Background(), 10*time.Millisecond)
	}
}
