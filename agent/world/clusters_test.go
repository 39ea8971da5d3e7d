package world

import (
	"testing"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

func TestMain(m *testing.M) { kafkatest.Main(m) }

func open(t *testing.T) (*Clusters, starferry.Cluster) {
	cl := kafkatest.One(t)
	w := NewClusters(&config.Config{Clusters: map[starferry.ClusterName]starferry.Cluster{cl.Name: cl}})
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	return w, cl
}

func TestAClusterSaysWhatItIs(t *testing.T) {
	w, cl := open(t)
	info, err := w.Describe(t.Context(), cl.Name)
	require.NoError(t, err)
	require.Positive(t, info.Brokers)
	require.Regexp(t, `^[0-9]+\.[0-9]+`, info.Version)
	_, err = w.Describe(t.Context(), "nowhere")
	require.ErrorContains(t, err, `find cluster "nowhere"`)
}

func TestTopicsThatAreMissingAreLeftOut(t *testing.T) {
	w, cl := open(t)
	topic := kafkatest.Topic(t, cl, 3, map[string]string{"retention.ms": "12345678"})
	got, err := w.Topics(t.Context(), cl.Name, []starferry.Topic{topic, "missing-" + topic})
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.Equal(t, 3, got[topic].Partitions)
	require.Equal(t, "12345678", got[topic].Configs["retention.ms"])
}

// A partition with records and without a commit is unknown, never 0 behind.
func TestTheLagOfAGroup(t *testing.T) {
	w, cl := open(t)
	topic, group := kafkatest.Topic(t, cl, 3, nil), kafkatest.Group(t)
	for p := range 2 {
		kafkatest.Produce(t, cl, topic, starferry.Partition(p), kafka.Message{Value: []byte("a")}, kafka.Message{Value: []byte("b")}, kafka.Message{Value: []byte("c")})
	}
	at := func(p int) starferry.TopicPartition {
		return starferry.TopicPartition{Topic: topic, Partition: starferry.Partition(p)}
	}
	conn, err := w.Wire(cl.Name)
	require.NoError(t, err)
	require.NoError(t, conn.Commit(t.Context(), wire.Commit{Group: group, Generation: -1, Offsets: map[starferry.TopicPartition]wire.Committed{
		at(0): {Offset: 1, LeaderEpoch: -1, Metadata: "starferry/1 home e=0 h=2-3"},
	}}))
	topics, err := w.TopicsOf(t.Context(), cl.Name, group)
	require.NoError(t, err)
	require.Equal(t, []starferry.Topic{topic}, topics)

	lag, err := w.GroupLag(t.Context(), cl.Name, group)
	require.NoError(t, err)
	require.Equal(t, map[starferry.TopicPartition]int64{at(0): 1, at(2): 0}, lag.Records, "what is handled already is not behind")
	require.Equal(t, map[starferry.TopicPartition]string{at(1): "no committed offset"}, lag.Unknown)

	cut, err := w.Committed(t.Context(), cl.Name, group)
	require.NoError(t, err)
	require.Equal(t, starferry.Cut{at(0): {Next: 1, Handled: []starferry.Range{{From: 2, To: 3}}}}, cut)
}
