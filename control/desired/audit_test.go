package desired

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Servers take a limited number of consumers, and keep those that nobody reads
// for minutes: an audit trail that is read often leaves none.
func TestReadingTheAuditTrailLeavesNoConsumersBehind(t *testing.T) {
	w := newTown(t, Options{})
	for range 3 {
		require.NoError(t, w.s.Audit(t.Context(), Event{Group: "g", What: "switch"}))
	}
	for range 5 {
		es, err := w.s.AuditLog(t.Context(), AuditFilter{Group: "g"})
		require.NoError(t, err)
		require.Len(t, es, 3)
	}
	require.Eventually(t, func() bool { // the client deletes some a moment later
		s, err := w.s.js.Stream(t.Context(), AuditStream)
		return err == nil && s.CachedInfo().State.Consumers == 0
	}, 10*time.Second, 20*time.Millisecond)
}
