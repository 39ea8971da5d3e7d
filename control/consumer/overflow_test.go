package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/records"
	"github.com/starferry/starferry/internal/wire"
)

// spread is a hot partition with a backlog whose redistribution is ordered.
type spread struct {
	*estate
	hand  *hand
	nats  func(*consumer.Config)
	order control.Overflow
	wire  *wire.Cluster
}

// newSpread orders partition 0 to be redistributed up to where it ends now.
func newSpread(e *estate, order control.OverflowOrder) *spread {
	s := &spread{estate: e, wire: kafkatest.Open(e.t, e.old)}
	s.hand, s.nats = e.withNATS()
	ends, err := s.wire.Offsets(context.Background(), []starferry.TopicPartition{e.tp(0)}, wire.LatestStable)
	require.NoError(e.t, err)
	s.order = control.Overflow{ID: "o1", Cluster: e.old.Name, Partition: e.tp(0), Until: ends[e.tp(0)], Order: order, Phase: control.OverflowMove}
	s.order.Topic = control.OverflowTopic(e.group, strings.ToLower(string(e.topic)))
	kafkatest.MakeTopic(e.t, e.old, s.order.Topic, 4, nil)
	s.wish()
	return s
}

func (s *spread) wish(skips ...control.Skip) uint64 {
	return s.hand.wish(control.Settings{Overflow: &s.order, Skips: skips})
}

// emptied waits until the backlog is moved and the overflow handled.
func (s *spread) emptied() {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		got, err := s.wire.Committed(context.Background(), s.group, nil)
		if err != nil || got[s.tp(0)].Offset < s.order.Until {
			return false
		}
		left, err := s.wire.Behind(context.Background(), s.group, s.order.Topic)
		return err == nil && left == 0
	}, patience, 20*time.Millisecond, "the overflow is not handled")
}

// once checks that exactly n records were handled, each once.
func (e *estate) once(n int) {
	e.t.Helper()
	require.Eventually(e.t, func() bool { return e.seen.count() >= n }, patience, 5*time.Millisecond, "handled %d of %d", e.seen.count(), n)
	require.Equal(e.t, n, e.seen.count())
	require.Equal(e.t, n, e.seen.total(), "some were handled twice")
}

func TestABacklogIsSpreadOverAllInstances(t *testing.T) {
	e := newEstate(t, 2)
	e.produce(0, 600, e.old)
	first := make(chan struct{})
	e.seen.block["0/0"] = first
	s := newSpread(e, control.NoOrder)
	s.order.Phase = control.OverflowPrepare
	s.wish()
	var mu sync.Mutex
	places := map[string]string{}
	e.seen.moved = func(r consumer.Record) {
		mu.Lock()
		defer mu.Unlock()
		places[string(r.Value)] = fmt.Sprintf("%s@%d %d headers", r.TopicPartition(), r.Offset, len(r.Headers))
	}
	var moves sync.Once // the record is in hand until the owner has begun anew: it might handle all of it by itself
	stepped := func(c *consumer.Config) { c.OnStep(func(string) { moves.Do(func() { close(first) }) }) }
	e.open("a", s.nats, short, stepped)
	e.open("b", s.nats, short, stepped)
	e.open("c", s.nats, short, stepped)
	s.hand.all(3, "read the overflow", func(l control.Lease) bool {
		return len(l.Memberships) == 1 && slices.ContainsFunc(l.Memberships[0].Partitions, func(tp starferry.TopicPartition) bool { return tp.Topic == s.order.Topic })
	})
	s.order.Phase = control.OverflowMove
	rev := s.wish()
	s.hand.all(3, "know that it begins", func(l control.Lease) bool { return l.SettingsRevision >= rev })
	s.emptied()
	e.produce(0, 5, e.old)
	e.once(605)
	for _, who := range []string{"a", "b", "c"} {
		require.Positive(t, e.seen.handledBy(who), "%s has handled nothing", who)
	}
	mu.Lock()
	defer mu.Unlock()
	for i := range 605 {
		require.Equal(t, fmt.Sprintf("%s@%d 0 headers", e.tp(0), i), places[fmt.Sprintf("0/%d", i)])
	}
}

// byKey writes down in what order each key's records were handled.
type byKey struct {
	mu   sync.Mutex
	seen map[string][]starferry.Offset
}

func (k *byKey) note(r consumer.Record) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen[string(r.Key)] = append(k.seen[string(r.Key)], r.Offset)
}

// ascends checks that the order of every key was kept, but for repetitions.
func (k *byKey) ascends(t *testing.T) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, offsets := range k.seen {
		top := starferry.NoOffset
		first := map[starferry.Offset]bool{}
		for _, o := range offsets {
			if first[o] {
				continue
			}
			first[o] = true
			require.Greater(t, o, top, "key %s", key)
			top = o
		}
	}
}

func TestLaterRecordsWaitForTheOverflowWhereTheOrderOfKeysIsPromised(t *testing.T) {
	e := newEstate(t, 1)
	k := &byKey{seen: map[string][]starferry.Offset{}}
	e.seen.moved = k.note
	e.produce(0, 300, e.old)
	release := make(chan struct{})
	e.seen.block["0/100"] = release
	s := newSpread(e, control.KeyOrder)
	e.produce(0, 50, e.old) // beyond the backlog
	e.open("a", s.nats)
	e.open("b", s.nats)
	require.Eventually(t, func() bool { return e.seen.count() >= 100 }, patience, 5*time.Millisecond)
	require.Never(t, func() bool {
		e.seen.mu.Lock()
		defer e.seen.mu.Unlock()
		return e.seen.times["0/300"] > 0
	}, 500*time.Millisecond, 20*time.Millisecond, "a later record overtook the overflow")
	close(release)
	s.emptied()
	e.once(350)
	k.ascends(t)
}

func TestWithoutOrderLaterRecordsGoOnAtOnce(t *testing.T) {
	e := newEstate(t, 1)
	e.produce(0, 100, e.old)
	release := make(chan struct{})
	e.seen.block["0/50"] = release
	s := newSpread(e, control.NoOrder)
	e.produce(0, 10, e.old)
	e.open("a", s.nats)
	require.Eventually(t, func() bool {
		e.seen.mu.Lock()
		defer e.seen.mu.Unlock()
		return e.seen.times["0/109"] > 0
	}, patience, 5*time.Millisecond, "later records wait")
	close(release)
	s.emptied()
	e.once(110)
}

// The steps of one chunk. A kill before each of them, and after the last, leaves
// the chunk done or not.
func steps() []string {
	return []string{"init", "add partitions", "produce", "add offsets", "commit offsets", "end", "ended"}
}

// Guarantee 8: A redistributed backlog is moved once and nothing of it is lost, whatever is killed in the middle.
func TestAKillBetweenAnyTwoStepsLosesNothingAndMovesNothingTwice(t *testing.T) {
	for _, order := range []control.OverflowOrder{control.KeyOrder, control.NoOrder} {
		for _, step := range steps() {
			t.Run(strings.ReplaceAll(string(order)+" "+step, " ", "_"), func(t *testing.T) {
				t.Parallel()
				killedBefore(t, order, step)
			})
		}
	}
}

func killedBefore(t *testing.T, order control.OverflowOrder, step string) {
	e := newEstate(t, 1)
	k := &byKey{seen: map[string][]starferry.Offset{}}
	e.seen.moved = k.note
	for range 5 { // more than one chunk, also for the fetch
		e.produce(0, 900, e.old)
	}
	s := newSpread(e, order)
	e.produce(0, 20, e.old)
	died := make(chan struct{})
	var once sync.Once
	var victim *consumer.Consumer
	ready := make(chan struct{})
	n := 0
	victim = e.open("a", s.nats, short, func(c *consumer.Config) {
		c.OnStep(func(at string) {
			if at != step {
				return
			}
			if n++; n == 2 || step == "init" { // in its second chunk
				<-ready
				once.Do(func() { victim.Dies(); close(died) })
			}
		})
	})
	close(ready)
	select {
	case <-died:
	case <-time.After(patience):
		t.Fatal("the step was never reached")
	}
	victim.Kill()
	e.open("b", s.nats, short)
	s.emptied()
	require.Eventually(t, func() bool { return e.seen.count() == 4520 }, patience, 5*time.Millisecond, "handled %d", e.seen.count())
	if order == control.KeyOrder {
		k.ascends(t)
	}
	moved := copies(t, e.old, s.order.Topic)
	require.Equal(t, 4500, len(moved), "records are missing in the overflow")
	for origin, times := range moved {
		require.Equal(t, 1, times, "%s was moved %d times", origin, times)
	}
}

func short(c *consumer.Config) {
	c.SessionTimeout, c.HeartbeatInterval, c.RebalanceTimeout = 6*time.Second, 50*time.Millisecond, 6*time.Second
	if !kafkatest.Real() {
		c.SessionTimeout, c.RebalanceTimeout = time.Second, time.Second
	}
}

// copies counts the committed records of a topic by where they come from.
func copies(t *testing.T, c starferry.Cluster, topic starferry.Topic) map[string]int {
	t.Helper()
	out := map[string]int{}
	for p := range 4 {
		for _, r := range committed(t, kafkatest.Open(t, c), starferry.TopicPartition{Topic: topic, Partition: starferry.Partition(p)}) {
			out[string(r.Headers[len(r.Headers)-1].Value)]++
		}
	}
	return out
}

// committed reads what readers of committed records see of a partition.
func committed(t *testing.T, w *wire.Cluster, tp starferry.TopicPartition) (all []records.Record) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	end, err := w.Offsets(ctx, []starferry.TopicPartition{tp}, wire.LatestStable)
	require.NoError(t, err)
	broker, _, err := w.Leader(ctx, tp)
	require.NoError(t, err)
	for next := int64(0); next < int64(end[tp]); {
		req := kmsg.NewPtrFetchRequest()
		req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch, req.IsolationLevel = 1000, 1, 8<<20, -1, 1
		rt, rp := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = int32(tp.Partition), next, 8<<20
		rt.Topic, rt.Partitions = string(tp.Topic), append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		r, err := w.DoOn(ctx, broker, req)
		require.NoError(t, err)
		got := r.(*kmsg.FetchResponse).Topics[0].Partitions[0]
		var aborted []records.Aborted
		for _, a := range got.AbortedTransactions {
			aborted = append(aborted, records.Aborted{Producer: a.ProducerID, First: a.FirstOffset})
		}
		rs, to, err := records.Decode(got.RecordBatches, next, aborted)
		require.NoError(t, err)
		require.Greater(t, to, next)
		all, next = append(all, rs...), to
	}
	return all
}

func TestTheBacklogGoesOnWithTheNextOwner(t *testing.T) {
	e := newEstate(t, 1)
	for range 5 {
		e.produce(0, 900, e.old)
	}
	s := newSpread(e, control.KeyOrder)
	reached, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	a := e.open("z", s.nats, func(c *consumer.Config) {
		c.OnStep(func(at string) {
			if at == "ended" {
				once.Do(func() { close(reached); <-goOn })
			}
		})
	})
	<-reached
	e.open("a", s.nats) // sorts first: it gets the only partition
	close(goOn)
	s.emptied()
	closeIn(t, a)
	e.once(4500)
	for origin, times := range copies(t, e.old, s.order.Topic) {
		require.Equal(t, 1, times, "%s was moved %d times", origin, times)
	}
}

func TestSkipsHoldForTheBacklogAndForWhatIsMoved(t *testing.T) {
	e := newEstate(t, 1)
	e.produce(0, 100, e.old)
	e.seen.fail["0/40"] = true // a poison record: it comes out of the overflow for ever
	s := newSpread(e, control.KeyOrder)
	skip := func(o starferry.Offset) control.Skip {
		return control.Skip{ID: fmt.Sprint(o), Cluster: e.old.Name, Partition: e.tp(0), Range: starferry.Range{From: o, To: o + 1}}
	}
	s.wish(skip(10))
	e.open("a", s.nats, func(c *consumer.Config) { c.RetryMin, c.RetryMax = time.Millisecond, 5*time.Millisecond })
	require.Eventually(t, func() bool {
		got, err := s.wire.Committed(context.Background(), e.group, nil)
		return err == nil && got[e.tp(0)].Offset == 100
	}, patience, 5*time.Millisecond)
	s.wish(skip(10), skip(40))
	s.emptied()
	e.once(98)
	require.Len(t, copies(t, e.old, s.order.Topic), 99, "what was skipped in the backlog is not moved")
}

// What was handled ahead of the low-water mark is not moved.
func TestWhatWasHandledAheadIsNotMoved(t *testing.T) {
	e := newEstate(t, 1)
	e.produceKeys(0, 20, fourKeys(), e.old)
	k := newKeys("b")
	a := e.openKeys("a", k, func(c *consumer.Config) { c.RebalanceTimeout = time.Second })
	require.Eventually(t, func() bool { return k.count() == 60 }, patience, 5*time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	require.Error(t, a.Close(ctx), "the record of b is in hand") // commits what lies ahead of it
	close(k.held["b"])
	s := newSpread(e, control.KeyOrder)
	e.openKeys("b", k, s.nats)
	s.emptied()
	require.Eventually(t, func() bool { return k.count() == 80 }, patience, 5*time.Millisecond)
	k.inOrder(t, 20, fourKeys()...)
	require.Len(t, copies(t, e.old, s.order.Topic), 20)
}

func TestWhatFailsInTheOverflowIsGivenUpWithItsOrigin(t *testing.T) {
	e := newEstate(t, 1)
	dead := kafkatest.Topic(t, e.old, 1, nil)
	e.produce(0, 50, e.old)
	e.seen.fail["0/7"] = true
	s := newSpread(e, control.KeyOrder)
	e.open("a", s.nats, func(c *consumer.Config) {
		c.RetryMin, c.Failure = time.Millisecond, consumer.Failure{Attempts: 2, DeadLetter: dead}
	})
	s.emptied()
	e.once(49)
	got := kafkatest.Records(t, e.old, dead, 0)
	require.Len(t, got, 1)
	headers := map[string]string{}
	for _, h := range got[0].Headers {
		headers[h.Key] = string(h.Value)
	}
	require.Equal(t, string(e.topic), headers["starferry.topic"])
	require.Equal(t, "7", headers["starferry.offset"])
	require.NotContains(t, headers, "starferry.overflow")
}

func TestOnlyTheNamedInstancesReadTheOverflow(t *testing.T) {
	e := newEstate(t, 2)
	e.produce(0, 200, e.old)
	s := newSpread(e, control.KeyOrder)
	s.order.To = []starferry.InstanceID{"b"}
	s.wish()
	e.open("a", s.nats)
	e.open("b", s.nats)
	s.emptied()
	e.once(200)
	require.Equal(t, 200, e.seen.handledBy("b"))
}

// Whatever fails, and whether it is said or not, the attempt is repeated.
func TestFailedTransactionsAreRepeated(t *testing.T) {
	for _, key := range []kmsg.Key{kmsg.InitProducerID, kmsg.AddPartitionsToTxn, kmsg.Produce, kmsg.AddOffsetsToTxn, kmsg.TxnOffsetCommit, kmsg.EndTxn} {
		t.Run(key.Name(), func(t *testing.T) {
			t.Parallel()
			e, fake := faulty(t, 1)
			e.produce(0, 300, e.old)
			s := newSpread(e, control.KeyOrder)
			var failed atomic.Int32
			intercept(fake, key, func(kmsg.Request) (kmsg.Response, error, bool) {
				if failed.Add(1) > 2 {
					return nil, nil, false
				}
				return nil, errors.New("the connection is cut"), true
			})
			e.open("a", s.nats, func(c *consumer.Config) { c.RetryMin = time.Millisecond })
			s.emptied()
			e.once(300)
			require.Greater(t, failed.Load(), int32(2))
		})
	}
}
