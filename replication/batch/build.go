package batch

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/starferry/starferry"
)

// Producer is the identity a batch bears.
type Producer struct {
	ID       int64
	Epoch    int16
	Sequence int32 // of the batch's first record
}

// Options say how Build writes a batch.
type Options struct {
	Codec         Codec
	Producer      *Producer // nil: none
	LeaderEpoch   int32
	Transactional bool
	Control       bool
	// LogAppendTime, if not 0, is the append time of all records, Unix
	// milliseconds.
	LogAppendTime int64
	// Span is the number of offsets the batch covers, if that is more than up
	// to its last record, as after compaction.
	Span int32
	// Base is the base offset, if a cleaner removed the first record; otherwise
	// it is the first record's.
	Base *starferry.Offset
}

// Build encodes records, whose offsets must ascend, as one batch at the first
// one's offset. Gaps between the offsets are kept.
func Build(records []Record, o Options) (Batch, error) {
	if len(records) == 0 && o.Base == nil {
		return nil, fmt.Errorf("build batch: no records")
	}
	c := &coder{}
	defer c.close()
	w := writer{codec: o.Codec}
	switch {
	case o.Base != nil:
		w.base = *o.Base
	default:
		w.base = records[0].Offset
	}
	for _, r := range records {
		delta := int64(r.Offset - w.base)
		if delta < int64(w.next) || !fitsInt32(delta+1) {
			return nil, fmt.Errorf("build batch at offset %d: offset %d does not ascend within 31 bits", w.base, r.Offset)
		}
		w.add(int32(delta), r.Time, r.appendBody(nil))
	}
	w.next = max(w.next, o.Span)
	b, err := w.batch(c)
	if err != nil {
		return nil, fmt.Errorf("build batch at offset %d: %w", w.base, err)
	}
	o.apply(b)
	return b, b.check()
}

// apply writes the options into the header.
func (o Options) apply(b Batch) {
	attributes := uint16(b.Attributes())
	if o.Transactional {
		attributes |= transactional
	}
	if o.Control {
		attributes |= control
	}
	if o.LogAppendTime != 0 {
		attributes |= logAppendTime
		binary.BigEndian.PutUint64(b[atMaxTimestamp:], uint64(o.LogAppendTime))
	}
	binary.BigEndian.PutUint16(b[atAttributes:], attributes)
	binary.BigEndian.PutUint32(b[atLeaderEpoch:], uint32(o.LeaderEpoch))
	if p := o.Producer; p != nil {
		binary.BigEndian.PutUint64(b[atProducerID:], uint64(p.ID))
		binary.BigEndian.PutUint16(b[atProducerEpoch:], uint16(p.Epoch))
		binary.BigEndian.PutUint32(b[atBaseSequence:], uint32(p.Sequence))
	}
	b.seal()
}

// seal computes the checksum afresh.
func (b Batch) seal() {
	binary.BigEndian.PutUint32(b[atCRC:], crc32.Checksum(b[atAttributes:], castagnoli))
}

// writer gathers the records of one batch.
type writer struct {
	codec      Codec
	base       starferry.Offset
	next       int32 // offset delta behind the last record
	count      int32
	first, max int64 // times
	data       []byte
}

// add appends a record whose key, value and headers are encoded in body.
func (w *writer) add(delta int32, time int64, body []byte) {
	if w.count == 0 {
		w.first, w.max = time, time
	}
	w.max = max(w.max, time)
	var head [1 + 2*binary.MaxVarintLen64]byte // attributes 0, and two deltas
	n := 1
	n += binary.PutVarint(head[n:], time-w.first)
	n += binary.PutVarint(head[n:], int64(delta))
	w.data = binary.AppendVarint(w.data, int64(n+len(body)))
	w.data = append(w.data, head[:n]...)
	w.data = append(w.data, body...)
	w.count++
	w.next = delta + 1
}

// batch finishes the batch: create time, no producer, leader epoch −1.
func (w *writer) batch(c *coder) (Batch, error) {
	data, err := c.compress(w.codec, w.data)
	if err != nil {
		return nil, err
	}
	size := headerSize + len(data)
	if !fitsInt32(int64(size)) {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, size)
	}
	b := make(Batch, headerSize, size)
	b = append(b, data...)
	w.head(b)
	return b, nil
}

// head fills a batch's header, and seals it.
func (w *writer) head(b Batch) {
	binary.BigEndian.PutUint64(b[atBaseOffset:], uint64(w.base))
	binary.BigEndian.PutUint32(b[atLength:], uint32(len(b)-prefixSize))
	binary.BigEndian.PutUint32(b[atLeaderEpoch:], ^uint32(0))
	b[atMagic] = 2
	binary.BigEndian.PutUint16(b[atAttributes:], uint16(w.codec))
	binary.BigEndian.PutUint32(b[atLastOffsetDelta:], uint32(max(w.next, 1)-1))
	binary.BigEndian.PutUint64(b[atFirstTimestamp:], uint64(w.first))
	binary.BigEndian.PutUint64(b[atMaxTimestamp:], uint64(w.max))
	binary.BigEndian.PutUint64(b[atProducerID:], ^uint64(0))
	binary.BigEndian.PutUint16(b[atProducerEpoch:], ^uint16(0))
	binary.BigEndian.PutUint32(b[atBaseSequence:], ^uint32(0))
	binary.BigEndian.PutUint32(b[atCount:], uint32(w.count))
	b.seal()
}
