package jet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// lookAgain is how often it is looked whether NATS has refused a request.
const lookAgain = 50 * time.Millisecond

// Request asks and waits for the answer. What NATS does not permit it does not
// answer, but tells the connection: that ends the wait, as an error that is
// nats.ErrPermissionViolation.
func Request(ctx context.Context, nc *nats.Conn, subject string, data []byte) (*nats.Msg, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() {
		tick := time.NewTicker(lookAgain)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if why := nc.LastError(); errors.Is(why, nats.ErrPermissionViolation) && strings.Contains(why.Error(), `"`+subject+`"`) {
				cancel(why)
				return
			}
		}
	})
	m, err := nc.RequestWithContext(ctx, subject, data)
	if why := context.Cause(ctx); err != nil && errors.Is(why, nats.ErrPermissionViolation) {
		return nil, fmt.Errorf("ask on %s: %w", subject, why)
	}
	return m, err
}
