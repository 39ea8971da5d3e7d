package consumer

import (
	"context"
	"sync"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/switchover"
	"github.com/starferry/starferry/internal/wire"
)

// session hands out records of one cluster in one generation, from Fetch to
// Drained.
type session struct {
	c       *Consumer
	cluster starferry.ClusterName
	epoch   starferry.Epoch
	wc      *wire.Cluster
	conns   *connections
	member  *membership
	parts   map[starferry.TopicPartition]*part
	every   int // partitions of the group's topics
	begin   []starferry.TopicPartition
	ahead   bool // it has fetched before it was told to hand out

	overflow   *control.Overflow // to be moved if it owns the hot partition; nil: nothing is
	spill      starferry.Topic   // the overflow topic; "": there is none
	memberID   string
	generation starferry.Generation

	ctx      context.Context // ends with Halt: no fetch and no hand-out after it
	cancel   context.CancelFunc
	handling context.Context // ends when handlers are not waited for any more
	giveUp   context.CancelFunc
	workers  sync.WaitGroup
	fetchers sync.WaitGroup

	mu    sync.Mutex
	loops map[int32]chan struct{} // fetch loops by broker, with their wake-up
}

func newSession(c *Consumer, e switchover.Fetch, every int) *session {
	s := &session{
		c: c, cluster: e.Cluster, epoch: e.Epoch, wc: c.wires[e.Cluster], conns: c.conns[e.Cluster],
		member: c.members[e.Cluster], parts: map[starferry.TopicPartition]*part{}, every: every,
		begin: e.Start, loops: map[int32]chan struct{}{},
	}
	s.ctx, s.cancel = context.WithCancel(c.ctx)
	s.handling, s.giveUp = context.WithCancel(c.handling)
	o := c.settings.Load().wish.Overflow
	if s.overflow = moving(o, e.Cluster); o != nil {
		s.spill = o.Topic
	}
	for _, m := range c.machine.Lease().Memberships {
		if m.Cluster == e.Cluster {
			s.memberID, s.generation = m.Member, m.Generation
		}
	}
	for tp, place := range e.Cut {
		s.parts[tp] = newPart(s, tp, place)
	}
	return s
}

// start begins with the partitions whose place is known; the others follow
// when the start policy has found theirs.
func (s *session) start() {
	for _, p := range s.parts {
		s.launch(p)
	}
	if s.ahead {
		return // it fetches already
	}
	s.workers.Add(1)
	s.fetchers.Add(1)
	go func() {
		defer s.fetchers.Done()
		if len(s.begin) > 0 {
			s.locate()
		}
		s.workers.Done()
		s.route()
	}()
}

func (s *session) launch(p *part) {
	s.workers.Add(1)
	go func() { defer s.workers.Done(); defer close(p.over); p.work() }()
}

// locate asks where the partitions without a commit begin, and has that
// committed at once: a start policy applies only once.
func (s *session) locate() {
	for wait := 50 * time.Millisecond; s.handling.Err() == nil; wait = min(2*wait, time.Second) {
		got, err := s.beginnings()
		if err == nil {
			s.found(got)
			s.c.post(s.c.reposition)
			s.c.post(s.c.progress)
			return
		}
		if s.handling.Err() == nil {
			s.c.log.Warn("find the start of partitions", "cluster", s.cluster, "error", err)
		}
		s.pause(wait)
	}
}

// found adds the partitions whose place was looked for. A session that halts
// meanwhile still waits for it: a place that is known can be drained.
func (s *session) found(got map[starferry.TopicPartition]starferry.Offset) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for tp, o := range got {
		p := newPart(s, tp, starferry.Place{Next: o})
		p.committed.Next = starferry.NoOffset
		p.halted = s.ctx.Err() != nil
		s.parts[tp] = p
		s.launch(p)
	}
}

// pause waits, and returns early when the session halts.
func (s *session) pause(d time.Duration) {
	select {
	case <-s.ctx.Done():
	case <-time.After(d):
	}
}

// list returns the partitions.
func (s *session) list() []*part {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*part, 0, len(s.parts))
	for _, p := range s.parts {
		out = append(out, p)
	}
	return out
}

// handled counts the records of all partitions since they were assigned.
func (s *session) handled() int64 {
	var n int64
	for _, p := range s.list() {
		n += p.state().Handled
	}
	return n
}

// halt abandons fetches and lets no further record be handed out.
func (s *session) halt() {
	s.cancel()
	for _, p := range s.list() {
		p.halt()
	}
}

// cut returns the low-water marks.
func (s *session) cut() starferry.Cut {
	cut := starferry.Cut{}
	for _, p := range s.list() {
		cut[p.tp] = p.place()
	}
	return cut
}

// progress returns the low-water marks that are not committed.
func (s *session) progress() starferry.Cut {
	cut := starferry.Cut{}
	for _, p := range s.list() {
		if place := p.place(); !p.moving && !place.Equal(p.committed) {
			cut[p.tp] = place
		}
	}
	return cut
}

// committed runs on the loop, which owns committed.
func (s *session) committed(cut starferry.Cut) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for tp, place := range cut {
		if p := s.parts[tp]; p != nil {
			p.committed = place
			p.stands(place)
		}
	}
}
