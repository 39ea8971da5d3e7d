package consumer_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/kafkatest"
)

func static(c *consumer.Config) { c.Static = true }

// standing waits until an instance is a good member on a cluster with
// partitions of its own.
func (e *estate) standing(c *consumer.Consumer, on starferry.Cluster) control.Membership {
	e.t.Helper()
	var got control.Membership
	require.Eventually(e.t, func() bool {
		l, err := c.State(context.Background())
		if err != nil {
			return false
		}
		m, ok := good(l, on.Name)
		got = m
		return ok && len(m.Partitions) > 0
	}, patience, 5*time.Millisecond, "never a member on %s", on.Name)
	return got
}

// members are the member ids that the coordinator knows, once the group is
// stable with n of them.
func (e *estate) members(on starferry.Cluster, n int) []string {
	e.t.Helper()
	w := kafkatest.Open(e.t, on)
	var ids []string
	require.Eventually(e.t, func() bool {
		d, err := w.DescribeGroup(context.Background(), e.group)
		ids = nil
		for _, m := range d.Members {
			ids = append(ids, m.ID)
		}
		return err == nil && (d.State == "Stable" || n == 0) && len(ids) == n
	}, patience, 5*time.Millisecond, "the group on %s never has %d members", on.Name, n)
	return ids
}

// A static member that restarts gets its partitions back, and the others notice
// nothing.
func TestAStaticInstanceRestartsWithoutARebalance(t *testing.T) {
	e := newEstate(t, 4)
	a, b := e.open("a", static), e.open("b", static)
	for p := range 4 {
		e.produce(p, 10, e.old)
	}
	e.settled(40)
	e.members(e.old, 2)
	total := 40
	for range 2 { // the leader is one of the two
		was, other := e.standing(a, e.old), e.standing(b, e.old)
		closeIn(t, a)
		for p := range 4 {
			e.produce(p, 10, e.old)
		}
		total += 40
		name := string(a.Instance())
		a = e.open(name, static)
		require.Equal(t, was.Partitions, e.standing(a, e.old).Partitions)
		e.settled(total)
		require.Equal(t, other, e.standing(b, e.old), "the other one was made to rebalance")
		a, b = b, a
	}
	e.members(e.old, 2)
}

// Of two processes with one name the first is fenced: it stops, says why, and
// does not take the place back. The lease is the other's.
func TestTheFirstOfTwoProcessesWithOneNameIsFenced(t *testing.T) {
	e := newEstate(t, 2)
	h, nats := e.withNATS()
	first := e.open("a", static, nats)
	e.produce(0, 10, e.old)
	e.settled(10)
	e.committed(e.old, 0, 10)
	second := e.open("a", static, nats)
	ctx := context.Background()
	require.Eventually(t, func() bool { return first.Health(ctx) != nil && second.Health(ctx) == nil }, patience, 5*time.Millisecond)
	require.ErrorContains(t, first.Health(ctx), `another process joined the group on old as "a" (FENCED_INSTANCE_ID)`)
	e.produce(0, 10, e.old)
	e.produce(1, 10, e.old)
	e.settled(30)
	closeIn(t, first)
	l, err := second.State(ctx)
	require.NoError(t, err)
	h.all(1, "the lease of the second", func(got control.Lease) bool { return got.Boot == l.Boot })
	e.produce(1, 10, e.old)
	e.settled(40)
	e.members(e.old, 1)
}

// A static member is one on both clusters: it may restart in the middle of a
// switch, and after it.
func TestStaticInstancesSwitchAndRestart(t *testing.T) {
	e := newEstate(t, 4)
	h, nats := e.withNATS()
	a, b := e.open("a", nats, static), e.open("b", nats, static)
	total := 0
	feed := func() {
		for p := range 4 {
			e.produce(p, 5, e.old, e.new)
		}
		total += 20
	}
	feed()
	e.settled(total)
	h.put(func(p *control.Placement) { p.Epoch = 1 })
	h.prepare(2, e.new.Name)
	closeIn(t, a)
	a = e.open("a", nats, static)
	boot := func() string { l, err := a.State(context.Background()); require.NoError(t, err); return l.Boot }()
	h.all(2, "prepare after the restart", func(l control.Lease) bool {
		m, ok := good(l, e.new.Name)
		k, okA := good(l, e.old.Name)
		return (l.Instance != "a" || l.Boot == boot) && ok && okA && l.Epoch == h.at.Epoch && len(m.Partitions) > 0 && len(k.Partitions) > 0
	})
	h.finish(2, e.new.Name, h.drain(2))
	feed()
	e.settled(total)
	other := e.standing(b, e.new)
	closeIn(t, a)
	feed()
	a = e.open("a", nats, static)
	e.settled(total)
	require.Equal(t, other, e.standing(b, e.new))
	h.all(2, "both", func(l control.Lease) bool { return l.Home == e.new.Name })
	h.move(2, e.old.Name)
	feed()
	e.settled(total)
}

func TestAStaticInstanceNeedsAName(t *testing.T) {
	for _, name := range []starferry.InstanceID{"", "host 1/a"} {
		_, err := consumer.Open(context.Background(), consumer.Config{
			Group: "g", Topics: []starferry.Topic{"t"}, Clusters: []starferry.Cluster{{Name: "a", Brokers: []string{"x:1"}}}, Instance: name, Static: true,
		}, func(context.Context, consumer.Record) error { return nil })
		require.ErrorContains(t, err, "set Instance to a name")
	}
}
