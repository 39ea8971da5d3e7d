// Package records decodes what a fetch returns into the records that a reader
// of committed data sees.
//
// # Rules
//
//   - Transaction markers and records of aborted transactions are left out, by
//     the list of aborted transactions that the broker sends along. The place
//     after them is reported all the same, so that a reader passes them.
//   - Messages of formats older than record batches, which topics may still hold
//     from brokers before 0.11, are read as well.
//   - A batch cut off at the end of a fetch is left for the next one.
//   - Damaged bytes are an error that names the offset of the batch.
package records

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/segmentio/kafka-go/compress"
)

// Record is one record. Its byte fields alias the fetched frame, or a buffer of
// the batch if that was compressed.
type Record struct {
	Offset    int64
	Timestamp int64 // Unix milliseconds
	Key       []byte
	Value     []byte
	Headers   []Header
}

// Header is one header of a record.
type Header struct {
	Key   string
	Value []byte
}

// Aborted is an aborted transaction: records of Producer from First on, up to
// the marker that ends it.
type Aborted struct{ Producer, First int64 }

// maxBatch is the largest decompressed batch in bytes.
const maxBatch = 256 << 20

const headerSize = 61 // of a record batch, magic 2

// Decode returns the committed records at and above from, and the offset after
// the last whole batch (from, if there is none). Beside an error they end
// before the damaged batch.
func Decode(raw []byte, from int64, aborted []Aborted) ([]Record, int64, error) {
	aborted = slices.Clone(aborted)
	slices.SortFunc(aborted, func(a, b Aborted) int { return cmp.Compare(a.First, b.First) })
	open := map[int64]bool{}
	out := make([]Record, 0, count(raw))
	next := from
	for len(raw) >= 17 {
		base := int64(binary.BigEndian.Uint64(raw))
		size := int(int32(binary.BigEndian.Uint32(raw[8:]))) + 12
		magic, least := raw[16], headerSize
		if magic < 2 {
			least = entrySize + messageSize
		}
		if magic > 2 || size < least {
			return out, next, fmt.Errorf("decode batch at offset %d: length %d, message format %d: no such batch is known here", base, size, magic)
		}
		if size > len(raw) {
			break
		}
		b := raw[:size]
		raw = raw[size:]
		if magic < 2 {
			more, after, err := decodeMessage(out, b, from)
			if err != nil {
				return out, next, fmt.Errorf("decode message of format %d at offset %d: %w", magic, base, err)
			}
			out, next = more, max(next, after)
			continue
		}
		if want, got := binary.BigEndian.Uint32(b[17:]), crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)); want != got {
			return out, next, fmt.Errorf("decode batch at offset %d: checksum is %08x, want %08x", base, got, want)
		}
		last := base + int64(int32(binary.BigEndian.Uint32(b[23:])))
		for len(aborted) > 0 && aborted[0].First <= last {
			open[aborted[0].Producer] = true
			aborted = aborted[1:]
		}
		more, err := decodeBatch(out, b, base, last, from, open)
		if err != nil { // nothing of it is handed out, and nobody passes it
			return out, next, fmt.Errorf("decode batch at offset %d: %w", base, err)
		}
		out, next = more, max(next, last+1)
	}
	return out, next, nil
}

// count is how many records the whole batches of raw say they hold, at most as
// many as would fit uncompressed.
func count(raw []byte) (n int) {
	most := len(raw) / 7
	for len(raw) >= headerSize && n < most {
		size := int(int32(binary.BigEndian.Uint32(raw[8:]))) + 12
		if size < headerSize || size > len(raw) {
			break
		}
		n += max(0, int(int32(binary.BigEndian.Uint32(raw[57:]))))
		raw = raw[size:]
	}
	return min(n, most)
}

func decodeBatch(out []Record, b []byte, base, last, from int64, open map[int64]bool) ([]Record, error) {
	attrs := int16(binary.BigEndian.Uint16(b[21:]))
	producer := int64(binary.BigEndian.Uint64(b[43:]))
	if attrs&0x20 != 0 { // a marker
		if kind, ok := markerKind(b[headerSize:]); ok && kind == 0 {
			delete(open, producer)
		}
		return out, nil
	}
	if attrs&0x10 != 0 && open[producer] || last < from {
		return out, nil
	}
	body := b[headerSize:]
	if codec := compress.Compression(attrs & 7); codec != 0 {
		plain, err := decompress(codec, body)
		if err != nil {
			return out, err
		}
		body = plain
	}
	first := int64(binary.BigEndian.Uint64(b[27:]))
	appended := attrs&8 != 0
	maxTime := int64(binary.BigEndian.Uint64(b[35:]))
	n := int(int32(binary.BigEndian.Uint32(b[57:])))
	out = slices.Grow(out, min(max(n, 0), len(body)/7+1))
	for i := 0; i < n; i++ {
		rec, rest, err := decodeRecord(body, base, first)
		if err != nil {
			return out, fmt.Errorf("record %d of %d: %w", i, n, err)
		}
		body = rest
		if appended {
			rec.Timestamp = maxTime
		}
		if rec.Offset >= from {
			out = append(out, rec)
		}
	}
	return out, nil
}

// markerKind reads the type of a control record: 0 abort, 1 commit.
func markerKind(body []byte) (int16, bool) {
	rec, _, err := decodeRecord(body, 0, 0)
	if err != nil || len(rec.Key) < 4 {
		return 0, false
	}
	return int16(binary.BigEndian.Uint16(rec.Key[2:])), true
}

func decodeRecord(b []byte, base, first int64) (Record, []byte, error) {
	c := cursor{b: b}
	size := c.varint()
	if c.bad || size < 0 || size > int64(len(c.b)) {
		return Record{}, nil, errShort
	}
	rest := c.b[size:]
	c.b = c.b[:size]
	c.take(1) // attributes
	r := Record{Timestamp: first + c.varint(), Offset: base + c.varint()}
	r.Key, r.Value = c.bytes(), c.bytes()
	n := c.varint()
	if n < 0 || n > int64(len(c.b)) {
		return Record{}, nil, errShort
	}
	for range n {
		k := c.bytes()
		r.Headers = append(r.Headers, Header{string(k), c.bytes()})
	}
	if c.bad {
		return Record{}, nil, errShort
	}
	return r, rest, nil
}

var errShort = errors.New("record is cut off")

// cursor reads the fields of one record.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) varint() int64 {
	v, n := binary.Varint(c.b)
	if n <= 0 {
		c.bad, c.b = true, nil
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) take(n int64) []byte {
	if n < 0 || n > int64(len(c.b)) {
		c.bad, c.b = true, nil
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}

// bytes reads a length and so many bytes; −1 is nil.
func (c *cursor) bytes() []byte {
	n := c.varint()
	if n == -1 {
		return nil
	}
	return c.take(n)
}
