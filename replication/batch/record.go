package batch

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math"

	"github.com/starferry/starferry"
)

// Header is one header of a record.
type Header struct {
	Key   string
	Value []byte // nil is null
}

// Record is one decoded record. Key, Value and headers alias the batch, or what
// it was decompressed to.
type Record struct {
	Offset  starferry.Offset
	Time    int64  // Unix milliseconds; −1 if it has none
	Key     []byte // nil is null
	Value   []byte // nil is null
	Headers []Header
}

// Records decodes the records of a batch, decompressing at most limit bytes. It
// ends with the first error; it does not look at the checksum. A batch emptied
// by a cleaner has no records. With LogAppendTime the time of each is the
// batch's MaxTimestamp.
func Records(b Batch, limit int) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		c := &coder{limit: limit}
		defer c.close()
		for r, err := range c.raws(b) {
			var record Record
			if err == nil {
				record, err = r.record(b)
			}
			if !yield(record, err) || err != nil {
				return
			}
		}
	}
}

// raw is a record whose key, value and headers have not been looked into: they
// are copied as they are.
type raw struct {
	offset starferry.Offset
	time   int64
	body   []byte // key length to end of headers
}

// raws reads the records of a batch and checks that they fill it exactly.
func (c *coder) raws(b Batch) iter.Seq2[raw, error] {
	return func(yield func(raw, error) bool) {
		if b.Count() == 0 {
			return
		}
		data, err := c.decompress(b.Codec(), b[headerSize:])
		if err != nil {
			yield(raw{}, fmt.Errorf("read batch at offset %d: %w", b.BaseOffset(), err))
			return
		}
		last := int64(-1)
		for i := range b.Count() {
			var r raw
			var delta int64
			if r, delta, data, err = b.raw(i, data); err == nil && delta <= last {
				err = b.wrong(recordField(i, "offset delta"), "%d does not ascend from %d", delta, last)
			}
			if last = delta; !yield(r, err) || err != nil {
				return
			}
		}
		if len(data) > 0 {
			yield(raw{}, b.wrong("records", "%d bytes are left behind the last of %d", len(data), b.Count()))
		}
	}
}

// raw takes the i-th record off data.
func (b Batch) raw(i int, data []byte) (r raw, delta int64, rest []byte, err error) {
	fail := func(field, format string, args ...any) (raw, int64, []byte, error) {
		return raw{}, 0, nil, b.wrong(recordField(i, field), format, args...)
	}
	size, data, ok := varint(data)
	if !ok || size < 0 || size > int64(len(data)) {
		return fail("length", "%d does not fit the %d bytes left", size, len(data))
	}
	body, rest := data[:size:size], data[size:]
	if len(body) == 0 {
		return fail("length", "0 leaves no room for attributes")
	}
	since, body, ok := varint(body[1:]) // no bit of a record's attributes is in use
	if !ok {
		return fail("timestamp delta", "is no varint")
	}
	delta, body, ok = varint(body)
	if !ok || delta < 0 || delta > int64(b.LastOffsetDelta()) {
		return fail("offset delta", "%d is outside of the batch's 0 to %d", delta, b.LastOffsetDelta())
	}
	r = raw{offset: b.BaseOffset() + starferry.Offset(delta), time: b.FirstTimestamp() + since, body: body}
	if b.LogAppendTime() {
		r.time = b.MaxTimestamp()
	}
	if field := r.walk(nil); field != "" {
		return fail(field, "does not fit the record")
	}
	return r, delta, rest, nil
}

func recordField(i int, field string) string { return fmt.Sprintf("record %d: %s", i, field) }

func (r raw) record(b Batch) (Record, error) {
	out := Record{Offset: r.offset, Time: r.time}
	if field := r.walk(&out); field != "" {
		return Record{}, b.wrong(field, "does not fit the record at offset %d", r.offset)
	}
	return out, nil
}

// walk reads the body into out, or only checks it if out is nil. It returns the
// name of the field that is wrong.
func (r raw) walk(out *Record) (wrong string) {
	key, data, ok := nullable(r.body)
	if !ok {
		return "key length"
	}
	value, data, ok := nullable(data)
	if !ok {
		return "value length"
	}
	count, data, ok := varint(data)
	if !ok || count < 0 || count > int64(len(data))/2 {
		return "header count"
	}
	if out != nil {
		out.Key, out.Value = key, value
		if count > 0 {
			out.Headers = make([]Header, 0, count)
		}
	}
	for range count {
		var name, content []byte
		if name, data, ok = nullable(data); !ok || name == nil {
			return "header key length"
		}
		if content, data, ok = nullable(data); !ok {
			return "header value length"
		}
		if out != nil {
			out.Headers = append(out.Headers, Header{string(name), content})
		}
	}
	if len(data) > 0 {
		return "length"
	}
	return ""
}

// varint takes a zigzag number off data.
func varint(data []byte) (int64, []byte, bool) {
	v, n := binary.Varint(data)
	if n <= 0 {
		return 0, data, false
	}
	return v, data[n:], true
}

// nullable takes bytes with their length before them off data; −1 is null.
func nullable(data []byte) (b, rest []byte, ok bool) {
	n, data, ok := varint(data)
	if !ok || n < -1 || n > int64(len(data)) {
		return nil, data, false
	}
	if n == -1 {
		return nil, data, true
	}
	return data[:n:n], data[n:], true
}

// appendBody encodes key, value and headers.
func (r Record) appendBody(dst []byte) []byte {
	dst = appendNullable(dst, r.Key)
	dst = appendNullable(dst, r.Value)
	dst = binary.AppendVarint(dst, int64(len(r.Headers)))
	for _, h := range r.Headers {
		dst = binary.AppendVarint(dst, int64(len(h.Key)))
		dst = append(dst, h.Key...)
		dst = appendNullable(dst, h.Value)
	}
	return dst
}

func appendNullable(dst, b []byte) []byte {
	if b == nil {
		return binary.AppendVarint(dst, -1)
	}
	dst = binary.AppendVarint(dst, int64(len(b)))
	return append(dst, b...)
}

// fitsInt32 reports whether n can be a length or delta on the wire.
func fitsInt32(n int64) bool { return n >= 0 && n <= math.MaxInt32 }
