package desired

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

func TestLastWordsOutliveLeases(t *testing.T) {
	w := newTown(t, Options{LeaseTTL: time.Second})
	a, b := w.s.LeaseWriter(), w.s.LeaseWriter()
	lease := control.Lease{Group: "pay.v2", Instance: "a", Boot: "1", Home: "old"}
	for lease.HomeEpoch = range 5 { // faster than they are answered
		require.NoError(t, a.Put(t.Context(), lease))
	}
	require.NoError(t, b.Put(t.Context(), control.Lease{Group: "pay.v2", Instance: "b", Boot: "1", Home: "old"}))
	require.NoError(t, b.Put(t.Context(), control.Lease{Group: "pay.v2", Instance: "b", Boot: "2", Home: "old"}))
	require.NoError(t, b.Put(t.Context(), control.Lease{Group: "pay", Instance: "c", Boot: "1", Home: "old"}))
	require.Eventually(t, func() bool {
		all, err := w.s.Leases(t.Context(), "pay.v2")
		return err == nil && len(all) == 0
	}, 20*time.Second, 10*time.Millisecond, "nobody renews a lease")

	words, err := w.s.LastWords(t.Context(), "pay.v2")
	require.NoError(t, err)
	last := map[string]starferry.Epoch{}
	for _, l := range words {
		last[string(l.Instance)+" "+l.Boot] = l.HomeEpoch
	}
	require.Equal(t, map[string]starferry.Epoch{"a 1": 4, "b 1": 0, "b 2": 0}, last, "the newest word of each process of the group")
}

func TestALeaseIsWrittenAgainAfterItsBucketIsGone(t *testing.T) {
	w := newTown(t, Options{LeaseTTL: time.Minute})
	a := w.s.LeaseWriter()
	lease := control.Lease{Group: "pay.v2", Instance: "a", Boot: "1"}
	require.NoError(t, a.Put(t.Context(), lease))
	require.NoError(t, w.s.js.DeleteKeyValue(t.Context(), LiveBucket))
	require.NoError(t, w.s.js.DeleteKeyValue(t.Context(), LastBucket))
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if a.Put(ctx, lease) != nil {
			return false // told of the renewal that was lost
		}
		all, err := w.s.Leases(ctx, "pay.v2")
		if err != nil || len(all) != 1 {
			return false
		}
		words, err := w.s.LastWords(ctx, "pay.v2")
		return err == nil && len(words) == 1
	}, 20*time.Second, time.Millisecond)
}
