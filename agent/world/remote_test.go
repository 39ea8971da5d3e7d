package world

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/scripting"
	"github.com/starferry/starferry/scripts"
)

// poisoned is a live group of two instances whose handlers get stuck at records
// that say poison, until they are mended.
type poisoned struct {
	t      *testing.T
	old    starferry.Cluster
	group  starferry.Group
	topic  starferry.Topic
	retry  starferry.Topic
	world  *World
	mu     sync.Mutex
	seen   map[string]int
	mended bool
}

func newPoisoned(t *testing.T) *poisoned {
	old, target := kafkatest.Pair(t)
	nc, _ := kafkatest.NATS(t)
	p := &poisoned{t: t, old: old, group: kafkatest.Group(t), topic: kafkatest.Topic(t, old, 2, nil), seen: map[string]int{}}
	p.retry = kafkatest.Topic(t, old, 2, nil)
	cfg := &config.Config{Clusters: map[starferry.ClusterName]starferry.Cluster{old.Name: old, target.Name: target}, Shards: config.Shards{Buckets: 2}}
	var err error
	p.world, err = Open(t.Context(), cfg, nc, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.world.Close()) })
	for i := range 2 {
		c, err := consumer.Open(t.Context(), consumer.Config{
			Group: p.group, Topics: []starferry.Topic{p.topic}, Clusters: []starferry.Cluster{old, target}, Home: old.Name, NATS: nc,
			Instance: starferry.InstanceID(fmt.Sprint("i", i)), Start: consumer.Earliest, CommitInterval: 20 * time.Millisecond,
			HeartbeatInterval: 100 * time.Millisecond, SessionTimeout: 6 * time.Second,
			Failure: consumer.Failure{Attempts: 1000, Retries: []consumer.Retry{{Topic: p.retry}}, DeadLetter: p.topic + "-dead"},
		}, p.handle)
		require.NoError(t, err)
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			require.NoError(t, c.Close(ctx))
		})
	}
	return p
}

func (p *poisoned) handle(ctx context.Context, r consumer.Record) error {
	p.mu.Lock()
	mended := p.mended
	p.mu.Unlock()
	if strings.HasPrefix(string(r.Value), "poison") && !mended {
		<-ctx.Done()
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen[string(r.Value)]++
	return nil
}

func (p *poisoned) handled() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.seen)
}

func (p *poisoned) run(name string, params map[string]string, run string) (said []string) {
	p.t.Helper()
	reg, err := builtins.Registry(p.world.Ports())
	require.NoError(p.t, err)
	r := &scripting.Runner{Registry: reg, Journal: scripting.NewMemoryJournal(), By: "ann", Events: func(e scripting.Event) {
		if e.Kind == scripting.Note {
			said = append(said, e.Text)
		}
	}}
	var s *scripting.Program
	if strings.HasSuffix(name, ".star") {
		s, err = scripting.Load(scripting.FS(scripts.FS), name, reg)
	} else {
		s, err = scripting.LoadExec(name, reg)
	}
	require.NoError(p.t, err)
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	_, err = r.Run(ctx, s, params, run)
	require.NoError(p.t, err)
	return said
}

// A group stuck at two poison records is got going by the shipped script; the
// records are kept, and put back once they can be handled.
func TestAStuckGroupIsGotGoing(t *testing.T) {
	p := newPoisoned(t)
	for part := range 2 {
		var recs []kafka.Message
		for i := range 20 {
			recs = append(recs, kafka.Message{Key: []byte("k"), Value: fmt.Appendf(nil, "v%d/%d", part, i)})
		}
		recs[5].Value = fmt.Appendf(nil, "poison%d", part)
		kafkatest.Produce(t, p.old, p.topic, starferry.Partition(part), recs...)
	}
	remote := p.world.Ports().Remote
	require.Eventually(t, func() bool {
		s, err := remote.State(t.Context(), p.group)
		n := 0
		for _, part := range s.Partitions {
			if part.Blocked == 5 {
				n++
			}
		}
		return err == nil && n == 2
	}, 30*time.Second, 50*time.Millisecond, "both partitions are blocked")
	require.Equal(t, 10, p.handled())

	said := p.run("unblock_group.star", map[string]string{"group": string(p.group), "reason": "INC-1", "rate": "1000/s"}, "r1")
	require.Len(t, said, 2)
	require.True(t, slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, string(p.topic)+"/1@5, 8 bytes, key k") }), "%q", said)
	require.Eventually(t, func() bool { return p.handled() == 38 }, 30*time.Second, 10*time.Millisecond, "handled %d", p.handled())
	s, err := remote.State(t.Context(), p.group)
	require.NoError(t, err)
	require.Equal(t, 1000.0, s.Settings.Rate)
	require.NotZero(t, s.Settings.Until)
	require.Len(t, s.Settings.Skips, 2)

	p.mu.Lock()
	p.mended = true
	p.mu.Unlock()
	p.run(fmt.Sprintf("replay(%q, reason = %q)", p.group, "INC-1 is fixed"), nil, "r2")
	require.Eventually(t, func() bool { return p.handled() == 40 }, 30*time.Second, 10*time.Millisecond, "handled %d", p.handled())
	p.mu.Lock()
	defer p.mu.Unlock()
	for v, n := range p.seen {
		require.Equal(t, 1, n, v)
	}
}
