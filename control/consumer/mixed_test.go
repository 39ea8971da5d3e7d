package consumer_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/starferry/starferry/control/consumer"
)

// stranger is a member of the group that runs another client library.
type stranger struct {
	c    *kgo.Client
	done chan struct{}
}

func (e *estate) stranger(name string, how kgo.GroupBalancer) *stranger {
	e.t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(e.old.Brokers...), kgo.ClientID(name), kgo.ConsumerGroup(string(e.group)),
		kgo.ConsumeTopics(string(e.topic)), kgo.Balancers(how), kgo.HeartbeatInterval(100*time.Millisecond), kgo.SessionTimeout(6*time.Second),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.BlockRebalanceOnPoll(), kgo.FetchMaxWait(200*time.Millisecond), kgo.AutoCommitInterval(100*time.Millisecond))
	require.NoError(e.t, err)
	s := &stranger{c: c, done: make(chan struct{})}
	handle := e.seen.handle(name)
	go func() {
		defer close(s.done)
		for {
			got := c.PollFetches(context.Background())
			if got.IsClientClosed() {
				return
			}
			got.EachRecord(func(r *kgo.Record) {
				_ = handle(context.Background(), consumer.Record{Topic: e.topic, Partition: e.tp(int(r.Partition)).Partition, Value: r.Value})
			})
			c.AllowRebalance()
		}
	}()
	e.t.Cleanup(s.close)
	return s
}

func (s *stranger) close() {
	s.c.CloseAllowingRebalance()
	<-s.done
}

// While nothing is switched, members of any client library share the group: in
// either order of arrival, whoever leads, and when each takes over from the
// other.
func TestOtherClientsShareTheGroup(t *testing.T) {
	for name, how := range map[string]kgo.GroupBalancer{
		"range": kgo.RangeBalancer(), "roundrobin": kgo.RoundRobinBalancer(), "sticky": kgo.StickyBalancer(), "cooperative-sticky": kgo.CooperativeStickyBalancer(),
	} {
		for _, first := range []string{"stranger", "ours"} {
			t.Run(name+", "+first+" first", func(t *testing.T) {
				e := newEstate(t, 6)
				total := 0
				feed := func() {
					for p := range 6 {
						e.produce(p, 10, e.old)
					}
					total += 60
				}
				feedUntil := func(names ...string) {
					require.Eventually(t, func() bool {
						feed()
						for _, n := range names {
							if e.seen.handledBy(n) == 0 {
								return false
							}
						}
						return true
					}, patience, 50*time.Millisecond)
				}
				var s *stranger
				if first == "stranger" {
					s = e.stranger("kgo", how)
					feedUntil("kgo")
				}
				ours := e.open("a")
				feedUntil("a")
				if s == nil {
					s = e.stranger("kgo", how)
					feedUntil("kgo")
				}
				e.settled(total)
				s.close()
				feed()
				e.settled(total)
				e.stranger("kgo again", how)
				feedUntil("kgo again")
				e.settled(total)
				closeIn(t, ours)
				feed()
				e.settled(total)
			})
		}
	}
}

// One partition goes back and forth: then no commit of ours is left when it
// comes back.
func TestAPartitionComesBackFromAnotherClient(t *testing.T) {
	e := newEstate(t, 1)
	e.produce(0, 5, e.old)
	a := e.open("a")
	e.settled(5)
	closeIn(t, a)
	e.open("z") // finds a commit of ours; the next in order of names comes first
	e.produce(0, 5, e.old)
	e.settled(10)
	s := e.stranger("b", kgo.RangeBalancer())
	total := 10
	require.Eventually(t, func() bool {
		e.produce(0, 1, e.old)
		total++
		return e.seen.handledBy("b") > 2
	}, patience, 20*time.Millisecond)
	e.settled(total)
	e.committed(e.old, 0, e.end(0))
	s.close()
	e.produce(0, 5, e.old)
	e.settled(total + 5)
}

// newfangled is an assignor that nobody else has.
type newfangled struct{ kgo.GroupBalancer }

func (newfangled) ProtocolName() string { return "newfangled" }

// A group whose members use an assignor that this library does not have is not
// joined, and the refusal says why and what to do. When they are gone, it is.
func TestAnUnknownAssignorIsRefusedInWords(t *testing.T) {
	e := newEstate(t, 2)
	s := e.stranger("kgo", newfangled{kgo.RangeBalancer()})
	e.produce(0, 5, e.old)
	e.settled(5)
	a := e.open("a")
	require.Eventually(t, func() bool {
		err := a.Health(context.Background())
		return err != nil && strings.Contains(err.Error(), `its members divide partitions by "newfangled"`) && strings.Contains(err.Error(), "set partition.assignment.strategy")
	}, patience, 10*time.Millisecond)
	s.close()
	e.produce(1, 5, e.old)
	e.settled(10)
	require.Eventually(t, func() bool { return a.Health(context.Background()) == nil }, patience, 10*time.Millisecond)
}
