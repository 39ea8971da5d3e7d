package consumer_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

// faulty is an estate whose old cluster does what a test says.
func faulty(t *testing.T, partitions int) (*estate, *kfake.Cluster) {
	t.Helper()
	fake, old := kafkatest.Fake(t, "old")
	_, target := kafkatest.Fake(t, "new")
	e := &estate{t: t, old: old, new: target, group: kafkatest.Group(t), seen: newLedger()}
	e.topic = kafkatest.Topic(t, old, partitions, nil)
	kafkatest.MakeTopic(t, target, e.topic, partitions, nil)
	return e, fake
}

// intercept has f answer requests of one kind as long as it wants to.
func intercept(fake *kfake.Cluster, key kmsg.Key, f func(kmsg.Request) (kmsg.Response, error, bool)) {
	fake.ControlKey(key.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		return f(req)
	})
}

// committed waits until the group has committed an offset for a partition.
func (e *estate) committed(c starferry.Cluster, p int, want starferry.Offset) {
	e.t.Helper()
	w := kafkatest.Open(e.t, c)
	require.Eventually(e.t, func() bool {
		got, err := w.Committed(context.Background(), e.group, nil)
		return err == nil && got[e.tp(p)].Offset == want
	}, patience, 5*time.Millisecond, "partition %d is never committed at %d", p, want)
}

// A membership that was lost while a commit stayed without an answer leaves
// nothing behind: the next generation commits as it goes.
func TestCommitsGoOnAfterOneThatWasNeverAnswered(t *testing.T) {
	e, fake := faulty(t, 1)
	e.produce(0, 5, e.old)
	e.open("a", func(c *consumer.Config) { c.SessionTimeout = time.Second })
	e.settled(5)
	e.committed(e.old, 0, 5)

	var mute, expel, expelled atomic.Bool
	var late atomic.Int64
	intercept(fake, kmsg.OffsetCommit, func(kmsg.Request) (kmsg.Response, error, bool) {
		if !mute.Load() {
			return nil, nil, false
		}
		if expelled.Load() {
			late.Add(1)
		}
		return nil, errors.New("the connection breaks"), true
	})
	intercept(fake, kmsg.Heartbeat, func(req kmsg.Request) (kmsg.Response, error, bool) {
		if !expel.CompareAndSwap(true, false) {
			return nil, nil, false
		}
		expelled.Store(true)
		resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
		resp.ErrorCode = int16(kafka.UnknownMemberId)
		return resp, nil, true
	})
	mute.Store(true)
	e.produce(0, 1, e.old)
	e.settled(6)
	expel.Store(true)
	require.Eventually(t, func() bool { return late.Load() > 0 }, patience, time.Millisecond)
	mute.Store(false)
	require.Eventually(t, func() bool { return e.seen.total() > 6 }, patience, 5*time.Millisecond, "the new generation hands out what was not committed")
	e.produce(0, 5, e.old)
	require.Eventually(t, func() bool { return e.seen.count() == 11 }, patience, 5*time.Millisecond)
	e.committed(e.old, 0, 11)
}

// outOfRange is an estate whose group has committed 5 of partition 0, from which
// everything before 8 is deleted then. A real broker does not say where the log
// begins.
func outOfRange(t *testing.T) *estate {
	e, fake := faulty(t, 2)
	e.produce(0, 5, e.old)
	a := e.open("a")
	e.settled(5)
	e.committed(e.old, 0, 5)
	closeIn(t, a)
	e.produce(0, 5, e.old)
	require.NoError(t, fake.DeleteRecords(string(e.topic), 0, 8))
	return e
}

func (e *estate) handled(values ...string) {
	e.t.Helper()
	require.Eventually(e.t, func() bool {
		e.seen.mu.Lock()
		defer e.seen.mu.Unlock()
		for _, v := range values {
			if e.seen.times[v] != 1 {
				return false
			}
		}
		return true
	}, patience, 5*time.Millisecond, "not handled, or not once: %v", values)
}

func TestDeletedRecordsArePassedIfThePolicySaysSo(t *testing.T) {
	for _, start := range []consumer.Start{consumer.Earliest, consumer.Latest} {
		t.Run(string(start), func(t *testing.T) {
			e := outOfRange(t)
			e.open("b", func(c *consumer.Config) { c.Start = start })
			e.handled("0/8", "0/9")
			e.committed(e.old, 0, 10)
			require.Equal(t, 7, e.seen.count())
		})
	}
}

func TestDeletedRecordsHoldAPartitionIfThePolicyRefuses(t *testing.T) {
	e := outOfRange(t)
	h, nats := e.withNATS()
	e.open("b", nats, func(c *consumer.Config) { c.Start = consumer.Refuse })
	h.all(1, "the refusal", func(l control.Lease) bool {
		return strings.Contains(l.Refusal, e.tp(0).String()) && strings.Contains(l.Refusal, "records 5 to 7 were deleted")
	})
	require.Equal(t, 5, e.seen.count())
}

func (e *estate) end(p int) starferry.Offset {
	e.seen.mu.Lock()
	defer e.seen.mu.Unlock()
	return starferry.Offset(e.seen.wrote[e.tp(p)])
}

// A survivor reports what may have been handled twice, even if it takes over
// before the lease of the one that died has run out.
func TestASurvivorReportsWhatMayRepeat(t *testing.T) {
	e, _ := faulty(t, 1)
	h, nats := e.withNATS()
	quick := func(c *consumer.Config) { c.SessionTimeout = time.Second }
	e.produce(0, 10, e.old)
	a := e.open("a", nats, quick)
	e.settled(10)
	e.committed(e.old, 0, 10)
	closeIn(t, a)
	a = e.open("a", nats, quick, func(c *consumer.Config) { c.CommitInterval = time.Hour })
	e.produce(0, 10, e.old)
	e.settled(20)
	h.all(1, "the position", func(l control.Lease) bool { return len(l.Partitions) == 1 && l.Partitions[0].Position == 20 })
	e.open("b", nats, quick)
	a.Kill()
	require.Eventually(t, func() bool { return e.seen.total() == 30 }, patience, 5*time.Millisecond)
	h.one("the range", func(l control.Lease) bool {
		return l.Instance == "b" && len(l.Repeats) == 1 && l.Repeats[0].Range == starferry.Range{From: 10, To: 20}
	})
}

// A standby that goes away harms nothing: neither the work at home nor the
// close.
func TestAStandbyThatIsDownHarmsNothing(t *testing.T) {
	e, _ := faulty(t, 2)
	gone, target := kafkatest.Fake(t, "new")
	e.new = target
	kafkatest.MakeTopic(t, target, e.topic, 2, nil)
	h, nats := e.withNATS()
	a := e.open("a", nats)
	e.produce(0, 5, e.old)
	e.settled(5)
	h.put(func(p *control.Placement) { p.Epoch = 1 })
	h.prepare(1, e.new.Name)
	gone.Close()
	for i := range 20 {
		e.produce(i%2, 5, e.old)
		e.settled(5 * (i + 2))
	}
	e.committed(e.old, 1, 50)
	h.put(func(p *control.Placement) { p.Phase, p.Target = control.Steady, "" }) // it leaves
	e.produce(0, 5, e.old)
	e.settled(110)
	closeIn(t, a)
	e.produce(0, 5, e.old)
	e.open("b", nats) // and starts without it
	e.settled(115)
}

// A group that has moved lives on without the cluster it came from: an instance
// that starts while its configured home is down finds the group where it lives,
// although nothing was handled since, and goes on there.
func TestAnInstanceStartsWhileTheOldHomeIsDown(t *testing.T) {
	e, fake := faulty(t, 2)
	h, nats := e.withNATS()
	e.produce(0, 5, e.old, e.new)
	e.produce(1, 5, e.old, e.new)
	a := e.open("a", nats)
	e.settled(10)
	h.put(func(p *control.Placement) { p.Epoch = 1 })
	h.move(1, e.new.Name)
	w := kafkatest.Open(t, e.new)
	require.Eventually(t, func() bool {
		got, err := w.Committed(context.Background(), e.group, nil)
		return err == nil && strings.HasPrefix(got[e.tp(0)].Metadata, "starferry/1 home e=2")
	}, patience, 5*time.Millisecond, "nobody says on the new home that it is one")
	closeIn(t, a)
	fake.Close()
	for _, how := range []func(*consumer.Config){nats, func(*consumer.Config) {}} { // with NATS and without
		n := e.seen.count()
		e.produce(0, 5, e.new)
		b := e.open("b", how)
		e.settled(n + 5)
		require.Eventually(t, func() bool { return b.Health(context.Background()) == nil }, patience, 10*time.Millisecond)
		closeIn(t, b)
	}
}

// If nobody can tell where the group lives, an instance says what it waits for.
func TestAnInstanceSaysWhichClusterItWaitsFor(t *testing.T) {
	e, fake := faulty(t, 1)
	fake.Close()
	a := e.open("a")
	require.Eventually(t, func() bool {
		err := a.Health(context.Background())
		return err != nil && strings.Contains(err.Error(), "old, its configured home, does not answer, and new does not know the group: make old reachable")
	}, patience, 10*time.Millisecond)
}

// A log that was cut short below the group's place is no reason to begin
// anywhere: the partition stands still and says so, whatever the start policy;
// the others go on.
func TestAPlaceBeyondTheEndIsRefused(t *testing.T) {
	e, _ := faulty(t, 2)
	w := kafkatest.Open(t, e.old)
	require.NoError(t, w.Commit(context.Background(), wire.Commit{Group: e.group, Generation: -1, Offsets: map[starferry.TopicPartition]wire.Committed{
		e.tp(0): {Offset: 7, LeaderEpoch: -1},
	}}))
	e.produce(0, 5, e.old)
	a := e.open("a")
	require.Eventually(t, func() bool {
		err := a.Health(context.Background())
		return err != nil && strings.Contains(err.Error(), "offset 7 lies beyond the end of the log, which was cut short")
	}, patience, 10*time.Millisecond)
	e.produce(1, 5, e.old)
	require.Eventually(t, func() bool { return e.seen.count() == 5 }, patience, 5*time.Millisecond)
	e.committed(e.old, 0, 7)
}
