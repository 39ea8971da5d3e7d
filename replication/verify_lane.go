package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/replication/batch"
	"github.com/starferry/starferry/replication/offsetmap"
)

// proof compares a lane's copies with their source, record by record, along the
// offset map: at moves over the source's offsets, tat over the target's. It
// looks at both logs as they are now and trusts nothing the copy remembers but
// the map, which is what it tests.
type proof struct {
	src, tgt *logReader
	m        provenMap
	own      map[int64]bool // producer ids that the link ever used on the target
	keys     *keyWatch      // nil: the target has no cleaner
	contents bool           // show what differs
	digests  *digests       // nil: not wanted

	at, to    starferry.Offset // source
	tat, tend starferry.Offset // target; tend: up to where, at the end of the map
	segs      []offsetmap.Segment
	uncertain bool // an unknown stretch lies between tat and the last run
	stop      func() bool
	found     LaneProof

	opened  starferry.Offset // base offset of the target batch whose records are decoded
	records []batch.Record
	damaged error // why they could not be
}

// provenMap is what a proof needs of a lane's map.
type provenMap interface {
	Start() (source, target starferry.Offset)
	Next() (source, target starferry.Offset)
	Segments(from starferry.Offset) iter.Seq2[offsetmap.Segment, error]
}

const (
	// segmentsAtOnce bounds how long a proof keeps the map from growing.
	segmentsAtOnce = 1024
	// stepWithin is how long a step may take once it has done something.
	stepWithin = 2 * time.Second
	// maxDifferences is when a lane has differed enough.
	maxDifferences = 1000
)

// errPause ends a step in the middle of something; the next goes on there.
var errPause = errors.New("enough for one step")

// begin sets the proof to a source offset; extend says how far it goes.
func (p *proof) begin(from starferry.Offset) error {
	start, target := p.m.Start()
	next, passed := p.m.Next()
	p.at = max(from, start)
	p.to, p.tend = p.at, -1
	p.tat, p.opened = target, -1
	if p.at > start && p.at < next {
		s, err := p.segment()
		if err != nil {
			return err
		}
		p.tat = s.Target
	} else if p.at >= next {
		p.tat = passed
	}
	return nil
}

// extend lets the proof go on to a source offset, or as far as the map goes.
func (p *proof) extend(to starferry.Offset) {
	next, passed := p.m.Next()
	p.to, p.tend = max(p.to, min(to, next)), -1
	if to >= next {
		p.tend = passed
	}
}

// step goes on until about budget bytes of both logs have been read, some time
// has passed, or all is compared, which done says.
func (p *proof) step(ctx context.Context, budget int64) (done bool, err error) {
	read, began := p.src.bytes+p.tgt.bytes, time.Now()
	budget = max(budget, 1) // a step gets on
	p.stop = func() bool {
		return ctx.Err() != nil || p.src.bytes+p.tgt.bytes-read >= budget || time.Since(began) > stepWithin || p.found.Differences >= maxDifferences
	}
	defer func() { p.found.Bytes += p.src.bytes + p.tgt.bytes - read }()
	for p.at < p.to {
		// What is fetched is used up before pausing, so that nothing is read twice.
		if p.src.drop(p.at); len(p.src.page) == 0 && p.stop() {
			return p.found.Differences >= maxDifferences, ctx.Err()
		}
		p.forgotten()
		if err := p.advance(ctx); err != nil {
			return false, pausing(err)
		}
	}
	if err := p.finish(ctx); err != nil {
		return false, pausing(err)
	}
	return true, nil
}

// forgotten passes what the map has dropped meanwhile, because both logs have.
func (p *proof) forgotten() {
	if start, target := p.m.Start(); p.at < start {
		p.found.SourceGone += int64(start - p.at)
		p.at, p.tat = start, max(p.tat, target)
	}
}

func pausing(err error) error {
	if errors.Is(err, errPause) {
		return nil
	}
	return err
}

// advance deals with the next batch of the source, or with what lies before it.
func (p *proof) advance(ctx context.Context) error {
	b, ok, err := p.src.head(ctx, p.at)
	switch {
	case err != nil:
		return err
	case !ok && p.src.end >= 0 && p.src.end < p.to:
		p.differ(Difference{Source: p.src.end, Target: starferry.NoOffset, Field: "log", Why: fmt.Sprintf(
			"the source's committed log ends at offset %d, and the map says that records up to %d were copied; was it truncated?", p.src.end, p.to)})
		p.at = p.to
		return nil
	case !ok:
		return p.stretch(ctx, p.to, "")
	case b.BaseOffset() > p.at:
		return p.stretch(ctx, min(b.BaseOffset(), p.to), "")
	}
	end := min(b.NextOffset(), p.to)
	switch b.class {
	case batch.Control:
		return p.stretch(ctx, end, "a transaction marker")
	case batch.Aborted:
		return p.stretch(ctx, end, "a record of an aborted transaction")
	}
	switch back, err := p.src.loop.returned(b.Batch); {
	case err != nil:
		return err
	case back:
		return p.stretch(ctx, end, "a copy of the target's own record")
	case b.Count() == 0:
		return p.stretch(ctx, end, "")
	}
	s, err := p.segment()
	if err != nil {
		return err
	}
	if s.Status == starferry.InHole && s.Reason == starferry.Filtered {
		return p.stretch(ctx, min(end, segmentEnd(s)), "")
	}
	if same, err := p.whole(ctx, b.Batch); same || err != nil {
		return err
	}
	return p.open(ctx, b.Batch, end)
}

// segment returns the rest of the map's segment at p.at.
func (p *proof) segment() (offsetmap.Segment, error) {
	for again := false; ; again = true {
		for len(p.segs) > 0 && segmentEnd(p.segs[0]) <= p.at {
			p.uncertain = p.uncertain || p.segs[0].Status == starferry.Unknown
			p.segs = p.segs[1:]
		}
		if len(p.segs) > 0 {
			s := p.segs[0]
			if d := p.at - s.Source; d > 0 {
				s.Source, s.Count = p.at, s.Count-int64(d)
				if s.Status == starferry.Exact {
					s.Target += d
				}
			}
			return s, nil
		}
		if again {
			return offsetmap.Segment{}, fmt.Errorf("the map has nothing at source offset %d: was the topic created again meanwhile?", p.at)
		}
		for s, err := range p.m.Segments(p.at) {
			if err != nil {
				return s, err
			}
			if p.segs = append(p.segs, s); len(p.segs) == segmentsAtOnce {
				break
			}
		}
	}
}

func segmentEnd(s offsetmap.Segment) starferry.Offset { return s.Source + starferry.Offset(s.Count) }

// stretch passes source offsets that have no record to compare: what is there
// instead, or nothing if it is gone.
func (p *proof) stretch(ctx context.Context, end starferry.Offset, instead string) error {
	for p.at < end {
		s, err := p.segment()
		if err != nil {
			return err
		}
		n := min(int64(end-p.at), s.Count)
		switch s.Status {
		case starferry.InHole:
			p.found.hole(s.Reason, n)
		case starferry.Exact:
			if err := p.pass(ctx, s.Target, false); err != nil {
				return err
			}
			if instead != "" {
				p.differ(Difference{Source: p.at, Target: s.Target, Field: "map", Why: fmt.Sprintf(
					"the map says that source offsets %d to %d are copied, and the source has %s there", p.at, p.at+starferry.Offset(n)-1, instead)})
				p.tat = s.Target + starferry.Offset(n)
				break
			}
			if err := p.pass(ctx, s.Target+starferry.Offset(n), true); err != nil {
				return err
			}
			p.found.SourceGone += n
		default:
			p.found.Unknown += n
		}
		p.at += starferry.Offset(n)
	}
	return nil
}

// whole compares a batch with its copy without opening them, if they hold the
// same records at the same distance: then their bytes are the same.
func (p *proof) whole(ctx context.Context, b batch.Batch) (bool, error) {
	n := int64(b.Count())
	if p.digests != nil || p.keys.waiting() || !b.Dense() || b.BaseOffset() != p.at || b.NextOffset() > p.to {
		return false, nil
	}
	s, err := p.segment()
	if err != nil || s.Status != starferry.Exact || s.Count < n {
		return false, err
	}
	if err := p.pass(ctx, s.Target, false); err != nil {
		return false, err
	}
	t, ok, err := p.tgt.head(ctx, s.Target)
	if err != nil || !ok || t.Control() || t.BaseOffset() != s.Target || !t.Dense() || t.Count() != b.Count() || t.Codec() != b.Codec() {
		return false, err
	}
	times := !t.LogAppendTime()
	if times && (b.LogAppendTime() || b.FirstTimestamp() != t.FirstTimestamp()) || !bytes.Equal(b[batchHeader:], t.Batch[batchHeader:]) {
		return false, nil
	}
	p.found.Identical += n
	if !times {
		p.found.TimesLeftOut += n
	}
	p.at, p.tat = b.NextOffset(), t.NextOffset()
	return true, nil
}

// open compares the records of a source batch up to end, one by one.
func (p *proof) open(ctx context.Context, b batch.Batch, end starferry.Offset) error {
	err := b.Verify()
	if err == nil {
		for r, bad := range batch.Records(b, maxDecompressed) {
			if err = bad; err != nil || r.Offset >= end {
				break
			}
			if r.Offset < p.at {
				continue
			}
			if err := p.stretch(ctx, r.Offset, ""); err != nil {
				return err
			}
			if err := p.record(ctx, r); err != nil {
				return err
			}
			p.at = r.Offset + 1
		}
	}
	if err != nil {
		s, bad := p.segment()
		if bad != nil {
			return bad
		}
		p.differ(Difference{Source: p.at, Target: s.Target, Field: "batch", Why: "the source's batch cannot be read: " + err.Error()})
		p.at = end
		return nil
	}
	return p.stretch(ctx, end, "")
}

// record compares one record of the source.
func (p *proof) record(ctx context.Context, r batch.Record) error {
	s, err := p.segment()
	if err != nil {
		return err
	}
	switch {
	case s.Status == starferry.InHole && s.Reason == starferry.Filtered:
		p.found.hole(s.Reason, 1)
		return nil
	case s.Status == starferry.InHole:
		p.differ(Difference{Source: r.Offset, Target: starferry.NoOffset, Field: "record",
			Why: fmt.Sprintf("the map says that it has no copy (%s), and the source has a committed record there", s.Reason)})
		return nil
	case s.Status != starferry.Exact:
		p.found.Unknown++
		return nil
	}
	if err := p.pass(ctx, s.Target, false); err != nil {
		return err
	}
	copied, times, err := p.copyAt(ctx, s.Target)
	if err != nil {
		return err
	}
	if copied == nil {
		if err := p.lacking(r, s.Target); err != nil {
			return err
		}
	} else {
		p.keys.has(r.Key)
		p.compare(r, *copied, times)
	}
	p.tat = s.Target + 1
	return nil
}

// compare compares a record with its copy; times says whether the target keeps
// the times it is given.
func (p *proof) compare(r, copied batch.Record, times bool) {
	if p.digests != nil {
		p.digests.add(r, copied, times)
	}
	if d := difference(r, copied, times, p.contents); d.Field != "" {
		p.differ(d)
		return
	}
	p.found.Identical++
	if !times {
		p.found.TimesLeftOut++
	}
}

// copyAt finds the target's record at an offset, nil if there is none.
func (p *proof) copyAt(ctx context.Context, at starferry.Offset) (r *batch.Record, times bool, err error) {
	b, ok, err := p.tgt.head(ctx, at)
	if err != nil || !ok || b.BaseOffset() > at || b.Control() {
		return nil, false, err
	}
	p.decode(b.Batch)
	i, ok := slices.BinarySearchFunc(p.records, at, func(r batch.Record, at starferry.Offset) int { return int(r.Offset - at) })
	if !ok {
		return nil, false, nil
	}
	return &p.records[i], !b.LogAppendTime(), nil
}

// decode opens a batch of the target, once.
func (p *proof) decode(b batch.Batch) {
	if p.opened == b.BaseOffset() {
		return
	}
	p.opened, p.records = b.BaseOffset(), p.records[:0]
	if p.damaged = b.Verify(); p.damaged != nil {
		return
	}
	for r, err := range batch.Records(b, maxDecompressed) {
		if err != nil {
			p.damaged = err
			return
		}
		p.records = append(p.records, r)
	}
}

// lacking says what it means that the target has no record where the map says
// it has one.
func (p *proof) lacking(r batch.Record, at starferry.Offset) error {
	d := Difference{Source: r.Offset, Target: at, Field: "record", Why: "the target has no such record"}
	b, ok := logBatch{}, len(p.tgt.page) > 0
	if ok {
		b = p.tgt.page[0]
	}
	switch {
	case at < p.tgt.start:
		p.found.TargetGone++
		return nil
	case ok && b.BaseOffset() <= at && p.opened == b.BaseOffset() && p.damaged != nil:
		d.Field, d.Why = "batch", "the target's batch cannot be read: "+p.damaged.Error()
	case ok && b.BaseOffset() <= at && b.Control():
		d.Why = "the target has a transaction marker there"
	case p.keys != nil && r.Key != nil:
		p.found.TargetGone++
		return p.keys.lacks(r.Key, r.Value, r.Offset, at)
	}
	p.differ(d)
	return nil
}

// pass moves over target offsets up to a position: those that the map gives to
// copies, or those it leaves to others.
func (p *proof) pass(ctx context.Context, to starferry.Offset, mapped bool) error {
	for p.tat < to {
		if mapped && !p.keys.waiting() {
			p.tat = to
			return nil
		}
		b, ok, err := p.tgt.head(ctx, p.tat)
		if err != nil {
			return err
		}
		if !ok || b.BaseOffset() >= to {
			p.tat = to
			break
		}
		end := min(b.NextOffset(), to)
		if !b.Control() {
			p.others(b.Batch, max(p.tat, b.BaseOffset()), end, mapped)
		}
		p.tat = end
		if p.tgt.drop(end); p.tat < to && len(p.tgt.page) == 0 && p.stop() {
			return errPause
		}
	}
	if !mapped && p.tat == to {
		p.uncertain = false
	}
	return nil
}

// others deals with the target's records in [from, to) that stand for no record
// of the source that is to be compared.
func (p *proof) others(b batch.Batch, from, to starferry.Offset, mapped bool) {
	n := int64(to - from)
	if !b.Dense() || p.keys.waiting() {
		n = 0
		p.decode(b)
		for _, r := range p.records {
			if r.Offset >= from && r.Offset < to {
				n++
				if p.keys != nil {
					p.keys.seen(r.Key, r.Offset)
				}
			}
		}
	}
	switch {
	case mapped || n == 0:
	case p.own[b.ProducerID()] && p.uncertain: // copies of what the map does not know
	case p.own[b.ProducerID()]:
		p.differ(Difference{Source: starferry.NoOffset, Target: from, Field: "record",
			Why: fmt.Sprintf("the link wrote target offsets %d to %d, and the map knows no source of them: copied twice?", from, to-1)})
	default:
		p.found.Foreign += n
	}
}

// finish passes what the map knows behind the last copy, and decides about keys
// whose newest record is missing: what comes after the range, on either side,
// may explain it.
func (p *proof) finish(ctx context.Context) error {
	if p.tend > p.tat && p.at == p.to {
		if err := p.pass(ctx, p.tend, false); err != nil {
			return err
		}
	}
	if !p.keys.waiting() {
		return nil
	}
	if err := p.newer(ctx, p.tgt, p.tat, p.keys.seen); err != nil {
		return err
	}
	if err := p.newer(ctx, p.src, p.at, func(key []byte, _ starferry.Offset) { p.keys.has(key) }); err != nil {
		return err
	}
	for _, m := range p.keys.lost() {
		p.found.TargetGone--
		p.differ(Difference{Source: m.source, Target: m.target, Field: "record",
			Why: "the target has neither this record nor a newer one of its key, though the source has it as the key's newest"})
	}
	return nil
}

// newer shows the rest of a log's records until no key is missing, and leaves
// the reader where it was.
func (p *proof) newer(ctx context.Context, r *logReader, from starferry.Offset, show func(key []byte, at starferry.Offset)) error {
	defer r.rewind(from)
	for at := from; p.keys.waiting(); {
		b, ok, err := r.head(ctx, at)
		if err != nil || !ok {
			return err
		}
		at = b.NextOffset()
		if b.class != batch.Data {
			continue
		}
		for rec, err := range batch.Records(b.Batch, maxDecompressed) {
			if err != nil {
				return err
			}
			show(rec.Key, rec.Offset)
		}
	}
	return nil
}

// differ notes a difference; the first is kept.
func (p *proof) differ(d Difference) {
	p.found.Differences++
	if p.found.First == nil {
		p.found.First = &d
	}
}
