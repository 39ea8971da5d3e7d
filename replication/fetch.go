package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// A fetcher's connections: a broker answers one request of a connection at a
// time, so a lane that becomes ready while others are being waited for needs
// another. The last free one waits only shortly, so that there is soon one free
// again.
const (
	fetchSlots   = 3
	fetchWaitMS  = 500
	expressMS    = 50
	fetchBytes   = 16 << 20 // of one answer
	perPartition = 1 << 20
	maxFetched   = 1000 // lanes in one request
)

// fetcher reads all lanes of a link whose source partition one broker leads.
type fetcher struct {
	c      *copier
	broker int32

	mu    sync.Mutex
	ready []*lane
	busy  int // slots in a request
	kick  chan struct{}
}

func newFetcher(c *copier, broker int32) *fetcher {
	return &fetcher{c: c, broker: broker, kick: make(chan struct{}, fetchSlots)}
}

// offer queues a lane to be fetched. It does not block.
func (f *fetcher) offer(l *lane) {
	f.mu.Lock()
	f.ready = append(f.ready, l)
	f.mu.Unlock()
	f.signal()
}

func (f *fetcher) signal() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// asked is a lane in a request.
type asked struct {
	l      *lane
	term   uint64
	from   starferry.Offset
	hungry bool
}

// take removes the ready lanes, or as many as fit, and says how long to wait.
func (f *fetcher) take() ([]asked, int32) {
	f.mu.Lock()
	n := min(len(f.ready), maxFetched)
	lanes := slices.Clone(f.ready[:n])
	f.ready = append(f.ready[:0], f.ready[n:]...)
	waitMS := int32(fetchWaitMS)
	if n > 0 {
		if f.busy++; f.busy == fetchSlots {
			waitMS = expressMS
		}
	}
	more := len(f.ready) > 0
	f.mu.Unlock()
	if more {
		f.signal()
	}
	out := make([]asked, 0, n)
	for _, l := range lanes {
		l.mu.Lock()
		if l.active && l.fetcher == f {
			out = append(out, asked{l, l.term, l.fetch, l.hungry})
		}
		l.mu.Unlock()
	}
	// A batch larger than a partition's share comes only with the first partition
	// that has any.
	slices.SortFunc(out, func(a, b asked) int {
		if a.hungry != b.hungry {
			return map[bool]int{true: -1, false: 1}[a.hungry]
		}
		return a.l.tp.Compare(b.l.tp)
	})
	return out, waitMS
}

func (f *fetcher) free() {
	f.mu.Lock()
	f.busy--
	f.mu.Unlock()
}

// run is one slot.
func (f *fetcher) run(ctx context.Context) {
	var conn *wire.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.kick:
		}
		for {
			if f.c.budget.wait(ctx) != nil {
				return
			}
			f.mu.Lock()
			any := len(f.ready) > 0
			f.mu.Unlock()
			if !any {
				break
			}
			lanes, waitMS := f.take()
			if len(lanes) > 0 {
				conn = f.fetch(ctx, conn, lanes, waitMS)
			}
			f.free()
			if ctx.Err() != nil {
				return
			}
		}
	}
}

// fetch asks for lanes once and hands on what came. It returns the connection,
// nil if it broke.
func (f *fetcher) fetch(ctx context.Context, conn *wire.Conn, lanes []asked, waitMS int32) *wire.Conn {
	resp, conn, err := f.do(ctx, conn, lanes, waitMS)
	if err != nil {
		if ctx.Err() != nil {
			return conn
		}
		for _, a := range lanes {
			f.missed(a, fmt.Errorf("fetch from broker %d of %s: %w", f.broker, f.c.spec.Source, err))
		}
		return conn
	}
	got := 0
	parts := map[starferry.TopicPartition]*kmsg.FetchResponseTopicPartition{}
	for i := range resp.Topics {
		t := &resp.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			got += len(p.RecordBatches)
			parts[starferry.TopicPartition{Topic: starferry.Topic(t.Topic), Partition: starferry.Partition(p.Partition)}] = p
		}
	}
	var more []*lane
	for _, a := range lanes {
		if f.handOn(a, parts[a.l.tp]) {
			more = append(more, a.l)
		}
	}
	if len(more) > 0 {
		f.mu.Lock()
		f.ready = append(f.ready, more...)
		f.mu.Unlock()
	}
	f.c.pace(ctx, got)
	return conn
}

func (f *fetcher) do(ctx context.Context, conn *wire.Conn, lanes []asked, waitMS int32) (*kmsg.FetchResponse, *wire.Conn, error) {
	var err error
	if conn == nil || conn.Err() != nil {
		if conn, err = dial(ctx, f.c.src, f.broker); err != nil {
			return nil, nil, err
		}
	}
	req := newFetch(waitMS, fetchBytes, true)
	for _, a := range lanes {
		addFetch(req, a.l.tp, a.from, perPartition)
	}
	short, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	resp, err := conn.Do(short, req)
	if err == nil {
		r, ok := resp.(*kmsg.FetchResponse)
		if ok && r.ErrorCode == 0 {
			return r, conn, nil
		}
		err = wire.ErrFrame
		if ok {
			err = wire.Code(r.ErrorCode)
		}
	}
	_ = conn.Close()
	return nil, nil, err
}

// missed sends a lane back to be routed.
func (f *fetcher) missed(a asked, err error) {
	l := a.l
	l.mu.Lock()
	if a.term != l.term {
		l.mu.Unlock()
		return
	}
	l.fetcher, l.fetching = nil, false
	l.failures++
	n := l.failures
	l.stallLocked(err)
	l.mu.Unlock()
	f.c.src.Forget(l.tp.Topic)
	f.c.route(l, n)
}

// handOn gives a lane its part of an answer, and reports whether it wants more.
func (f *fetcher) handOn(a asked, p *kmsg.FetchResponseTopicPartition) bool {
	if p == nil {
		f.missed(a, fmt.Errorf("broker %d of %s left %s out of its answer", f.broker, f.c.spec.Source, a.l.tp))
		return false
	}
	switch err := wire.Code(p.ErrorCode); {
	case err == nil:
	case errors.Is(err, kafka.OffsetOutOfRange):
		f.outOfRange(a, p)
		return false
	case errors.Is(err, kafka.TopicAuthorizationFailed):
		if a.l.current(a.term) {
			a.l.stop(fmt.Errorf("fetch %s from %s: %w; allow the principal to read the topic, then ask for the link again", a.l.tp, f.c.spec.Source, err))
		}
		return false
	default: // reading does no harm, however often
		f.missed(a, fmt.Errorf("fetch %s@%d from %s: %w", a.l.tp, a.from, f.c.spec.Source, err))
		return false
	}
	a.l.mu.Lock()
	r := a.l.rules
	a.l.hungry = len(p.RecordBatches) == 0 && p.LastStableOffset > int64(a.from)
	a.l.mu.Unlock()
	es, err := classify(p, a.from, r)
	if err != nil {
		if a.l.current(a.term) {
			a.l.stop(fmt.Errorf("copy %s of %s: %w", a.l.tp, f.c.spec.Source, err))
		}
		return false
	}
	return a.l.receive(a.term, a.from, es, starferry.Offset(p.HighWatermark))
}

// outOfRange says what became of the offsets a lane was to fetch.
func (f *fetcher) outOfRange(a asked, p *kmsg.FetchResponseTopicPartition) {
	l := a.l
	start := starferry.Offset(p.LogStartOffset)
	if start < 0 {
		bounds, err := f.c.src.Offsets(context.Background(), []starferry.TopicPartition{l.tp}, wire.Earliest)
		if err != nil {
			f.missed(a, err)
			return
		}
		start = bounds[l.tp]
	}
	if !l.current(a.term) {
		return
	}
	if start > a.from {
		l.stop(fmt.Errorf("source %s: offsets %d to %d are gone before they were copied (the log starts at %d): retention overtook the copy; raise retention on %s, and make the link anew under another name to copy what is left",
			l.tp, a.from, start-1, start, f.c.spec.Source))
		return
	}
	l.stop(fmt.Errorf("source %s ends at %d, before offset %d that was to be copied next: the log was truncated or the topic created again; compare the two clusters before you go on",
		l.tp, p.HighWatermark, a.from))
}
