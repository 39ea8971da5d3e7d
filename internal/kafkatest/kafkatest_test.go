package kafkatest_test

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
)

func TestMain(m *testing.M) { kafkatest.Main(m) }

func TestRecordsComeBackAsWritten(t *testing.T) {
	source, target := kafkatest.Pair(t)
	require.NotEqual(t, source.Brokers, target.Brokers)
	topic := kafkatest.Topic(t, source, 2, nil)
	at := time.UnixMilli(1_700_000_000_000)
	kafkatest.Produce(t, source, topic, 1, kafka.Message{
		Key: []byte("k"), Value: []byte("v"), Time: at, Headers: []kafka.Header{{Key: "h", Value: []byte("x")}},
	}, kafka.Message{Value: bytes.Repeat([]byte("long"), 1000), Time: at.Add(time.Second)})
	kafkatest.ProduceTxn(t, source, topic, 1, true, kafkatest.Values("tx", 2)...)

	got := kafkatest.Records(t, source, topic, 1)
	require.Len(t, got, 4)
	require.Equal(t, "k", string(got[0].Key))
	require.Equal(t, "v", string(got[0].Value))
	require.Equal(t, []kafka.Header{{Key: "h", Value: []byte("x")}}, got[0].Headers)
	require.True(t, at.Equal(got[0].Time))
	require.Len(t, got[1].Value, 4000)
	require.Equal(t, int64(3), got[3].Offset)
	require.Empty(t, kafkatest.Records(t, source, topic, 0))
}

func TestNATSHasJetStream(t *testing.T) {
	nc, url := kafkatest.NATS(t)
	require.NotEmpty(t, url)
	js, err := nc.JetStream()
	require.NoError(t, err)
	_, err = js.AccountInfo()
	require.NoError(t, err)
}

func TestMissingJarsAreTold(t *testing.T) {
	_, err := kafkatest.StartBroker(t.Context(), kafkatest.BrokerOptions{Version: "4.3.1", Jars: filepath.Join(t.TempDir(), "none"), Dir: t.TempDir()})
	require.ErrorContains(t, err, "kafkaup fetch 4.3.1")
	_, err = kafkatest.StartBroker(t.Context(), kafkatest.BrokerOptions{Version: "../4"})
	require.ErrorContains(t, err, "want one such as 4.3.1")
}

// An answer that the request's bytes end, in the middle of a partition, tells
// what was aborted all the same.
func TestCutAnswersTellWhatWasAborted(t *testing.T) {
	source := kafkatest.One(t)
	topic := kafkatest.Topic(t, source, 1, nil)
	for range 3 {
		kafkatest.ProduceTxn(t, source, topic, 0, false, kafka.Message{Value: make([]byte, 4000)})
	}
	w := kafkatest.Open(t, source)
	leader, _, err := w.Leader(t.Context(), starferry.TopicPartition{Topic: topic})
	require.NoError(t, err)
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch, req.IsolationLevel = 1000, 1, 6000, -1, 1
	p := kmsg.NewFetchRequestTopicPartition()
	p.PartitionMaxBytes = 6000
	of := kmsg.NewFetchRequestTopic()
	of.Topic, of.Partitions = string(topic), append(of.Partitions, p)
	req.Topics = append(req.Topics, of)
	resp, err := w.DoOn(t.Context(), leader, req)
	require.NoError(t, err)
	got := resp.(*kmsg.FetchResponse).Topics[0].Partitions[0]
	require.Less(t, len(got.RecordBatches), 12000, "the answer was to be cut")
	require.NotEmpty(t, got.AbortedTransactions)
	require.Zero(t, got.AbortedTransactions[0].FirstOffset)
}
