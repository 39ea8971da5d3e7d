package replication

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/replication/offsetmap"
)

// What maps on their way in may take of a shard's memory, and for how long one
// that does not go on is kept.
const (
	maxFillings        = 4
	maxFillingSegments = 4 << 20
	fillingWithin      = time.Minute
)

// fillings are the maps that are being brought to a shard.
type fillings struct {
	mu       sync.Mutex
	open     map[string]*filling
	segments int // of all together
}

type filling struct {
	m        offsetmap.Map
	page     int
	segments int
	touched  time.Time
}

// take adds a page. It returns the whole map with the last one.
func (f *fillings) take(q fillRequest, now time.Time) (*offsetmap.Map, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, o := range f.open {
		if now.Sub(o.touched) > fillingWithin {
			f.drop(name)
		}
	}
	o := f.open[q.Session]
	if o == nil {
		if len(f.open) >= maxFillings {
			return nil, fmt.Errorf("%d maps are being imported already; try again when they are done", len(f.open))
		}
		o = &filling{}
		if err := o.m.Reset(q.StartSource, q.StartTarget); err != nil {
			return nil, err
		}
		if f.open == nil {
			f.open = map[string]*filling{}
		}
		f.open[q.Session] = o
	}
	if err := f.add(o, q); err != nil {
		f.drop(q.Session)
		return nil, err
	}
	o.touched = now
	if !q.Last {
		return nil, nil
	}
	f.drop(q.Session)
	if next, _ := o.m.Next(); next != q.NextSource {
		return nil, fmt.Errorf("its pages end at source %d, and it was to end at %d; import it again", next, q.NextSource)
	}
	return &o.m, o.m.Pass(q.NextTarget)
}

func (f *fillings) add(o *filling, q fillRequest) error {
	if q.Page != o.page {
		return fmt.Errorf("page %d came where page %d was to follow; import the map again", q.Page, o.page)
	}
	if f.segments+len(q.Segments) > maxFillingSegments {
		return fmt.Errorf("more than %d runs and holes are being imported; import fewer topics at once", maxFillingSegments)
	}
	for _, s := range q.Segments {
		if err := s.add(&o.m); err != nil {
			return err
		}
	}
	o.page++
	o.segments += len(q.Segments)
	f.segments += len(q.Segments)
	return nil
}

func (f *fillings) drop(session string) {
	if o := f.open[session]; o != nil {
		f.segments -= o.segments
		delete(f.open, session)
	}
}

// mapOf finds the map of a lane that this shard copies, or says why there is none.
func (s *Shard) mapOf(link starferry.LinkName, tp starferry.TopicPartition) (*lane, *offsetmap.Lane, string) {
	c, why := s.link(link)
	if c == nil {
		return nil, nil, why
	}
	l, why := c.lane(tp)
	if l == nil {
		return nil, nil, why
	}
	m := l.sound()
	if m == nil || !m.Begun() {
		st := l.status()
		return nil, nil, fmt.Sprintf("lane %s is %s: %s", tp, st.State, st.Reason)
	}
	return l, m, ""
}

func (s *Shard) answerMap(_ context.Context, data []byte) any {
	var q mapRequest
	if err := json.Unmarshal(data, &q); err != nil {
		return mapReply{Error: "read request: " + err.Error()}
	}
	_, m, why := s.mapOf(q.Link, q.Lane)
	if m == nil {
		return mapReply{Error: why}
	}
	out := mapReply{Incarnation: m.Key().Incarnation}
	next, passed := m.Next()
	most := max(2, min(q.Most, pageSegments))
	var unsure bool
	var err error
	if out.StartSource, out.StartTarget, unsure, err = m.Front(); err != nil {
		return mapReply{Error: err.Error()}
	}
	start := out.StartSource
	out.NextSource = max(q.From, start)
	if unsure {
		out.StartSource--
		if q.From < start {
			out.Segments = append(out.Segments, mapSegment{S: start - 1, N: 1, K: unknownSegment})
		}
	}
	for seg, err := range m.Segments(q.From) {
		if err != nil {
			return mapReply{Error: err.Error()}
		}
		if len(out.Segments) == most {
			out.More = true
			break
		}
		p := packSegment(seg)
		if before := max(q.From, start) - p.S; before > 0 {
			p.S += before
			p.N -= int64(before)
			if p.K == "" {
				p.T += before
			}
		}
		out.Segments = append(out.Segments, p)
		out.NextSource = p.S + starferry.Offset(p.N)
	}
	if out.NextSource == next {
		out.NextTarget = passed // else the map has grown meanwhile: copies lie below it
	}
	return out
}

func (s *Shard) answerFill(_ context.Context, data []byte) any {
	var q fillRequest
	if err := json.Unmarshal(data, &q); err != nil {
		return fillReply{Error: "read request: " + err.Error()}
	}
	_, m, why := s.mapOf(q.Link, q.Lane)
	if m == nil {
		return fillReply{Error: why}
	}
	if have := m.Key().Incarnation; q.Incarnation != have {
		return fillReply{Error: fmt.Sprintf("the text is of topics with the ids %s, and those of now are %s: a topic was deleted and made again; what was copied of the old one says nothing of this one", q.Incarnation, have)}
	}
	whole, err := s.filling.take(q, time.Now())
	if err != nil {
		return fillReply{Error: err.Error()}
	}
	if whole == nil {
		return fillReply{}
	}
	n, err := m.Merge(whole)
	if err != nil {
		return fillReply{Error: err.Error()}
	}
	s.snaps.stale(m.Key())
	s.log.Info("offset map filled from a text", "link", q.Link, "lane", m.Key().String(), "offsets", n)
	return fillReply{Filled: n}
}
