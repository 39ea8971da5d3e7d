package jet_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/internal/jet"
	"github.com/starferry/starferry/internal/kafkatest"
)

// Buckets that are deleted while several processes open them are opened by all.
func TestABucketMayGoWhileItIsOpened(t *testing.T) {
	nc, _ := kafkatest.NATS(t)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	ctx := context.Background()
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for range 60 {
				_, err := jet.KeyValue(ctx, js, jetstream.KeyValueConfig{Bucket: "b", History: 4})
				assert.NoError(t, err)
			}
		})
	}
	wg.Go(func() {
		for range 60 {
			if err := js.DeleteKeyValue(ctx, "b"); !errors.Is(err, jetstream.ErrBucketNotFound) {
				assert.NoError(t, err)
			}
		}
	})
	wg.Wait()
}

// One that is there keeps what it holds, whatever is asked for.
func TestAStreamStaysAsItIs(t *testing.T) {
	nc, _ := kafkatest.NATS(t)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	ctx := context.Background()
	_, err = jet.Stream(ctx, js, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, MaxMsgs: 7})
	require.NoError(t, err)
	_, err = js.Publish(ctx, "s.a", []byte("kept"))
	require.NoError(t, err)
	s, err := jet.Stream(ctx, js, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	require.NoError(t, err)
	assert.Equal(t, int64(7), s.CachedInfo().Config.MaxMsgs)
	assert.Equal(t, uint64(1), s.CachedInfo().State.Msgs)
}

// What the server refuses for good is said at once.
func TestARefusalIsPassedOn(t *testing.T) {
	nc, _ := kafkatest.NATS(t)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = jet.KeyValue(context.Background(), js, jetstream.KeyValueConfig{Bucket: "not a name"})
	assert.ErrorIs(t, err, jetstream.ErrInvalidBucketName)
}

// What PutObject puts is an object to the client, whatever its size, and takes
// the place of the old one.
func TestObjectsArePutAsTheClientReadsThem(t *testing.T) {
	nc, _ := kafkatest.NATS(t)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	ctx := context.Background()
	store, err := jet.ObjectStore(ctx, js, jetstream.ObjectStoreConfig{Bucket: "maps"})
	require.NoError(t, err)
	var old *jetstream.ObjectInfo
	for _, size := range []int{0, 1, 128 << 10, 300_000} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(i * 7 >> 3)
		}
		meta := jetstream.ObjectMeta{Name: "a/b/0", Metadata: map[string]string{"source": "5"}}
		require.NoError(t, jet.PutObject(ctx, js, "maps", meta, data, old))
		got, err := store.GetBytes(ctx, "a/b/0")
		require.NoError(t, err)
		require.Len(t, got, size)
		require.Equal(t, string(data), string(got))
		old, err = store.GetInfo(ctx, "a/b/0")
		require.NoError(t, err)
		require.Equal(t, "5", old.Metadata["source"])
	}
	status, err := store.Status(ctx)
	require.NoError(t, err)
	require.Less(t, status.Size(), uint64(310_000), "the chunks of what was replaced are gone")
}
