package bench

import (
	"errors"
	"net"
	"sync"
	"time"
)

// delayLine is a way to one address that holds everything back for a while in
// each direction, as a longer cable would: what follows is not held up by what
// went before.
type delayLine struct {
	to     string
	each   time.Duration
	listen net.Listener
	work   sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
	over  bool
}

func openDelayLine(to string, each time.Duration) (*delayLine, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &delayLine{to: to, each: each, listen: l}
	d.work.Go(d.accept)
	return d, nil
}

// Addr is where the way begins.
func (d *delayLine) Addr() string { return d.listen.Addr().String() }

// Close breaks all connections and waits.
func (d *delayLine) Close() error {
	err := d.listen.Close()
	d.mu.Lock()
	d.over = true
	for _, c := range d.conns {
		err = errors.Join(err, ignoreClosed(c.Close()))
	}
	d.mu.Unlock()
	d.work.Wait()
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (d *delayLine) accept() {
	for {
		near, err := d.listen.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", d.to)
		if err != nil {
			near.Close()
			continue
		}
		d.mu.Lock()
		d.conns = append(d.conns, near, far)
		if d.over {
			near.Close()
			far.Close()
		}
		d.mu.Unlock()
		d.work.Go(func() { d.carry(near, far) })
		d.work.Go(func() { d.carry(far, near) })
	}
}

// parcel is bytes on their way.
type parcel struct {
	due   time.Time
	bytes []byte
}

// carry takes bytes one way until either end closes.
func (d *delayLine) carry(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	under := make(chan parcel, 4096)
	d.work.Go(func() {
		defer to.Close()
		for p := range under {
			time.Sleep(time.Until(p.due))
			if _, err := to.Write(p.bytes); err != nil {
				from.Close()
				for range under { // until the reader notices
				}
				return
			}
		}
	})
	defer close(under)
	for {
		b := make([]byte, 64<<10)
		n, err := from.Read(b)
		if n > 0 {
			under <- parcel{time.Now().Add(d.each), b[:n]}
		}
		if err != nil {
			return
		}
	}
}
