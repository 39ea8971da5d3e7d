package wire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
)

// keepWriteBuffer is the largest encoding buffer a connection keeps between
// requests, in bytes.
const keepWriteBuffer = 8 << 20

// Conn is one authenticated connection to one broker. Requests are pipelined:
// any number may be under way, and answers come in their order. Its methods may
// be called from several goroutines.
type Conn struct {
	cluster  starferry.ClusterName
	broker   int32
	addr     string
	nc       net.Conn
	rd       *bufio.Reader
	versions map[int16]span
	format   *kmsg.RequestFormatter
	maxFrame int
	within   time.Duration // for an answer
	expires  time.Time     // zero: the broker's authentication has no end

	writing sync.Mutex // one writer; guards corr and wbuf
	corr    int32
	wbuf    []byte

	mu      sync.Mutex // guards what follows
	pending []*call    // written or being written, in order
	err     error      // why it ended
	spoke   bool       // it has answered a request
	last    bool       // ends with the last answer due
	admit   func(int) ([]byte, error)
	done    chan struct{}
}

// call is a request under way.
type call struct {
	corr     int32
	resp     kmsg.Response
	deadline time.Time
	done     func(kmsg.Response, error)
}

// Do sends a request and waits for its answer. The request's version is set to
// the newest both sides speak. If ctx ends first, Do returns at once with an
// error that wraps ErrNoAnswer and ctx's cause; the answer is discarded when it
// comes.
func (c *Conn) Do(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
	if ctx.Err() != nil {
		return nil, c.wrap(req, fmt.Errorf("%w: %w", ErrNotSent, context.Cause(ctx)))
	}
	type answer struct {
		resp kmsg.Response
		err  error
	}
	got := make(chan answer, 1)
	if err := c.Send(req, func(r kmsg.Response, err error) { got <- answer{r, err} }); err != nil {
		return nil, err
	}
	select {
	case a := <-got:
		return a.resp, a.err
	case <-ctx.Done():
		return nil, c.wrap(req, fmt.Errorf("%w: %w", ErrNoAnswer, context.Cause(ctx)))
	}
}

// Send writes a request and returns when it is written. Either it returns an
// error that wraps ErrNotSent and done is never called, or it returns nil and
// done is called exactly once: with the answer, or with an error that wraps
// ErrNoAnswer. Calls of done happen one after the other in the order of the
// requests, on the connection's own goroutine: done must not block and must not
// wait for this connection. The request is not kept after Send returns.
func (c *Conn) Send(req kmsg.Request, done func(kmsg.Response, error)) error {
	if err := c.settle(req); err != nil {
		return c.wrap(req, err)
	}
	resp := req.ResponseKind()
	resp.SetVersion(req.GetVersion())
	k := &call{resp: resp, done: done, deadline: time.Now().Add(c.within + patience(req))}

	c.writing.Lock()
	defer c.writing.Unlock()
	c.corr++
	k.corr = c.corr
	c.wbuf = c.format.AppendRequest(c.wbuf[:0], req, k.corr)
	if err := c.push(k); err != nil {
		return c.wrap(req, fmt.Errorf("%w: %w", ErrNotSent, err))
	}
	if err := c.write(c.wbuf); err != nil {
		c.fail(err)
		if c.withdraw(k) {
			return c.wrap(req, fmt.Errorf("%w: %w", ErrNotSent, err))
		}
		// The reader took it up first and has told done.
	}
	if cap(c.wbuf) > keepWriteBuffer {
		c.wbuf = nil
	}
	return nil
}

// write puts out a whole request. If it fails, the broker lacks some of its
// bytes and cannot have carried it out.
func (c *Conn) write(b []byte) error {
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.within)); err != nil {
		return err
	}
	_, err := c.nc.Write(b)
	return err
}

// settle sets the request's version.
func (c *Conn) settle(req kmsg.Request) error {
	ours := spoken(req)
	theirs, known := c.versions[req.Key()]
	v, ok := agree(ours, theirs)
	if !known || !ok {
		return &VersionError{
			Cluster: c.cluster, Address: c.addr, Request: kmsg.NameForKey(req.Key()),
			Have: theirs.String(), Need: ours.String(), Supported: known, Remedy: remedy(ours, theirs, known),
		}
	}
	req.SetVersion(v)
	if err := downgrade(req); err != nil {
		return fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	return nil
}

func remedy(ours, theirs span, known bool) string {
	if known && theirs.min > ours.max {
		return "use a newer starferry"
	}
	return "use a newer Kafka"
}

// MaxVersion returns the newest version of a request key that the broker
// speaks, and whether it knows the request.
func (c *Conn) MaxVersion(key int16) (int16, bool) {
	s, ok := c.versions[key]
	return s.max, ok
}

// Admit makes the connection ask for the memory of an answer of so many bytes; nil
// leaves it to take its own. It may be kept waiting: the broker then finds the
// connection full. An error ends the connection. Byte fields of the answer lie in
// that memory, which is the giver's again when they are not needed any more.
func (c *Conn) Admit(ask func(bytes int) ([]byte, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.admit = ask
}

// let asks whether an answer may be read. The time it waits is not the broker's.
func (c *Conn) let(n int) ([]byte, error) {
	c.mu.Lock()
	ask := c.admit
	c.mu.Unlock()
	if ask == nil {
		return nil, nil
	}
	frame, err := ask(n)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	return frame, c.nc.SetReadDeadline(time.Now().Add(c.within))
}

// Broker returns the id of the broker at the other end, −1 if the connection
// was made by address.
func (c *Conn) Broker() int32 { return c.broker }

// Addr returns the address of the broker at the other end.
func (c *Conn) Addr() string { return c.addr }

// Close ends the connection; requests under way end with ErrNoAnswer. It does
// not wait, so done functions may call it; Done tells when the connection's
// goroutine has ended.
func (c *Conn) Close() error {
	c.fail(ErrClosed)
	return nil
}

// Done is closed when the connection has ended and every done function has
// returned.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err says why the connection ended, nil while it lives.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// usable reports whether a request may still go out on it.
func (c *Conn) usable() bool {
	return c.Err() == nil && (c.expires.IsZero() || time.Now().Before(c.expires))
}

// push appends a call to those under way.
func (c *Conn) push(k *call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	if c.last {
		return ErrClosed
	}
	c.pending = append(c.pending, k)
	if len(c.pending) == 1 {
		return c.nc.SetReadDeadline(k.deadline)
	}
	return nil
}

// withdraw takes back a call that was not written; false if the reader has it.
func (c *Conn) withdraw(k *call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, p := range c.pending {
		if p == k {
			c.pending = append(c.pending[:i], c.pending[i+1:]...)
			return true
		}
	}
	return false
}

// pop takes the oldest call, nil if there is none.
func (c *Conn) pop() *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) == 0 {
		return nil
	}
	k := c.pending[0]
	c.spoke = c.spoke || c.err == nil
	c.pending[0] = nil
	c.pending = c.pending[1:]
	var next time.Time
	if len(c.pending) > 0 {
		next = c.pending[0].deadline
	}
	if len(c.pending) == 0 && c.last && c.err == nil {
		c.err = ErrClosed
		c.nc.Close()
		return k
	}
	// On a closed connection this fails, and the next read tells why.
	_ = c.nc.SetReadDeadline(next)
	return k
}

// fail ends the connection with the first cause it is given. The reader does
// the rest.
func (c *Conn) fail(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = cause
	c.nc.Close()
}

// run is the reader: it lives as long as the connection.
func (c *Conn) run() {
	defer close(c.done)
	for c.answer() {
	}
	for k := c.pop(); k != nil; k = c.pop() {
		k.done(nil, c.unanswered(k))
	}
}

// answer reads one answer and hands it out; false when the connection is over.
func (c *Conn) answer() bool {
	frame, err := readFrame(c.rd, c.maxFrame, c.let)
	if err != nil {
		c.fail(c.readCause(err))
		return false
	}
	k := c.pop()
	if k == nil {
		c.fail(fmt.Errorf("%w: a frame that nobody asked for", ErrFrame))
		return false
	}
	if got := correlation(frame); got != k.corr {
		err = fmt.Errorf("%w: answer to request %d where %d was due", ErrFrame, got, k.corr)
	} else {
		err = decode(frame, k.resp)
	}
	if err != nil {
		c.fail(err)
		k.done(nil, c.unanswered(k))
		return false
	}
	k.done(k.resp, nil)
	return true
}

func (c *Conn) readCause(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New("the broker did not answer in time")
	case errors.Is(err, io.EOF) && !c.spoke:
		return errors.New("the broker closed the connection before it answered anything: check whether it wants sasl")
	case errors.Is(err, io.EOF):
		return errors.New("the broker closed the connection")
	}
	return err
}

func (c *Conn) unanswered(k *call) error {
	return c.wrap(k.resp.RequestKind(), fmt.Errorf("%w: %w", ErrNoAnswer, c.Err()))
}

func (c *Conn) wrap(req kmsg.Request, err error) error {
	var v *VersionError
	if errors.As(err, &v) {
		return err // says it all
	}
	return fmt.Errorf("%s to broker %s of cluster %q: %w", kmsg.NameForKey(req.Key()), c.addr, c.cluster, err)
}

// patience is how long a request allows the broker to hold its answer back.
func patience(req kmsg.Request) time.Duration {
	var ms int32
	switch r := req.(type) {
	case *kmsg.FetchRequest:
		ms = r.MaxWaitMillis
	case *kmsg.JoinGroupRequest:
		ms = max(r.RebalanceTimeoutMillis, r.SessionTimeoutMillis)
	case *kmsg.SyncGroupRequest:
		return 10 * time.Minute // bounded by the rebalance timeout, which it does not carry
	case kmsg.TimeoutRequest:
		ms = r.Timeout()
	}
	return time.Duration(max(ms, 0)) * time.Millisecond
}

// retire lets what is under way be answered, then ends the connection. Nothing
// new is sent on it.
func (c *Conn) retire() {
	c.mu.Lock()
	c.last = true
	over := len(c.pending) == 0
	c.mu.Unlock()
	if over {
		c.fail(ErrClosed)
	}
}
