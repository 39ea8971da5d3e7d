package consumer_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/kafkatest"
)

// keys holds what was handled of each key, in order, and keeps some keys back.
type keys struct {
	mu    sync.Mutex
	order map[string][]int
	times map[string]int // by key and number
	held  map[string]chan struct{}
	most  int
	busy  int
}

func newKeys(held ...string) *keys {
	k := &keys{order: map[string][]int{}, times: map[string]int{}, held: map[string]chan struct{}{}}
	for _, h := range held {
		k.held[h] = make(chan struct{})
	}
	return k
}

func (k *keys) handle(ctx context.Context, r consumer.Record) error {
	k.mu.Lock()
	k.busy++
	k.most = max(k.most, k.busy)
	hold := k.held[string(r.Key)]
	k.mu.Unlock()
	defer func() { k.mu.Lock(); k.busy--; k.mu.Unlock() }()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	n, err := strconv.Atoi(string(r.Value))
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.order[string(r.Key)] = append(k.order[string(r.Key)], n)
	k.times[fmt.Sprintf("%s/%d", r.Key, n)]++
	return nil
}

func (k *keys) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.times)
}

// inOrder checks that every key's records were handled once each and in order.
func (k *keys) inOrder(t *testing.T, each int, names ...string) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, name := range names {
		require.Len(t, k.order[name], each, "key %s", name)
		for i, n := range k.order[name] {
			require.Equal(t, i, n, "key %s: %v", name, k.order[name])
		}
	}
}

// produceKeys writes numbers [from, to) of every key, the keys in turn.
func (e *estate) produceKeys(from, to int, names []string, clusters ...starferry.Cluster) {
	e.t.Helper()
	var recs []kafka.Message
	for n := from; n < to; n++ {
		for _, name := range names {
			recs = append(recs, kafka.Message{Key: []byte(name), Value: []byte(strconv.Itoa(n))})
		}
	}
	for _, c := range clusters {
		kafkatest.Produce(e.t, c, e.topic, 0, recs...)
	}
}

func (e *estate) openKeys(name string, k *keys, change ...func(*consumer.Config)) *consumer.Consumer {
	e.t.Helper()
	cfg := e.config(name)
	cfg.Parallelism = 4
	for _, f := range change {
		f(&cfg)
	}
	c, err := consumer.Open(context.Background(), cfg, k.handle)
	require.NoError(e.t, err)
	e.t.Cleanup(func() { closeIn(e.t, c) })
	return c
}

// fourKeys go to four different workers, by their hash.
func fourKeys() []string { return []string{"a", "b", "c", "d"} }

func TestOneKeyWaitsAndTheOthersGoOn(t *testing.T) {
	e := newEstate(t, 1)
	k := newKeys("b")
	e.produceKeys(0, 20, fourKeys(), e.old)
	e.openKeys("a", k)
	require.Eventually(t, func() bool { return k.count() == 60 }, patience, 5*time.Millisecond)
	close(k.held["b"])
	require.Eventually(t, func() bool { return k.count() == 80 }, patience, 5*time.Millisecond)
	k.inOrder(t, 20, fourKeys()...)
	e.committed(e.old, 0, 80)
}

// What was handled ahead of the low-water mark stays handled when the process
// is killed.
func TestWhatWasHandledAheadIsNotHandledAgain(t *testing.T) {
	e := newEstate(t, 1)
	k := newKeys("b")
	e.produceKeys(0, 10, fourKeys(), e.old)
	first := e.openKeys("a", k)
	require.Eventually(t, func() bool { return k.count() == 30 }, patience, 5*time.Millisecond)
	w := kafkatest.Open(t, e.old)
	require.Eventually(t, func() bool {
		got, err := w.Committed(context.Background(), e.group, nil)
		if err != nil || got[e.tp(0)].Offset != 1 {
			return false
		}
		mark, err := control.ParseMark(got[e.tp(0)].Metadata)
		n := 0
		for _, r := range mark.Handled {
			n += int(r.To - r.From)
		}
		return err == nil && n == 29 // 30 handled, the first of them below the mark
	}, patience, 5*time.Millisecond)
	first.Kill()
	close(k.held["b"])
	e.openKeys("b", k)
	require.Eventually(t, func() bool { return k.count() == 40 }, patience, 5*time.Millisecond)
	k.inOrder(t, 10, fourKeys()...)
}

// A switch takes what was handled ahead along.
func TestASwitchKeepsWhatWasHandledAhead(t *testing.T) {
	e := newEstate(t, 1)
	h, nats := e.withNATS()
	k := newKeys("b")
	e.produceKeys(0, 10, fourKeys(), e.old, e.new)
	// After three quarters of that a drain waits no longer for the handler.
	e.openKeys("a", k, nats, func(c *consumer.Config) { c.RebalanceTimeout = 2 * time.Second })
	require.Eventually(t, func() bool { return k.count() == 30 }, patience, 5*time.Millisecond)
	h.prepare(1, e.new.Name)
	cut := h.drain(1)
	require.Equal(t, starferry.Offset(1), cut[e.tp(0)].Next)
	require.NotEmpty(t, cut[e.tp(0)].Handled)
	close(k.held["b"])
	h.finish(1, e.new.Name, cut)
	require.Eventually(t, func() bool { return k.count() == 40 }, patience, 5*time.Millisecond)
	k.inOrder(t, 10, fourKeys()...)
	e.committed(e.new, 0, 40)
}

// No more is handed out ahead than a commit can tell.
func TestHandingOutAheadIsBounded(t *testing.T) {
	e := newEstate(t, 1)
	k := newKeys("a")
	e.produceKeys(0, 1, []string{"a"}, e.old)
	var many []string
	for i := range 50 {
		many = append(many, "many"+strconv.Itoa(i), "a")
	}
	e.produceKeys(1, 10, many, e.old)
	e.openKeys("a", k, func(c *consumer.Config) { c.Parallelism = 100 })
	w := kafkatest.Open(t, e.old)
	require.Eventually(t, func() bool {
		got, err := w.Committed(context.Background(), e.group, nil)
		if err != nil || got[e.tp(0)].Metadata == "" {
			return false
		}
		mark, err := control.ParseMark(got[e.tp(0)].Metadata)
		require.NoError(t, err)
		require.LessOrEqual(t, len(got[e.tp(0)].Metadata), control.MaxMetadata)
		return len(mark.Handled) >= 90
	}, patience, 5*time.Millisecond)
	close(k.held["a"])
	require.Eventually(t, func() bool { return k.count() == 1+50*9+9 }, patience, 5*time.Millisecond)
	e.committed(e.old, 0, 901)
}

func TestBatchesComeInOrderAndAreRepeatedWhole(t *testing.T) {
	e := newEstate(t, 1)
	e.produce(0, 40, e.old)
	var mu sync.Mutex
	var got [][]string
	failed := false
	cfg := e.config("a")
	cfg.BatchMax, cfg.RetryMin = 16, time.Millisecond
	c, err := consumer.OpenBatches(context.Background(), cfg, func(_ context.Context, rs []consumer.Record) error {
		mu.Lock()
		defer mu.Unlock()
		var vs []string
		for _, r := range rs {
			vs = append(vs, strings.TrimPrefix(string(r.Value), "0/"))
		}
		got = append(got, vs)
		if rs[0].Offset == 16 && !failed {
			failed = true
			return context.DeadlineExceeded
		}
		return nil
	})
	require.NoError(t, err)
	t.Cleanup(func() { closeIn(t, c) })
	e.committed(e.old, 0, 40)
	mu.Lock()
	defer mu.Unlock()
	require.Greater(t, len(got), 3)
	require.Equal(t, got[1], got[2], "a failed batch comes again as it was")
	next := 0
	for i, vs := range got {
		require.LessOrEqual(t, len(vs), 16)
		if i == 2 {
			continue
		}
		for _, v := range vs {
			require.Equal(t, strconv.Itoa(next), v)
			next++
		}
	}
	require.Equal(t, 40, next)
}
