package wire

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// mostFetches is how many fetches a broker is sent at a time that hold a
// connection until they are answered: beyond it they wait, for connections and
// answers cost memory and the broker's time. As many connections are kept.
const mostFetches = 16

// place is where a shared connection goes: to a broker, or to an address of the
// configuration (broker −1) while nothing is known of brokers.
type place struct {
	broker int32
	addr   string
}

// slot holds the shared connection of a place. Its token is held while one
// caller looks at or makes the connection; the others wait for it.
type slot struct {
	token chan struct{}
	conn  *Conn
}

// Dial makes a private connection to a broker, with socket buffers of 1 MiB.
// The caller closes it.
func (c *Cluster) Dial(ctx context.Context, broker int32) (*Conn, error) {
	return c.dialBroker(ctx, broker, true)
}

// DialAddr makes a private connection to an address, whatever broker answers
// there. The caller closes it.
func (c *Cluster) DialAddr(ctx context.Context, addr string) (*Conn, error) {
	return c.dial(ctx, -1, addr, true)
}

// MaxVersion returns the newest version of a request key that a broker speaks,
// −1 if it does not know the request.
func (c *Cluster) MaxVersion(ctx context.Context, broker int32, key int16) (int16, error) {
	conn, err := c.sharedConn(ctx, broker)
	if err != nil {
		return -1, err
	}
	if v, ok := conn.MaxVersion(key); ok {
		return v, nil
	}
	return -1, nil
}

// dialBroker connects to a broker by id. Brokers move: if the known address
// does not answer, the cluster is asked for the current one.
func (c *Cluster) dialBroker(ctx context.Context, broker int32, private bool) (*Conn, error) {
	addr, known := c.address(broker)
	if known {
		conn, err := c.dial(ctx, broker, addr, private)
		if err == nil || !retriable(err) || ctx.Err() != nil {
			return conn, err
		}
		if _, merr := c.Metadata(ctx); merr != nil {
			return nil, err
		}
		now, still := c.address(broker)
		if still && now == addr {
			return nil, err
		}
		addr, known = now, still
	} else {
		if _, err := c.Metadata(ctx); err != nil {
			return nil, err
		}
		addr, known = c.address(broker)
	}
	if !known {
		return nil, fmt.Errorf("%w: cluster %q has no broker %d now: it may be restarting", ErrNotSent, c.conf.Name, broker)
	}
	return c.dial(ctx, broker, addr, private)
}

// address returns the last known address of a broker.
func (c *Cluster) address(broker int32) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, ok := c.nodes[broker]
	return net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))), ok
}

// sharedConn returns the shared connection to a broker, made if need be.
func (c *Cluster) sharedConn(ctx context.Context, broker int32) (*Conn, error) {
	return c.slotConn(ctx, place{broker: broker}, func() (*Conn, error) { return c.dialBroker(ctx, broker, false) })
}

// seedConn returns the shared connection to an address of the configuration.
func (c *Cluster) seedConn(ctx context.Context, addr string) (*Conn, error) {
	return c.slotConn(ctx, place{-1, addr}, func() (*Conn, error) { return c.dial(ctx, -1, addr, false) })
}

func (c *Cluster) slotConn(ctx context.Context, at place, dial func() (*Conn, error)) (*Conn, error) {
	c.mu.Lock()
	s := c.shared[at]
	if s == nil {
		s = &slot{token: make(chan struct{}, 1)}
		c.shared[at] = s
	}
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return nil, c.closedError()
	}
	select {
	case s.token <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: wait for a connection to cluster %q: %w", ErrNotSent, c.conf.Name, context.Cause(ctx))
	}
	defer func() { <-s.token }()
	if s.conn != nil && s.conn.usable() {
		return s.conn, nil
	}
	if s.conn != nil && s.conn.Err() == nil {
		s.conn.retire() // its authentication ends; what is under way may still be answered
	}
	s.conn = nil
	conn, err := dial()
	if err == nil {
		s.conn = conn
	}
	return conn, err
}

// anyConn returns a connection to some broker: a live one if there is one, else
// to the addresses of the configuration, else to brokers it has heard of.
func (c *Cluster) anyConn(ctx context.Context) (*Conn, error) {
	if conn := c.liveShared(); conn != nil {
		return conn, nil
	}
	var errs []error
	for _, i := range rand.Perm(len(c.conf.Brokers)) {
		conn, err := c.seedConn(ctx, c.conf.Brokers[i])
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if !retriable(err) || ctx.Err() != nil {
			return nil, errors.Join(errs...)
		}
	}
	for _, addr := range c.otherAddresses() {
		conn, err := c.seedConn(ctx, addr)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// otherAddresses lists addresses of brokers that the configuration does not name.
func (c *Cluster) otherAddresses() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var addrs []string
	for _, b := range c.nodes {
		if a := net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))); !slices.Contains(c.conf.Brokers, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

func (c *Cluster) liveShared() *Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.shared {
		select {
		case s.token <- struct{}{}:
			conn := s.conn
			<-s.token
			if conn != nil && conn.usable() {
				return conn
			}
		default: // being made
		}
	}
	return nil
}

// exclusive sends a request that the broker may hold back for long on a
// connection that nothing else uses meanwhile: brokers answer in order, so
// others would wait behind it.
func (c *Cluster) exclusive(ctx context.Context, broker int32, req kmsg.Request) (kmsg.Response, error) {
	if _, ok := req.(*kmsg.FetchRequest); ok {
		room := c.fetchRoom(broker)
		select {
		case room <- struct{}{}:
			defer func() { <-room }()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	conn := c.takeIdle(broker)
	if conn == nil {
		var err error
		if conn, err = c.dialBroker(ctx, broker, false); err != nil {
			return nil, err
		}
	}
	resp, err := conn.Do(ctx, req)
	if err != nil {
		conn.Close() // an answer may still be due on it
		return nil, err
	}
	c.putIdle(broker, conn)
	return resp, nil
}

// fetchRoom bounds the fetches under way at a broker.
func (c *Cluster) fetchRoom(broker int32) chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fetches[broker] == nil {
		c.fetches[broker] = make(chan struct{}, mostFetches)
	}
	return c.fetches[broker]
}

func (c *Cluster) takeIdle(broker int32) *Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		list := c.idle[broker]
		if len(list) == 0 {
			return nil
		}
		conn := list[len(list)-1]
		c.idle[broker] = list[:len(list)-1]
		if conn.usable() {
			return conn
		}
		conn.Close()
	}
}

func (c *Cluster) putIdle(broker int32, conn *Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.idle[broker]) >= mostFetches {
		conn.Close()
		return
	}
	c.idle[broker] = append(c.idle[broker], conn)
}

// holds reports whether a broker may hold the answer to a request back.
func holds(req kmsg.Request) bool {
	switch req.(type) {
	case *kmsg.JoinGroupRequest, *kmsg.SyncGroupRequest, *kmsg.FetchRequest:
		return true
	}
	return false
}
