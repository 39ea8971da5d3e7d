package wire_test

import (
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/acl"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

// Whatever an authorizer refuses says who lacks what on which cluster, and how
// to grant it; the code stays what it was, and the password is not told.
func TestRefusalsNameTheACL(t *testing.T) {
	if kafkatest.Real() {
		t.Skip("a house with an authorizer is built on real brokers in internal/house; in-process ones show every request here")
	}
	g := kafkatest.OpenGuarded(t, []starferry.ClusterName{"old"}, "mover")
	topic := kafkatest.Topic(t, g.Clusters[0], 1, nil)
	tp := starferry.TopicPartition{Topic: topic}
	w, ctx := kafkatest.Open(t, g.As(0, "mover")), t.Context()
	at := map[starferry.TopicPartition]wire.Committed{tp: {}}
	one := []starferry.TopicPartition{tp}
	txn := wire.Producer{ID: 1}
	for _, x := range []struct {
		need acl.Right
		name string
		code kafka.Error
		do   func() error
	}{
		{acl.Right{Resource: acl.Topic, Operation: acl.Describe}, string(topic), kafka.TopicAuthorizationFailed, func() error {
			m, err := w.Metadata(ctx, topic)
			require.NoError(t, err)
			return m.Topics[topic].Err
		}},
		{acl.Right{Resource: acl.Topic, Operation: acl.Describe}, string(topic), kafka.TopicAuthorizationFailed, func() error { _, err := w.Offsets(ctx, one, wire.Latest); return err }},
		{acl.Right{Resource: acl.Topic, Operation: acl.Create}, "new", kafka.TopicAuthorizationFailed, func() error { return w.CreateTopic(ctx, wire.TopicSpec{Topic: "new", Partitions: 1}) }},
		{acl.Right{Resource: acl.Topic, Operation: acl.Delete}, string(topic), kafka.TopicAuthorizationFailed, func() error { return w.DeleteTopics(ctx, topic) }},
		{acl.Right{Resource: acl.Topic, Operation: acl.DescribeConfigs}, string(topic), kafka.TopicAuthorizationFailed, func() error { _, err := w.TopicConfigs(ctx, topic); return err }},
		{acl.Right{Resource: acl.Cluster, Operation: acl.DescribeConfigs}, acl.ClusterName, kafka.ClusterAuthorizationFailed, func() error { _, err := w.BrokerSettings(ctx, 0, "x"); return err }},
		{acl.Right{Resource: acl.Cluster, Operation: acl.IdempotentWrite}, acl.ClusterName, kafka.ClusterAuthorizationFailed, func() error {
			_, err := w.InitProducer(ctx, "", time.Second, wire.Producer{ID: -1, Epoch: -1})
			return err
		}},
		{acl.Right{Resource: acl.Group, Operation: acl.Describe}, "g", kafka.GroupAuthorizationFailed, func() error { _, err := w.DescribeGroup(ctx, "g"); return err }},
		{acl.Right{Resource: acl.Group, Operation: acl.Describe}, "g", kafka.GroupAuthorizationFailed, func() error { _, err := w.Committed(ctx, "g", one); return err }},
		{acl.Right{Resource: acl.Group, Operation: acl.Describe}, "g", kafka.GroupAuthorizationFailed, func() error { return w.Commit(ctx, wire.Commit{Group: "g", Generation: -1, Offsets: at}) }},
		{acl.Right{Resource: acl.TxID, Operation: acl.Describe}, "tx", kafka.TransactionalIDAuthorizationFailed, func() error { return w.AddPartitionsToTxn(ctx, "tx", txn, one) }},
	} {
		err := x.do()
		var denied *wire.DeniedError
		require.ErrorAs(t, err, &denied, "%s %s", x.need, x.name)
		require.Equal(t, x.need, denied.Right)
		require.Equal(t, x.name, denied.Name)
		require.ErrorIs(t, err, x.code)
		require.ErrorContains(t, err, "User:mover lacks the ACL "+string(x.need.Operation)+" on ")
		require.ErrorContains(t, err, `of cluster "old"`)
		require.ErrorContains(t, err, "kafka-acls.sh --add --allow-principal User:mover --")
		require.ErrorContains(t, err, "starferry kafka acls")
		require.NotContains(t, err.Error(), "of-mover")
	}

	// Who may find a group's coordinator may not do everything with the group.
	g.Allow(0, "mover", acl.Line{Resource: acl.Group, Names: []string{"g"}, Operation: acl.Describe})
	err := w.Commit(ctx, wire.Commit{Group: "g", Generation: -1, Offsets: at})
	require.ErrorContains(t, err, "lacks the ACL Read on group g")
	err = w.May(ctx, append(wire.WantGroup("g", acl.Describe, acl.Read), wire.WantTopics([]starferry.Topic{topic, "new"}, acl.Read)...)...)
	require.ErrorContains(t, err, "lacks the ACL Read on group g")
	require.ErrorContains(t, err, "lacks the ACL Read on topic "+string(topic))
	require.NotContains(t, err.Error(), "lacks the ACL Describe on group g")
	g.Allow(0, "mover", acl.Line{Resource: acl.Group, Names: []string{"g"}, Operation: acl.Read},
		acl.Line{Resource: acl.Topic, Names: []string{string(topic)}, Operation: acl.Read}, acl.Line{Resource: acl.Topic, Names: []string{"new"}, Operation: acl.Read})
	require.NoError(t, w.May(ctx, append(wire.WantGroup("g", acl.Read), wire.WantTopics([]starferry.Topic{topic, "new"}, acl.Read)...)...), "a topic that is not there is not denied")
	require.NoError(t, w.Commit(ctx, wire.Commit{Group: "g", Generation: -1, Offsets: at}))
}

// A cluster without an authorizer lets everybody do everything, and says so.
func TestNothingIsDeniedWithoutAnAuthorizer(t *testing.T) {
	c := kafkatest.One(t)
	topic := kafkatest.Topic(t, c, 1, nil)
	w := kafkatest.Open(t, c)
	require.Equal(t, "User:ANONYMOUS", w.Principal())
	require.NoError(t, w.May(t.Context(), append(wire.WantGroup(kafkatest.Group(t), acl.Describe, acl.Read),
		wire.WantTopics([]starferry.Topic{topic}, acl.Read, acl.Write, acl.DescribeConfigs)...)...))
}
