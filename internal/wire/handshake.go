package wire

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// dialWithin bounds one attempt to connect, TLS and authentication included.
const dialWithin = 10 * time.Second

// socketBuffer is the size of the kernel's buffers of private connections.
const socketBuffer = 1 << 20

// dial connects to an address, settles versions and authenticates.
func (c *Cluster) dial(ctx context.Context, broker int32, addr string, private bool) (*Conn, error) {
	limit := min(dialWithin, c.within)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no connection within %v", limit))
	defer cancel()
	nc, err := c.connect(ctx, addr, private)
	if err != nil {
		return nil, c.dialError(addr, err, ctx)
	}
	conn := &Conn{
		cluster: c.conf.Name, broker: broker, addr: addr, nc: nc, maxFrame: c.maxFrame, within: c.within,
		rd: bufio.NewReaderSize(nc, 64<<10), format: c.format, done: make(chan struct{}),
	}
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	err = conn.handshake(ctx, c.mechanism, c.conf.SASL != nil)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		nc.Close()
		return nil, c.dialError(addr, err, ctx)
	}
	if err := c.adopt(conn); err != nil {
		nc.Close()
		return nil, err
	}
	return conn, nil
}

// connect makes the transport: TCP, and TLS if the cluster has it.
func (c *Cluster) connect(ctx context.Context, addr string, private bool) (net.Conn, error) {
	nc, err := c.dialer(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if tcp, ok := nc.(*net.TCPConn); ok && private {
		// Best effort: the kernel may grant less.
		tcp.SetReadBuffer(socketBuffer)
		tcp.SetWriteBuffer(socketBuffer)
	}
	if c.tls == nil {
		return nc, nil
	}
	conf := c.tls.Clone()
	if conf.ServerName == "" {
		conf.ServerName, _, _ = net.SplitHostPort(addr)
	}
	secure := tls.Client(nc, conf)
	if err := secure.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return secure, nil
}

// dialError says which cluster and address could not be reached, and what to do.
func (c *Cluster) dialError(addr string, err error, ctx context.Context) error {
	var auth *AuthError
	var version *VersionError
	switch {
	case errors.As(err, &auth), errors.As(err, &version):
		return err
	case ctx.Err() != nil:
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		err = fmt.Errorf("the broker closed the connection: %w", err)
	}
	hint := "check that the broker runs and that its address, port, tls and sasl in the configuration of this cluster are right"
	return fmt.Errorf("%w: connect to cluster %q at %s: %w: %s", ErrNotSent, c.conf.Name, addr, err, hint)
}

// handshake learns the broker's versions and authenticates. Nobody else uses
// the connection yet.
func (c *Conn) handshake(ctx context.Context, m sasl.Mechanism, auth bool) error {
	if err := c.learn(); err != nil {
		return err
	}
	if !auth {
		return nil
	}
	return c.authenticate(ctx, m)
}

// ask is one synchronous round trip before the reader runs.
func (c *Conn) ask(req kmsg.Request) (kmsg.Response, error) {
	c.corr++
	if err := c.write(c.format.AppendRequest(nil, req, c.corr)); err != nil {
		return nil, err
	}
	frame, err := readFrame(c.rd, c.maxFrame, nil)
	if err != nil {
		return nil, err
	}
	if got := correlation(frame); got != c.corr {
		return nil, fmt.Errorf("%w: answer to request %d where %d was due", ErrFrame, got, c.corr)
	}
	resp := req.ResponseKind()
	resp.SetVersion(req.GetVersion())
	if req.Key() == kmsg.ApiVersions.Int16() && len(frame) >= 6 && frame[4] == 0 && frame[5] == 35 {
		resp.SetVersion(0) // a broker that does not know the version answers in the oldest (KIP-511)
	}
	return resp, decode(frame, resp)
}

// learn asks what the broker speaks.
func (c *Conn) learn() error {
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "starferry", "1"
	for _, v := range []int16{3, 0} {
		req.SetVersion(v)
		r, err := c.ask(req)
		if err != nil {
			return err
		}
		resp := r.(*kmsg.ApiVersionsResponse)
		if kafka.Error(resp.ErrorCode) == kafka.UnsupportedVersion && v > 0 {
			continue
		}
		if err := Code(resp.ErrorCode); err != nil {
			return fmt.Errorf("ask for versions: %w", err)
		}
		c.versions = make(map[int16]span, len(resp.ApiKeys))
		for _, k := range resp.ApiKeys {
			c.versions[k.ApiKey] = span{k.MinVersion, k.MaxVersion}
		}
		return nil
	}
	return fmt.Errorf("ask for versions: %w", kafka.UnsupportedVersion)
}

// authenticate drives the mechanism over SaslHandshake and SaslAuthenticate
// (KIP-43, KIP-152).
func (c *Conn) authenticate(ctx context.Context, m sasl.Mechanism) error {
	shake := kmsg.NewPtrSASLHandshakeRequest()
	shake.Mechanism = m.Name()
	if err := c.settle(shake); err != nil {
		return err
	}
	r, err := c.ask(shake)
	if err != nil {
		return c.authError(m, err)
	}
	if resp := r.(*kmsg.SASLHandshakeResponse); resp.ErrorCode != 0 {
		return c.authError(m, fmt.Errorf("%w (the broker offers %v)", kafka.Error(resp.ErrorCode), resp.SupportedMechanisms))
	}
	host, p, _ := net.SplitHostPort(c.addr)
	port, _ := strconv.Atoi(p)
	ctx = sasl.WithMetadata(ctx, &sasl.Metadata{Host: host, Port: port})
	session, token, err := m.Start(ctx)
	if err != nil {
		return c.authError(m, err)
	}
	for done := false; !done; {
		challenge, err := c.token(token)
		if err != nil {
			return c.authError(m, err)
		}
		if done, token, err = session.Next(ctx, challenge); err != nil {
			return c.authError(m, err)
		}
	}
	return nil
}

// token hands the broker one token and returns its challenge.
func (c *Conn) token(token []byte) ([]byte, error) {
	req := kmsg.NewPtrSASLAuthenticateRequest()
	req.SASLAuthBytes = token
	if err := c.settle(req); err != nil {
		return nil, err
	}
	r, err := c.ask(req)
	if err != nil {
		return nil, err
	}
	resp := r.(*kmsg.SASLAuthenticateResponse)
	if resp.ErrorCode != 0 {
		return nil, coded(resp.ErrorCode, resp.ErrorMessage)
	}
	if ms := resp.SessionLifetimeMillis; ms > 0 {
		// Used up to nine tenths of its life: the broker closes it when it is over (KIP-368).
		c.expires = time.Now().Add(time.Duration(ms) * time.Millisecond * 9 / 10)
	}
	return resp.SASLAuthBytes, nil
}

// authError tells a refusal from a broken connection. Some brokers only close
// the connection on wrong credentials, as a broker that ends does: that is told
// as a refusal but may be tried again.
func (c *Conn) authError(m sasl.Mechanism, err error) error {
	var refused kafka.Error // has the methods of a net.Error, so it is looked for first
	var broken net.Error
	if !errors.As(err, &refused) && errors.As(err, &broken) {
		return fmt.Errorf("while authenticating with %s: %w", m.Name(), err)
	}
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("the broker closed the connection: %w", err)
	}
	user := ""
	if u, ok := m.(userMechanism); ok {
		user = u.user
	}
	return &AuthError{Cluster: c.cluster, Address: c.addr, Mechanism: m.Name(), Username: user, Err: err}
}
