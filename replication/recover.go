package replication

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/batch"
	"github.com/starferry/starferry/replication/offsetmap"
)

// halting is an error that a lane does not get over by itself.
type halting struct{ error }

func (h halting) Unwrap() error { return h.error }

func stopf(format string, args ...any) error { return halting{fmt.Errorf(format, args...)} }

// readback continues a lane's map from the target log: batches that bear one of
// our producer ids are the records classification left of the source, in order.
// Sequences and anchors prove that none is missing.
type readback struct {
	l       *lane
	f       *fence
	m       *offsetmap.Lane
	as      anchor                     // the lane's, in the topics' present lives
	anchors map[wire.Producer][]anchor // of each epoch, in the order of the target log
	pids    map[int64]bool             // ever used by the link on this cluster, as far as is known
	foreign map[int64]bool             // known not to be
	looked  bool                       // at the state topic, since the log was last read
	walk    *walker

	in     wire.Producer // epoch of the last own batch
	known  bool          // seq is known
	seq    int32         // expected next in that epoch
	behind starferry.Offset
	slack  int64 // copies of ours that the target lacks, behind the map's end
	strays bool  // behind it stand copies whose source records are gone
	// vanished is how many offsets the target's log lacks behind the last batch of
	// ours: what a cleaner or retention took there may have been copies.
	vanished int64
	lost     error            // why what follows cannot be placed; nil: it can
	start    starferry.Offset // of the target log
	// floor is a target offset below which all of the epoch's records up to seq
	// stand: where the next one can stand at the earliest.
	floor starferry.Offset
}

// topicID names one life of a topic; "" where a cluster has no ids.
func topicID(m *wire.Metadata, t starferry.Topic) string {
	id := m.Topics[t].ID
	if id == ([16]byte{}) {
		return ""
	}
	return hex.EncodeToString(id[:])
}

// recover opens a lane's map and brings it up to the fence's marker. It
// returns the anchor of the epoch that may now write.
func (l *lane) recover(ctx context.Context, f *fence) (a anchor, start starferry.Offset, err error) {
	l.mu.Lock()
	l.readBack = 0
	l.mu.Unlock()
	own := anchor{
		Link: l.c.spec.Name, From: l.c.spec.Source, Lane: l.tp, To: l.to, PID: f.producer.ID, Epoch: f.producer.Epoch,
		SourceTopic: topicID(f.source, l.tp.Topic), TargetTopic: topicID(f.target, l.to.Topic), Ways: l.c.spec.ways(),
		Barred: f.barred[l.tp],
	}
	anchors, err := l.anchors(own)
	if err != nil {
		return own, 0, err
	}
	m, err := l.open(ctx, own)
	if err != nil {
		return own, 0, err
	}
	r := l.readback(f, own, anchors)
	r.m = m
	marker, err := r.run(ctx, anchors, false)
	if errors.Is(err, errDisagree) {
		l.c.log.Warn("the target log is another one than the map tells of; rebuilding the map", "lane", l.tp, "err", err)
		l.c.snaps.drop(ctx, m.Key())
		r = l.readback(f, own, anchors)
		r.m = m
		marker, err = r.run(ctx, anchors, true)
	}
	if errors.Is(err, errDisagree) {
		return own, 0, stopf("%w; was the target truncated, or written under our producer ids by somebody else? Compare the two clusters, delete topic %s on %s and ask for the link again",
			err, l.to.Topic, l.c.spec.Target)
	}
	if err != nil {
		return own, 0, err
	}
	if r.lost == nil && r.slack > 0 {
		r.lost = stopf("target %s: the cleaners of both clusters left too little of the last records to tell where the copy ended; delete topic %s on %s and ask for the link again, or keep the shard's directory next time",
			l.to, l.to.Topic, l.c.spec.Target)
	}
	if r.lost != nil {
		return own, 0, r.lost
	}
	if err := r.trail(ctx); err != nil {
		return own, 0, err
	}
	if !m.Begun() {
		err = r.fresh(ctx, marker+1)
	} else {
		err = m.Pass(marker + 1)
	}
	if err != nil {
		return own, 0, err
	}
	if own.Gone, err = r.gone(ctx, anchors); err != nil {
		return own, 0, err
	}
	own.Source, _ = m.Next()
	own.Target = marker + 1
	l.mu.Lock()
	l.proven = true
	l.mu.Unlock()
	return own, r.start, m.Flush()
}

func (l *lane) readback(f *fence, own anchor, anchors []anchor) *readback {
	// Producer id and epoch 0 are a cluster's first: nobody's are -1.
	r := &readback{l: l, f: f, as: own, anchors: map[wire.Producer][]anchor{}, in: wire.Producer{ID: -1, Epoch: -1}, behind: -1}
	r.pids, _ = l.c.state.PIDs(own.Link, l.bucket.n)
	r.foreign = map[int64]bool{}
	for _, a := range anchors {
		p := wire.Producer{ID: a.PID, Epoch: a.Epoch}
		r.anchors[p] = append(r.anchors[p], a)
	}
	return r
}

// anchors are those of the lane in the topics' present lives.
func (l *lane) anchors(own anchor) ([]anchor, error) {
	var out []anchor
	for _, a := range l.c.state.Anchors(own.Link, own.Lane) {
		if a.TargetTopic != own.TargetTopic {
			continue // that target topic is gone, and its copies with it
		}
		if a.SourceTopic != own.SourceTopic {
			return nil, stopf("topic %s of %s was deleted and created again, and the target holds copies of the old one; delete the topic on %s, or copy under another link into an empty topic, then ask for the link again",
				l.tp.Topic, l.c.spec.Source, l.c.spec.Target)
		}
		if a.Ways != own.Ways {
			return nil, stopf("topic %s of %s was copied by a link of this name with %s, and this one has %s: its map counts records, so the two cannot go on together; ask for the link as it was, or copy under another name into an empty topic",
				l.to.Topic, l.c.spec.Target, cmp.Or(a.Ways, "all records as they are"), cmp.Or(own.Ways, "all records as they are"))
		}
		out = append(out, a)
	}
	return out, nil
}

// open opens the lane's map; a damaged one is removed and made anew, from its
// snapshot if there is one.
func (l *lane) open(ctx context.Context, own anchor) (*offsetmap.Lane, error) {
	l.mu.Lock()
	m := l.omap
	l.mu.Unlock()
	if m != nil {
		return m, nil
	}
	if l.closed {
		return nil, fmt.Errorf("open map of %s: the lane was let go", l.tp)
	}
	key := offsetmap.LaneKey{Link: own.Link, TopicPartition: l.tp, Incarnation: own.SourceTopic + "." + own.TargetTopic}
	m, err := l.c.maps.Lane(key)
	if errors.Is(err, offsetmap.ErrDamaged) {
		l.c.log.Warn("offset map damaged; rebuilding it from the target log", "link", own.Link, "lane", l.tp, "err", err)
		if err = l.c.maps.Remove(key); err == nil {
			m, err = l.c.maps.Lane(key)
		}
	}
	if err == nil {
		m, err = l.c.snaps.restore(ctx, m)
	}
	if err != nil {
		return nil, fmt.Errorf("open map of %s: %w", l.tp, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.omap = m
	return m, nil
}

// errDisagree says that map and target log cannot both be right.
var errDisagree = errors.New("the map and the target log disagree")

// run reads back up to the fence's marker and returns its offset.
func (r *readback) run(ctx context.Context, anchors []anchor, anew bool) (starferry.Offset, error) {
	from, err := r.begin(ctx, anchors, anew)
	if err != nil {
		return 0, err
	}
	return r.scan(ctx, from)
}

// begin says from where the target log has to be read: from the map's end if it
// still is what the log says, else from an anchor.
func (r *readback) begin(ctx context.Context, anchors []anchor, anew bool) (starferry.Offset, error) {
	before, ok := r.f.before[r.l.to]
	if !ok {
		before = 0
	}
	if r.m.Begun() && !anew {
		_, target := r.m.Next()
		if target > before && ok {
			if err := r.reaches(ctx, target); err != nil {
				return 0, err
			}
		}
		r.resume()
		ours, err := r.standing(ctx)
		if err == nil && !ours {
			err = fmt.Errorf("target %s@%d is not what was mapped there: %w", r.l.to, r.behind-1, errDisagree)
		}
		return target, err
	}
	if len(anchors) == 0 {
		if anew {
			return 0, stopf("the map of %s does not fit the target's log, and topic %s on %s does not say where the copy began; was it emptied? Delete topic %s on %s and ask for the link again",
				r.l.tp, stateTopic, r.l.c.spec.Target, r.l.to.Topic, r.l.c.spec.Target)
		}
		return before, nil
	}
	first, err := r.first(ctx, anchors)
	if err != nil {
		return 0, err
	}
	lost := first.Source - starferry.Offset(first.Gone)
	if err := r.m.Reset(lost, first.Target); err != nil {
		return 0, err
	}
	if first.Gone > 0 {
		if err := r.m.Hole(lost, first.Source, starferry.Deleted); err != nil {
			return 0, err
		}
	}
	r.in, r.known, r.seq = wire.Producer{ID: first.PID, Epoch: first.Epoch}, true, first.Seq
	r.floor = first.Target
	return first.Target, nil
}

// first is the anchor that a map is built anew from: the earliest from which the
// source still has everything. What was copied before it is not known any more.
func (r *readback) first(ctx context.Context, anchors []anchor) (anchor, error) {
	tp := r.l.tp
	starts, err := r.l.c.src.Offsets(ctx, []starferry.TopicPartition{tp}, wire.Earliest)
	if err != nil {
		return anchor{}, fmt.Errorf("find start of %s on %s: %w", tp, r.l.c.spec.Source, err)
	}
	for _, a := range anchors {
		if a.Source >= starts[tp] {
			return a, nil
		}
	}
	return anchors[len(anchors)-1], nil
}

// resume finds which epoch wrote the map's end, and how much of it is mapped.
func (r *readback) resume() {
	source, _ := r.m.Next()
	start, _ := r.m.Start()
	best, found := anchor{}, false
	for _, as := range r.anchors {
		for _, a := range as {
			if a.Source <= source && a.Source >= start && (!found || a.Target > best.Target) {
				best, found = a, true
			}
		}
	}
	if !found {
		return
	}
	var n int64
	for s, err := range r.m.Segments(best.Source) {
		if err != nil || s.Status == starferry.Unknown {
			return
		}
		if s.Status == starferry.Exact && s.Source+starferry.Offset(s.Count) > best.Source {
			n += s.Count - max(0, int64(best.Source-s.Source))
			r.behind = s.Target + starferry.Offset(s.Count)
		}
	}
	r.in, r.known = wire.Producer{ID: best.PID, Epoch: best.Epoch}, true
	r.seq = addSeq(best.Seq, int32(n&0x7fffffff))
	r.floor = max(best.Target, r.behind)
}

// standing reports whether the last mapped record is still ours, and not another
// that took its place behind a truncation of the target log.
func (r *readback) standing(ctx context.Context) (bool, error) {
	if !r.known || r.behind < 0 {
		return true, nil
	}
	p, err := fetchOnce(ctx, r.l.c.tgt, r.l.to, r.behind-1, glance{waitMS: 20, maxBytes: 1 << 20})
	if errors.Is(err, kafka.OffsetOutOfRange) && p != nil {
		return starferry.Offset(p.LogStartOffset) >= r.behind, nil
	}
	if err != nil {
		return false, fmt.Errorf("read back: %w", err)
	}
	b, _, err := batch.Next(p.RecordBatches)
	if err != nil || b.BaseOffset() >= r.behind || b.NextOffset() < r.behind {
		return true, nil // a cleaner took it: nothing says otherwise
	}
	same := b.ProducerID() == r.in.ID && b.ProducerEpoch() == r.in.Epoch && !b.Control()
	return same && addSeq(b.BaseSequence(), int32(r.behind-b.BaseOffset())) == r.seq, nil
}

// fresh begins the map of a lane that was never copied, at the source's start.
func (r *readback) fresh(ctx context.Context, target starferry.Offset) error {
	tp := r.l.tp
	starts, err := r.l.c.src.Offsets(ctx, []starferry.TopicPartition{tp}, wire.Earliest)
	if err != nil {
		return fmt.Errorf("find start of %s on %s: %w", tp, r.l.c.spec.Source, err)
	}
	first, err := r.l.first(ctx, starts[tp])
	if err != nil {
		return err
	}
	return r.m.Reset(first, target)
}

// errNoMarker says that a fence's marker has been lost, by an unclean election
// for one: the lane is fenced anew.
var errNoMarker = errors.New("the fence's marker does not come")

// markerWithin is how long a marker is waited for at the end of the log.
const markerWithin = 30 * time.Second

// scan reads the target log until the fence's marker and returns its offset.
func (r *readback) scan(ctx context.Context, at starferry.Offset) (starferry.Offset, error) {
	late := time.Now().Add(markerWithin)
	for {
		p, err := fetchOnce(ctx, r.l.c.tgt, r.l.to, at, glance{waitMS: 20, maxBytes: 4 << 20})
		if errors.Is(err, kafka.OffsetOutOfRange) && p != nil && starferry.Offset(p.LogStartOffset) > at {
			r.vanished += p.LogStartOffset - int64(at)
			at = starferry.Offset(p.LogStartOffset)
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read back: %w", err)
		}
		r.start, r.looked = starferry.Offset(p.LogStartOffset), false
		set := p.RecordBatches
		r.l.mu.Lock()
		r.l.readBack += int64(len(set))
		r.l.mu.Unlock()
		if len(set) > 0 {
			late = time.Now().Add(markerWithin)
		} else if time.Now().After(late) {
			return 0, fmt.Errorf("read back: %w", errNoMarker)
		}
		for {
			b, rest, err := batch.Next(set)
			if errors.Is(err, io.EOF) || errors.Is(err, batch.ErrTruncated) {
				break
			}
			if err != nil && !errors.Is(err, batch.ErrMagic) {
				return 0, stopf("read back %s of %s at offset %d: %w", r.l.to, r.l.c.spec.Target, at, err)
			}
			set = rest
			if err != nil || b.NextOffset() <= at {
				continue
			}
			r.vanished += max(0, int64(b.BaseOffset()-at))
			at = b.NextOffset()
			if b.Control() && b.ProducerID() == r.f.producer.ID && b.ProducerEpoch() >= r.f.producer.Epoch {
				return b.BaseOffset(), nil
			}
			if b.Control() {
				continue
			}
			ours, err := r.ours(ctx, producerOf(b))
			if err == nil && ours {
				err = r.own(ctx, b)
			}
			if err != nil {
				return 0, err
			}
			if ours {
				r.vanished = 0 // sequences tell
			}
		}
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
	}
}

// own places one batch of ours.
func (r *readback) own(ctx context.Context, b batch.Batch) error {
	p := wire.Producer{ID: b.ProducerID(), Epoch: b.ProducerEpoch()}
	n := int64(b.LastOffsetDelta()) + 1
	if p != r.in || !r.known {
		if err := r.enter(ctx, p, b); err != nil {
			return err
		}
	}
	if r.lost != nil {
		return nil
	}
	gap := int64((b.BaseSequence() - r.seq) & 0x7fffffff)
	switch {
	case gap >= 1<<30:
		return fmt.Errorf("target %s@%d: sequence %d where %d was to follow: %w", r.l.to, b.BaseOffset(), b.BaseSequence(), r.seq, errDisagree)
	case gap > int64(b.BaseOffset()-r.floor):
		// A cleaner leaves the offsets of what it takes.
		return fmt.Errorf("target %s@%d: sequence %d where %d was to follow, and no room for the %d records between: %w",
			r.l.to, b.BaseOffset(), b.BaseSequence(), r.seq, gap, errDisagree)
	}
	var err error
	if gap > 0 {
		err = r.missing(ctx, gap, b)
	}
	if err == nil {
		err = r.copied(ctx, n, b.BaseOffset(), b)
	}
	if errors.Is(err, errGone) {
		r.lost = stopf("%w; the copies on the target from offset %d on cannot be placed exactly: delete topic %s on %s and ask for the link again, or keep the shard's directory next time",
			err, b.BaseOffset(), r.l.to.Topic, r.l.c.spec.Target)
		return nil
	}
	r.seq = addSeq(b.BaseSequence(), int32(n))
	r.behind, r.floor = b.NextOffset(), b.NextOffset()
	return err
}

// enter goes over to an epoch, whose anchor says where it began.
func (r *readback) enter(ctx context.Context, p wire.Producer, b batch.Batch) error {
	next, _ := r.m.Next()
	a, ok := anchor{}, false
	for _, o := range r.anchors[p] {
		// The first at or above the map's end, but none from behind the batch.
		if !ok || a.Source < next && o.Target <= b.BaseOffset() {
			a, ok = o, true
		}
	}
	switch {
	case !ok:
		return stopf("target %s@%d bears our producer id %d epoch %d, and topic %s on %s does not say where that epoch began; was it emptied? Delete topic %s on %s and ask for the link again",
			r.l.to, b.BaseOffset(), p.ID, p.Epoch, stateTopic, r.l.c.spec.Target, r.l.to.Topic, r.l.c.spec.Target)
	case a.Source < next:
		return fmt.Errorf("target %s@%d: its epoch began at source offset %d, and the map is at %d already: %w",
			r.l.to, b.BaseOffset(), a.Source, next, errDisagree)
	}
	if a.Source > next {
		if err := r.skip(ctx, a.Source, a.Source-starferry.Offset(a.Gone)); err != nil {
			return err
		}
	}
	r.in, r.known, r.seq, r.behind, r.floor, r.slack, r.strays, r.lost = p, true, a.Seq, -1, a.Target, 0, false, nil
	return nil
}

// skip passes the source offsets up to an anchor of which the target shows no
// copies: holes where the source still says so, deleted from gone on, unknown
// otherwise.
func (r *readback) skip(ctx context.Context, to, gone starferry.Offset) error {
	for {
		next, _ := r.m.Next()
		if next >= to {
			return nil
		}
		if next >= gone {
			r.walk = nil
			return r.m.Hole(next, to, starferry.Deleted)
		}
		pc, err := r.source().peek(ctx, next)
		if errors.Is(err, errGone) || err == nil && (pc.hole == "" || pc.end() > gone) {
			r.walk = nil
			if err := r.m.MarkUnknown(next, gone); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := r.hole(pc, r.unsure()); err != nil {
			return err
		}
		r.walk.advance(pc.count)
	}
}

func (r *readback) source() *walker {
	if r.walk == nil {
		r.walk = &walker{c: r.l.c.src, tp: r.l.tp, rules: r.l.laneRules()}
	}
	return r.walk
}

// missing passes records of ours that a cleaner or retention took from the
// target. Where nothing foreign can have stood between, their places are known.
func (r *readback) missing(ctx context.Context, n int64, b batch.Batch) error {
	if r.slack == 0 && r.behind >= 0 && int64(b.BaseOffset()-r.behind) == n {
		return r.copied(ctx, n, r.behind, nil)
	}
	return r.place(ctx, n, nil, func(p piece) error { return r.m.MarkUnknown(p.source, p.end()) })
}

// copied maps the next n copied source records to target offsets from base on.
func (r *readback) copied(ctx context.Context, n int64, base starferry.Offset, b batch.Batch) error {
	return r.place(ctx, n, b, func(p piece) error {
		err := r.m.Append(offsetmap.Run{Source: p.source, Target: base, Count: p.count})
		base += starferry.Offset(p.count)
		return err
	})
}

// place hands the next n copied source records to put, mapping holes on the
// way. Where the source was cleaned, contents decide instead of counts.
func (r *readback) place(ctx context.Context, n int64, b batch.Batch, put func(piece) error) error {
	if r.slack == 0 {
		r.source().mark()
		seen, sparse, err := r.ahead(ctx, n)
		if err != nil {
			return err
		}
		if !sparse {
			r.walk.back = nil
			for i, f := range seen {
				err := error(nil)
				switch {
				case f.hole != "":
					err = r.m.Hole(f.source, f.end(), f.hole)
				default:
					if b != nil && i == len(seen)-1 && f.source == f.from.pieces[0].source {
						err = r.compare(b, f.from, n)
					}
					if err == nil {
						err = put(f.piece)
					}
				}
				if err != nil {
					return err
				}
			}
			return nil
		}
		r.walk.rewind()
	}
	if b == nil {
		r.slack += n
		return nil
	}
	return r.match(ctx, n, b)
}

// compare checks a target batch against the source's where the two were one
// batch: same records, or, if the target's broker recompressed them, same times.
func (r *readback) compare(b batch.Batch, e *entry, n int64) error {
	if e == nil || !e.passed || int64(e.records) != n || b.Count() != int(e.records) || int64(b.Count()) != n {
		return nil
	}
	src := batch.Batch(e.batch)
	if bytes.Equal(src[batchHeader:], b[batchHeader:]) || b.LogAppendTime() || src.MaxTimestamp() == b.MaxTimestamp() {
		return nil
	}
	return stopf("target %s@%d is not the copy of source offset %d that it should be: their records differ; was the source truncated, or its topic created again? Compare the two, delete topic %s on %s and ask for the link again",
		r.l.to, b.BaseOffset(), e.pieces[0].source, r.l.to.Topic, r.l.c.spec.Target)
}

// batchHeader is the size of a batch's header (KIP-98).
const batchHeader = 61
