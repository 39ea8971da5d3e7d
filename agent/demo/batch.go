package demo

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"

	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
)

// The demo writes its own batches and reads nothing through the code it checks.

const (
	attrLZ4     = 3
	attrControl = 1 << 5
	headerBytes = 61
)

// valueOf is what the n-th record of a partition holds.
func valueOf(tp starferry.TopicPartition, n int64) []byte {
	b := make([]byte, 0, 128)
	b = append(b, `{"n":`...)
	b = strconv.AppendInt(b, n, 10)
	b = append(b, `,"from":"`...)
	b = append(b, tp.String()...)
	b = append(b, `","pad":"starferry starferry starferry starferry starferry"}`...)
	return b
}

// numberOf reads back the number that valueOf wrote.
func numberOf(value []byte) (int64, error) {
	rest, ok := strings.CutPrefix(string(value), `{"n":`)
	digits, _, ok2 := strings.Cut(rest, ",")
	if !ok || !ok2 {
		return 0, errors.New("not a record of the demo")
	}
	return strconv.ParseInt(digits, 10, 64)
}

// identity is what makes produce requests idempotent.
type identity struct {
	id    int64
	epoch int16
}

// encode builds one batch of the records [from, from+len(keys)) of a partition.
// The sequence number of a record is its number.
func encode(who identity, tp starferry.TopicPartition, from int64, keys []string, compress bool, at time.Time) ([]byte, error) {
	var records []byte
	for i, key := range keys {
		r := kmsg.Record{OffsetDelta: int32(i), Key: []byte(key), Value: valueOf(tp, from+int64(i))}
		r.Length = int32(len(r.AppendTo(nil)) - 1) // the length itself takes one byte while it is 0
		records = r.AppendTo(records)
	}
	b := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2,
		LastOffsetDelta: int32(len(keys) - 1),
		FirstTimestamp:  at.UnixMilli(), MaxTimestamp: at.UnixMilli(),
		ProducerID: who.id, ProducerEpoch: who.epoch, FirstSequence: int32(from & 0x7fffffff),
		NumRecords: int32(len(keys)), Records: records,
	}
	if compress {
		var out bytes.Buffer
		w := lz4.NewWriter(&out)
		if _, err := w.Write(records); err != nil {
			return nil, fmt.Errorf("compress records of %s: %w", tp, err)
		}
		if err := w.Close(); err != nil {
			return nil, fmt.Errorf("compress records of %s: %w", tp, err)
		}
		b.Attributes, b.Records = attrLZ4, out.Bytes()
	}
	raw := b.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw, nil
}

// stretch is one batch as it lies in a log.
type stretch struct {
	size        int // bytes
	first, next starferry.Offset
	records     int64
	control     bool
}

// stretches lists the whole batches of a fetched record set. A batch cut off by
// the fetch's limit is left out.
func stretches(set []byte) []stretch {
	var out []stretch
	for len(set) >= headerBytes {
		size := int(int32(binary.BigEndian.Uint32(set[8:]))) + 12
		if size < headerBytes || size > len(set) {
			break
		}
		first := starferry.Offset(binary.BigEndian.Uint64(set))
		last := int32(binary.BigEndian.Uint32(set[23:]))
		out = append(out, stretch{
			size: size, first: first, next: first + starferry.Offset(last) + 1,
			records: int64(int32(binary.BigEndian.Uint32(set[57:]))),
			control: binary.BigEndian.Uint16(set[21:])&attrControl != 0,
		})
		set = set[size:]
	}
	return out
}
