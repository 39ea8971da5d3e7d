package journal_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/scripting"
)

// A record larger than NATS takes would be refused for ever: the run must hear
// it, and not wait with its locks in hand.
func TestARecordTooLargeForNATSIsAnErrorAtOnce(t *testing.T) {
	j := newWorld(t).start()
	began := time.Now()
	_, err := j.Append(ctx(t), 0, record("r", scripting.Note, strings.Repeat("x", 20<<20)))
	require.ErrorIs(t, err, nats.ErrMaxPayload)
	require.ErrorContains(t, err, "max_payload")
	require.Less(t, time.Since(began), 10*time.Second, "it was not tried again and again")
	_, err = j.Append(ctx(t), 0, record("r", scripting.Note, strings.Repeat("x", 4<<20)))
	require.NoError(t, err, "the results of large groups fit into the agent's own NATS")
}
