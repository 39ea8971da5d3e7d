// Package embednats runs a NATS server with JetStream inside this process, for
// everything on one machine: the demo, tests, and an agent without a NATS of
// its own. It listens on loopback only, because it has no authentication.
package embednats

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	startWithin = 15 * time.Second
	// maxPayload bounds a journal record: the report of a switch of very many
	// partitions, or a script with all it loads. More is what NATS advises against.
	maxPayload = 8 << 20
)

// Options say where the server keeps its streams and where it listens.
type Options struct {
	Dir    string // JetStream's store; created if missing
	Listen string // host:port; port 0 takes a free one
	// SyncAlways makes every acknowledged write durable against a power cut, at
	// the price of one fsync each.
	SyncAlways bool
	Log        *slog.Logger
}

// Server is a running server.
type Server struct{ ns *server.Server }

// Open starts a server and returns when clients can connect.
func Open(o Options) (*Server, error) {
	host, portText, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return nil, fmt.Errorf("start NATS server: listen address %q: %w; give host:port, such as 127.0.0.1:4222", o.Listen, err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return nil, fmt.Errorf("start NATS server: port %q is no number", portText)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	} else if err := free(o.Listen); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("start NATS server: %w", err)
	}
	ns, err := server.NewServer(&server.Options{
		ServerName: "starferry", Host: host, Port: port,
		JetStream: true, StoreDir: o.Dir, SyncAlways: o.SyncAlways, MaxPayload: maxPayload,
		DisableJetStreamBanner: true, NoSigs: true, NoLog: true,
		// Whoever watches leases does so by a consumer of the one stream that has them
		// all; a server allows 1,000 unless it is told otherwise.
		JetStreamLimits: server.JSLimitOpts{DefaultMaxConsumers: -1},
	})
	if err != nil {
		return nil, fmt.Errorf("start NATS server: %w", err)
	}
	if o.Log != nil {
		ns.SetLogger(logger{o.Log.With("part", "nats")}, false, false)
	}
	ns.Start()
	if !ns.ReadyForConnections(startWithin) || !ns.JetStreamEnabled() {
		ns.Shutdown()
		ns.WaitForShutdown()
		return nil, fmt.Errorf("start NATS server: not ready on %s with its store in %s after %v: look for another process on that port or in that folder", o.Listen, o.Dir, startWithin)
	}
	return &Server{ns}, nil
}

// free tells apart a port in use from other failures, which nats-server does not.
func free(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("start NATS server: %w: is another agent running here? Stop it, or set nats.listen to another port", err)
	}
	if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("start NATS server: %w", err)
	}
	return nil
}

// URL is what clients connect to.
func (s *Server) URL() string { return s.ns.ClientURL() }

// Addr is the host:port it listens on.
func (s *Server) Addr() string { return s.ns.Addr().String() }

// Close stops the server and waits until its store is closed.
func (s *Server) Close() {
	s.ns.Shutdown()
	s.ns.WaitForShutdown()
}

// logger passes on what the server reports as wrong; its notices say nothing
// that an operator of ours needs.
type logger struct{ log *slog.Logger }

func (l logger) Noticef(f string, v ...any) { l.log.Debug(fmt.Sprintf(f, v...)) }
func (l logger) Warnf(f string, v ...any)   { l.log.Warn(fmt.Sprintf(f, v...)) }
func (l logger) Fatalf(f string, v ...any)  { l.log.Error(fmt.Sprintf(f, v...)) }
func (l logger) Errorf(f string, v ...any)  { l.log.Error(fmt.Sprintf(f, v...)) }
func (l logger) Debugf(f string, v ...any)  { l.log.Debug(fmt.Sprintf(f, v...)) }
func (l logger) Tracef(f string, v ...any)  { l.log.Debug(fmt.Sprintf(f, v...)) }
