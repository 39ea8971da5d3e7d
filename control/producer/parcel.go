package producer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go/compress"

	"github.com/starferry/starferry/internal/records"
)

// headerBytes is the size of a batch's header (magic 2, KIP-98).
const headerBytes = 61

// recordOverhead bounds what a record takes beside its bytes, per header too.
const recordOverhead = 32

// row is a record's caller.
type row struct {
	done func(Result)
	size int // what it takes of the buffer
}

// parcel is records on their way as one batch.
type parcel struct {
	rows     []row
	body     []byte // the encoded records
	first    int64  // time of the first record, Unix milliseconds
	newest   int64
	born     time.Time
	sealed   bool // takes no more records
	doubt    bool // was sent and may have been written
	attempts int
	ticket   *ticket

	// Of the batch it is being sent as.
	id  identity
	seq int32
}

// identity is a producer id with its epoch.
type identity struct {
	id    int64
	epoch int16
}

// ticket is what those wait for who flush: a parcel, or all that it was divided
// into.
type ticket struct {
	left    atomic.Int32
	settled chan struct{}
}

func (t *ticket) done() {
	if t.left.Add(-1) == 0 {
		close(t.settled)
	}
}

func newParcel(now time.Time) *parcel {
	t := &ticket{settled: make(chan struct{})}
	t.left.Store(1)
	return &parcel{born: now, ticket: t}
}

// sizeOf bounds what a record takes in a batch and in the buffer.
func sizeOf(r Record) int {
	n := len(r.Key) + len(r.Value) + recordOverhead
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value) + recordOverhead
	}
	return n
}

// add appends a record (KIP-98: lengths and deltas as zigzag varints).
func (p *parcel) add(key, value []byte, headers []Header, ms int64, r row) {
	if len(p.rows) == 0 {
		p.first, p.newest = ms, ms
	}
	p.newest = max(p.newest, ms)
	rec := make([]byte, 1, r.size) // attributes, unused
	rec = binary.AppendVarint(rec, ms-p.first)
	rec = binary.AppendVarint(rec, int64(len(p.rows)))
	rec = appendBytes(rec, key)
	rec = appendBytes(rec, value)
	rec = binary.AppendVarint(rec, int64(len(headers)))
	for _, h := range headers {
		rec = binary.AppendVarint(rec, int64(len(h.Key)))
		rec = append(rec, h.Key...)
		rec = appendBytes(rec, h.Value)
	}
	p.body = binary.AppendVarint(p.body, int64(len(rec)))
	p.body = append(p.body, rec...)
	p.rows = append(p.rows, r)
}

func appendBytes(b, v []byte) []byte {
	if v == nil {
		return binary.AppendVarint(b, -1)
	}
	b = binary.AppendVarint(b, int64(len(v)))
	return append(b, v...)
}

// batch is the parcel as one record batch.
func (p *parcel) batch(c compress.Compression) ([]byte, error) {
	body := p.body
	if c != compress.None {
		var packed bytes.Buffer
		w := c.Codec().NewWriter(&packed)
		if _, err := w.Write(body); err != nil {
			return nil, fmt.Errorf("compress with %s: %w", c, err)
		}
		if err := w.Close(); err != nil {
			return nil, fmt.Errorf("compress with %s: %w", c, err)
		}
		body = packed.Bytes()
	}
	b := make([]byte, headerBytes, headerBytes+len(body))
	n := uint32(len(p.rows))
	binary.BigEndian.PutUint32(b[8:], uint32(headerBytes-12+len(body)))
	binary.BigEndian.PutUint32(b[12:], 0xffffffff) // leader epoch −1
	b[16] = 2
	binary.BigEndian.PutUint16(b[21:], uint16(c))
	binary.BigEndian.PutUint32(b[23:], n-1)
	binary.BigEndian.PutUint64(b[27:], uint64(p.first))
	binary.BigEndian.PutUint64(b[35:], uint64(p.newest))
	binary.BigEndian.PutUint64(b[43:], uint64(p.id.id))
	binary.BigEndian.PutUint16(b[51:], uint16(p.id.epoch))
	binary.BigEndian.PutUint32(b[53:], uint32(p.seq))
	binary.BigEndian.PutUint32(b[57:], n)
	b = append(b, body...)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b, nil
}

// halves are the parcel as two, for a broker that finds it too large.
func (p *parcel) halves() (a, b *parcel, err error) {
	raw, err := p.batch(compress.None)
	if err != nil {
		return nil, nil, err
	}
	rs, _, err := records.Decode(raw, 0, nil)
	if err != nil || len(rs) != len(p.rows) {
		return nil, nil, fmt.Errorf("divide a batch of %d records: %d were read back: %w", len(p.rows), len(rs), err)
	}
	a, b = &parcel{born: p.born, ticket: p.ticket}, &parcel{born: p.born, ticket: p.ticket}
	p.ticket.left.Add(1)
	for i, r := range rs {
		to := a
		if i >= len(rs)/2 {
			to = b
		}
		hs := make([]Header, len(r.Headers))
		for j, h := range r.Headers {
			hs[j] = Header(h)
		}
		to.add(r.Key, r.Value, hs, r.Timestamp, p.rows[i])
	}
	a.sealed, b.sealed = true, true
	return a, b, nil
}
