package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
)

// defaultMaxFrame is the largest answer accepted, in bytes, unless
// [WithMaxFrame] says otherwise.
const defaultMaxFrame = 128 << 20

// defaultWithin is how long a broker may take to answer unless
// [WithRequestTimeout] says otherwise.
const defaultWithin = 30 * time.Second

// Dialer makes a transport connection.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// Option sets one thing of a Cluster.
type Option func(*Cluster)

// WithClientID sets the client id that brokers see in their quotas, logs and
// group descriptions. The default is "starferry".
func WithClientID(id string) Option { return func(c *Cluster) { c.clientID = id } }

// WithLogger sets where retries are told, at debug and warn level.
func WithLogger(l *slog.Logger) Option {
	return func(c *Cluster) {
		if l != nil {
			c.log = l
		}
	}
}

// WithDialer replaces how transport connections are made; TLS and SASL go on
// top of what it returns.
func WithDialer(d Dialer) Option {
	return func(c *Cluster) {
		if d != nil {
			c.dialer = d
		}
	}
}

// WithMaxFrame sets the largest answer accepted, in bytes. It must be larger
// than the fetch sizes asked for. The default is 128 MiB.
func WithMaxFrame(bytes int) Option {
	return func(c *Cluster) {
		if bytes > 0 {
			c.maxFrame = bytes
		}
	}
}

// WithRequestTimeout sets how long a broker may take to answer, beside the time
// that a request itself allows it to wait. Then the connection is given up: a
// broker that hangs must not hang its clients. The default is 30 seconds.
func WithRequestTimeout(d time.Duration) Option {
	return func(c *Cluster) {
		if d > 0 {
			c.within = d
		}
	}
}

// Cluster is the way to one Kafka cluster. It connects when it is first asked
// something and keeps what it learned: brokers, leaders, coordinators and
// connections. Its methods may be called from several goroutines.
type Cluster struct {
	conf      starferry.Cluster
	clientID  string
	log       *slog.Logger
	dialer    Dialer
	maxFrame  int
	within    time.Duration  // for an answer
	tls       *tls.Config    // nil: plain text
	mechanism sasl.Mechanism // nil: no authentication
	format    *kmsg.RequestFormatter
	transport *kafka.Transport
	client    *kafka.Client

	ctx    context.Context // ends at Close
	cancel context.CancelCauseFunc
	conns  sync.WaitGroup // readers of all connections

	mu      sync.Mutex // guards what follows; never held while waiting
	closed  bool
	live    map[*Conn]struct{}
	shared  map[place]*slot // one connection each, for requests that answer at once
	idle    map[int32][]*Conn
	fetches map[int32]chan struct{}
	nodes   map[int32]Broker
	leads   map[starferry.TopicPartition]leader
	coords  map[coordinator]int32
}

// leader is a cached leader of a partition.
type leader struct {
	broker int32
	epoch  int32
}

// Open prepares the way to a cluster and checks its settings. It makes no
// connection.
func Open(conf starferry.Cluster, opts ...Option) (*Cluster, error) {
	c := &Cluster{
		conf: conf, clientID: "starferry", log: slog.New(slog.DiscardHandler),
		dialer: (&net.Dialer{Timeout: dialWithin}).DialContext, maxFrame: defaultMaxFrame, within: defaultWithin,
		live: map[*Conn]struct{}{}, shared: map[place]*slot{}, idle: map[int32][]*Conn{}, fetches: map[int32]chan struct{}{},
		nodes: map[int32]Broker{}, leads: map[starferry.TopicPartition]leader{}, coords: map[coordinator]int32{},
	}
	for _, o := range opts {
		o(c)
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("open cluster %q: %w", conf.Name, err)
	}
	c.log = c.log.With("cluster", conf.Name)
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.format = kmsg.NewRequestFormatter(kmsg.FormatterClientID(c.clientID))
	c.transport = &kafka.Transport{
		Dial: c.dialer, DialTimeout: dialWithin, ClientID: c.clientID, TLS: c.tls, SASL: c.mechanism, Context: c.ctx,
		// Without a name the transport keeps the metadata of every topic of the
		// cluster. This one exists wherever there are groups.
		MetadataTopics: []string{"__consumer_offsets"},
	}
	c.client = &kafka.Client{Addr: kafka.TCP(conf.Brokers...), Transport: c.transport, Timeout: time.Minute}
	return c, nil
}

// check reads the settings.
func (c *Cluster) check() (err error) {
	if len(c.conf.Brokers) == 0 {
		return errors.New("no brokers: give at least one host:port")
	}
	for _, b := range c.conf.Brokers {
		if host, port, err := net.SplitHostPort(b); err != nil || host == "" || port == "" {
			return fmt.Errorf("broker %q: want host:port, such as kafka-1.internal:9092", b)
		}
	}
	if c.tls, err = tlsConfig(c.conf.TLS); err != nil {
		return err
	}
	c.mechanism, err = mechanism(c.conf.SASL)
	return err
}

func tlsConfig(t *starferry.TLS) (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, InsecureSkipVerify: t.InsecureSkipVerify}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read tls ca_file: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls ca_file %s holds no certificate in PEM form", t.CAFile)
		}
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		return nil, errors.New("tls cert_file and key_file go together: set both or none")
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("load tls cert_file and key_file: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// userMechanism remembers the user name, for errors.
type userMechanism struct {
	sasl.Mechanism
	user string
}

func mechanism(s *starferry.SASL) (sasl.Mechanism, error) {
	if s == nil {
		return nil, nil
	}
	switch s.Mechanism {
	case "PLAIN":
		return userMechanism{plain.Mechanism{Username: s.Username, Password: s.Password.Reveal()}, s.Username}, nil
	case "SCRAM-SHA-256", "SCRAM-SHA-512":
		algo := scram.SHA256
		if s.Mechanism == "SCRAM-SHA-512" {
			algo = scram.SHA512
		}
		m, err := scram.Mechanism(algo, s.Username, s.Password.Reveal())
		if err != nil {
			return nil, fmt.Errorf("sasl username or password cannot be used with %s: %w", s.Mechanism, err)
		}
		return userMechanism{m, s.Username}, nil
	}
	return nil, fmt.Errorf("sasl mechanism %q: want PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", s.Mechanism)
}

// Close ends all connections and waits until their goroutines have ended. It
// must not be called from a done function of [Conn.Send].
func (c *Cluster) Close() error {
	c.cancel(fmt.Errorf("cluster %q: %w", c.conf.Name, ErrClosed))
	c.mu.Lock()
	c.closed = true
	for conn := range c.live {
		conn.fail(ErrClosed)
	}
	c.mu.Unlock()
	c.transport.CloseIdleConnections() // also ends the transport's discovery
	c.conns.Wait()
	return nil
}

// Name returns the name the cluster has in the configuration.
func (c *Cluster) Name() starferry.ClusterName { return c.conf.Name }

// Client returns a kafka-go client on the same settings, for requests about
// the cluster as a whole. Its transport knows no topics, so metadata and
// requests to leaders (produce, fetch, list offsets) do not belong on it; nor
// do heartbeats, which it sends to any broker.
func (c *Cluster) Client() *kafka.Client { return c.client }

// adopt starts a connection's reader and ties it to the cluster's life.
func (c *Cluster) adopt(conn *Conn) error {
	if err := conn.nc.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("%w: connect to cluster %q at %s: %w", ErrNotSent, c.conf.Name, conn.addr, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.closedError()
	}
	c.live[conn] = struct{}{}
	c.conns.Add(1)
	go func() {
		defer c.conns.Done()
		conn.run()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.live, conn)
	}()
	return nil
}

func (c *Cluster) closedError() error {
	return fmt.Errorf("%w: cluster %q: %w", ErrNotSent, c.conf.Name, ErrClosed)
}
