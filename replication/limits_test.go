package replication

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// read reads answers of at most the size given for a time, and returns the bytes.
func (l *limits) read(t *testing.T, answer, perRecord int, d time.Duration) (bytes int) {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	for l.wait(ctx) == nil {
		n := l.most(answer)
		l.spend(n, n/perRecord)
		bytes += n
	}
	return bytes
}

// A limit holds within a second, from the first byte on.
func TestALimitHoldsFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimits(1<<20, 0)
		require.InEpsilon(t, 1<<20, l.read(t, 4<<20, 1000, time.Second), 0.2)
		require.NoError(t, wait(t.Context(), time.Minute)) // of the test's own clock: a silence saves nothing up
		require.InEpsilon(t, 10<<20, l.read(t, 4<<20, 1000, 10*time.Second), 0.03)
	})
}

func TestARecordLimitHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, size := range []int{50, 1000, 100_000} {
			l := newLimits(0, 500)
			l.size = float64(size)
			require.InEpsilon(t, 500*size*10, l.read(t, 4<<20, size, 10*time.Second), 0.05)
		}
	})
}

// A change is felt at once by who waits, and what was owed to a low limit does
// not hold up a high one.
func TestALimitChangesWhileItIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimits(10, 0)
		l.spend(1<<20, 1) // a day's worth
		done := make(chan time.Time)
		go func() { _ = l.wait(t.Context()); done <- time.Now() }()
		synctest.Wait()
		require.True(t, l.holding())
		began := time.Now()
		l.set(1<<30, 0)
		require.Less(t, (<-done).Sub(began), time.Second)
		require.False(t, l.holding())
		l.set(0, 0)
		l.spend(1<<40, 1)
		require.NoError(t, l.wait(t.Context()))
	})
}
