package replication

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/batch"
)

// rules are what decides, beside the source's bytes, how they are copied.
type rules struct {
	limits batch.Limits
	// brokerTime: the target topic sets its own times (LogAppendTime).
	brokerTime bool
	// compacted: records may vanish from it, so that their batches have to tell
	// where they came from. They are not merged: the fewer records, the surer.
	compacted bool
	// loop tells returned copies; nil where nothing can come back.
	loop  *loop
	edits edits
}

// maxDecompressed bounds the memory of one batch that has to be re-encoded.
const maxDecompressed = 64 << 20

// classify turns what a read-committed fetch returned for one partition into
// entries: batches to send and holes, without a gap from the offset asked for.
// It answers the same for the same bytes, which is what lets a lost map be
// rebuilt.
//
// No checksum covers a batch's offset. A gap where there should be none, or a
// batch that begins before what was asked for, is odd: the lane believes it when
// it has seen it twice.
func classify(p *kmsg.FetchResponseTopicPartition, from starferry.Offset, r rules) ([]*entry, error) {
	aborted := make([]batch.AbortedTxn, len(p.AbortedTransactions))
	for i, a := range p.AbortedTransactions {
		aborted[i] = batch.AbortedTxn{ProducerID: a.ProducerID, FirstOffset: starferry.Offset(a.FirstOffset)}
	}
	filter := batch.NewFilter(aborted)
	var out []*entry
	var gap *entry // the last batch's distance from the one before, if any
	rest, strange := p.RecordBatches, false
	for {
		b, tail, err := batch.Next(rest)
		switch {
		case errors.Is(err, batch.ErrMagic):
			if b, err = batch.Upgrade(b, maxDecompressed); err != nil {
				return out, fmt.Errorf("upgrade old message after offset %d: %w", from, err)
			}
		case errors.Is(err, io.EOF), errors.Is(err, batch.ErrTruncated):
			return alone(out, gap), nil
		case err != nil:
			return out, fmt.Errorf("read batch at or after offset %d: %w", from, err)
		}
		rest = tail
		class, err := filter.Class(b)
		if err != nil {
			return out, fmt.Errorf("read batch at offset %d: %w", b.BaseOffset(), err)
		}
		if b.BaseOffset() < from && len(out) > 0 {
			return out, fmt.Errorf("read batch at offset %d: offset %d was to follow", b.BaseOffset(), from)
		}
		if b.NextOffset() <= from {
			strange = true
			continue
		}
		gap = nil
		if base := r.edits.clip(b.BaseOffset()); base > from {
			gap = hole(from, base, starferry.Compacted)
			gap.odd, gap.epoch = !r.compacted || strange, -1
			out = append(out, gap)
			from = base
		}
		if r.edits.past(from) {
			return alone(out, gap), nil
		}
		es, err := classifyBatch(b, class, from, r)
		if err != nil {
			return out, err
		}
		es[0].odd = b.BaseOffset() < from
		for _, e := range es {
			e.epoch = b.LeaderEpoch()
		}
		out = append(out, es...)
		from = b.NextOffset()
	}
}

// alone marks a gap before the last batch: nothing behind that says otherwise.
func alone(out []*entry, gap *entry) []*entry {
	if gap != nil {
		gap.odd = true
	}
	return out
}

func hole(from, to starferry.Offset, why starferry.Reason) *entry {
	return &entry{pieces: []piece{{from, int64(to - from), why}}}
}

func classifyBatch(b batch.Batch, class batch.Class, from starferry.Offset, r rules) ([]*entry, error) {
	if class != batch.Data || b.Count() == 0 {
		// No target sees what is left out: no flipped bit may be what leaves it out.
		if err := b.Verify(); err != nil {
			return nil, err
		}
	}
	end := r.edits.clip(b.NextOffset())
	switch {
	case class == batch.Control:
		return []*entry{hole(from, end, starferry.Control)}, nil
	case class == batch.Aborted:
		return []*entry{hole(from, end, starferry.Aborted)}, nil
	}
	switch back, err := r.loop.returned(b); {
	case err != nil:
		return nil, err
	case back:
		if err := b.Verify(); err != nil {
			return nil, err
		}
		return []*entry{hole(from, end, starferry.Returned)}, nil
	case b.Count() == 0:
		return []*entry{hole(from, end, starferry.Compacted)}, nil
	}
	times := b.LogAppendTime()
	if times && r.brokerTime {
		batch.ClearLogAppendTime(b)
		times = false
	}
	if r.edits.open() {
		return rewrite(b, from, r)
	}
	if b.Dense() && b.BaseOffset() == from && b.NextOffset() == end && !times {
		n := int64(b.Count())
		return []*entry{{pieces: []piece{{from, n, ""}}, batch: b, records: int32(n), passed: true}}, nil
	}
	return reencode(b, from, r)
}

// reencode rebuilds a batch densely; the offsets it leaves out become holes.
func reencode(b batch.Batch, from starferry.Offset, r rules) ([]*entry, error) {
	keep := func(o starferry.Offset) bool { return o >= from && !r.edits.past(o) }
	copies, err := batch.Reencode(b, keep, r.limits)
	if err != nil {
		return nil, fmt.Errorf("re-encode batch at offset %d: %w", b.BaseOffset(), err)
	}
	return piecewise(copies, from, r.edits.clip(b.NextOffset()), nil), nil
}

// glance says how one partition is read outside the hot path.
type glance struct {
	committed bool
	waitMS    int32
	maxBytes  int32
}

// fetchOnce reads one partition once, over the shared connection to its leader.
// With OffsetOutOfRange it says where the log starts.
func fetchOnce(ctx context.Context, c *wire.Cluster, tp starferry.TopicPartition, from starferry.Offset, g glance) (*kmsg.FetchResponseTopicPartition, error) {
	leader, _, err := c.Leader(ctx, tp)
	if err != nil {
		return nil, fmt.Errorf("fetch %s@%d from %s: %w", tp, from, c.Name(), err)
	}
	req := newFetch(g.waitMS, g.maxBytes, g.committed)
	addFetch(req, tp, from, g.maxBytes)
	resp, err := c.DoOn(ctx, leader, req)
	if err != nil {
		c.Forget(tp.Topic)
		return nil, fmt.Errorf("fetch %s@%d from %s: %w", tp, from, c.Name(), err)
	}
	f, ok := resp.(*kmsg.FetchResponse)
	if !ok || len(f.Topics) != 1 || len(f.Topics[0].Partitions) != 1 {
		return nil, fmt.Errorf("fetch %s@%d from %s: %w", tp, from, c.Name(), errors.Join(wire.ErrFrame, wire.Code(f.ErrorCode)))
	}
	p := &f.Topics[0].Partitions[0]
	if err := c.Code(kmsg.Fetch, p.ErrorCode, wire.On{Topic: tp.Topic}); err != nil {
		c.Forget(tp.Topic)
		if errors.Is(err, kafka.OffsetOutOfRange) && p.LogStartOffset < 0 {
			// Apache Kafka leaves out where the log starts just when it matters.
			starts, err := c.Offsets(ctx, []starferry.TopicPartition{tp}, wire.Earliest)
			if err != nil {
				return nil, fmt.Errorf("fetch %s@%d from %s: it is out of range, and the start of the log was not told: %w", tp, from, c.Name(), err)
			}
			p.LogStartOffset = int64(starts[tp])
		}
		return p, fmt.Errorf("fetch %s@%d from %s: %w", tp, from, c.Name(), err)
	}
	return p, nil
}

func newFetch(waitMS, maxBytes int32, committed bool) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis = waitMS
	req.MinBytes = 1
	req.MaxBytes = maxBytes
	req.SessionEpoch = -1
	if committed {
		req.IsolationLevel = 1
	}
	return req
}

// addFetch adds a partition; those of one topic must follow each other.
func addFetch(req *kmsg.FetchRequest, tp starferry.TopicPartition, from starferry.Offset, maxBytes int32) *kmsg.FetchRequestTopicPartition {
	n := len(req.Topics)
	if n == 0 || req.Topics[n-1].Topic != string(tp.Topic) {
		t := kmsg.NewFetchRequestTopic()
		t.Topic = string(tp.Topic)
		req.Topics = append(req.Topics, t)
		n++
	}
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition = int32(tp.Partition)
	p.FetchOffset = int64(from)
	p.PartitionMaxBytes = maxBytes
	t := &req.Topics[n-1]
	t.Partitions = append(t.Partitions, p)
	return &t.Partitions[len(t.Partitions)-1]
}
