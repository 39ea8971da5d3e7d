package replication

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/replication/batch"
)

// Parts of a record that Scrub may name.
const (
	ScrubKey     = "key"     // hashed: equal keys stay equal
	ScrubValue   = "value"   // zeroed, in its length
	ScrubHeaders = "headers" // their values zeroed, in their lengths
)

// edits are what a link does to the records of a lane beside copying them. They
// are a function of the record and its place alone: what is read again, after a
// crash for one, meets the same fate.
type edits struct {
	ends                bool
	until               starferry.Offset // if ends: exclusive
	sample              float64          // 0: all
	key, value, headers bool             // to be scrubbed
	link                starferry.LinkName
	tp                  starferry.TopicPartition
}

// edits are those of a lane.
func (s LinkSpec) edits(tp starferry.TopicPartition) edits {
	e := edits{
		sample: s.Sample, link: s.Name, tp: tp, ends: s.Until != "",
		key:   slices.Contains(s.Scrub, ScrubKey),
		value: slices.Contains(s.Scrub, ScrubValue), headers: slices.Contains(s.Scrub, ScrubHeaders),
	}
	// A partition that came after the ends were set has none: it ends at once.
	e.until = s.Ends[tp]
	return e
}

// open reports whether batches have to be opened for them.
func (e edits) open() bool { return e.sample > 0 || e.key || e.value || e.headers }

// clip is an offset, or where the copy ends.
func (e edits) clip(o starferry.Offset) starferry.Offset {
	if e.ends {
		return min(o, e.until)
	}
	return o
}

// past reports whether an offset is not to be copied any more.
func (e edits) past(o starferry.Offset) bool { return e.ends && o >= e.until }

// sampled reports whether a record is in the sample: by its key, so that all of
// a key's records are, in all topics; by its place if it has none.
func (e edits) sampled(r *batch.Record) bool {
	if e.sample <= 0 {
		return true
	}
	h := fnv.New64a()
	if r.Key != nil {
		h.Write(r.Key)
	} else {
		h.Write([]byte(e.tp.Topic))
		var place [12]byte
		binary.BigEndian.PutUint32(place[:], uint32(e.tp.Partition))
		binary.BigEndian.PutUint64(place[4:], uint64(r.Offset))
		h.Write(place[:])
	}
	x := h.Sum64() // FNV leaves its high bits to the last bytes: mix (MurmurHash3)
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return float64(x>>11)/(1<<53) < e.sample
}

// scrub takes out of a record what is not to leave the source. What is null
// stays null: a tombstone stays one.
func (e edits) scrub(r *batch.Record) batch.Edit {
	if !e.key && !e.value && !e.headers {
		return batch.Keep
	}
	if e.key && r.Key != nil {
		h := sha256.New()
		h.Write([]byte(e.link))
		h.Write([]byte{0})
		h.Write(r.Key)
		r.Key = []byte(hex.EncodeToString(h.Sum(nil)[:16]))
	}
	if e.value && r.Value != nil {
		r.Value = make([]byte, len(r.Value))
	}
	if e.headers {
		r.Headers = slices.Clone(r.Headers)
		for i, h := range r.Headers {
			if h.Value != nil {
				r.Headers[i].Value = make([]byte, len(h.Value))
			}
		}
	}
	return batch.Change
}

// rewrite rebuilds a batch densely, as the edits want it. Offsets that are left
// out become holes: filtered if there was a record, compacted otherwise.
func rewrite(b batch.Batch, from starferry.Offset, r rules) ([]*entry, error) {
	var filtered []starferry.Offset
	edit := func(rec *batch.Record) batch.Edit {
		switch {
		case rec.Offset < from || r.edits.past(rec.Offset):
			return batch.Drop
		case !r.edits.sampled(rec):
			filtered = append(filtered, rec.Offset)
			return batch.Drop
		}
		return r.edits.scrub(rec)
	}
	copies, err := batch.Rewrite(b, edit, r.limits)
	if err != nil {
		return nil, fmt.Errorf("re-encode batch at offset %d: %w", b.BaseOffset(), err)
	}
	return piecewise(copies, from, r.edits.clip(b.NextOffset()), filtered), nil
}

// piecewise makes entries of copies, from an offset to another without a break.
func piecewise(copies []batch.Copy, from, to starferry.Offset, filtered []starferry.Offset) []*entry {
	var out []*entry
	at := from
	for _, c := range copies {
		e := &entry{batch: c.Batch, records: int32(c.Batch.Count())}
		for _, o := range c.Offsets {
			e.pieces = append(e.pieces, gaps(at, o.From, filtered)...)
			e.pieces = append(e.pieces, piece{o.From, int64(o.To - o.From), ""})
			at = o.To
		}
		out = append(out, e)
	}
	if at < to {
		out = append(out, &entry{pieces: gaps(at, to, filtered)})
	}
	return out
}

// gaps are the holes from an offset to another, where filtered are in order.
func gaps(at, to starferry.Offset, filtered []starferry.Offset) (out []piece) {
	add := func(end starferry.Offset, why starferry.Reason) {
		if n := len(out); n > 0 && out[n-1].hole == why {
			out[n-1].count += int64(end - at)
		} else if end > at {
			out = append(out, piece{at, int64(end - at), why})
		}
		at = end
	}
	i, _ := slices.BinarySearch(filtered, at)
	for ; i < len(filtered) && filtered[i] < to; i++ {
		add(filtered[i], starferry.Compacted)
		add(filtered[i]+1, starferry.Filtered)
	}
	add(to, starferry.Compacted)
	return out
}

// checkEdits reports the first thing that is wrong with what a link does to
// records.
func (s LinkSpec) checkEdits() error {
	if s.Sample < 0 || s.Sample > 1 || s.Sample != s.Sample {
		return fmt.Errorf("sample %v: want a share of the records above 0 and up to 1, such as 0.05", s.Sample)
	}
	for _, part := range s.Scrub {
		switch part {
		case ScrubKey, ScrubValue, ScrubHeaders:
		default:
			return fmt.Errorf("scrub %q: want %q, %q or %q", part, ScrubKey, ScrubValue, ScrubHeaders)
		}
	}
	return nil
}

// ways is what decides, for good, which records a lane holds; it goes into
// anchors, so that a link that is made again under its name goes on only with
// the same. Empty for a plain copy.
func (s LinkSpec) ways() string {
	var out []string
	if s.Sample > 0 {
		out = append(out, fmt.Sprintf("sample %v", s.Sample))
	}
	if len(s.Scrub) > 0 {
		out = append(out, "scrub "+strings.Join(s.Scrub, ", "))
	}
	return strings.Join(out, "; ")
}
