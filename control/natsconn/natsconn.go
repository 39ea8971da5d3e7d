// Package natsconn connects services, agents and shards to NATS with the
// credentials they are given. Services may bring a connection of their own
// instead; what it needs is in docs/security.md.
//
// # Rules
//
//   - A secret is read from a file when a connection is made, again for each new
//     one, and appears in no error and no log.
//   - What NATS does not permit is said when it happens, with where permissions
//     come from: a server does not answer what it refuses.
package natsconn

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry"
)

// Config says where NATS is and who we are there.
type Config struct {
	// URL is one address or several, separated by commas. A user and password, or
	// a token, may stand in it; better they stand below.
	URL string
	// TLS is needed where the server wants it, or where an authority of our own
	// has signed it; a client certificate may be the credentials. nil: as the URL
	// says (tls://).
	TLS *starferry.TLS
	// CredsFile holds a JWT and its seed, NKeyFile a seed alone.
	CredsFile, NKeyFile string
	User                string
	Password, Token     starferry.Secret
	// InboxPrefix is what the subjects of answers begin with, such as
	// _INBOX_billing; empty: _INBOX. With permissions each process has its own:
	// who may hear _INBOX.> hears the answers to all.
	InboxPrefix string
}

// Format implements fmt.Formatter: an address may hold a password.
func (c Config) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "{%s as %s}", Redacted(c.URL), c.who()) //nolint:errcheck // as fmt does
}

func (c Config) who() string {
	switch {
	case c.CredsFile != "":
		return "credentials of " + c.CredsFile
	case c.NKeyFile != "":
		return "key of " + c.NKeyFile
	case c.User != "":
		return "user " + c.User
	case c.Token != "":
		return "a token"
	case c.TLS != nil && c.TLS.CertFile != "":
		return "certificate " + c.TLS.CertFile
	}
	return "nobody"
}

// Check says what does not go together.
func (c Config) Check() error {
	var have []string
	for name, given := range map[string]bool{"creds file": c.CredsFile != "", "nkey file": c.NKeyFile != "", "user": c.User != "", "token": c.Token != ""} {
		if given {
			have = append(have, name)
		}
	}
	switch {
	case c.URL == "":
		return errors.New("no address of NATS: give one such as nats://nats-1:4222")
	case len(have) > 1:
		return errors.New("more than one of creds file, nkey file, user and token: keep one")
	case c.User == "" && c.Password != "":
		return errors.New("a password without a user: give both")
	case strings.ContainsAny(c.InboxPrefix, "*> \t\r\n") || strings.HasPrefix(c.InboxPrefix, ".") || strings.HasSuffix(c.InboxPrefix, "."):
		return fmt.Errorf("inbox prefix %q: want a subject without wildcards, such as _INBOX_billing", c.InboxPrefix)
	}
	return nil
}

// Redacted is an address for people, without what stands before a host: a user
// and password, or a token. It need not be a proper URL.
func Redacted(address string) string {
	servers := strings.Split(address, ",")
	for i, s := range servers {
		s = strings.TrimSpace(s)
		scheme := ""
		if before, after, ok := strings.Cut(s, "://"); ok {
			scheme, s = before+"://", after
		}
		servers[i] = scheme + s[strings.LastIndexByte(s, '@')+1:]
	}
	return strings.Join(servers, ",")
}

// Options are what nats.Connect needs for it.
func (c Config) Options() ([]nats.Option, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	var opts []nats.Option
	switch {
	case c.CredsFile != "":
		opts = append(opts, nats.UserCredentials(c.CredsFile))
	case c.NKeyFile != "":
		o, err := nats.NkeyOptionFromSeed(c.NKeyFile)
		if err != nil {
			return nil, fmt.Errorf("read key %s: it holds no seed of a user (SU…): %w", c.NKeyFile, err)
		}
		opts = append(opts, o)
	case c.User != "":
		opts = append(opts, nats.UserInfo(c.User, c.Password.Reveal()))
	case c.Token != "":
		opts = append(opts, nats.Token(c.Token.Reveal()))
	}
	if c.TLS != nil {
		t, err := tlsConfig(c.TLS)
		if err != nil {
			return nil, err
		}
		opts = append(opts, nats.Secure(t))
	}
	if c.InboxPrefix != "" {
		opts = append(opts, nats.CustomInboxPrefix(c.InboxPrefix))
	}
	return opts, nil
}

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

// Watch are the options by which a connection says in a log what happens to it.
func Watch(log *slog.Logger) []nats.Option {
	return []nats.Option{
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("NATS connection lost; trying again", "err", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("NATS connection is back", "url", nc.ConnectedUrlRedacted()) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) {
				log.Error("NATS refuses", "err", err, "do", "give this process what `starferry nats permissions` prints for it")
				return
			}
			log.Warn("NATS reports", "err", err)
		}),
	}
}

// Dial connects a service. It does not wait for NATS, nor end when it is refused:
// a service works without, and the log says what is wrong. An error is one of
// the configuration.
func Dial(c Config, name string, log *slog.Logger) (*nats.Conn, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	opts, err := c.Options()
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s: %w", Redacted(c.URL), err)
	}
	opts = append(append(opts, Watch(log)...), nats.Name(name), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(250*time.Millisecond), nats.IgnoreAuthErrorAbort(),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			log.Warn("NATS is not reached; trying again", "url", Redacted(c.URL), "as", c.who(), "err", Plain(err))
		}))
	nc, err := nats.Connect(c.URL, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s: %w", Redacted(c.URL), Plain(err))
	}
	return nc, nil
}

var errNoURL = errors.New("the address is no URL; in a password write what is neither letter nor digit as %XX")

// Plain keeps an address, password and all, out of an error.
func Plain(err error) error {
	if wrong := (*url.Error)(nil); errors.As(err, &wrong) { // it quotes the address
		return errNoURL
	}
	return err
}
