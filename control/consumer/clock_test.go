package consumer

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Between two looks at the clock that never stands still nothing may have been
// lost: a stopped process sees it in the monotonic clock, one in a machine that
// was suspended in the wall clock.
func TestALookAtTheClockHoldsOnlyWhileNoTimeIsLost(t *testing.T) {
	looked := time.Now()
	require.True(t, steady(looked, looked))
	require.True(t, steady(looked, looked.Add(steadyFor-1)))
	require.False(t, steady(looked, looked.Add(steadyFor)), "a stopped process")
	require.False(t, steady(looked, looked.Add(-1)))
	suspended := time.Now().Add(time.Hour).Round(0) // the wall clock alone: no monotonic reading
	require.False(t, steady(looked, suspended))
}
