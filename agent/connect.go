package agent

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/config"
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
	return connect(c, name, log, nats.RetryOnFailedConnect(true))
}

func connect(c config.NATS, name string, log *slog.Logger, more ...nats.Option) (*nats.Conn, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	opts := []nats.Option{
		nats.Name(name), nats.Timeout(connectWithin),
		nats.MaxReconnects(-1), nats.ReconnectWait(200 * time.Millisecond),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("NATS connection lost; trying again", "err", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("NATS connection is back", "url", nc.ConnectedUrlRedacted()) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Warn("NATS reports", "err", err) }),
	}
	if c.CredsFile != "" {
		opts = append(opts, nats.UserCredentials(c.CredsFile))
	}
	if c.TLS != nil {
		t, err := tlsConfig(c.TLS)
		if err != nil {
			return nil, fmt.Errorf("connect to NATS: %w", err)
		}
		opts = append(opts, nats.Secure(t))
	}
	nc, err := nats.Connect(c.Address(), append(opts, more...)...)
	if wrong := (*url.Error)(nil); errors.As(err, &wrong) { // it quotes the address, password and all
		err = errNoURL
	}
	switch {
	case err != nil && c.Embedded():
		return nil, &connectError{c.Redacted(), err, "no agent answers there; start one with `starferry agent --config FILE` (it runs the NATS server), or give nats.url"}
	case err != nil:
		return nil, &connectError{c.Redacted(), err, "check nats.url and that the server runs"}
	}
	return nc, nil
}

var errNoURL = errors.New("the address is no URL; in a password write what is neither letter nor digit as %XX")

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

func tlsConfig(t *starferry.TLS) (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, InsecureSkipVerify: t.InsecureSkipVerify} //nolint:gosec // only if the operator asks for it
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read authorities: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read authorities: %s holds no PEM certificate", t.CAFile)
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read key pair %s, %s: %w", t.CertFile, t.KeyFile, err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}
