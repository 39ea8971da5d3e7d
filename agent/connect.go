package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/control/natsconn"
)

const connectWithin = 3 * time.Second

// Connect reaches NATS as the configuration says. The connection repairs itself
// for as long as it is open; only the first attempt can fail, and does so at once:
// see AwaitNATS for processes that wait.
func Connect(c config.NATS, name string, log *slog.Logger) (*nats.Conn, error) {
	return connect(c, name, log)
}

// ConnectLater is Connect for those who work without NATS: one that is not there
// is connected to when it comes.
func ConnectLater(c config.NATS, name string, log *slog.Logger) (*nats.Conn, error) {
	return connect(c, name, log, nats.RetryOnFailedConnect(true), nats.IgnoreAuthErrorAbort())
}

func connect(c config.NATS, name string, log *slog.Logger, more ...nats.Option) (*nats.Conn, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	opts, err := c.Connection().Options()
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	opts = append(append(opts, natsconn.Watch(log)...), nats.Name(name), nats.Timeout(connectWithin),
		nats.MaxReconnects(-1), nats.ReconnectWait(200*time.Millisecond))
	nc, err := nats.Connect(c.Address(), append(opts, more...)...)
	err = natsconn.Plain(err)
	switch {
	case errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired):
		return nil, &connectError{c.Redacted(), err, "NATS knows neither this user nor its secret; look at user, creds_file, nkey_file or token below nats:"}
	case err != nil && c.Embedded():
		return nil, &connectError{c.Redacted(), err, "no agent answers there; start one with `starferry agent --config FILE` (it runs the NATS server), or give nats.url"}
	case err != nil:
		return nil, &connectError{c.Redacted(), err, "check nats.url and that the server runs"}
	}
	return nc, nil
}

// connectError says that NATS was not reached, and what to do.
type connectError struct {
	address string
	err     error
	hint    string
}

func (e *connectError) Error() string {
	return fmt.Sprintf("connect to NATS at %s: %v: %s", e.address, e.err, e.hint)
}
func (e *connectError) Unwrap() error { return e.err }
