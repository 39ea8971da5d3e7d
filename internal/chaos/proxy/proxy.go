package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy is the ways to one cluster.
type Proxy struct {
	raw     bool // what passes is not Kafka's
	mu      sync.Mutex
	ways    map[string]*way // by the broker's address
	conns   map[*conn]bool
	weather Weather
	changed chan struct{} // closed when the weather changes
	tricks  []*Played
	held    map[*conn]*Held
	closed  bool
	work    sync.WaitGroup
}

// Weather holds for all connections while it lasts.
type Weather struct {
	Refused bool          // new connections are reset
	Frozen  bool          // nothing passes, and nobody is told
	Delay   time.Duration // of each frame, each way
	Rate    int           // bytes per second of each connection and way; 0: no limit
}

// way is a listener that leads to one broker.
type way struct {
	broker string
	listen net.Listener
}

// Open makes a proxy to the brokers of a cluster, those named here and those
// that the cluster names.
func Open(brokers ...string) (*Proxy, error) {
	p := &Proxy{ways: map[string]*way{}, conns: map[*conn]bool{}, held: map[*conn]*Held{}, changed: make(chan struct{})}
	for _, b := range brokers {
		if _, err := p.Address(b); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	return p, nil
}

// OpenRaw makes a proxy to a server that speaks anything: bytes are passed on as
// the weather lets them, and there are no tricks.
func OpenRaw(server string) (*Proxy, error) {
	p := &Proxy{raw: true, ways: map[string]*way{}, conns: map[*conn]bool{}, held: map[*conn]*Held{}, changed: make(chan struct{})}
	if _, err := p.Address(server); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Address is where a broker is reached through the proxy.
func (p *Proxy) Address(broker string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.ways[broker]; w != nil {
		return w.listen.Addr().String(), nil
	}
	if p.closed {
		return "", net.ErrClosed
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("proxy of %s: %w", broker, err)
	}
	w := &way{broker, l}
	p.ways[broker] = w
	p.work.Go(func() { p.accept(w) })
	return l.Addr().String(), nil
}

// Close breaks all connections and waits.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	var errs error
	for _, w := range p.ways {
		errs = errors.Join(errs, w.listen.Close())
	}
	p.mu.Unlock()
	p.Set(Weather{})
	p.Cut()
	p.work.Wait()
	return errs
}

// Set changes the weather.
func (p *Proxy) Set(w Weather) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.weather = w
	close(p.changed)
	p.changed = make(chan struct{})
}

// Cut breaks all connections and returns how many there were.
func (p *Proxy) Cut() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.shut()
	}
	return len(p.conns)
}

// Held is what a client said and the broker has not heard yet.
type Held struct {
	p    *Proxy
	open chan struct{}
	n    atomic.Int64
}

// Hold keeps back what a client says on the connections that it has, until it
// is released: packets that wander about and arrive when nobody counts on them
// any more. Other connections are not touched. It must be released before Close.
func (p *Proxy) Hold(client string) *Held {
	h := &Held{p: p, open: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if name, ok := c.name.Load().(string); ok && name == client && p.held[c] == nil {
			p.held[c] = h
		}
	}
	return h
}

// Requests is how many connections have said something that is held back.
func (h *Held) Requests() int { return int(h.n.Load()) }

// Release lets everything go on.
func (h *Held) Release() {
	h.p.mu.Lock()
	defer h.p.mu.Unlock()
	close(h.open)
	for c, o := range h.p.held {
		if o == h {
			delete(h.p.held, c)
		}
	}
}

// hold is what holds a connection; nil: nothing.
func (p *Proxy) hold(c *conn) *Held {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held[c]
}

// now is the weather, and a channel that is closed when it changes.
func (p *Proxy) now() (Weather, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.weather, p.changed
}

func (p *Proxy) accept(w *way) {
	for {
		client, err := w.listen.Accept()
		if err != nil {
			return // closed
		}
		if weather, _ := p.now(); weather.Refused {
			reset(client)
			continue
		}
		p.work.Go(func() { p.serve(client, w.broker) })
	}
}

// dialWithin bounds the connection to a broker of this machine.
const dialWithin = 5 * time.Second

// serve carries one connection until either side ends it.
func (p *Proxy) serve(client net.Conn, broker string) {
	up, err := net.DialTimeout("tcp", broker, dialWithin)
	if err != nil {
		reset(client)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := &conn{p: p, client: client, broker: up, ctx: ctx, cancel: cancel, asked: map[int32]request{}}
	p.mu.Lock()
	closed := p.closed
	p.conns[c] = true
	p.mu.Unlock()
	if closed {
		c.shut()
	}
	var both sync.WaitGroup
	if p.raw {
		both.Go(func() { defer c.shut(); c.bytes(c.client, c.broker) })
		both.Go(func() { defer c.shut(); c.bytes(c.broker, c.client) })
	} else {
		both.Go(func() { defer c.shut(); c.requests() })
		both.Go(func() { defer c.shut(); c.answers() })
	}
	both.Wait()
	p.mu.Lock()
	delete(p.conns, c)
	delete(p.held, c)
	p.mu.Unlock()
}

// reset ends a connection without the courtesy of a last packet in order.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // best effort
	}
	_ = c.Close()
}
