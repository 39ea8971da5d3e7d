package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// errGone says that the source no longer holds what is asked for.
var errGone = errors.New("source records are gone")

// walker reads a source partition as the copy does, without copying.
type walker struct {
	c     *wire.Cluster
	tp    starferry.TopicPartition
	rules rules
	queue []*entry
	at    int     // piece of the first entry
	used  int64   // of that piece
	back  *walker // where mark was called; its queue grows with what is read
	soft  bool    // the end of what is committed is no error but errEnd
}

// peek returns what stands at next: the rest of a piece.
func (w *walker) peek(ctx context.Context, next starferry.Offset) (piece, error) {
	for len(w.queue) == 0 {
		p, err := fetchOnce(ctx, w.c, w.tp, next, glance{committed: true, waitMS: 100, maxBytes: 4 << 20})
		if errors.Is(err, kafka.OffsetOutOfRange) && p != nil {
			if start := starferry.Offset(p.LogStartOffset); start > next || start < 0 {
				return piece{}, fmt.Errorf("source %s: offsets %d to %d: %w", w.tp, next, start-1, errGone)
			}
			return piece{}, stopf("source %s ends before offset %d, which was copied; was the topic created again or its log truncated? Delete the topic on the target and ask for the link again", w.tp, next)
		}
		if err != nil {
			return piece{}, err
		}
		if w.queue, err = w.rules.read(ctx, p, next); err != nil {
			return piece{}, err
		}
		if w.back != nil {
			w.back.queue = append(w.back.queue, w.queue...)
		}
		if len(w.queue) == 0 && w.soft && p.LastStableOffset >= 0 && int64(next) >= p.LastStableOffset && int64(next) < p.HighWatermark {
			return piece{}, errEnd
		}
		if len(w.queue) == 0 && int64(next) >= p.HighWatermark {
			return piece{}, stopf("source %s ends at offset %d, and the target holds copies of later records (%w); was the topic created again or its log truncated? Delete the topic on the target and ask for the link again", w.tp, p.HighWatermark, errEnd)
		}
		if ctx.Err() != nil {
			return piece{}, context.Cause(ctx)
		}
	}
	pc := w.queue[0].pieces[w.at]
	pc.source += starferry.Offset(w.used)
	pc.count -= w.used
	return pc, nil
}

// mark notes where the walker is, and rewind goes back there.
func (w *walker) mark() {
	w.back = &walker{queue: slices.Clone(w.queue), at: w.at, used: w.used}
}

func (w *walker) rewind() {
	w.queue, w.at, w.used, w.back = w.back.queue, w.back.at, w.back.used, nil
}

// advance passes n offsets of the piece that peek returned.
func (w *walker) advance(n int64) {
	w.used += n
	if w.used < w.queue[0].pieces[w.at].count {
		return
	}
	w.used = 0
	if w.at++; w.at == len(w.queue[0].pieces) {
		w.queue, w.at = w.queue[1:], 0
	}
}
