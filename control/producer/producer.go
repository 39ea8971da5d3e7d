package producer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go/compress"
	"golang.org/x/sync/semaphore"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// Producer writes topics wherever they live. It is safe for concurrent use.
type Producer struct {
	cfg    Config
	codec  compress.Compression
	boot   string
	host   string
	log    *slog.Logger
	wires  map[starferry.ClusterName]*wire.Cluster
	lines  map[starferry.Topic]*line
	buffer *semaphore.Weighted // bytes of records that are not acknowledged

	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	closed atomic.Bool
	// sending is held for reading by calls of Send while they add a record.
	sending sync.RWMutex
}

// Open starts a producer. It returns once the configuration is known to be
// usable; clusters need not be reachable yet. ctx bounds Open alone.
func Open(ctx context.Context, cfg Config) (*Producer, error) { return open(ctx, cfg) }

func open(ctx context.Context, cfg Config, opts ...wire.Option) (*Producer, error) {
	cfg, err := cfg.checked()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("open producer %s: %w", cfg.Instance, err)
	}
	p := &Producer{
		cfg: cfg, boot: token(8), log: cfg.Logger.With("producer", cfg.Instance),
		wires: map[starferry.ClusterName]*wire.Cluster{}, lines: map[starferry.Topic]*line{},
		buffer: semaphore.NewWeighted(int64(cfg.BufferBytes)),
	}
	p.codec, _ = codec(cfg.Compression) // checked
	p.host, _ = os.Hostname()           //nolint:errcheck // for display only
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
	for _, c := range cfg.Clusters {
		w, err := wire.Open(c, append(opts, wire.WithClientID(string(cfg.Instance)), wire.WithLogger(cfg.Logger))...)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open producer %s: %w", cfg.Instance, err), p.stop())
		}
		p.wires[c.Name] = w
	}
	for _, t := range cfg.Topics {
		p.lines[t] = newLine(p, t)
	}
	for _, l := range p.lines {
		p.spawn(func() { l.follow(p.ctx) })
	}
	p.spawn(p.tend)
	return p, nil
}

func (p *Producer) spawn(f func()) {
	p.wg.Add(1)
	go func() { defer p.wg.Done(); f() }()
}

// tend gives up what has waited too long.
func (p *Producer) tend() {
	t := time.NewTicker(max(10*time.Millisecond, min(200*time.Millisecond, p.cfg.DeliveryTimeout/10)))
	defer t.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case now := <-t.C:
			for _, l := range p.lines {
				l.expire(now)
			}
		}
	}
}

// Instance returns the name of this producer.
func (p *Producer) Instance() starferry.InstanceID { return p.cfg.Instance }

// Send takes a record to be written, behind all records of its partition that
// were taken before. It waits while the home of the topic is unknown, and while
// the buffer is full, until ctx ends. If it returns an error the record was not
// taken, and done is never called. Otherwise done, which may be nil, is called
// exactly once, on a goroutine of the producer: it must not block, nor call Send.
func (p *Producer) Send(ctx context.Context, r Record, done func(Result)) error {
	fail := func(err error) error { return fmt.Errorf("send to %s: %w", r.Topic, err) }
	l := p.lines[r.Topic]
	if l == nil {
		return fail(fmt.Errorf("the producer was not opened for this topic, only for %v; add it to its configuration", p.cfg.Topics))
	}
	size := sizeOf(r)
	if size > p.cfg.BufferBytes {
		return fail(fmt.Errorf("the record takes %d bytes and the buffer holds %d; raise BufferBytes", size, p.cfg.BufferBytes))
	}
	select {
	case <-l.ready:
	case <-ctx.Done():
		return fail(fmt.Errorf("where the topic lives is not known yet (%s): %w", l.why(), context.Cause(ctx)))
	case <-p.ctx.Done():
		return fail(ErrClosed)
	}
	if err := p.acquire(ctx, size); err != nil {
		return fail(err)
	}
	p.sending.RLock()
	defer p.sending.RUnlock()
	err := ErrClosed
	if !p.closed.Load() {
		err = l.send(r, size, done)
	}
	if err != nil {
		p.buffer.Release(int64(size))
		return fail(err)
	}
	return nil
}

func (p *Producer) acquire(ctx context.Context, size int) error {
	if p.buffer.TryAcquire(int64(size)) {
		return nil
	}
	both, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(p.ctx, func() { cancel(ErrClosed) })
	defer stop()
	if err := p.buffer.Acquire(both, int64(size)); err != nil {
		return fmt.Errorf("the buffer of %d bytes is full: %w", p.cfg.BufferBytes, context.Cause(both))
	}
	return nil
}

// Produce sends records and waits until all of them are settled. The results
// are in the order of the records; the error is that of the first that failed.
func (p *Producer) Produce(ctx context.Context, rs ...Record) ([]Result, error) {
	out := make([]Result, len(rs))
	settled := make(chan struct{}, len(rs))
	sent := 0
	var failed error
	for i, r := range rs {
		out[i] = Result{Topic: r.Topic, Offset: starferry.NoOffset, Err: ErrClosed}
		if failed != nil {
			out[i].Err = failed
			continue
		}
		if err := p.Send(ctx, r, func(res Result) { out[i] = res; settled <- struct{}{} }); err != nil {
			out[i].Err, failed = err, err
			continue
		}
		sent++
	}
	for range sent {
		select {
		case <-settled:
		case <-ctx.Done():
			// The results are still written to; the caller gets none of them.
			return nil, fmt.Errorf("produce: not all records are acknowledged: %w: %w", ErrInDoubt, context.Cause(ctx))
		}
	}
	for i := range out {
		if out[i].Err != nil {
			return out, out[i].Err
		}
	}
	return out, nil
}

// Flush waits until every record that was taken before is settled.
func (p *Producer) Flush(ctx context.Context) error {
	for _, t := range p.cfg.Topics {
		if err := p.lines[t].settledAll(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Close writes what was taken, and releases everything. When ctx ends first,
// what is left ends with ErrClosed, and the error says so.
func (p *Producer) Close(ctx context.Context) error {
	p.sending.Lock()
	again := p.closed.Swap(true)
	p.sending.Unlock()
	if again {
		p.wg.Wait()
		return nil
	}
	err := p.Flush(ctx)
	for _, l := range p.lines {
		l.leave(ctx)
	}
	return errors.Join(err, p.stop())
}

// stop ends everything at once and waits.
func (p *Producer) stop() error {
	p.closed.Store(true)
	p.cancel(ErrClosed)
	p.wg.Wait()
	for _, l := range p.lines {
		l.abandon()
	}
	var errs []error
	for _, w := range p.wires {
		errs = append(errs, w.Close())
	}
	return errors.Join(errs...)
}

// State is what a producer says of itself, for probes and people.
type State struct {
	Instance starferry.InstanceID `json:"instance"`
	Lines    []LineState          `json:"lines"`
}

// LineState is one topic of a producer.
type LineState struct {
	Topic    starferry.Topic       `json:"topic"`
	Home     starferry.ClusterName `json:"home"` // empty while unknown
	Epoch    starferry.Epoch       `json:"epoch"`
	Holding  bool                  `json:"holding"`
	HoldMS   float64               `json:"hold_ms"` // how long the last hold took
	Buffered int64                 `json:"buffered"`
	Acked    int64                 `json:"acked"`
	Failed   int64                 `json:"failed"`
	Refusal  string                `json:"refusal,omitempty"` // what it cannot do, or waits for
}

// State tells how the topics stand.
func (p *Producer) State() State {
	s := State{Instance: p.cfg.Instance}
	for _, t := range slices.Sorted(slices.Values(p.cfg.Topics)) {
		s.Lines = append(s.Lines, p.lines[t].state())
	}
	return s
}
