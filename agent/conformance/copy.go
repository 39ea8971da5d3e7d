package conformance

import (
	"context"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/internal/wire"
)

// link is the name of the stand-in for a link.
const link starferry.LinkName = "old-new"

// shift is how far a partition's offsets on new are above those on old: what
// lies below was on new before and is nobody's to handle.
func shift(p starferry.Partition) starferry.Offset { return starferry.Offset(3 + 2*p) }

// twin stands in for a link. The stand writes each record to both clusters, so
// that only offsets have to be translated, and the ends of the target tell how
// far the copy is.
type twin struct{ s *stand }

// Ends implements fleet.Copies.
func (twin) Ends(context.Context, starferry.LinkName) (source, target starferry.ClusterName, err error) {
	return oldName, newName, nil
}

// Opposite implements fleet.Copies.
func (twin) Opposite(context.Context, starferry.LinkName, ...starferry.Topic) (starferry.LinkName, error) {
	return "", nil
}

// Health implements fleet.Copies.
func (c twin) Health(context.Context, starferry.LinkName, []starferry.Topic) (fleet.Health, error) {
	h := fleet.Health{Lag: map[starferry.TopicPartition]int64{}}
	for _, tp := range c.s.partitions() {
		h.Lag[tp] = 0
	}
	return h, nil
}

// Translate implements fleet.Copies.
func (c twin) Translate(ctx context.Context, _ starferry.LinkName, d starferry.Direction, cut starferry.Cut, wait time.Duration) (starferry.Translation, error) {
	to, w := starferry.Cut{}, c.s.g.wires[newName]
	if d == starferry.Back {
		w = c.s.g.wires[oldName]
	}
	for tp, p := range cut {
		to[tp] = moved(tp.Partition, p, d)
	}
	deadline := time.Now().Add(wait)
	t := starferry.Translation{Cut: to, Answers: map[starferry.TopicPartition]starferry.Answer{}}
	for {
		ends, err := w.Offsets(ctx, to.Partitions(), wire.Latest)
		if err != nil {
			return t, err
		}
		t.Behind = map[starferry.TopicPartition]int64{}
		for tp, p := range to {
			t.Answers[tp] = starferry.Answer{Offset: p.Next, Status: starferry.Exact}
			if ends[tp] < p.Next {
				t.Behind[tp] = int64(p.Next - ends[tp])
			}
		}
		if len(t.Behind) == 0 || !time.Now().Before(deadline) || !rest(ctx, 5*time.Millisecond) {
			return t, nil
		}
	}
}

// Passed implements fleet.Copies.
func (c twin) Passed(ctx context.Context, l starferry.LinkName, ends map[starferry.TopicPartition]starferry.Offset, wait time.Duration) (map[starferry.TopicPartition]int64, error) {
	cut := starferry.Cut{}
	for tp, end := range ends {
		cut[tp] = starferry.Place{Next: end}
	}
	t, err := c.Translate(ctx, l, starferry.Forward, cut, wait)
	return t.Behind, err
}

// moved is a place on the other side.
func moved(p starferry.Partition, at starferry.Place, d starferry.Direction) starferry.Place {
	by := shift(p)
	if d == starferry.Back {
		by = -by
	}
	out := starferry.Place{Next: max(at.Next+by, 0)}
	for _, r := range at.Handled {
		out.Handled = append(out.Handled, starferry.Range{From: max(r.From+by, 0), To: max(r.To+by, 0)})
	}
	return out
}

// rest waits; false when ctx ends first.
func rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
