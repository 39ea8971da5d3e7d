package world

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

var began = time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)

// aRecordASecond are records that know when they were written.
func aRecordASecond(n int) []kafka.Message {
	out := make([]kafka.Message, n)
	for i := range out {
		out[i] = kafka.Message{Value: fmt.Appendf(nil, "v%d", i), Time: began.Add(time.Duration(i) * time.Second)}
	}
	return out
}

// Groups, times and single offsets are translated over a live link, there and
// back, through the shard that owns the lanes.
func TestPlacesOfAllKindsAreTranslated(t *testing.T) {
	src, tgt := kafkatest.Pair(t)
	nc, _ := kafkatest.NATS(t)
	cfg := &config.Config{
		Clusters: map[starferry.ClusterName]starferry.Cluster{src.Name: src, tgt.Name: tgt}, Shards: config.Shards{Buckets: 2},
	}
	clusters, links := NewClusters(cfg), NewLinks(cfg, nc, nil)
	t.Cleanup(func() { require.NoError(t, clusters.Close()); require.NoError(t, links.Close()) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := OpenShard(ctx, cfg, nc, "s", t.TempDir(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })

	topic := kafkatest.Topic(t, src, 2, nil)
	kafkatest.Produce(t, src, topic, 0, aRecordASecond(10)...)
	_, err = links.Replicate(ctx, builtins.ReplicateRequest{Link: "out", Source: src.Name, Target: tgt.Name, Topics: []starferry.Topic{topic}, Token: "t"})
	require.NoError(t, err)
	p := builtins.Ports{Clusters: clusters, Times: clusters, Copier: links}
	ask := func(q builtins.TranslateRequest) (a builtins.TranslateAnswer) {
		q.Link = "out"
		require.Eventually(t, func() bool {
			var err error
			a, err = p.Translate(ctx, q)
			return err == nil && a.Exact
		}, 20*time.Second, 20*time.Millisecond, "%+v", a)
		return a
	}

	tp, idle := starferry.TopicPartition{Topic: topic}, starferry.TopicPartition{Topic: topic, Partition: 1}
	one := ask(builtins.TranslateRequest{Offsets: []starferry.Position{{TopicPartition: tp, Offset: 4}}})
	require.Equal(t, starferry.Exact, one.Places[0].Status)
	there := one.Cut[tp].Next
	home := ask(builtins.TranslateRequest{Offsets: []starferry.Position{{TopicPartition: tp, Offset: there}}, Back: true})
	require.Equal(t, starferry.Offset(4), home.Cut[tp].Next)

	timed := ask(builtins.TranslateRequest{At: began.Add(3500 * time.Millisecond)})
	require.Equal(t, starferry.Cut{tp: {Next: 4}, idle: {Next: 0}}, timed.Asked, "between the fourth second and the fifth")
	require.Equal(t, there, timed.Cut[tp].Next)
	later := ask(builtins.TranslateRequest{At: began.Add(time.Hour), Topics: []starferry.Topic{topic}})
	require.Equal(t, starferry.Offset(10), later.Asked[tp].Next, "the end")
	require.Equal(t, there+6, later.Cut[tp].Next)

	group := kafkatest.Group(t)
	w, err := clusters.Wire(src.Name)
	require.NoError(t, err)
	require.NoError(t, w.Commit(ctx, wire.Commit{Group: group, Generation: -1, Offsets: map[starferry.TopicPartition]wire.Committed{tp: {Offset: 7, LeaderEpoch: -1}}}))
	require.Equal(t, there+3, ask(builtins.TranslateRequest{Group: group}).Cut[tp].Next)

	none, err := p.Translate(ctx, builtins.TranslateRequest{Link: "out", Group: "nobody"})
	require.NoError(t, err)
	require.False(t, none.Exact, "nothing asked is nothing known")
	ahead, err := p.Translate(ctx, builtins.TranslateRequest{Link: "out", Offsets: []starferry.Position{{TopicPartition: tp, Offset: 15}}})
	require.NoError(t, err)
	require.False(t, ahead.Exact)
	require.Equal(t, int64(5), ahead.Places[0].Behind)
	_, err = p.Translate(ctx, builtins.TranslateRequest{Link: "out", At: began, Topics: []starferry.Topic{"nothere"}})
	require.ErrorContains(t, err, "nothere")
}
