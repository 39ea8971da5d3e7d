package replication

import (
	"context"
	"errors"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry/internal/wire"
)

// passing reports whether an error may go away by itself.
func passing(err error) bool {
	var code kafka.Error
	var auth *wire.AuthError
	var version *wire.VersionError
	switch {
	case err == nil, errors.As(err, &auth), errors.As(err, &version), errors.Is(err, wire.ErrClosed):
		return false
	case errors.As(err, &code):
		switch code {
		case concurrentTransactions, kafka.UnknownTopicOrPartition, kafka.NotLeaderForPartition:
			return true
		}
		return code.Temporary()
	}
	return !errors.Is(err, context.Canceled)
}

// concurrentTransactions: the transaction before is still being ended.
const concurrentTransactions = kafka.Error(51)

// again repeats f while its error may pass, with growing pauses, until the
// context ends. The last error says why.
func again(ctx context.Context, f func() error) error {
	pause := 10 * time.Millisecond
	for {
		err := f()
		if !passing(err) || ctx.Err() != nil {
			return err
		}
		if wait(ctx, pause) != nil {
			return err
		}
		pause = min(2*pause, time.Second)
	}
}

// wait returns after d, or with the context's error when that ends first.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
