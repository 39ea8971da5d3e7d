package batch

import (
	"encoding/binary"
	"fmt"
)

// Joinable reports whether Join takes a batch: records as they are, and one for
// each offset.
func (b Batch) Joinable() bool {
	return b.Codec() == None && b.Dense() && !b.LogAppendTime() && !b.Control()
}

// joinGrowth is how much longer a record may become when its deltas do: its
// length, offset and time as varints.
const joinGrowth = 4 + 4 + 9

// JoinedSize bounds what Join makes of a batch, its header not counted.
func (b Batch) JoinedSize() int { return len(b) - headerSize + joinGrowth*b.Count() }

// Join makes one dense batch of several joinable ones, whatever their offsets:
// the n-th record of all is the n-th of the result. Keys, values and headers are
// copied without being looked into, which costs a fraction of [Merge].
//
// What is written gets a fresh checksum, so the sources are verified, after they
// were copied: an error is ErrChecksum or a *FieldError.
func Join(bs []Batch) (Batch, error) {
	if len(bs) == 0 {
		return nil, fmt.Errorf("join batches: none are given")
	}
	size := headerSize
	for _, b := range bs {
		if !b.Joinable() {
			return nil, b.wrong("attributes", "the batch cannot be joined: it is compressed, a marker, sparse, or bears the broker's time")
		}
		size += b.JoinedSize()
	}
	if !fitsInt32(int64(size)) {
		return nil, fmt.Errorf("join batches at offset %d: %w: %d bytes", bs[0].BaseOffset(), ErrTooLarge, size)
	}
	w := writer{base: bs[0].BaseOffset(), first: bs[0].FirstTimestamp(), max: bs[0].MaxTimestamp()}
	w.data = make([]byte, headerSize, size)
	for _, b := range bs {
		if err := w.join(b); err != nil {
			return nil, err
		}
	}
	for _, b := range bs {
		if err := b.Verify(); err != nil {
			return nil, err
		}
	}
	out := Batch(w.data)
	w.head(out)
	return out, nil
}

// join appends the records of a batch with new deltas.
func (w *writer) join(b Batch) error {
	later := b.FirstTimestamp() - w.first
	data := []byte(b[headerSize:])
	for i := range b.Count() {
		size, rest, ok := varint(data)
		if !ok || size < 3 || size > int64(len(rest)) {
			return b.wrong(recordField(i, "length"), "%d does not fit the %d bytes left", size, len(rest))
		}
		record := rest[:size]
		data = rest[size:]
		since, body, ok := varint(record[1:])
		if !ok {
			return b.wrong(recordField(i, "timestamp delta"), "is no varint")
		}
		delta, body, ok := varint(body)
		if !ok || delta != int64(i) {
			return b.wrong(recordField(i, "offset delta"), "%d where a dense batch has %d", delta, i)
		}
		w.put(since+later, record[0], body)
	}
	if len(data) > 0 {
		return b.wrong("records", "%d bytes are left behind the last of %d", len(data), b.Count())
	}
	w.max = max(w.max, b.MaxTimestamp())
	return nil
}

// put appends a record that follows the last one.
func (w *writer) put(since int64, attributes byte, body []byte) {
	var head [1 + 2*binary.MaxVarintLen64]byte
	head[0] = attributes
	n := 1
	n += binary.PutVarint(head[n:], since)
	n += binary.PutVarint(head[n:], int64(w.next))
	w.data = binary.AppendVarint(w.data, int64(n+len(body)))
	w.data = append(w.data, head[:n]...)
	w.data = append(w.data, body...)
	w.count++
	w.next++
}
