package consumer_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/chaos/proxy"
	"github.com/starferry/starferry/internal/kafkatest"
)

// pulse is when each partition was last handled, and its longest pause.
type pulse struct {
	mu      sync.Mutex
	last    map[starferry.TopicPartition]time.Time
	longest time.Duration
}

func (p *pulse) beat(r consumer.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if last, ok := p.last[r.TopicPartition()]; ok {
		p.longest = max(p.longest, now.Sub(last))
	}
	p.last[r.TopicPartition()] = now
}

func (p *pulse) pause() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.longest
}

// behind is a cluster as it is reached through a proxy.
func behind(t *testing.T, c starferry.Cluster) (*proxy.Proxy, starferry.Cluster) {
	t.Helper()
	p, err := proxy.Open(c.Brokers...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	out := starferry.Cluster{Name: c.Name}
	for _, b := range c.Brokers {
		addr, err := p.Address(b)
		require.NoError(t, err)
		out.Brokers = append(out.Brokers, addr)
	}
	return p, out
}

// A member whose connections are cut, or dead without anybody being told, for
// less than its session stays the member it is: its partitions go on within two
// seconds, nothing is handled twice, and no zombie of it is left in the group.
func TestACutConnectionLeavesTheMembershipAsItIs(t *testing.T) {
	session, cut := 3*time.Second, 1200*time.Millisecond
	if kafkatest.Real() {
		session, cut = 10*time.Second, 5*time.Second
	}
	for name, spoil := range map[string]func(*proxy.Proxy){
		"cut":    func(p *proxy.Proxy) { p.Set(proxy.Weather{Refused: true}); p.Cut() },
		"frozen": func(p *proxy.Proxy) { p.Set(proxy.Weather{Frozen: true}) },
	} {
		t.Run(name, func(t *testing.T) {
			e := newEstate(t, 4)
			p, through := behind(t, e.old)
			beats := &pulse{last: map[starferry.TopicPartition]time.Time{}}
			e.seen.moved = beats.beat
			patient := func(c *consumer.Config) { c.SessionTimeout = session }
			a := e.open("a", patient, func(c *consumer.Config) { c.Clusters = []starferry.Cluster{through, e.new} })
			e.open("b", patient)
			was := e.members(e.old, 2)
			place := e.standing(a, e.old)
			total := 0
			feed := func() bool {
				for i := range 4 {
					e.produce(i, 1, e.old)
				}
				total += 4
				return true
			}
			require.Eventually(t, func() bool { return feed() && e.seen.handledBy("a") > 10 && e.seen.handledBy("b") > 10 }, patience, 20*time.Millisecond)
			beats.mu.Lock()
			beats.longest = 0
			beats.mu.Unlock()

			spoil(p)
			over := time.Now().Add(cut)
			require.Eventually(t, func() bool { return feed() && time.Now().After(over) }, cut+patience, 20*time.Millisecond)
			p.Set(proxy.Weather{})
			e.settled(total)
			feed()
			e.settled(total)
			require.Less(t, beats.pause(), cut+2*time.Second)
			require.Greater(t, beats.pause(), cut/2, "the cut was none")
			require.ElementsMatch(t, was, e.members(e.old, 2))
			require.Eventually(t, func() bool { return a.Health(context.Background()) == nil }, patience, 5*time.Millisecond)
			now := e.standing(a, e.old) // in a new generation, if a commit was under way
			require.Equal(t, place.Member, now.Member)
			require.Equal(t, place.Partitions, now.Partitions)
		})
	}
}

// Answers that get lost while it joins leave no second member behind: what it
// was given without being told is given up by the coordinator.
func TestLostAnswersWhileJoiningLeaveNoZombie(t *testing.T) {
	for _, key := range []kmsg.Key{kmsg.JoinGroup, kmsg.SyncGroup} {
		for _, how := range []func(*consumer.Config){func(*consumer.Config) {}, static} {
			e := newEstate(t, 2)
			p, through := behind(t, e.old)
			lost := p.Play(proxy.Trick{Key: key, Deed: proxy.LoseAnswer, Times: 2})
			e.produce(0, 5, e.old)
			e.open("a", how, func(c *consumer.Config) {
				c.Clusters = []starferry.Cluster{through, e.new}
				if !kafkatest.Real() {
					c.SessionTimeout = time.Second
				}
			})
			e.settled(5)
			require.Equal(t, 2, lost.Done())
			e.members(e.old, 1)
			e.produce(1, 5, e.old)
			e.settled(10)
		}
	}
}
