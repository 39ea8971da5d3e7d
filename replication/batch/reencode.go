package batch

import (
	"fmt"

	"github.com/starferry/starferry"
)

// Limits bound re-encoding, in bytes.
type Limits struct {
	Decompressed int // of the records of one source batch
	Batch        int // of one batch written: the target's max.message.bytes
}

// Copy is a dense batch made for the target; stamp it before it is sent. The
// n-th record of Batch comes from the n-th offset that Offsets hold, which
// ascend and do not touch.
type Copy struct {
	Batch   Batch
	Offsets []starferry.Range
}

// Reencode verifies, decodes and rebuilds a batch densely, with the same
// compression, times, keys, values and headers. Records for which keep is false
// are left out; nil keeps all. With LogAppendTime the append time becomes each
// record's create time. A result above Limits.Batch is split; no result means
// that nothing was left.
//
// Errors: ErrChecksum, ErrTooLarge (it names offset, size and limit), or a
// *FieldError.
func Reencode(b Batch, keep func(starferry.Offset) bool, l Limits) ([]Copy, error) {
	return Merge([]Batch{b}, keep, l)
}

// Merge is Reencode of several batches, in ascending order of offsets, into as
// few as Limits allow, with the first one's compression.
func Merge(bs []Batch, keep func(starferry.Offset) bool, l Limits) ([]Copy, error) {
	c := &coder{limit: l.Decompressed}
	defer c.close()
	var kept []raw
	for i, b := range bs {
		if i > 0 && b.BaseOffset() <= bs[i-1].LastOffset() {
			return nil, fmt.Errorf("merge batches: offset %d does not ascend from %d", b.BaseOffset(), bs[i-1].LastOffset())
		}
		var err error
		if kept, err = c.gather(kept, b, keep); err != nil {
			return nil, err
		}
	}
	if len(kept) == 0 {
		return nil, nil
	}
	return c.dense(nil, bs[0].Codec(), kept, l)
}

// gather appends the records of a batch that are kept.
func (c *coder) gather(kept []raw, b Batch, keep func(starferry.Offset) bool) ([]raw, error) {
	if b.Control() {
		return nil, b.wrong("attributes", "a control batch has no records to copy")
	}
	// What is written gets a fresh checksum: it must not bless damage.
	if err := b.Verify(); err != nil {
		return nil, err
	}
	for r, err := range c.raws(b) {
		if err != nil {
			return nil, err
		}
		if keep == nil || keep(r.offset) {
			kept = append(kept, r)
		}
	}
	return kept, nil
}

// dense writes records as one batch, or halves them until they fit.
func (c *coder) dense(copies []Copy, codec Codec, kept []raw, l Limits) ([]Copy, error) {
	w := writer{codec: codec, base: kept[0].offset}
	size := 0
	for _, r := range kept {
		size += len(r.body) + 16
	}
	w.data = make([]byte, 0, size)
	var offsets []starferry.Range
	for i, r := range kept {
		w.add(int32(i), r.time, r.body)
		if n := len(offsets); n > 0 && offsets[n-1].To == r.offset {
			offsets[n-1].To++
		} else {
			offsets = append(offsets, starferry.Range{From: r.offset, To: r.offset + 1})
		}
	}
	b, err := w.batch(c)
	switch {
	case err != nil:
		return nil, fmt.Errorf("re-encode records at offset %d: %w", w.base, err)
	case len(b) <= l.Batch:
		return append(copies, Copy{b, offsets}), nil
	case len(kept) == 1:
		return nil, fmt.Errorf("re-encode record at offset %d: %w: its batch has %d bytes, the target takes %d; raise max.message.bytes of the target topic",
			w.base, ErrTooLarge, len(b), l.Batch)
	}
	half := len(kept) / 2
	if copies, err = c.dense(copies, codec, kept[:half], l); err != nil {
		return nil, err
	}
	return c.dense(copies, codec, kept[half:], l)
}
