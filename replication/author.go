package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// A readback knows the link's producers from the state topic as it was before the
// fence. Who held itself for the owner until the fence may have begun an epoch
// since. So a producer that is not known is looked up once its batch has been
// read: the claim of its id, and the anchor of its epoch, are acknowledged before
// its first batch is sent, and such a look finds them, or nobody ever will.

// errNews says that the state topic tells of more than when a readback began: it
// begins again.
var errNews = errors.New("another owner copied until it was fenced, and is only now known of: reading back again")

// ours reports whether the link wrote a batch, which has been read.
func (r *readback) ours(ctx context.Context, p wire.Producer) (bool, error) {
	switch {
	case p.ID < 0 || r.foreign[p.ID]:
		return false, nil
	case len(r.anchors[p]) > 0 && r.pids[p.ID]:
		return true, nil
	}
	c := r.l.c
	if !r.looked {
		if err := c.state.Look(ctx, r.l.to.Topic); err != nil {
			return false, fmt.Errorf("find out who wrote %s of %s: %w", r.l.to, c.spec.Target, err)
		}
		r.looked = true
	}
	pids, _ := c.state.PIDs(c.spec.Name, r.l.bucket.n)
	if !pids[p.ID] {
		r.foreign[p.ID] = true
		return false, nil
	}
	anchors, err := r.l.anchors(r.as)
	if err != nil {
		return false, err
	}
	begun := func(a anchor) bool { return a.PID == p.ID && a.Epoch == p.Epoch }
	if !r.pids[p.ID] || len(r.anchors[p]) == 0 && slices.ContainsFunc(anchors, begun) {
		return false, errNews
	}
	return true, nil // no anchor: enter refuses it
}

// reaches fails if the target log is shorter than the map says. It may have grown
// since it was looked at before the fence.
func (r *readback) reaches(ctx context.Context, target starferry.Offset) error {
	ends, err := r.l.c.tgt.Offsets(ctx, []starferry.TopicPartition{r.l.to}, wire.Latest)
	if err != nil {
		return fmt.Errorf("find end of %s on %s: %w", r.l.to, r.l.c.spec.Target, err)
	}
	if end := ends[r.l.to]; target > end {
		return fmt.Errorf("target %s ends at %d, and the map at %d: %w", r.l.to, end, target, errDisagree)
	}
	return nil
}
