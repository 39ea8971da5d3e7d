package embednats_test

import (
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/starferry/starferry/agent/embednats"
)

func TestItServesAndEnds(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	s, err := embednats.Open(embednats.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", SyncAlways: true})
	require.NoError(t, err)
	nc, err := nats.Connect(s.URL())
	require.NoError(t, err)
	require.Equal(t, s.Addr(), nc.ConnectedAddr())
	nc.Close()
	s.Close()
}

// TestMoreThanAThousandMayFollow: more may watch one stream than a server lets by
// default.
func TestMoreThanAThousandMayFollow(t *testing.T) {
	s, err := embednats.Open(embednats.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	require.NoError(t, err)
	defer s.Close()
	nc, err := nats.Connect(s.URL())
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "orders", Storage: jetstream.MemoryStorage})
	require.NoError(t, err)
	stream, err := js.Stream(t.Context(), "KV_"+kv.Bucket())
	require.NoError(t, err)
	for range 1001 {
		_, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{MemoryStorage: true, AckPolicy: jetstream.AckNonePolicy})
		require.NoError(t, err)
	}
}

func TestAPortInUse(t *testing.T) {
	s, err := embednats.Open(embednats.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	require.NoError(t, err)
	defer s.Close()
	_, err = embednats.Open(embednats.Options{Dir: t.TempDir(), Listen: s.Addr()})
	require.ErrorContains(t, err, "is another agent running here? Stop it, or set nats.listen to another port")
}

func TestAWrongAddress(t *testing.T) {
	_, err := embednats.Open(embednats.Options{Dir: t.TempDir(), Listen: "here"})
	require.ErrorContains(t, err, "give host:port")
}
