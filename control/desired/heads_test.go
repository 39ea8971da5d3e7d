package desired

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/control"
)

func TestHeadsNameWhoIsThereAndKeepTheRest(t *testing.T) {
	w := newTown(t, Options{LeaseTTL: time.Minute, Poll: time.Minute})
	ctx, cancel := context.WithCancel(t.Context())
	heard, done := make(chan map[string]LeaseHead, 100), make(chan struct{})
	go func() {
		defer close(done)
		_ = w.s.WatchLeaseHeads(ctx, "pay.v2", func(hs []LeaseHead) {
			all := map[string]LeaseHead{}
			for _, h := range hs {
				all[string(h.Instance)+" "+h.Boot] = h
			}
			heard <- all
		})
	}()
	defer func() { cancel(); <-done }()
	require.Empty(t, <-heard)

	a, b := w.s.LeaseWriter(), w.s.LeaseWriter()
	lease := control.Lease{Group: "pay.v2", Instance: "a", Boot: "1", Home: "old"}
	for lease.HomeEpoch = range 5 { // faster than they are answered
		require.NoError(t, a.Put(t.Context(), lease))
	}
	require.NoError(t, b.Put(t.Context(), control.Lease{Group: "pay.v2", Instance: "b", Boot: "1", Home: "old"}))
	var last map[string]LeaseHead
	require.Eventually(t, func() bool {
		select {
		case last = <-heard:
		default:
		}
		l, err := last["a 1"].Lease()
		return err == nil && l.HomeEpoch == 4 && last["b 1"].Instance == "b"
	}, 10*time.Second, time.Millisecond, "the newest word of each")

	require.NoError(t, w.s.DeleteLease(t.Context(), "pay.v2", "a"))
	for last = <-heard; len(last) > 1; last = <-heard {
	}
	require.Contains(t, last, "b 1")
}

func TestALeaseIsWrittenAgainAfterItsBucketIsGone(t *testing.T) {
	w := newTown(t, Options{LeaseTTL: time.Minute})
	a := w.s.LeaseWriter()
	lease := control.Lease{Group: "pay.v2", Instance: "a", Boot: "1"}
	require.NoError(t, a.Put(t.Context(), lease))
	require.NoError(t, w.s.js.DeleteKeyValue(t.Context(), LiveBucket))
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if a.Put(ctx, lease) != nil {
			return false // told of the renewal that was lost
		}
		all, err := w.s.Leases(ctx, "pay.v2")
		return err == nil && len(all) == 1
	}, 20*time.Second, time.Millisecond)
}
