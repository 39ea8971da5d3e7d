package desired

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// TestLeasesThatAreRenewedMeanwhileAreAllRead: what is overwritten while the
// whole is read hides nothing else.
func TestLeasesThatAreRenewedMeanwhileAreAllRead(t *testing.T) {
	const instances, writers = 200, 4
	s := newTown(t, Options{}).s
	put := func(i int) error {
		return s.PutLease(t.Context(), control.Lease{Group: "billing", Instance: starferry.InstanceID(fmt.Sprintf("i%03d", i)), Boot: "b"})
	}
	for i := range instances {
		require.NoError(t, put(i))
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := w; ; i = (i + writers) % instances {
				select {
				case <-done:
					return
				default:
					_ = put(i) // the context of the test may be over
				}
			}
		})
	}
	defer wg.Wait()
	defer close(done)
	for range 40 {
		leases, err := s.Leases(t.Context(), "billing")
		require.NoError(t, err)
		require.Equal(t, instances, len(leases))
	}
}
