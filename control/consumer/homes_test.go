package consumer_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/kafkatest"
)

// A service that names no cluster reads where the rules say, and says so.
func TestRulesSayWhereAServiceBegins(t *testing.T) {
	e := newEstate(t, 1)
	e.produce(0, 5, e.new)
	c := e.open("a", func(cfg *consumer.Config) {
		cfg.Home = ""
		cfg.Labels = map[string]string{"dc": "two"}
		cfg.Homes = control.Homes{Rules: []control.HomeRule{
			{Labels: map[string]string{"dc": "two"}, Cluster: e.new.Name}, {Cluster: e.old.Name},
		}}
	})
	e.settled(5)
	lease, err := c.State(t.Context())
	require.NoError(t, err)
	require.Equal(t, e.new.Name, lease.Home)
	require.Equal(t, map[string]string{"dc": "two"}, lease.Labels)
}

// What the rules cannot place is refused before anything is reached.
func TestAHomeThatCannotBeToldIsRefused(t *testing.T) {
	for want, homes := range map[string]control.Homes{
		"no home: neither homes nor home say": {Rules: []control.HomeRule{{Names: control.Names{Groups: []string{"other"}}, Cluster: "a"}}},
		`home "c" is none of the clusters`:    {Rules: []control.HomeRule{{Cluster: "c"}}},
		"(on a: t; on b: u)":                  {Topics: map[starferry.Topic]starferry.ClusterName{"t": "a", "u": "b"}},
	} {
		_, err := consumer.Open(context.Background(), consumer.Config{
			Group: "g", Topics: []starferry.Topic{"t", "u"}, Homes: homes,
			Clusters: []starferry.Cluster{{Name: "a", Brokers: []string{"x:1"}}, {Name: "b", Brokers: []string{"y:1"}}},
		}, func(context.Context, consumer.Record) error { return nil })
		require.ErrorContains(t, err, want)
	}
}

// What operators have imported goes before the service's own rules.
func TestStoredHomesGoBeforeTheConfigured(t *testing.T) {
	e := newEstate(t, 1)
	e.produce(0, 5, e.new)
	nc, _ := kafkatest.NATS(t)
	store, err := desired.Open(t.Context(), nc, desired.Options{})
	require.NoError(t, err)
	_, err = store.PutHomes(t.Context(), control.Homes{Topics: map[starferry.Topic]starferry.ClusterName{e.topic: e.new.Name}}, 0)
	require.NoError(t, err)
	c := e.open("a", func(cfg *consumer.Config) {
		cfg.Home, cfg.NATS = "", nc
		cfg.Homes = control.Homes{Rules: []control.HomeRule{{Cluster: e.old.Name}}}
	})
	e.settled(5)
	lease, err := c.State(t.Context())
	require.NoError(t, err)
	require.Equal(t, e.new.Name, lease.Home)
}
