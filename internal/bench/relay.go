package bench

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starferry/starferry/internal/estate"
	"github.com/starferry/starferry/internal/process"
)

// RelayCommand is the first argument that makes the program a bare relay; the
// others are where it listens and where it sends to.
const RelayCommand = "relay"

// relayBuffer is the relay's one buffer, and the size of each connection's.
const relayBuffer = 1 << 20

// relayGB is how much goes through, in 10⁹ bytes.
const relayGB = 4

// relayWithin is how long the relay's process may take to start.
const relayWithin = 10 * time.Second

// relay measures what any copier has to pay: a process that reads bytes from a
// connection for each partition, sums them once by CRC32-C and writes them to
// another, with buffers of 1 MiB, and nothing else. A copier reads and writes about
// the same bytes. They come from memory as fast as they go.
func relay(b *bench, ctx context.Context, _ string) (Values, error) {
	sink, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer sink.Close()
	if err := sink.(*net.TCPListener).SetDeadline(time.Now().Add(relayWithin)); err != nil {
		return nil, err
	}
	address, err := estate.FreeAddress()
	if err != nil {
		return nil, err
	}
	p, err := b.processes.Start(process.Spec{Name: "relay", Path: b.Relay, Args: []string{RelayCommand, address, sink.Addr().String()}})
	if err != nil {
		return nil, err
	}
	defer p.Stop()
	each := int64(b.sized(relayGB*1e9, 1e9) / b.Load.Partitions)
	var g errgroup.Group
	for range b.Load.Partitions {
		in, err := dialSoon(ctx, address)
		if err != nil {
			return nil, fmt.Errorf("%w; the relay said:\n%s", err, p.Tail())
		}
		defer in.Close()
		out, err := sink.Accept()
		if err != nil {
			return nil, err
		}
		defer out.Close()
		g.Go(func() error { return pour(in, each) })
		g.Go(func() error { return drain(out, each) })
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("%w; the relay said:\n%s", err, p.Tail())
	}
	used, err := p.CPU()
	return Values{"relay_cpu_s_per_gb": used.Seconds() / (float64(each*int64(b.Load.Partitions)) / 1e9)}, err
}

// drain reads so many bytes.
func drain(r io.Reader, n int64) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(r, n), make([]byte, relayBuffer))
	return err
}

// pour writes so many bytes.
func pour(w io.Writer, n int64) error {
	buf := make([]byte, relayBuffer)
	for n > 0 {
		k, err := w.Write(buf[:min(n, relayBuffer)])
		if err != nil {
			return err
		}
		n -= int64(k)
	}
	return nil
}

// dialSoon connects to somebody who is about to listen.
func dialSoon(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, relayWithin)
	defer cancel()
	for {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			return c, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pollEvery):
		}
	}
}

// ServeRelay is the relay's process: it serves connections until it is ended.
func ServeRelay(listen, target string) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	for {
		in, err := l.Accept()
		if err != nil {
			return fmt.Errorf("relay: %w", err)
		}
		go func() {
			if err := carry(in.(*net.TCPConn), target); err != nil {
				fmt.Fprintln(os.Stderr, "relay:", err)
			}
		}()
	}
}

// carry serves one connection to its end.
func carry(in *net.TCPConn, target string) error {
	defer in.Close()
	c, err := net.Dial("tcp", target)
	if err != nil {
		return err
	}
	defer c.Close()
	out := c.(*net.TCPConn)
	if err := errors.Join(in.SetReadBuffer(relayBuffer), out.SetWriteBuffer(relayBuffer)); err != nil {
		return err
	}
	var sum uint32
	table := crc32.MakeTable(crc32.Castagnoli)
	buf := make([]byte, relayBuffer)
	for {
		n, err := in.Read(buf)
		sum = crc32.Update(sum, table, buf[:n])
		if _, werr := out.Write(buf[:n]); werr != nil {
			return werr
		}
		if errors.Is(err, io.EOF) {
			fmt.Printf("crc32c %08x\n", sum)
			return nil
		}
		if err != nil {
			return err
		}
	}
}
