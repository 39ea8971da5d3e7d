package batch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/starferry/starferry"
)

// What callers act on.
var (
	// ErrTruncated is the cut-off tail of a record set, which is normal: fetch
	// again from that offset.
	ErrTruncated = errors.New("batch is cut off")
	// ErrMagic is a message of magic 0 or 1: give it to Upgrade.
	ErrMagic = errors.New("message of an old format (magic 0 or 1)")
	// ErrChecksum is damage between the producer and here: fetch again, and if
	// it stays, the source's disk is damaged.
	ErrChecksum = errors.New("checksum does not match")
	// ErrTooLarge is a batch or record beyond a limit given as argument.
	ErrTooLarge = errors.New("too large")
)

// FieldError says which field of which batch or message cannot be.
type FieldError struct {
	Base   starferry.Offset // of the batch; NoOffset if it cannot be told
	Field  string           // such as "length" or "record 3: key length"
	Detail string
}

// Error implements error.
func (e *FieldError) Error() string {
	return fmt.Sprintf("read batch at offset %d: field %s: %s", e.Base, e.Field, e.Detail)
}

// Next takes the first batch off a record set, without copying. At the end it
// returns io.EOF, at a cut-off tail ErrTruncated, with rest the tail. With
// ErrMagic, b is the old message (for Upgrade) and rest goes on behind it. A
// *FieldError means that the bytes are no record set.
//
// Next looks at the header only; Verify checks the records.
func Next(records []byte) (b Batch, rest []byte, err error) {
	if len(records) == 0 {
		return nil, nil, io.EOF
	}
	if len(records) <= atMagic {
		return nil, records, ErrTruncated
	}
	b = Batch(records)
	magic := records[atMagic]
	length := int64(int32(binary.BigEndian.Uint32(records[atLength:])))
	least, known := leastLength(magic)
	switch {
	case b.BaseOffset() < 0:
		return nil, records, &FieldError{starferry.NoOffset, "base offset", fmt.Sprintf("%d is negative", b.BaseOffset())}
	case !known:
		return nil, records, b.wrong("magic", "%d is none of 0, 1 and 2", magic)
	case length < least:
		return nil, records, b.wrong("length", "%d is less than the %d of an empty one", length, least)
	case int64(len(records)) < prefixSize+length:
		return nil, records, ErrTruncated
	}
	end := prefixSize + int(length)
	b, rest = b[:end:end], records[end:]
	if magic < 2 {
		return b, rest, fmt.Errorf("read message at offset %d: %w", b.BaseOffset(), ErrMagic)
	}
	if err := b.check(); err != nil {
		return nil, records, err
	}
	return b, rest, nil
}

// leastLength is the smallest length field a magic may have.
func leastLength(magic byte) (int64, bool) {
	switch magic {
	case 0:
		return messageSizeV0, true
	case 1:
		return messageSizeV1, true
	case 2:
		return headerSize - prefixSize, true
	}
	return 0, false
}

// check refuses headers that contradict themselves, so that the accessors can
// be trusted.
func (b Batch) check() error {
	delta, count := b.LastOffsetDelta(), int64(b.Count())
	switch {
	case b.Codec() > Zstd:
		return b.wrong("attributes", "%d is no compression codec", b.Codec())
	case delta < 0:
		return b.wrong("last offset delta", "%d is negative", delta)
	case int64(b.BaseOffset()) > math.MaxInt64-1-int64(delta):
		return b.wrong("last offset delta", "%d goes beyond the largest offset", delta)
	case count < 0:
		return b.wrong("record count", "%d is negative", count)
	case count > int64(delta)+1:
		return b.wrong("record count", "%d records do not fit %d offsets", count, int64(delta)+1)
	}
	return nil
}

func (b Batch) wrong(field, format string, args ...any) error {
	return &FieldError{b.BaseOffset(), field, fmt.Sprintf(format, args...)}
}

// Verify compares the checksum with attributes to end, reading all of the
// batch: nil, or an error that is ErrChecksum.
func (b Batch) Verify() error {
	if sum := crc32.Checksum(b[atAttributes:], castagnoli); sum != b.CRC() {
		return fmt.Errorf("read batch at offset %d: %w: header says %08x, content is %08x", b.BaseOffset(), ErrChecksum, b.CRC(), sum)
	}
	return nil
}
