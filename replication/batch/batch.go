package batch

import (
	"encoding/binary"

	"github.com/starferry/starferry"
)

// Where the fields of a batch's header stand (KIP-98).
const (
	atBaseOffset      = 0
	atLength          = 8
	atLeaderEpoch     = 12
	atMagic           = 16
	atCRC             = 17
	atAttributes      = 21
	atLastOffsetDelta = 23
	atFirstTimestamp  = 27
	atMaxTimestamp    = 35
	atProducerID      = 43
	atProducerEpoch   = 51
	atBaseSequence    = 53
	atCount           = 57
	headerSize        = 61

	prefixSize = atLeaderEpoch // what the length field does not count
)

// Bits of the attributes.
const (
	codecMask     = 0x07
	logAppendTime = 1 << 3 // KIP-32
	transactional = 1 << 4 // KIP-98
	control       = 1 << 5 // KIP-98
	deleteHorizon = 1 << 6 // KIP-534: the first timestamp is the cleaner's horizon
)

// Batch is a view of one record batch of magic 2, header included. It aliases
// the bytes it was found in; Next and Build alone make valid ones.
type Batch []byte

// BaseOffset is the offset of the batch's first record when it was written. It
// stays when a cleaner removes that record.
func (b Batch) BaseOffset() starferry.Offset {
	return starferry.Offset(binary.BigEndian.Uint64(b[atBaseOffset:]))
}

// Length is the size of the whole batch in bytes, which is what a broker
// compares with max.message.bytes.
func (b Batch) Length() int { return len(b) }

// LeaderEpoch is the epoch of the partition leader that appended the batch.
func (b Batch) LeaderEpoch() int32 { return int32(binary.BigEndian.Uint32(b[atLeaderEpoch:])) }

// CRC is the CRC32-C that the header claims for attributes to end.
func (b Batch) CRC() uint32 { return binary.BigEndian.Uint32(b[atCRC:]) }

// Attributes are the raw attribute bits.
func (b Batch) Attributes() int16 { return int16(binary.BigEndian.Uint16(b[atAttributes:])) }

// Codec is the compression of the records.
func (b Batch) Codec() Codec { return Codec(b.Attributes() & codecMask) }

// LogAppendTime reports whether the broker set the records' time: then
// MaxTimestamp is the time of each of them (KIP-32). A broker refuses the bit
// from a producer.
func (b Batch) LogAppendTime() bool { return b.Attributes()&logAppendTime != 0 }

// Transactional reports whether the records belong to a transaction.
func (b Batch) Transactional() bool { return b.Attributes()&transactional != 0 }

// Control reports whether the batch holds a transaction marker instead of data.
func (b Batch) Control() bool { return b.Attributes()&control != 0 }

// LastOffsetDelta is LastOffset − BaseOffset.
func (b Batch) LastOffsetDelta() int32 { return int32(binary.BigEndian.Uint32(b[atLastOffsetDelta:])) }

// LastOffset is the offset of the batch's last record when it was written.
func (b Batch) LastOffset() starferry.Offset {
	return b.BaseOffset() + starferry.Offset(b.LastOffsetDelta())
}

// NextOffset is the first offset after the batch.
func (b Batch) NextOffset() starferry.Offset { return b.LastOffset() + 1 }

// FirstTimestamp is what record times are stored relative to, in Unix
// milliseconds; normally the first record's time.
func (b Batch) FirstTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[atFirstTimestamp:])) }

// MaxTimestamp is the largest record time, or the append time of all records,
// in Unix milliseconds.
func (b Batch) MaxTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[atMaxTimestamp:])) }

// ProducerID is the id of the producer, or −1 if it was not idempotent.
func (b Batch) ProducerID() int64 { return int64(binary.BigEndian.Uint64(b[atProducerID:])) }

// ProducerEpoch is the epoch of the producer, or −1.
func (b Batch) ProducerEpoch() int16 { return int16(binary.BigEndian.Uint16(b[atProducerEpoch:])) }

// BaseSequence is the sequence number of the first record, or −1.
func (b Batch) BaseSequence() int32 { return int32(binary.BigEndian.Uint32(b[atBaseSequence:])) }

// Count is the number of records in the batch; 0 if a cleaner emptied it.
func (b Batch) Count() int { return int(int32(binary.BigEndian.Uint32(b[atCount:]))) }

// Dense reports whether every offset of the batch has its record, so that it
// may be forwarded without being opened.
func (b Batch) Dense() bool { return b.Count() > 0 && b.Count() == int(b.LastOffsetDelta())+1 }
