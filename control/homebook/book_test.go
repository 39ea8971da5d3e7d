package homebook

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

func TestMain(m *testing.M) { kafkatest.Main(m) }

// TestWhoeverTakesTheRightLaterMakesADecisionImpossible: a decision is refused
// once another session was opened, and what was decided before is read.
func TestWhoeverTakesTheRightLaterMakesADecisionImpossible(t *testing.T) {
	w := kafkatest.Open(t, kafkatest.One(t))
	topic := starferry.Topic(kafkatest.TxID(t))
	found, err := Read(t.Context(), w, topic)
	require.NoError(t, err)
	require.Empty(t, found)
	require.NoError(t, Ensure(t.Context(), w))
	require.NoError(t, Ensure(t.Context(), w), "a book that is there stays")

	first, err := Open(t.Context(), w, topic)
	require.NoError(t, err)
	require.NoError(t, first.Write(t.Context(), Entry{Epoch: 1, Home: "new", With: []string{"b1"}}))
	_, err = Open(t.Context(), w, topic)
	require.NoError(t, err)
	require.Error(t, first.Write(t.Context(), Entry{Epoch: 2, Home: "elsewhere"}))
	found, err = Read(t.Context(), w, topic)
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, starferry.ClusterName("new"), found[0].Home)
	require.Equal(t, []string{"b1"}, found[0].With)
}

// TestADecisionBegunAheadKeepsNobodyWaiting: the book is read while the
// transaction is open; what was begun counts once it is written, and whoever takes
// the right meanwhile makes it impossible. Given up, it is begun anew.
func TestADecisionBegunAheadKeepsNobodyWaiting(t *testing.T) {
	w := kafkatest.Open(t, kafkatest.One(t))
	topic := starferry.Topic(kafkatest.TxID(t))
	require.NoError(t, Ensure(t.Context(), w))
	s, err := Open(t.Context(), w, topic)
	require.NoError(t, err)
	require.NoError(t, s.Abort(t.Context()), "there is nothing to give up")
	require.NoError(t, s.Begin(t.Context()))
	found, err := Read(t.Context(), w, topic)
	require.NoError(t, err)
	require.Empty(t, found)
	require.NoError(t, s.Abort(t.Context()))
	require.NoError(t, s.Begin(t.Context()))
	require.NoError(t, s.Write(t.Context(), Entry{Epoch: 1, Home: "new"}))
	found, err = Read(t.Context(), w, topic)
	require.NoError(t, err)
	require.Len(t, found, 1)

	late, err := Open(t.Context(), w, topic)
	require.NoError(t, err)
	require.NoError(t, late.Begin(t.Context()))
	_, err = Open(t.Context(), w, topic)
	require.NoError(t, err)
	require.Error(t, late.Write(t.Context(), Entry{Epoch: 2, Home: "elsewhere"}))
	found, err = Read(t.Context(), w, topic)
	require.NoError(t, err)
	require.Len(t, found, 1)
}

// TestTheNewestDecisionCounts, and a cluster that is away does not matter once
// another says that the topic lives there.
func TestTheNewestDecisionCounts(t *testing.T) {
	old, new := kafkatest.Pair(t)
	both := map[starferry.ClusterName]*wire.Cluster{"old": kafkatest.Open(t, old), "new": kafkatest.Open(t, new)}
	gone := kafkatest.Open(t, starferry.Cluster{Name: "old", Brokers: []string{"127.0.0.1:1"}})
	topic := starferry.Topic(kafkatest.TxID(t))
	lives := func(on map[starferry.ClusterName]*wire.Cluster) (Home, error) {
		return Find(t.Context(), on, topic, "old")
	}
	write := func(c starferry.ClusterName, e Entry) {
		require.NoError(t, Ensure(t.Context(), both[c]))
		s, err := Open(t.Context(), both[c], topic)
		require.NoError(t, err)
		require.NoError(t, s.Write(t.Context(), e))
	}
	h, err := lives(both)
	require.NoError(t, err)
	require.Equal(t, Home{Cluster: "old"}, h, "it has never been moved")
	_, err = lives(map[starferry.ClusterName]*wire.Cluster{"old": gone, "new": both["new"]})
	require.Error(t, err, "the configured home may know of a move, and is away")

	write("old", Entry{Epoch: 1, Home: "new"})
	h, err = lives(both)
	require.NoError(t, err)
	require.Equal(t, Home{"new", 1}, h)
	write("new", Entry{Epoch: 1, Home: "new"})
	h, err = lives(map[starferry.ClusterName]*wire.Cluster{"old": gone, "new": both["new"]})
	require.NoError(t, err)
	require.Equal(t, Home{"new", 1}, h, "who leaves a cluster says so there first")
	write("new", Entry{Epoch: 2, Home: "old"})
	h, err = lives(both)
	require.NoError(t, err)
	require.Equal(t, Home{"old", 2}, h)
}
