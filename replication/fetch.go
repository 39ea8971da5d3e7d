package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// Bytes of an answer at most, and of a partition in it. A batch that is larger
// than either comes alone.
const (
	fetchBytes   = 4 << 20
	leastBytes   = 64 << 10
	perPartition = 1 << 20
)

// answerBytes is how much a fetch may bring: a part of the memory there is, and
// of the link's rate.
func (c *copier) answerBytes() int {
	return c.limits.most(int(min(max(c.budget.limit/16, leastBytes), fetchBytes)))
}

// A broker works on one request of a connection at a time, and looks at all
// lanes of a session each time: so there are a few sessions, and more for many
// lanes. A broker keeps 1,000 sessions in all (max.incremental.fetch.session.cache.slots).
const (
	leastSessions = 3
	mostSessions  = 64
	fullSession   = 250 // lanes
)

// fetcher reads all lanes of a link whose source partition one broker leads.
type fetcher struct {
	c      *copier
	broker int32

	mu       sync.Mutex
	sessions []*session
}

// newFetcher makes the fetcher of a broker. Spawn starts a session's goroutine.
func newFetcher(c *copier, broker int32) *fetcher { return &fetcher{c: c, broker: broker} }

// offer gives a lane to be fetched to a session that waits for nothing, if there
// is one. It does not block. The lane is locked.
func (f *fetcher) offer(l *lane) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var best *session
	for _, s := range f.sessions {
		if best == nil || s.better(best) {
			best = s
		}
	}
	n := len(f.sessions)
	if n < leastSessions || n < mostSessions && best.load.Load() >= fullSession {
		if s := newSession(f); f.c.spawn(s.run) {
			f.sessions = append(f.sessions, s)
			best = s
		}
	}
	if best == nil {
		return // the link ends
	}
	l.session = best
	best.offer(l)
}

// better reports whether a lane should rather go to s than to o.
func (s *session) better(o *session) bool {
	a, b := s.load.Load(), o.load.Load()
	if a >= fullSession || b >= fullSession {
		return a < b
	}
	if x, y := s.sent.Load() > 0, o.sent.Load() > 0; x != y {
		return y
	}
	return a < b
}

// missed sends a lane back to be routed.
func (f *fetcher) missed(a asked, err error) {
	l := a.l
	l.mu.Lock()
	if a.term != l.term {
		l.mu.Unlock()
		return
	}
	l.session, l.fetching = nil, false
	l.failures++
	n := l.failures
	l.stallLocked(err)
	l.mu.Unlock()
	f.c.src.Forget(l.tp.Topic)
	f.c.route(l, n)
}

// handOn gives a lane its part of an answer, and reports how many records it has
// and whether it wants more, from where.
func (f *fetcher) handOn(a asked, p *kmsg.FetchResponseTopicPartition, frame *load) (records int, next asked, more bool) {
	switch err := f.c.src.Code(kmsg.Fetch, p.ErrorCode, wire.On{Topic: a.l.tp.Topic}); {
	case err == nil:
	case errors.Is(err, kafka.OffsetOutOfRange):
		f.outOfRange(a, p)
		return 0, a, false
	case errors.Is(err, kafka.TopicAuthorizationFailed):
		if a.l.current(a.term) {
			a.l.stop(fmt.Errorf("fetch %s from %s: %w; then ask for the link again", a.l.tp, f.c.spec.Source, err))
		}
		return 0, a, false
	default: // reading does no harm, however often
		f.missed(a, fmt.Errorf("fetch %s@%d from %s: %w", a.l.tp, a.from, f.c.spec.Source, err))
		return 0, a, false
	}
	a.l.mu.Lock()
	r := a.l.rules
	a.l.mu.Unlock()
	if p.DivergingEpoch.EndOffset >= 0 {
		f.diverged(a, p.DivergingEpoch)
		return 0, a, false
	}
	es, err := r.read(f.c.ctx, p, a.from)
	if err != nil {
		f.damaged(a, err)
		return 0, a, false
	}
	es = a.l.sure(es)
	for _, e := range es {
		records += int(e.records)
	}
	next, more = a.l.receive(a.term, a.from, es, frame, p)
	return records, next, more
}

// diverged stops a lane whose source no longer has what was read from it (KIP-595).
func (f *fetcher) diverged(a asked, d kmsg.FetchResponseTopicPartitionDivergingEpoch) {
	if a.l.current(a.term) {
		a.l.stop(f.c.truncated(a.l, starferry.Offset(d.EndOffset), a.from))
	}
}

// damaged deals with bytes that make no sense: what flipped on the way is right
// when it is fetched again.
func (f *fetcher) damaged(a asked, err error) {
	l := a.l
	err = fmt.Errorf("copy %s of %s: %w", l.tp, f.c.spec.Source, err)
	var h halting
	l.mu.Lock()
	n := 0
	if a.term == l.term && errors.As(err, &h) {
		n = l.refused.again(a.from)
	}
	l.mu.Unlock()
	if n >= maxRefusals {
		l.stop(err)
		return
	}
	f.missed(a, err)
}

// sure leaves out what is odd and seen for the first time, and what follows.
// Fetched again, it is there again, or it was a flipped bit.
func (l *lane) sure(es []*entry) []*entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, e := range es {
		if e.odd && e.pieces[0] != l.odd {
			l.odd = e.pieces[0]
			return es[:i]
		}
	}
	return es
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
		l.overtaken(a.term, a.from, start)
		return
	}
	l.stop(fmt.Errorf("source %s ends at %d, before offset %d that was to be copied next: its log was truncated, or the topic created again, and %s holds copies of records that %s has no more; compare the two clusters (starferry verify), then copy under another link name into an empty topic",
		l.tp, p.HighWatermark, a.from, f.c.spec.Target, f.c.spec.Source))
}
