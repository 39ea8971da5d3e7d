package replication

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/batch"
)

// logBatch is a batch and what it is to a reader of committed records.
type logBatch struct {
	batch.Batch
	class batch.Class
}

// logReader reads the batches of one partition in order, a page at a time. It
// looks at the log as it is: nothing is changed in the batches.
type logReader struct {
	c         *wire.Cluster
	tp        starferry.TopicPartition
	committed bool  // up to the last stable offset, and with its aborted transactions known
	loop      *loop // nil: no copies come back

	page  []logBatch       // read and not passed yet
	next  starferry.Offset // from where the next page is read
	start starferry.Offset // of the log, last seen; -1: not seen
	end   starferry.Offset // high watermark, last seen; -1: not seen
	bytes int64            // read in all
}

const (
	verifyPage = 4 << 20
	// emptyAnswers is how often a log may answer nothing below its end before
	// what lies there counts as cleaned away.
	emptyAnswers = 10
)

func newLogReader(c *wire.Cluster, tp starferry.TopicPartition, committed bool) *logReader {
	return &logReader{c: c, tp: tp, committed: committed, start: -1, end: -1}
}

// head returns the first batch that ends above an offset; ok is false at the
// end of the log. Offsets that are asked for never descend.
func (r *logReader) head(ctx context.Context, at starferry.Offset) (b logBatch, ok bool, err error) {
	for empty := 0; ; {
		r.drop(at)
		if len(r.page) > 0 {
			return r.page[0], true, nil
		}
		r.next = max(r.next, at)
		more, err := r.read(ctx)
		if err != nil {
			return logBatch{}, false, err
		}
		if more {
			empty = 0
			continue
		}
		if empty++; r.next >= r.end || empty >= emptyAnswers {
			return logBatch{}, false, nil
		}
	}
}

// drop forgets what lies below an offset.
func (r *logReader) drop(at starferry.Offset) {
	n := 0
	for n < len(r.page) && r.page[n].NextOffset() <= at {
		n++
	}
	r.page = r.page[n:]
}

// rewind makes the reader go on at an offset that it may have passed.
func (r *logReader) rewind(at starferry.Offset) { r.page, r.next = nil, at }

// read fetches the next page; more is false if there was nothing.
func (r *logReader) read(ctx context.Context) (more bool, err error) {
	p, err := fetchOnce(ctx, r.c, r.tp, r.next, glance{committed: r.committed, waitMS: 100, maxBytes: verifyPage})
	if errors.Is(err, kafka.OffsetOutOfRange) {
		return r.outside(ctx)
	}
	if err != nil {
		return false, err
	}
	r.start, r.end = starferry.Offset(p.LogStartOffset), starferry.Offset(p.HighWatermark)
	if r.committed && p.LastStableOffset >= 0 {
		r.end = starferry.Offset(p.LastStableOffset)
	}
	r.bytes += int64(len(p.RecordBatches))
	if r.loop != nil {
		if err := r.loop.meet(ctx, p.RecordBatches); err != nil {
			return false, err
		}
	}
	aborted := make([]batch.AbortedTxn, len(p.AbortedTransactions))
	for i, a := range p.AbortedTransactions {
		aborted[i] = batch.AbortedTxn{ProducerID: a.ProducerID, FirstOffset: starferry.Offset(a.FirstOffset)}
	}
	filter := batch.NewFilter(aborted)
	for rest := p.RecordBatches; ; {
		b, tail, err := batch.Next(rest)
		if errors.Is(err, batch.ErrMagic) {
			b, err = batch.Upgrade(b, maxDecompressed)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, batch.ErrTruncated) {
			return more, nil
		}
		if err == nil {
			var class batch.Class
			if class, err = filter.Class(b); err == nil && b.NextOffset() > r.next {
				r.page = append(r.page, logBatch{b, class})
				r.next, more = b.NextOffset(), true
			}
		}
		if err != nil {
			return more, fmt.Errorf("read %s of %s at or after offset %d: %w", r.tp, r.c.Name(), r.next, err)
		}
		rest = tail
	}
}

// outside finds the log's bounds when the next offset is not within them.
func (r *logReader) outside(ctx context.Context) (more bool, err error) {
	tps := []starferry.TopicPartition{r.tp}
	starts, err := r.c.Offsets(ctx, tps, wire.Earliest)
	if err != nil {
		return false, fmt.Errorf("find start of %s on %s: %w", r.tp, r.c.Name(), err)
	}
	ends, err := r.c.Offsets(ctx, tps, wire.Latest)
	if err != nil {
		return false, fmt.Errorf("find end of %s on %s: %w", r.tp, r.c.Name(), err)
	}
	r.start, r.end = starts[r.tp], ends[r.tp]
	if r.next < r.start {
		r.next = r.start
		return true, nil
	}
	return false, nil
}
