package records

import (
	"hash/crc32"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Encode writes records as one uncompressed batch (magic 2, KIP-98) of no
// producer. Their offsets are left to the broker.
func Encode(rs []Record) []byte {
	return encode(rs, kmsg.RecordBatch{ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1})
}

// EncodeTxn is Encode for the transaction of a producer; sequence is the number
// of its first record in that partition, counted since the producer's epoch
// began.
func EncodeTxn(rs []Record, producer int64, epoch int16, sequence int32) []byte {
	return encode(rs, kmsg.RecordBatch{Attributes: transactional, ProducerID: producer, ProducerEpoch: epoch, FirstSequence: sequence})
}

const transactional = 0x10

func encode(rs []Record, b kmsg.RecordBatch) []byte {
	if len(rs) == 0 {
		return nil
	}
	b.PartitionLeaderEpoch, b.Magic, b.LastOffsetDelta, b.NumRecords = -1, 2, int32(len(rs)-1), int32(len(rs))
	b.FirstTimestamp, b.MaxTimestamp = rs[0].Timestamp, rs[0].Timestamp
	for i, r := range rs {
		b.MaxTimestamp = max(b.MaxTimestamp, r.Timestamp)
		k := kmsg.Record{TimestampDelta64: r.Timestamp - b.FirstTimestamp, OffsetDelta: int32(i), Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			k.Headers = append(k.Headers, kmsg.Header(h))
		}
		k.Length = int32(len(k.AppendTo(nil)) - 1) // the length 0 that AppendTo put there takes one byte
		b.Records = k.AppendTo(b.Records)
	}
	raw := b.AppendTo(nil)
	b.Length = int32(len(raw) - 12) // what follows base offset and length
	raw = b.AppendTo(raw[:0])
	b.CRC = int32(crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli))) // attributes to end
	return b.AppendTo(raw[:0])
}
