package replication

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// What a broker answers when it no longer knows a session (KIP-227, KIP-516).
const (
	fetchSessionIDNotFound   = kafka.Error(70)
	invalidFetchSessionEpoch = kafka.Error(71)
	fetchSessionTopicIDError = kafka.Error(106)
)

// How long a broker may hold an answer back while nothing is new. A lane that
// comes to a session meanwhile waits for that answer, so a session whose lanes
// have just changed waits for as long as they have stayed the same.
const (
	fetchWait      = 500 * time.Millisecond
	leastFetchWait = 10 * time.Millisecond
)

// session is an incremental fetch session (KIP-227) on a connection of its own:
// the broker remembers the lanes and where each is, so a request names only what
// has changed, and an answer only what is new. One request is under way at a
// time. A lane that takes no more for now is forgotten, on both ends: left out
// of a request it would still be answered for.
type session struct {
	f    *fetcher
	kick chan struct{}
	load atomic.Int32         // lanes
	came atomic.Pointer[load] // the frame that comes
	sent atomic.Int64         // when the request under way was sent, Unix nanoseconds; 0: none is

	mu      sync.Mutex
	inbox   []*lane
	changed time.Time // when lanes last came or went

	// Only the session's goroutine uses what follows.
	conn    *wire.Conn
	id      int32
	epoch   int32 // of the next request; 0: a full one, which may begin a session; -1: a full one
	members map[starferry.TopicPartition]*member
	gone    map[starferry.TopicPartition]bool // forgotten here, not yet by the broker
}

// member is a lane in a session.
type member struct {
	asked
	hungry bool // the last answer had nothing of what is there
	fresh  bool // the broker does not know it yet as it is
}

// asked is what a request asks of a lane.
type asked struct {
	l      *lane
	term   uint64
	from   starferry.Offset
	leader int32 // epoch of the leader it is asked of; -1: not known
	last   int32 // epoch of the leader that wrote what is before from; -1: not known
}

func newSession(f *fetcher) *session {
	return &session{
		f: f, kick: make(chan struct{}, 1),
		members: map[starferry.TopicPartition]*member{}, gone: map[starferry.TopicPartition]bool{},
	}
}

// offer gives the session a lane. It does not block.
func (s *session) offer(l *lane) {
	s.load.Add(1)
	s.mu.Lock()
	s.inbox = append(s.inbox, l)
	s.changed = time.Now()
	s.mu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// run fetches until the context ends.
func (s *session) run(ctx context.Context) {
	defer func() {
		if s.conn != nil {
			_ = s.conn.Close()
			<-s.conn.Done()
		}
		s.came.Swap(nil).drop()
	}()
	for ctx.Err() == nil {
		if s.empty() {
			select {
			case <-ctx.Done():
			case <-s.kick:
			}
			continue
		}
		if s.f.c.limits.wait(ctx) != nil {
			return
		}
		if s.gather(); len(s.members) > 0 {
			s.fetch(ctx)
		}
	}
}

func (s *session) empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.members) == 0 && len(s.inbox) == 0
}

// gather takes up the lanes that have come and lets go those whose term is over.
func (s *session) gather() {
	for tp, m := range s.members {
		if !m.l.current(m.term) {
			s.forget(tp)
		}
	}
	s.mu.Lock()
	in := s.inbox
	s.inbox = nil
	s.mu.Unlock()
	for _, l := range in {
		l.mu.Lock()
		m := &member{asked: l.askLocked(), fresh: true}
		ours := l.active && l.session == s && l.fetching
		if ours && !l.roomLocked(laneHigh) { // an acknowledgement brings it back
			ours, l.fetching = false, false
		}
		l.mu.Unlock()
		if !ours {
			s.load.Add(-1)
			continue
		}
		if s.members[l.tp] != nil {
			s.load.Add(-1)
		}
		s.members[l.tp] = m
		delete(s.gone, l.tp) // a broker forgets after it adds
	}
}

// forget takes a lane out.
func (s *session) forget(tp starferry.TopicPartition) {
	if s.members[tp] == nil {
		return
	}
	delete(s.members, tp)
	s.gone[tp] = true
	s.load.Add(-1)
	s.mu.Lock()
	s.changed = time.Now()
	s.mu.Unlock()
}

// fetch asks once and hands on what came.
func (s *session) fetch(ctx context.Context) {
	s.sent.Store(time.Now().UnixNano())
	resp, full, err := s.ask(ctx)
	s.sent.Store(0)
	if err != nil {
		if ctx.Err() != nil {
			return // the connection may still be reading
		}
		s.came.Swap(nil).drop()
		s.lose(err)
		return
	}
	if resp == nil { // the session is begun anew
		s.came.Swap(nil).drop()
		return
	}
	frame := s.came.Swap(nil)
	defer frame.drop()
	bytes, records := 0, 0
	seen := map[starferry.TopicPartition]bool{}
	for i := range resp.Topics {
		t := &resp.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			tp := starferry.TopicPartition{Topic: starferry.Topic(t.Topic), Partition: starferry.Partition(p.Partition)}
			bytes += len(p.RecordBatches)
			if full {
				seen[tp] = true
			}
			if m := s.members[tp]; m != nil {
				records += s.handOn(m, p, frame)
			}
		}
	}
	if full {
		s.misses(seen)
	}
	s.f.c.limits.spend(bytes, records)
}

// misses sends those back to be routed that an answer about all lanes left out.
func (s *session) misses(seen map[starferry.TopicPartition]bool) {
	for tp, m := range s.members {
		if !seen[tp] && !m.fresh {
			s.f.missed(m.asked, fmt.Errorf("broker %d of %s left %s out of its answer", s.f.broker, s.f.c.spec.Source, tp))
			s.forget(tp)
		}
	}
}

// handOn gives a lane its part of an answer and sees to what is asked next. It
// returns how many records there were.
func (s *session) handOn(m *member, p *kmsg.FetchResponseTopicPartition, frame *load) int {
	records, next, more := s.f.handOn(m.asked, p, frame)
	if !more {
		s.forget(m.l.tp)
		return records
	}
	m.hungry = len(p.RecordBatches) == 0 && p.LastStableOffset > int64(m.from)
	m.fresh = m.fresh || next != m.asked
	m.asked = next
	return records
}

// lose sends all lanes back to be routed.
func (s *session) lose(err error) {
	for tp, m := range s.members {
		s.f.missed(m.asked, fmt.Errorf("fetch from broker %d of %s: %w", s.f.broker, s.f.c.spec.Source, err))
		s.forget(tp)
	}
}

// ask sends one request and waits for its answer. Full says that the answer is
// about all lanes. No answer and no error: the broker knows the session no more.
func (s *session) ask(ctx context.Context) (resp *kmsg.FetchResponse, full bool, err error) {
	if s.conn == nil || s.conn.Err() != nil {
		if s.conn, err = dial(ctx, s.f.c.src, s.f.broker); err != nil {
			return nil, false, err
		}
		s.conn.Admit(func(n int) ([]byte, error) {
			buf, took, err := s.f.c.budget.frame(ctx, n)
			if err == nil {
				s.came.Store(newLoad(s.f.c.budget, took, buf))
			}
			return buf, err
		})
		s.begin()
	}
	full = s.epoch <= 0
	req := s.request(full)
	r, err := s.conn.Do(ctx, req) // the connection bounds the time
	if err == nil {
		var ok bool
		if resp, ok = r.(*kmsg.FetchResponse); !ok {
			err = wire.ErrFrame
		} else if err = wire.Code(resp.ErrorCode); err == nil {
			s.agreed(resp.SessionID)
			return resp, full, nil
		}
	}
	if !full && (errors.Is(err, fetchSessionIDNotFound) || errors.Is(err, invalidFetchSessionEpoch) || errors.Is(err, fetchSessionTopicIDError)) {
		s.begin()
		return nil, false, nil
	}
	_ = s.conn.Close()
	s.conn = nil
	return nil, false, err
}

// begin makes the next request a full one.
func (s *session) begin() {
	s.id, s.epoch = 0, 0
	if v, _ := s.conn.MaxVersion(kmsg.Fetch.Int16()); v < 7 {
		s.epoch = -1 // knows no sessions
	}
	clear(s.gone)
	for _, m := range s.members {
		m.fresh = true
	}
}

// agreed notes what the broker made of the request: without an id it has no room
// for a session, and the next request is a full one again.
func (s *session) agreed(id int32) {
	clear(s.gone)
	switch {
	case s.epoch < 0:
	case id == 0:
		s.id, s.epoch = 0, 0
	case s.epoch == math.MaxInt32:
		s.epoch = 1
	default:
		s.id, s.epoch = id, s.epoch+1
	}
}

// request names all lanes, or those that have changed since the last one.
func (s *session) request(full bool) *kmsg.FetchRequest {
	s.mu.Lock()
	same := time.Since(s.changed)
	s.mu.Unlock()
	wait := min(max(same, leastFetchWait), fetchWait)
	req := newFetch(int32(wait.Milliseconds()), int32(s.f.c.answerBytes()), true)
	req.SessionID, req.SessionEpoch = s.id, s.epoch
	var out []*member
	for _, m := range s.members {
		if full || m.fresh {
			out = append(out, m)
			m.fresh = false
		}
	}
	// A batch larger than a partition's share comes only with the first partition
	// that has any. In a session the broker itself takes turns.
	slices.SortFunc(out, func(a, b *member) int {
		if a.hungry != b.hungry {
			return map[bool]int{true: -1, false: 1}[a.hungry]
		}
		return a.l.tp.Compare(b.l.tp)
	})
	for _, m := range out {
		p := addFetch(req, m.l.tp, m.from, perPartition)
		p.CurrentLeaderEpoch, p.LastFetchedEpoch = m.leader, m.last
	}
	if full {
		return req
	}
	for _, tp := range slices.SortedFunc(maps.Keys(s.gone), starferry.TopicPartition.Compare) {
		n := len(req.ForgottenTopics)
		if n == 0 || req.ForgottenTopics[n-1].Topic != string(tp.Topic) {
			t := kmsg.NewFetchRequestForgottenTopic()
			t.Topic = string(tp.Topic)
			req.ForgottenTopics = append(req.ForgottenTopics, t)
			n++
		}
		t := &req.ForgottenTopics[n-1]
		t.Partitions = append(t.Partitions, int32(tp.Partition))
	}
	return req
}
