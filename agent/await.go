package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/starferry/starferry/agent/config"
)

const (
	// tryWithin bounds one attempt, so that a server which is up and does not
	// answer is asked again.
	tryWithin = 5 * time.Second
	// sayEvery is how often a waiting process says what it waits for.
	sayEvery   = 10 * time.Second
	pauseFirst = 100 * time.Millisecond
	pauseMost  = 2 * time.Second
)

// AwaitNATS connects like Connect, for processes that may be started before
// their NATS is: it tries again until NATS answers or ctx ends, and tells the
// log what it waits for. What waiting does not mend, such as credentials that
// are refused, is an error at once.
func AwaitNATS(ctx context.Context, c config.NATS, name string, log *slog.Logger) (*nats.Conn, error) {
	var nc *nats.Conn
	err := newWaiter(c, log).until(ctx, func(context.Context) (err error) {
		nc, err = Connect(c, name, log)
		return err
	})
	return nc, err
}

// waiter repeats what NATS or its JetStream does not answer yet.
type waiter struct {
	nats config.NATS
	nc   *nats.Conn // nil: it is the connection that is waited for
	log  *slog.Logger
	said time.Time
}

func newWaiter(c config.NATS, log *slog.Logger) *waiter {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &waiter{nats: c, log: log}
}

// until repeats try until it succeeds, fails for good, or ctx ends.
func (w *waiter) until(ctx context.Context, try func(context.Context) error) error {
	for pause := pauseFirst; ; pause = min(2*pause, pauseMost) {
		once, cancel := context.WithTimeout(ctx, tryWithin)
		err := try(once)
		cancel()
		if err == nil || !notYet(err) {
			return err
		}
		if why := w.refused(); why != nil {
			return fmt.Errorf("%w (%v): waiting does not mend that; give this user what `starferry nats permissions` prints for it", why, err)
		}
		w.say(err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for NATS at %s: %w; the last attempt: %w", w.nats.Redacted(), context.Cause(ctx), err)
		case <-time.After(pause):
		}
	}
}

// refused is what NATS does not permit to this connection, which looks like
// silence to whoever asks.
func (w *waiter) refused() error {
	if w.nc == nil || !errors.Is(w.nc.LastError(), nats.ErrPermissionViolation) {
		return nil
	}
	return w.nc.LastError()
}

func (w *waiter) say(err error) {
	if time.Since(w.said) < sayEvery {
		return
	}
	w.said = time.Now()
	hint := "start that server (it needs JetStream) or check nats.url"
	if w.nats.Embedded() {
		hint = "start the agent or check nats.url"
	}
	var refused *connectError
	if errors.As(err, &refused) {
		err = refused.err // the rest says the same as the hint
	}
	w.log.Warn(fmt.Sprintf("waiting for NATS at %s: %v; %s", w.nats.Redacted(), err, hint))
}

// notYet tells what may pass by itself from what will not.
func notYet(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		const unavailable = 503 // no JetStream, or none of its servers leads yet
		return api.Code == unavailable
	}
	var network net.Error
	if errors.As(err, &network) {
		return true
	}
	for _, passing := range []error{
		context.DeadlineExceeded, io.EOF, nats.ErrNoServers, nats.ErrTimeout, nats.ErrNoResponders, nats.ErrConnectionClosed,
		nats.ErrConnectionReconnecting, nats.ErrDisconnected, nats.ErrStaleConnection, jetstream.ErrNoStreamResponse,
	} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}
