package proxy

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// conn is one connection of a client, and its other half to the broker.
type conn struct {
	p              *Proxy
	client, broker net.Conn
	ctx            context.Context
	cancel         context.CancelFunc

	name      atomic.Value // what the client calls itself, a string
	answering sync.Mutex   // writes to the client: the broker's answers and forged ones

	late atomic.Bool // something was held back

	mu    sync.Mutex
	asked map[int32]request // unanswered, by correlation id
}

// request is what an answer needs to be understood.
type request struct {
	key, version int16
	trick        *Played
}

// shut breaks both halves. It may be called often.
func (c *conn) shut() {
	c.cancel()
	reset(c.client)
	reset(c.broker)
}

// bytes passes on what it cannot read.
func (c *conn) bytes(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if werr := c.write(to, arrival{buf[:n], time.Now()}); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// errTrick ends a connection that a trick has broken.
var errTrick = errors.New("broken by a trick")

// arrival is a frame with the time it came in: each is delayed from then on, so
// that what follows is not held up by the delay of what went before.
type arrival struct {
	frame []byte
	at    time.Time
}

// ahead is how many frames of one way are read and not passed on yet.
const ahead = 64

// frames reads one way until its end; the channel is closed then.
func (c *conn) frames(from net.Conn) <-chan arrival {
	out := make(chan arrival, ahead)
	c.p.work.Go(func() {
		defer close(out)
		in := bufio.NewReaderSize(from, 64<<10)
		for {
			frame, err := readFrame(in)
			if err != nil {
				return
			}
			select {
			case out <- arrival{frame, time.Now()}:
			case <-c.ctx.Done():
				return
			}
		}
	})
	return out
}

// requests passes on what the client says.
func (c *conn) requests() {
	for a := range c.frames(c.client) {
		if c.request(a) != nil {
			break
		}
	}
	if c.late.Load() { // a reset must not overtake what came late
		_ = c.pause(lateGrace)
	}
}

// lateGrace is how long a broker has to read what came late.
const lateGrace = 500 * time.Millisecond

// request passes one request on, or plays the trick that waits for it.
func (c *conn) request(a arrival) error {
	frame := a.frame
	h, err := parseHeader(frame)
	if err != nil {
		return err
	}
	c.name.Store(h.client)
	if held := c.p.hold(c); held != nil {
		// Not even the end of the client ends the waiting: what is under way is
		// under way.
		c.late.Store(true)
		held.n.Add(1)
		<-held.open
		return c.write(c.broker, a)
	}
	t := c.p.trick(h, frame)
	if t != nil && t.Deed == CutRequest {
		_ = c.write(c.broker, arrival{frame[:len(frame)/2], a.at})
		return errTrick
	}
	if t != nil && t.Deed == Refuse {
		answer, err := refusal(h, frame, t.Code)
		if err != nil {
			return err
		}
		c.answering.Lock()
		defer c.answering.Unlock()
		return c.write(c.client, arrival{answer, a.at})
	}
	c.mu.Lock()
	c.asked[h.correlation] = request{h.key, h.version, t}
	c.mu.Unlock()
	return c.write(c.broker, a)
}

// answers passes on what the broker says.
func (c *conn) answers() {
	for a := range c.frames(c.broker) {
		// A client that is gone does not end what is held back.
		if c.answer(a) != nil && !c.late.Load() {
			return
		}
	}
}

func (c *conn) answer(a arrival) error {
	frame := a.frame
	if len(frame) < 8 {
		return fmt.Errorf("answer of %d bytes", len(frame))
	}
	id := int32(binary.BigEndian.Uint32(frame[4:]))
	c.mu.Lock()
	q, known := c.asked[id]
	delete(c.asked, id)
	c.mu.Unlock()
	if known {
		var err error
		if frame, err = c.p.rewrite(q, frame); err != nil {
			return err
		}
	}
	if q.trick != nil {
		switch q.trick.Deed {
		case LoseAnswer:
			return errTrick
		case CutAnswer:
			c.answering.Lock()
			defer c.answering.Unlock()
			_ = c.write(c.client, arrival{frame[:len(frame)/2], a.at})
			return errTrick
		case Lie:
			lie, err := falsify(q, frame, q.trick.Code)
			if err != nil {
				return err
			}
			frame = lie
		}
	}
	c.answering.Lock()
	defer c.answering.Unlock()
	return c.write(c.client, arrival{frame, a.at})
}

// slice is how much is written at once when there is a rate to keep.
const slice = 8 << 10

// write sends a frame as the weather lets it.
func (c *conn) write(to net.Conn, a arrival) error {
	frame := a.frame
	for waited := false; ; {
		w, changed := c.p.now()
		if !w.Frozen {
			if w.Delay > 0 && !waited {
				if err := c.pause(time.Until(a.at.Add(w.Delay))); err != nil {
					return err
				}
			}
			break
		}
		waited = true
		select {
		case <-changed:
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		}
	}
	for len(frame) > 0 {
		w, _ := c.p.now()
		if w.Rate == 0 {
			_, err := to.Write(frame)
			return err
		}
		part := frame[:min(slice, len(frame))]
		if _, err := to.Write(part); err != nil {
			return err
		}
		frame = frame[len(part):]
		if err := c.pause(time.Duration(len(part)) * time.Second / time.Duration(w.Rate)); err != nil {
			return err
		}
	}
	return nil
}

func (c *conn) pause(d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	}
}

// maxFrame is above what the brokers here send at once.
const maxFrame = 128 << 20

// readFrame reads a frame with its length in front.
func readFrame(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := int64(int32(binary.BigEndian.Uint32(size[:])))
	if n < 4 || n > maxFrame {
		return nil, fmt.Errorf("frame of %d bytes", n)
	}
	frame := make([]byte, 4+n)
	copy(frame, size[:])
	_, err := io.ReadFull(r, frame[4:])
	return frame, err
}
