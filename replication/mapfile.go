package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nuid"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/replication/offsetmap"
)

// pageSegments are handed over at once: at most some 200 KB of JSON.
const pageSegments = 4000

// mapSegment is a segment of a map on its way: K is empty for a run, "unknown",
// or the reason of a hole.
type mapSegment struct {
	S starferry.Offset `json:"s"`
	T starferry.Offset `json:"t,omitempty"`
	N int64            `json:"n"`
	K string           `json:"k,omitempty"`
}

const unknownSegment = "unknown"

func packSegment(s offsetmap.Segment) mapSegment {
	out := mapSegment{S: s.Source, N: s.Count}
	switch s.Status {
	case starferry.Exact:
		out.T = s.Target
	case starferry.InHole:
		out.K = string(s.Reason)
	default:
		out.K = unknownSegment
	}
	return out
}

// add puts the segment behind what a map holds.
func (s mapSegment) add(m *offsetmap.Map) error {
	switch s.K {
	case "":
		return m.Append(offsetmap.Run{Source: s.S, Target: s.T, Count: s.N})
	case unknownSegment:
		return m.MarkUnknown(s.S, s.S+starferry.Offset(s.N))
	}
	return m.Hole(s.S, s.S+starferry.Offset(s.N), starferry.Reason(s.K))
}

// mapEnds are where a map begins and where it ends.
type mapEnds struct {
	StartSource starferry.Offset `json:"start_source"`
	StartTarget starferry.Offset `json:"start_target"`
	NextSource  starferry.Offset `json:"next_source"`
	NextTarget  starferry.Offset `json:"next_target"`
}

// mapRequest asks for a page of a lane's map, from a source offset on.
type mapRequest struct {
	Link starferry.LinkName       `json:"link"`
	Lane starferry.TopicPartition `json:"lane"`
	From starferry.Offset         `json:"from"`
	Most int                      `json:"most"` // segments
}

type mapReply struct {
	mapEnds
	Incarnation string       `json:"incarnation"`
	Segments    []mapSegment `json:"segments"`
	More        bool         `json:"more,omitempty"`
	Error       string       `json:"error,omitempty"`
}

// fillRequest brings a page of a map that is to fill what a lane does not know.
// With the last page the lane is filled.
type fillRequest struct {
	mapEnds
	Link        starferry.LinkName       `json:"link"`
	Lane        starferry.TopicPartition `json:"lane"`
	Incarnation string                   `json:"incarnation"`
	Session     string                   `json:"session"`
	Page        int                      `json:"page"`
	Segments    []mapSegment             `json:"segments"`
	Last        bool                     `json:"last,omitempty"`
}

type fillReply struct {
	Filled int64  `json:"filled"` // source offsets that are known now and were not
	Error  string `json:"error,omitempty"`
}

// ExportMap writes the maps of a link's lanes as text, of some topics or of all.
// The form is that of offsetmap.ReadText.
func (c *Client) ExportMap(ctx context.Context, link starferry.LinkName, topics []starferry.Topic, w io.Writer) error {
	spec, table, err := c.linkAndTable(ctx, link)
	if err != nil {
		return err
	}
	for _, t := range topics {
		if !slices.Contains(spec.Topics, t) {
			return fmt.Errorf("export map of link %s: topic %s is not on the link; it copies %v", link, t, spec.Topics)
		}
	}
	lanes, _, err := c.lanes(ctx, spec)
	if err != nil {
		return err
	}
	out := offsetmap.NewTextWriter(w, offsetmap.TextHead{Link: link, Source: spec.Source, Target: spec.Target})
	for _, tp := range lanes {
		if len(topics) > 0 && !slices.Contains(topics, tp.Topic) {
			continue
		}
		m, incarnation, err := c.fetchMap(ctx, spec, table, tp)
		if err != nil {
			return fmt.Errorf("export map of link %s: %w", link, err)
		}
		head := offsetmap.TextLane{Partition: tp, TargetTopic: spec.TargetOf(tp.Topic)}
		head.SourceID, head.TargetID, _ = strings.Cut(incarnation, ".")
		if err := out.Map(head, m); err != nil {
			return fmt.Errorf("export map of link %s: %w", link, err)
		}
	}
	return out.Close()
}

func (c *Client) linkAndTable(ctx context.Context, link starferry.LinkName) (LinkSpec, Table, error) {
	st, err := c.open(ctx)
	if err != nil {
		return LinkSpec{}, Table{}, err
	}
	spec, err := st.Link(ctx, link)
	if err != nil {
		return spec, Table{}, err
	}
	table, err := st.Table(ctx, link)
	return spec, table, err
}

// owner is the shard that has a lane.
func (c *Client) owner(spec LinkSpec, table Table, tp starferry.TopicPartition) (ShardID, error) {
	n := spec.BucketOf(tp)
	if s := ownerOf(table, n); s != "" {
		return s, nil
	}
	return "", fmt.Errorf("lane %s: bucket %d has no owner: is a shard running?", tp, n)
}

// mapTries is how often a map that changed under its pages is asked for.
const mapTries = 3

// fetchMap reads a lane's whole map, page by page. What it is made of may grow
// meanwhile, and its start be forgotten: then it is read again.
func (c *Client) fetchMap(ctx context.Context, spec LinkSpec, table Table, tp starferry.TopicPartition) (m *offsetmap.Map, incarnation string, err error) {
	s, err := c.owner(spec, table, tp)
	if err != nil {
		return nil, "", err
	}
	for range mapTries {
		if m, incarnation, err = c.fetchMapOnce(ctx, s, spec.Name, tp); !errors.Is(err, offsetmap.ErrOrder) {
			break
		}
	}
	if err != nil {
		return nil, "", fmt.Errorf("lane %s: %w", tp, err)
	}
	return m, incarnation, nil
}

func (c *Client) fetchMapOnce(ctx context.Context, s ShardID, link starferry.LinkName, tp starferry.TopicPartition) (*offsetmap.Map, string, error) {
	var m offsetmap.Map
	for {
		q := mapRequest{Link: link, Lane: tp, Most: c.page}
		if m.Begun() {
			q.From, _ = m.Next()
		}
		var r mapReply
		err := c.ask(ctx, s, "map", q, &r, 0)
		if err == nil && r.Error != "" {
			err = errors.New(r.Error)
		}
		if err == nil && !m.Begun() {
			err = m.Reset(r.StartSource, r.StartTarget)
		}
		for _, p := range r.Segments {
			if err == nil {
				err = p.add(&m)
			}
		}
		switch {
		case err != nil:
			return nil, "", err
		case !r.More:
			if next, _ := m.Next(); next != r.NextSource {
				return nil, "", fmt.Errorf("its pages end at source %d, and the map at %d: %w", next, r.NextSource, offsetmap.ErrOrder)
			}
			return &m, r.Incarnation, m.Pass(r.NextTarget)
		}
	}
}

// Imported says what ImportMap did to one lane.
type Imported struct {
	Lane starferry.TopicPartition `json:"lane"`
	// Filled is how many source offsets are known now that were not before.
	Filled int64 `json:"filled"`
}

// ImportMap fills what the lanes of a link do not know, below their starts and
// where they are unknown, from a text as ExportMap writes it. All of the text is
// checked before anything is changed, and each lane changes as a whole or not at
// all: what contradicts a lane's map, or is of another life of its topics, is
// refused. Errors are *offsetmap.TextError where a line is to blame.
func (c *Client) ImportMap(ctx context.Context, link starferry.LinkName, text io.ReadSeeker) ([]Imported, error) {
	spec, table, err := c.linkAndTable(ctx, link)
	if err != nil {
		return nil, err
	}
	head := func(h offsetmap.TextHead) error {
		if h.Link != link || h.Source != spec.Source || h.Target != spec.Target {
			return fmt.Errorf("the text is of link %s from %s to %s, and this is link %s from %s to %s; correct the line if they are the same clusters",
				h.Link, h.Source, h.Target, link, spec.Source, spec.Target)
		}
		return nil
	}
	seen := map[starferry.TopicPartition]int{}
	err = offsetmap.ReadText(text, head, func(l offsetmap.TextLane, _ *offsetmap.Map) error {
		if line, twice := seen[l.Partition]; twice {
			return &offsetmap.TextError{Line: l.Line, Text: fmt.Sprintf("lane %s stands at line %d already; leave one of the two", l.Partition, line)}
		}
		seen[l.Partition] = l.Line
		if !slices.Contains(spec.Topics, l.Partition.Topic) || l.TargetTopic != spec.TargetOf(l.Partition.Topic) {
			return &offsetmap.TextError{Line: l.Line, Text: fmt.Sprintf("link %s does not copy topic %s to %s; take the lane out, or add the topic to the link first", link, l.Partition.Topic, l.TargetTopic)}
		}
		_, err := c.owner(spec, table, l.Partition)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("import map of link %s: %w", link, err)
	}
	if _, err := text.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("import map of link %s: %w", link, err)
	}
	var done []Imported
	err = offsetmap.ReadText(text, head, func(l offsetmap.TextLane, m *offsetmap.Map) error {
		s, err := c.owner(spec, table, l.Partition)
		if err != nil {
			return err
		}
		n, err := c.fill(ctx, s, link, l, m)
		if err != nil {
			return &offsetmap.TextError{Line: l.Line, Text: fmt.Sprintf("lane %s: %s", l.Partition, err)}
		}
		done = append(done, Imported{l.Partition, n})
		return nil
	})
	if err != nil {
		return done, fmt.Errorf("import map of link %s: %w", link, err)
	}
	return done, nil
}

// fill brings one lane's map to its owner, page by page.
func (c *Client) fill(ctx context.Context, s ShardID, link starferry.LinkName, l offsetmap.TextLane, m *offsetmap.Map) (int64, error) {
	q := fillRequest{Link: link, Lane: l.Partition, Incarnation: l.SourceID + "." + l.TargetID, Session: nuid.Next()}
	q.StartSource, q.StartTarget = m.Start()
	q.NextSource, q.NextTarget = m.Next()
	send := func() (int64, error) {
		var r fillReply
		err := c.ask(ctx, s, "fill", q, &r, 10*time.Second)
		if err == nil && r.Error != "" {
			err = errors.New(r.Error)
		}
		q.Page++
		q.Segments = q.Segments[:0]
		return r.Filled, err
	}
	for seg, err := range m.Segments(0) {
		if err != nil {
			return 0, err
		}
		if q.Segments = append(q.Segments, packSegment(seg)); len(q.Segments) < c.page {
			continue
		}
		if _, err := send(); err != nil {
			return 0, err
		}
	}
	q.Last = true
	return send()
}
