package replication

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// Where a copy begins or ends, in From and Until, beside times.
const (
	Earliest = "earliest"
	Latest   = "latest"
	Listed   = "listed"
)

// OnLoss says what happens to a lane whose source drops records, by retention,
// before they were copied.
type OnLoss string

const (
	// StopOnLoss stops the lane and names the offsets.
	StopOnLoss OnLoss = "stop"
	// ContinueOnLoss makes them holes (deleted), counts them and goes on behind
	// them. A topic that was truncated or created again stops the lane even so.
	ContinueOnLoss OnLoss = "continue"
)

// parseTime reads a time of From or Until.
func parseTime(s string) (wire.At, bool) {
	t, err := time.Parse(time.RFC3339, s)
	return wire.Time(t.UnixMilli()), err == nil
}

// checkPlaces reports the first thing that is wrong with where a link begins
// and ends.
func (s LinkSpec) checkPlaces() error {
	_, timed := parseTime(s.From)
	switch {
	case s.From == "" || s.From == Earliest || s.From == Latest || s.From == Listed || timed:
	default:
		return fmt.Errorf("from %q: want %s, %s, a time such as 2026-01-31T18:00:00Z, or an offset for each partition", s.From, Earliest, Latest)
	}
	_, timed = parseTime(s.Until)
	switch {
	case s.Until == "" || s.Until == Latest || s.Until == Listed || timed:
	default:
		return fmt.Errorf("until %q: want %s, a time such as 2026-01-31T18:00:00Z, or an offset for each partition", s.Until, Latest)
	}
	for _, m := range []map[starferry.TopicPartition]starferry.Offset{s.Begin, s.Ends} {
		for tp, o := range m {
			if o < 0 {
				return fmt.Errorf("offset %d of %s: want 0 or more", o, tp)
			}
		}
	}
	for tp, begin := range s.Begin {
		if end, ok := s.Ends[tp]; ok && s.Until != "" && end < begin {
			return fmt.Errorf("%s: the copy would end at offset %d before it begins at %d", tp, end, begin)
		}
	}
	if s.OnLoss != "" && s.OnLoss != StopOnLoss && s.OnLoss != ContinueOnLoss {
		return fmt.Errorf("on_loss %q: want %q or %q", s.OnLoss, StopOnLoss, ContinueOnLoss)
	}
	return nil
}

// differs names the first setting that is fixed and is another one in next.
func (s LinkSpec) differs(next LinkSpec) error {
	s, next = s.plain(), next.plain()
	for _, f := range []struct{ what, is, asked string }{
		{"rename", s.Rename.String(), next.Rename.String()},
		{"from", cmp.Or(s.From, Earliest), cmp.Or(next.From, Earliest)},
		{"until", cmp.Or(s.Until, "none"), cmp.Or(next.Until, "none")},
		{"sample", fmt.Sprint(s.Sample), fmt.Sprint(next.Sample)},
		{"scrub", cmp.Or(strings.Join(s.Scrub, ", "), "none"), cmp.Or(strings.Join(next.Scrub, ", "), "none")},
	} {
		if f.is != f.asked {
			return fmt.Errorf("it was made with %s %s, and %s is asked for: what becomes of a source offset is fixed when a link is made, because its map counts; "+
				"ask with the same setting, or make a link under another name, into empty topics or with rename", f.what, f.is, f.asked)
		}
	}
	return nil
}

// contradicts reports the fixed offsets that a repeated request contradicts.
func (s LinkSpec) contradicts(want LinkSpec) error {
	for _, m := range []struct {
		what       string
		have, want map[starferry.TopicPartition]starferry.Offset
	}{{"begins at", s.Begin, want.Begin}, {"ends before", s.Ends, want.Ends}} {
		for _, tp := range slices.SortedFunc(maps.Keys(m.want), starferry.TopicPartition.Compare) {
			if have, ok := m.have[tp]; s.has(tp.Topic) && (!ok || have != m.want[tp]) {
				return fmt.Errorf("its copy of %s %s offset %d, and %d is asked for: that is fixed when a topic is added; make a link under another name, into empty topics or with rename", tp, m.what, have, m.want[tp])
			}
		}
	}
	return nil
}

// resolve says, for topics that are added to a spec, at which offsets the copy
// begins and ends. Where the source ends is asked before times are, so that
// nothing slips between the two.
func (s *LinkSpec) resolve(ctx context.Context, src *wire.Cluster, want LinkSpec, topics []starferry.Topic) error {
	if s.From != Latest && s.From != Listed && s.Until == "" || len(topics) == 0 {
		return nil
	}
	m, err := src.Metadata(ctx, topics...)
	if err != nil {
		return fmt.Errorf("look up topics on %s: %w", src.Name(), err)
	}
	var tps []starferry.TopicPartition
	for _, t := range topics {
		for _, p := range m.Topics[t].Partitions {
			tps = append(tps, starferry.TopicPartition{Topic: t, Partition: p.Partition})
		}
	}
	starts, err := src.Offsets(ctx, tps, wire.Earliest)
	if err != nil {
		return fmt.Errorf("find starts on %s: %w", src.Name(), err)
	}
	ends, err := src.Offsets(ctx, tps, wire.Latest)
	if err != nil {
		return fmt.Errorf("find ends on %s: %w", src.Name(), err)
	}
	begin, until := maps.Clone(s.Begin), maps.Clone(s.Ends)
	if begin == nil {
		begin = map[starferry.TopicPartition]starferry.Offset{}
	}
	if until == nil {
		until = map[starferry.TopicPartition]starferry.Offset{}
	}
	for _, tp := range tps {
		switch s.From {
		case Latest:
			begin[tp] = ends[tp]
		case Listed:
			o, ok := want.Begin[tp]
			if !ok {
				return fmt.Errorf("from lists no offset for %s: name one for each partition of topic %s (0 to %d)", tp, tp.Topic, len(m.Topics[tp.Topic].Partitions)-1)
			}
			if o < starts[tp] || o > ends[tp] {
				return fmt.Errorf("from offset %d of %s: its log on %s has offsets %d to %d", o, tp, src.Name(), starts[tp], ends[tp])
			}
			begin[tp] = o
		}
	}
	if s.Until != "" {
		if err := s.resolveEnds(ctx, src, want, tps, ends, until); err != nil {
			return err
		}
		s.Ends = until
	}
	if len(begin) > 0 {
		s.Begin = begin
	}
	return s.checkPlaces()
}

func (s *LinkSpec) resolveEnds(ctx context.Context, src *wire.Cluster, want LinkSpec, tps []starferry.TopicPartition, ends, until map[starferry.TopicPartition]starferry.Offset) error {
	timed := map[starferry.TopicPartition]starferry.Offset{}
	if at, ok := parseTime(s.Until); ok {
		var err error
		if timed, err = src.Offsets(ctx, tps, at); err != nil {
			return fmt.Errorf("find where until %s is on %s: %w", s.Until, src.Name(), err)
		}
	}
	for _, tp := range tps {
		until[tp] = ends[tp]
		if o, ok := timed[tp]; ok && o >= 0 {
			until[tp] = min(o, ends[tp])
		}
		if s.Until == Listed {
			o, ok := want.Ends[tp]
			if !ok {
				return fmt.Errorf("until lists no offset for %s: name one for each partition of the topic", tp)
			}
			until[tp] = o
		}
	}
	return nil
}

// first is the source offset at which a lane that was never copied begins, given
// where its log starts.
func (l *lane) first(ctx context.Context, start starferry.Offset) (starferry.Offset, error) {
	spec := l.c.wanted()
	if o, ok := spec.Begin[l.tp]; ok {
		return o, nil
	}
	at, ok := parseTime(spec.From)
	if !ok {
		return start, nil
	}
	tps := []starferry.TopicPartition{l.tp}
	ends, err := l.c.src.Offsets(ctx, tps, wire.Latest)
	if err != nil {
		return 0, fmt.Errorf("find end of %s on %s: %w", l.tp, l.c.spec.Source, err)
	}
	found, err := l.c.src.Offsets(ctx, tps, at)
	if err != nil {
		return 0, fmt.Errorf("find where %s is in %s on %s: %w", spec.From, l.tp, l.c.spec.Source, err)
	}
	if o := found[l.tp]; o >= 0 {
		return max(start, o), nil
	}
	return ends[l.tp], nil
}
