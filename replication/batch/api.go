package batch

import (
	"errors"
	"iter"

	"github.com/starferry/starferry"
)

// Codec is a compression of records, as in the attributes.
type Codec int8

// The codecs of Kafka.
const (
	None Codec = iota
	Gzip
	Snappy
	LZ4
	Zstd
)

// What callers act on. ErrTruncated: the tail of a record set, to be fetched
// again. ErrMagic: a message of magic 0 or 1, to be given to Upgrade.
var (
	ErrTruncated = errors.New("batch is cut off")
	ErrMagic     = errors.New("message of an old format (magic 0 or 1)")
	ErrChecksum  = errors.New("checksum does not match")
	ErrTooLarge  = errors.New("too large")
)

// Next takes the first batch off a record set. At the end it returns io.EOF.
// With ErrMagic, b is the old message (for Upgrade) and rest goes on behind it.
func Next(records []byte) (b Batch, rest []byte, err error) { return nil, nil, ErrTruncated }

// Verify compares the checksum with attributes to end: nil or ErrChecksum.
func (b Batch) Verify() error { return nil }

// Upgrade rewrites a message of magic 0 or 1 (a compressed wrapper too) as a
// batch of magic 2 at the same offsets.
func Upgrade(message Batch, limit int) (Batch, error) { return nil, ErrMagic }

// Stamp makes a batch ours, in place.
func Stamp(b Batch, pid int64, epoch int16, seq int32) {}

// ClearLogAppendTime clears the LogAppendTime bit, in place.
func ClearLogAppendTime(b Batch) {}

// Header is one header of a record.
type Header struct {
	Key   string
	Value []byte // nil is null
}

// Record is one decoded record.
type Record struct {
	Offset  starferry.Offset
	Time    int64  // Unix milliseconds; −1 if it has none
	Key     []byte // nil is null
	Value   []byte // nil is null
	Headers []Header
}

// Records decodes a batch, decompressing at most limit bytes.
func Records(b Batch, limit int) iter.Seq2[Record, error] { return nil }

// Producer is the identity a batch bears.
type Producer struct {
	ID       int64
	Epoch    int16
	Sequence int32
}

// Options say how Build writes a batch.
type Options struct {
	Codec         Codec
	Producer      *Producer // nil: none
	LeaderEpoch   int32
	Transactional bool
	Control       bool
	LogAppendTime int64 // not 0: the append time of all records
	// Span is the number of offsets the batch covers, if more than up to its
	// last record.
	Span int32
}

// Build encodes records, whose offsets must ascend, as one batch.
func Build(records []Record, o Options) (Batch, error) { return nil, nil }

// Limits bound re-encoding, in bytes.
type Limits struct {
	Decompressed int // of one batch's records
	Batch        int // of one batch written: the target's max.message.bytes
}

// Copy is a dense batch for the target. The n-th record of Batch is the n-th
// offset of Offsets.
type Copy struct {
	Batch   Batch
	Offsets []starferry.Range
}

// Reencode verifies, decodes and rebuilds a batch densely; keep nil keeps all.
// No copy means that nothing was left.
func Reencode(b Batch, keep func(starferry.Offset) bool, l Limits) ([]Copy, error) { return nil, nil }

// Merge is Reencode of several batches, in order, into as few as Limits allow.
func Merge(bs []Batch, keep func(starferry.Offset) bool, l Limits) ([]Copy, error) { return nil, nil }

// AbortedTxn is an entry of a fetch response's list of aborted transactions.
type AbortedTxn struct {
	ProducerID  int64
	FirstOffset starferry.Offset
}

// Class is what a batch is to a reader of committed records.
type Class int8

// The classes.
const (
	Data Class = iota
	Aborted
	Control
)

// Filter tells aborted batches from data, for the batches of one fetch response
// in order.
type Filter struct{}

// NewFilter takes the response's list.
func NewFilter(aborted []AbortedTxn) *Filter { return nil }

// Class classes the next batch of the response.
func (f *Filter) Class(b Batch) (Class, error) { return Data, nil }

// Marker is what a control batch says.
type Marker int8

// The transaction markers.
const (
	AbortMarker  Marker = 0
	CommitMarker Marker = 1
)

// MarkerOf reads a control batch.
func MarkerOf(b Batch) (Marker, error) { return 0, nil }
