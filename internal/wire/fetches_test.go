package wire_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

// A thousand fetches at once take few connections, and all are answered.
func TestManyFetchesShareFewConnections(t *testing.T) {
	c := kafkatest.One(t)
	topic := kafkatest.Topic(t, c, 1, nil)
	kafkatest.Produce(t, c, topic, 0, kafkatest.Values("v", 3)...)
	var dialed atomic.Int32
	w := kafkatest.Open(t, c, wire.WithDialer(func(ctx context.Context, network, address string) (net.Conn, error) {
		dialed.Add(1)
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}))
	ctx := context.Background()
	tp := starferry.TopicPartition{Topic: topic}
	leader, _, err := w.Leader(ctx, tp)
	require.NoError(t, err)
	var g errgroup.Group
	for range 1000 {
		g.Go(func() error {
			resp, err := w.DoOn(ctx, leader, fetchRequest(tp, 0))
			if err == nil && len(resp.(*kmsg.FetchResponse).Topics[0].Partitions[0].RecordBatches) == 0 {
				err = errors.New("an answer without records")
			}
			return err
		})
	}
	require.NoError(t, g.Wait())
	require.Less(t, dialed.Load(), int32(25), "connections")
}
