package metrics_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/control/consumer/metrics"
)

var _ metrics.Source = (*consumer.Consumer)(nil)

type still struct {
	lease  control.Lease
	health error
	err    error
}

func (s still) State(context.Context) (control.Lease, error) { return s.lease, s.err }
func (s still) Health(context.Context) error                 { return s.health }

func TestMetricsSayWhatTheLeaseSays(t *testing.T) {
	at := starferry.Offset(7)
	c := metrics.New(still{health: errors.New("ill"), lease: control.Lease{
		Group: "orders", Instance: "i-1", Home: "dc1", HomeEpoch: 3,
		Partitions: []control.PartitionState{
			{Partition: starferry.TopicPartition{Topic: "t", Partition: 2}, Cluster: "dc1", Position: 8, Committed: 7, End: 20, InFlight: 1, Handled: 5, Blocked: &at},
			{Partition: starferry.TopicPartition{Topic: "t", Partition: 3}, Cluster: "dc1", End: starferry.NoOffset},
		},
	}})
	require.NoError(t, testutil.CollectAndCompare(c, strings.NewReader(`
# HELP starferry_consumer_blocked 1 while a handler has had one record for over a second.
# TYPE starferry_consumer_blocked gauge
starferry_consumer_blocked{cluster="dc1",group="orders",instance="i-1",partition="2",topic="t"} 1
starferry_consumer_blocked{cluster="dc1",group="orders",instance="i-1",partition="3",topic="t"} 0
# HELP starferry_consumer_healthy 1 while the instance does its work on the cluster where its group lives.
# TYPE starferry_consumer_healthy gauge
starferry_consumer_healthy{cluster="dc1",group="orders",instance="i-1"} 0
# HELP starferry_consumer_lag_records Offsets between position and end.
# TYPE starferry_consumer_lag_records gauge
starferry_consumer_lag_records{cluster="dc1",group="orders",instance="i-1",partition="2",topic="t"} 12
`), "starferry_consumer_blocked", "starferry_consumer_healthy", "starferry_consumer_lag_records"))
	problems, err := testutil.CollectAndLint(c)
	require.NoError(t, err)
	require.Empty(t, problems)
}

func TestAClosedConsumerShowsNothing(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	require.NoError(t, r.Register(metrics.New(still{err: errors.New("closed")})))
	got, err := r.Gather()
	require.NoError(t, err)
	require.Empty(t, got)
}
