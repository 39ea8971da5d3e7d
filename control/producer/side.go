package producer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// side is a line's way to one cluster.
type side struct {
	l *line
	w *wire.Cluster
	// lost is kicked when a leader is not where it was.
	lost chan struct{}

	mu      sync.Mutex
	id      identity
	leaders []int32 // by partition; −1: none is known
	outlets map[int32]*outlet
}

// side returns the line's way to a cluster. The lock of the line is not held.
func (l *line) side(c starferry.ClusterName) (*side, error) {
	w := l.p.wires[c]
	if w == nil {
		return nil, fmt.Errorf("cluster %q is none of those that the producer was given: add it to its configuration", c)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sides[c]
	if s == nil {
		s = &side{l: l, w: w, lost: make(chan struct{}, 1), outlets: map[int32]*outlet{}}
		l.sides[c] = s
		l.p.spawn(s.route)
	}
	return s, nil
}

// warm finds the leaders, connects to them and gets a producer id, once. It
// returns how many partitions the topic has there.
func (s *side) warm(ctx context.Context) (int, error) {
	n, err := s.look(ctx)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	have := s.id != identity{}
	s.mu.Unlock()
	if !have {
		id, err := s.fresh(ctx)
		if err != nil {
			return 0, err
		}
		s.mu.Lock()
		s.id = id
		s.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.outlets {
		o.warm()
	}
	return n, nil
}

// partitions is how many the topic has there, once it is warm; 0 before.
func (s *side) partitions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if (s.id == identity{}) {
		return 0
	}
	return len(s.leaders)
}

// own is the side's producer id.
func (s *side) own() identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// fresh gets a new producer id.
func (s *side) fresh(ctx context.Context) (identity, error) {
	p, err := s.w.InitProducer(ctx, "", 0, wire.Producer{ID: -1, Epoch: -1})
	return identity{p.ID, p.Epoch}, err
}

// look asks for the leaders.
func (s *side) look(ctx context.Context) (int, error) {
	m, err := s.w.Metadata(ctx, s.l.topic)
	if err != nil {
		return 0, fmt.Errorf("find leaders of %s on %s: %w", s.l.topic, s.w.Name(), err)
	}
	t := m.Topics[s.l.topic]
	if t.Err != nil {
		return 0, fmt.Errorf("find leaders of %s on %s: %w", s.l.topic, s.w.Name(), t.Err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	leaders := make([]int32, len(t.Partitions))
	for i := range leaders {
		leaders[i] = -1
	}
	for _, p := range t.Partitions {
		if p.Partition < 0 || int(p.Partition) >= len(leaders) || p.Leader < 0 || p.Err != nil {
			continue
		}
		leaders[p.Partition] = p.Leader
		if s.outlets[p.Leader] == nil {
			o := newOutlet(s, p.Leader)
			s.outlets[p.Leader] = o
			s.l.p.spawn(o.run)
		}
	}
	s.leaders = leaders
	for _, o := range s.outlets {
		o.wake()
	}
	return len(leaders), nil
}

// leader is the broker that leads a partition, −1 if that is not known.
func (s *side) leader(partition int) int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if partition >= len(s.leaders) {
		return -1
	}
	return s.leaders[partition]
}

// kick wakes the outlet of a partition.
func (s *side) kick(partition int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if partition < len(s.leaders) {
		if o := s.outlets[s.leaders[partition]]; o != nil {
			o.wake()
		}
	}
}

// misled forgets the leader of a partition.
func (s *side) misled(partition int, broker int32) {
	s.mu.Lock()
	if partition < len(s.leaders) && s.leaders[partition] == broker {
		s.leaders[partition] = -1
	}
	s.mu.Unlock()
	select {
	case s.lost <- struct{}{}:
	default:
	}
}

// between is how often leaders and new partitions are looked for in peace.
const between = 30 * time.Second

// route looks for leaders when one is lost, and now and then.
func (s *side) route() {
	t := time.NewTimer(between)
	defer t.Stop()
	pause := firstPause
	for {
		select {
		case <-s.l.p.ctx.Done():
			return
		case <-s.lost:
		case <-t.C:
		}
		n, err := s.look(s.l.p.ctx)
		next := between
		if err != nil {
			s.l.log.Warn("look for leaders", "cluster", s.w.Name(), "error", err)
		} else {
			s.l.mu.Lock()
			if s.l.home == s {
				s.l.grow(n)
			}
			s.l.mu.Unlock()
		}
		if err != nil || s.missing() {
			next, pause = pause, min(2*pause, lastPause)
		} else {
			pause = firstPause
		}
		t.Reset(next)
	}
}

func (s *side) missing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.leaders {
		if b < 0 {
			return true
		}
	}
	return false
}
