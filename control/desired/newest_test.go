package desired

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/control"
)

// A poll that finds nothing newer reads nothing: hundreds of watchers must not
// make a consumer each, every few seconds.
func TestAPollAsksForTheNewestOnly(t *testing.T) {
	w := newTown(t, Options{LeaseTTL: time.Minute})
	rev := w.placed(control.Steady, 0)
	newest, err := w.s.newest(t.Context(), w.s.desired, groupKey("pay.v2", "*"))
	require.NoError(t, err)
	require.Equal(t, rev, newest)
	newest, err = w.s.newest(t.Context(), w.s.desired, groupKey("other", "*"))
	require.NoError(t, err)
	require.Zero(t, newest)

	f := &follower{s: w.s, b: w.s.desired, filter: groupKey("pay.v2", "*"), changed: func(map[string]entry) {}, all: map[string]entry{}, high: rev}
	require.NoError(t, f.poll(t.Context()))
	require.Empty(t, f.all, "nothing was read")
	rev = w.placed(control.Prepare, rev)
	require.NoError(t, f.poll(t.Context()))
	require.Len(t, f.all, 1, "what the watch has missed")
	require.Equal(t, rev, f.high)

	f.all = map[string]entry{}
	for range fullPoll + 1 {
		require.NoError(t, f.poll(t.Context()))
	}
	require.Len(t, f.all, 1, "now and then the whole is read all the same")
}
