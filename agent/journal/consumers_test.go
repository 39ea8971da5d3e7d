package journal_test

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/agent/journal"
	"github.com/starferry/starferry/scripting"
)

// Servers take a limited number of consumers, and keep those that nobody reads
// for minutes: a journal that is read often leaves none.
func TestReadingLeavesNoConsumersBehind(t *testing.T) {
	w := newWorld(t)
	j := w.start()
	for n := range uint64(3) {
		_, err := j.Append(ctx(t), n, record("r", scripting.Note, "text"))
		require.NoError(t, err)
	}
	for range 5 {
		records, err := j.Read(ctx(t), "r")
		require.NoError(t, err)
		require.Len(t, records, 3)
	}
	js, err := jetstream.New(w.conn)
	require.NoError(t, err)
	s, err := js.Stream(ctx(t), journal.StreamName)
	require.NoError(t, err)
	require.Zero(t, s.CachedInfo().State.Consumers)
}
