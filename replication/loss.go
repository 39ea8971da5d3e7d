package replication

import (
	"context"
	"fmt"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// laneRules are those of the target topic with the lane's edits.
func (l *lane) laneRules() rules {
	r := l.c.rulesOf(l.to.Topic)
	r.edits = l.edits
	return r
}

// turnedLocked looks whether an active lane has come to where it leaves off: to
// the end of its copy, or to offsets that are gone, with nothing on its way any
// more.
func (l *lane) turnedLocked() {
	if !l.active || len(l.pipe.queue) > 0 {
		return
	}
	if next, _ := l.omap.Next(); l.edits.past(next) {
		l.haltLocked(Done, fmt.Sprintf("copied up to offset %d, where the link is to end", l.edits.until))
		return
	}
	if l.gap != nil {
		why := l.gap
		l.haltLocked(Recovering, why.Error())
		l.bucket.refence(l, why)
	}
}

// overtaken deals with source offsets that are gone before they were copied.
func (l *lane) overtaken(term uint64, from, start starferry.Offset) {
	source := l.c.spec.Source
	why := fmt.Errorf("source %s: offsets %d to %d are gone before they were copied, the log starts at %d: retention has overtaken the copy", l.tp, from, start-1, start)
	if l.c.wanted().OnLoss != ContinueOnLoss {
		if l.current(term) {
			l.stop(fmt.Errorf("%w; raise retention.ms and retention.bytes of topic %s on %s now, so that no more is lost; then ask for the link again with on_loss=%q, which leaves these offsets out and counts them",
				why, l.tp.Topic, source, ContinueOnLoss))
		}
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if term == l.term {
		l.fetching, l.gap = false, why
		l.turnedLocked()
	}
}

// gone makes holes of source offsets that are gone before they were copied, if
// the link is to continue on loss; then the anchor says so too, for the map to be
// rebuilt by. It returns how many lie right before the map's end.
func (r *readback) gone(ctx context.Context, anchors []anchor) (int64, error) {
	l := r.l
	next, _ := r.m.Next()
	var before int64
	for _, a := range anchors {
		if a.Source == next {
			before = max(before, a.Gone) // an epoch that wrote nothing hands it on
		}
	}
	if l.c.wanted().OnLoss != ContinueOnLoss {
		return before, nil
	}
	starts, err := l.c.src.Offsets(ctx, []starferry.TopicPartition{l.tp}, wire.Earliest)
	if err != nil {
		return 0, fmt.Errorf("find start of %s on %s: %w", l.tp, l.c.spec.Source, err)
	}
	start := l.edits.clip(starts[l.tp])
	if start > next {
		if err := r.m.Hole(next, start, starferry.Deleted); err != nil {
			return 0, err
		}
		before += int64(start - next)
		l.c.log.Error("source offsets are lost", "link", l.c.spec.Name, "lane", l.tp, "from", next, "to", start-1, "count", int64(start-next),
			"why", "retention of the source overtook the copy, which was told to continue")
	}
	var lost int64
	for s, err := range r.m.Segments(0) {
		if err != nil {
			return 0, err
		}
		if s.Status == starferry.InHole && s.Reason == starferry.Deleted {
			lost += s.Count
		}
	}
	l.mu.Lock()
	l.lost = lost
	l.mu.Unlock()
	return before, nil
}
