package replication

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/replication/batch"
	"github.com/starferry/starferry/replication/offsetmap"
)

// found is a stretch of the source as it is now: a hole, or records.
type found struct {
	piece
	from *entry // of records
}

// errEnd says that the source has no more committed records.
var errEnd = errors.New("the source ends")

// ahead looks at the next n copied source records and the holes between them,
// or at fewer where the source ends. It moves the walker. Sparse means that a
// cleaner may have taken some since they were copied, so that counting proves
// nothing.
func (r *readback) ahead(ctx context.Context, n int64) (out []found, sparse bool, err error) {
	next, _ := r.m.Next()
	w := r.source()
	w.soft = true
	defer func() { w.soft = false }()
	for n > 0 {
		pc, err := w.peek(ctx, next)
		if errors.Is(err, errEnd) && sparse {
			return out, sparse, nil
		}
		if err != nil {
			r.walk = nil
			return nil, sparse, err
		}
		f := found{piece: pc}
		if pc.hole == "" {
			f.count, f.from = min(pc.count, n), w.queue[0]
			n -= f.count
		}
		sparse = sparse || pc.hole == starferry.Compacted
		out = append(out, f)
		next = f.end()
		w.advance(f.count)
	}
	return out, sparse, nil
}

// match places a batch of n records by their contents. Both cleaners may have
// taken some: r.slack is how many copies before the batch the target lacks.
// What cannot be told for certain is errGone.
func (r *readback) match(ctx context.Context, n int64, b batch.Batch) error {
	r.source().mark()
	seen, _, err := r.ahead(ctx, n+r.slack)
	if err != nil {
		return err
	}
	r.walk.rewind()
	index := map[print]starferry.Offset{} // where the source has a record now
	for _, f := range seen {
		if err := f.prints(!b.LogAppendTime(), index); err != nil {
			return err
		}
	}
	var places []spot
	slack := r.slack
	last, taken := starferry.Offset(-1), b.BaseOffset()
	twice := map[print]bool{}
	for rec, err := range batch.Records(b, maxDecompressed) {
		if err != nil {
			return err
		}
		slack += int64(rec.Offset - taken) // what the target's cleaner took
		taken = rec.Offset + 1
		p := printOf(rec, !b.LogAppendTime())
		source, ok := index[p]
		if !ok {
			r.strays = true // the source's cleaner took it
			continue
		}
		if twice[p] || source == ambiguous || source <= last {
			return fmt.Errorf("the cleaners of both clusters left too little to tell where target offset %d came from: %w", rec.Offset, errGone)
		}
		twice[p] = true
		places = append(places, spot{source, rec.Offset, r.strays || slack > 0})
		last, slack, r.strays = source, 0, false
	}
	r.slack = slack + int64(b.NextOffset()-taken)
	return r.put(seen, places)
}

// spot is where a source record's copy was found.
type spot struct {
	source, target starferry.Offset
	// strays: between it and the spot before stand copies whose source records are
	// gone, or stood some that are gone too, so that what the source's cleaner took
	// there was no hole when it was copied.
	strays bool
}

// put maps what lies up to the last source record that was placed.
func (r *readback) put(seen []found, places []spot) error {
	for _, f := range seen {
		if len(places) == 0 {
			return nil
		}
		if f.hole != "" {
			if err := r.hole(f.piece, places[0].strays); err != nil {
				return err
			}
			r.walk.advance(f.count)
			continue
		}
		for o := f.source; o < f.end() && len(places) > 0; o++ {
			err := error(nil)
			if s := places[0]; s.source == o {
				err = r.m.Append(offsetmap.Run{Source: o, Target: s.target, Count: 1})
				places = places[1:]
			} else {
				err = r.m.MarkUnknown(o, o+1)
			}
			if err != nil {
				return err
			}
			r.walk.advance(1)
		}
	}
	return nil
}

// hole maps a hole of the source as it is now. What its cleaner has taken may
// have been copied before, where copies stray.
func (r *readback) hole(p piece, strays bool) error {
	if p.hole == starferry.Compacted && strays {
		return r.m.MarkUnknown(p.source, p.end())
	}
	return r.m.Hole(p.source, p.end(), p.hole)
}

// unsure reports whether copies stand or stood behind the map's end whose source
// records may be gone.
func (r *readback) unsure() bool { return r.strays || r.slack > 0 || r.vanished > 0 }

// trail passes what the source's cleaner has taken behind the last record that
// was placed, if copies stray there.
func (r *readback) trail(ctx context.Context) error {
	w := r.source()
	w.soft = true
	defer func() { w.soft = false }()
	for r.unsure() {
		next, _ := r.m.Next()
		pc, err := w.peek(ctx, next)
		if errors.Is(err, errEnd) || err == nil && pc.hole == "" {
			return nil
		}
		if err == nil {
			err = r.hole(pc, true)
		}
		if err != nil {
			return err
		}
		w.advance(pc.count)
	}
	return nil
}

// print tells records apart by what they hold.
type print [sha256.Size]byte

// ambiguous is the place of a record that the source has more than once.
const ambiguous starferry.Offset = -1

// prints notes the records of a stretch.
func (f found) prints(times bool, into map[print]starferry.Offset) error {
	if f.hole != "" {
		return nil
	}
	var offsets []starferry.Offset
	for _, p := range f.from.pieces {
		for o := p.source; p.hole == "" && o < p.end(); o++ {
			offsets = append(offsets, o)
		}
	}
	i := 0
	for rec, err := range batch.Records(batch.Batch(f.from.batch), maxDecompressed) {
		if err != nil {
			return err
		}
		o := offsets[i]
		i++
		if o < f.source || o >= f.end() {
			continue
		}
		p := printOf(rec, times)
		if _, twice := into[p]; twice {
			o = ambiguous
		}
		into[p] = o
	}
	return nil
}

func printOf(r batch.Record, times bool) (p print) {
	var b []byte
	add := func(v []byte) {
		n := int64(len(v))
		if v == nil {
			n = -1
		}
		b = append(binary.AppendVarint(b, n), v...)
	}
	if times {
		b = binary.AppendVarint(b, r.Time)
	}
	add(r.Key)
	add(r.Value)
	for _, h := range r.Headers {
		add([]byte(h.Key))
		add(h.Value)
	}
	return sha256.Sum256(b)
}
