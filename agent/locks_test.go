package agent

import (
	"log/slog"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/internal/kafkatest"
)

// NATS is emptied under an agent that runs: it takes locks again.
func TestABucketOfLocksThatHasVanishedIsMadeAgain(t *testing.T) {
	nc, _ := kafkatest.NATS(t)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	l, err := openLocks(t.Context(), js, "agent-1", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.NoError(t, js.DeleteKeyValue(t.Context(), locksBucket))

	k, err := l.try(t.Context(), "group orders", func(error) {})
	require.NoError(t, err)
	defer k.release()
	other, err := openLocks(t.Context(), js, "agent-2", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	_, err = other.try(t.Context(), "group orders", func(error) {})
	require.ErrorContains(t, err, "agent-1")
}
