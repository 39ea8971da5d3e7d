package house

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/producer"
	"github.com/starferry/starferry/internal/kafkatest"
)

// press writes numbered records of keys of its own, until it is stopped.
type press struct {
	h     *house
	name  string
	p     *producer.Producer
	topic starferry.Topic
	sent  map[string]int // of its goroutine until stop
	acked atomic.Int64
	fails atomic.Int64
	quit  chan struct{}
	done  sync.WaitGroup
}

func (h *house) press(name string, topic starferry.Topic) *press {
	h.t.Helper()
	p, err := producer.Open(h.t.Context(), producer.Config{
		Topics: []starferry.Topic{topic}, Clusters: []starferry.Cluster{h.old, h.new}, Home: h.old.Name, NATS: h.connect(),
		Instance: starferry.InstanceID(name), Logger: logger(name),
	})
	require.NoError(h.t, err)
	s := &press{h: h, name: name, p: p, topic: topic, sent: map[string]int{}, quit: make(chan struct{})}
	s.done.Go(s.run)
	h.t.Cleanup(s.stop)
	return s
}

func (s *press) run() {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-s.quit:
			return
		case <-tick.C:
		}
		key := fmt.Sprintf("%s-%d", s.name, i%5)
		r := producer.Record{Topic: s.topic, Key: []byte(key), Value: strconv.AppendInt(nil, int64(s.sent[key]+1), 10)}
		err := s.p.Send(s.h.t.Context(), r, func(r producer.Result) {
			if r.Err != nil {
				s.fails.Add(1)
				return
			}
			s.acked.Add(1)
		})
		if err == nil {
			s.sent[key]++
		}
	}
}

// stop ends it when all it has sent is acknowledged.
func (s *press) stop() {
	select {
	case <-s.quit:
		return
	default:
	}
	close(s.quit)
	s.done.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(s.h.t, s.p.Close(ctx))
}

// writesOn waits until it writes on a cluster, records that were acknowledged after that included.
func (s *press) writesOn(c starferry.Cluster) {
	s.h.t.Helper()
	require.Eventually(s.h.t, func() bool { return s.p.State().Lines[0].Home == c.Name }, patience, poll, "%s writes elsewhere", s.name)
	before := s.acked.Load()
	require.Eventually(s.h.t, func() bool { return s.acked.Load() > before+20 }, patience, poll, "%s writes nothing", s.name)
}

// inOrderOn asserts that a cluster holds every record once, those of each key in
// the order they were sent.
func (h *house) inOrderOn(c starferry.Cluster, topic starferry.Topic, partitions int, all ...*press) {
	h.t.Helper()
	want := map[string]int{}
	for _, s := range all {
		require.Zero(h.t, s.fails.Load())
		for k, n := range s.sent {
			want[k] = n
		}
	}
	var last map[string]int
	whole := func() bool { // the copy may still be on its way
		last = map[string]int{}
		for p := range partitions {
			for _, m := range kafkatest.Records(h.t, c, topic, starferry.Partition(p)) {
				n, err := strconv.Atoi(string(m.Value))
				require.NoError(h.t, err)
				require.Equal(h.t, last[string(m.Key)]+1, n, "key %s on %s: lost, doubled or out of order", m.Key, c.Name)
				last[string(m.Key)] = n
			}
		}
		for k, n := range want {
			if last[k] != n {
				return false
			}
		}
		return true
	}
	require.Eventually(h.t, whole, patience, 200*time.Millisecond, "not all records came to %s: want %v, have %v", c.Name, want, last)
}

// TestProducersMoveThereAndBack: two producers write while the shipped script
// moves them; one comes in when they have moved; a rollback brings all back. Both
// clusters hold all records of every key in the order they were sent.
func TestProducersMoveThereAndBack(t *testing.T) {
	h := build(t, "")
	h.agent()
	h.shards(1)
	topic := kafkatest.Topic(t, h.old, 3, nil)
	a, b := h.press("a", topic), h.press("b", topic)
	a.writesOn(h.old)
	b.writesOn(h.old)

	plan := h.starferry("plan", filepath.Join("..", "..", "scripts", "move_producers.star"),
		"-p", "topic="+string(topic), "-p", "source="+string(h.old.Name), "-p", "target="+string(h.new.Name))
	h.says(plan, 0, "move the producers of "+string(topic))
	moved := h.starferry("run", filepath.Join("..", "..", "scripts", "move_producers.star"),
		"-p", "topic="+string(topic), "-p", "source="+string(h.old.Name), "-p", "target="+string(h.new.Name), "-p", "watch=1s", "-p", "quiet_within=20s")
	h.says(moved, 0, "2 producers")
	a.writesOn(h.new)
	b.writesOn(h.new)
	c := h.press("c", topic) // its configuration still says old
	c.writesOn(h.new)
	list := h.starferry("producers", string(topic), "--for", "300ms")
	h.says(list, 0, string(h.new.Name), "a", "b", "c")

	back := h.starferry("rollback", h.runName("move-producers.star"))
	h.says(back, 0)
	for _, s := range []*press{a, b, c} {
		s.writesOn(h.old)
	}
	for _, s := range []*press{a, b, c} {
		s.stop()
	}
	h.inOrderOn(h.old, topic, 3, a, b, c)
}
