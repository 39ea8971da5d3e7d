package replication

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
)

// A mark is an anchor along the way: at each renewal the state topic is told how
// far a lane has come, and under which sequence. A lost map can then be built
// anew from where the source still has what was copied, however long ago the
// epoch began; what lies before the mark it begins at is not known any more.

// keptMarks is how many marks of a lane stay. The older they are, the wider
// apart.
const keptMarks = 8

// marks writes the marks of all lanes that have moved since their last.
func (b *bucket) marks(ctx context.Context, h *holding) error {
	var g errgroup.Group
	g.SetLimit(256) // those put at the same time share a request
	for l := range h.served {
		m, ok := l.mark(time.Now())
		if !ok {
			continue
		}
		g.Go(func() error {
			if err := b.c.state.Mark(ctx, m); err != nil {
				return err
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.anchor.PID == m.PID && l.anchor.Epoch == m.Epoch {
				l.anchor = m
			}
			return nil
		})
	}
	return g.Wait()
}

// mark says where a lane stands, if that is not told yet.
func (l *lane) mark(now time.Time) (anchor, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.active || l.omap == nil || l.anchor.PID != l.producer.ID || l.anchor.Epoch != l.producer.Epoch {
		return anchor{}, false
	}
	m := l.anchor
	m.Source, m.Target = l.omap.Next()
	m.Seq, m.At, m.Gone = l.pipe.mapped(), now.UnixMilli(), 0
	return m, m.Seq != l.anchor.Seq
}

// mapped is the sequence of the first record that is not in the map yet.
func (p *pipeline) mapped() int32 {
	for _, e := range p.queue {
		if e.stamped {
			return e.seq
		}
	}
	return p.seq
}

// Mark writes a mark and drops the one that is missed least.
func (s *stateLog) Mark(ctx context.Context, m anchor) error {
	if err := s.put(ctx, m.key(), m); err != nil {
		return err
	}
	var marks []anchor
	for _, a := range s.Anchors(m.Link, m.Lane) {
		if a.Seq != 0 && a.TargetTopic == m.TargetTopic && a.SourceTopic == m.SourceTopic {
			marks = append(marks, a)
		}
	}
	if len(marks) <= keptMarks {
		return nil
	}
	return s.put(ctx, superfluous(marks, m.At).key(), nil)
}

// superfluous is the mark, neither the first nor the last, whose neighbours are
// nearest to each other for their age.
func superfluous(marks []anchor, now int64) anchor {
	best, least := marks[0], float64(-1)
	for i := 1; i < len(marks)-1; i++ {
		gap := float64(marks[i+1].At-marks[i-1].At) / float64(now-marks[i-1].At+1)
		if least < 0 || gap < least {
			best, least = marks[i], gap
		}
	}
	return best
}
