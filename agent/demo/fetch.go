package demo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/pierrec/lz4/v4"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

const (
	fetchBytes = 4 << 20
	fetchWait  = 200 // milliseconds
)

// reader reads partitions back for the demo's checks.
type reader struct {
	c   *wire.Cluster
	ids map[starferry.Topic][16]byte
}

func newReader(ctx context.Context, c *wire.Cluster, topics []starferry.Topic) (*reader, error) {
	meta, err := c.Metadata(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("read back from %s: %w", c.Name(), err)
	}
	r := &reader{c: c, ids: map[starferry.Topic][16]byte{}}
	for _, t := range topics {
		if err := meta.Topics[t].Err; err != nil {
			return nil, fmt.Errorf("read back %s from %s: %w", t, c.Name(), err)
		}
		r.ids[t] = meta.Topics[t].ID
	}
	return r, nil
}

// fetch returns the record set that begins with the batch of the given offset.
func (r *reader) fetch(ctx context.Context, tp starferry.TopicPartition, from starferry.Offset) ([]byte, error) {
	leader, _, err := r.c.Leader(ctx, tp)
	if err != nil {
		return nil, err
	}
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = fetchWait, 1, fetchBytes
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = string(tp.Topic), r.ids[tp.Topic]
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = int32(tp.Partition), int64(from), fetchBytes
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	answer, err := r.c.DoOn(ctx, leader, req)
	if err != nil {
		return nil, err
	}
	resp := answer.(*kmsg.FetchResponse)
	if resp.ErrorCode != 0 {
		return nil, wire.Code(resp.ErrorCode)
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return nil, errors.New("the answer is not about the partition asked for")
	}
	got := resp.Topics[0].Partitions[0]
	if got.ErrorCode != 0 {
		return nil, fmt.Errorf("read %s of %s at %d: %w", tp, r.c.Name(), from, kafka.Error(got.ErrorCode))
	}
	return got.RecordBatches, nil
}

// count counts the data records of a partition from offset 0 to its end.
func (r *reader) count(ctx context.Context, tp starferry.TopicPartition) (int64, error) {
	var n int64
	from, err := r.end(ctx, tp, wire.Earliest)
	if err != nil {
		return 0, err
	}
	end, err := r.end(ctx, tp, wire.Latest)
	if err != nil {
		return 0, err
	}
	for from < end {
		set, err := r.fetch(ctx, tp, from)
		if err != nil {
			return 0, err
		}
		before := from
		for _, s := range stretches(set) {
			if s.first >= from && !s.control {
				n += s.records
			}
			from = max(from, s.next)
		}
		if from == before {
			return 0, fmt.Errorf("count records of %s on %s: nothing readable at %d, and the end is %d", tp, r.c.Name(), from, end)
		}
	}
	return n, nil
}

func (r *reader) end(ctx context.Context, tp starferry.TopicPartition, at wire.At) (starferry.Offset, error) {
	ends, err := r.c.Offsets(ctx, []starferry.TopicPartition{tp}, at)
	return ends[tp], err
}

// errAtEnd says that no record stands at or after an offset.
var errAtEnd = errors.New("the log ends here")

// number returns the demo's number of the first record at or after an offset.
// Nothing is being written any more when it is called.
func (r *reader) number(ctx context.Context, tp starferry.TopicPartition, from starferry.Offset) (int64, error) {
	end, err := r.end(ctx, tp, wire.Latest)
	if err != nil {
		return 0, err
	}
	for at := from; at < end; {
		set, err := r.fetch(ctx, tp, at)
		if err != nil {
			return 0, err
		}
		before := at
		for _, s := range stretches(set) {
			n, found, err := firstNumber(set[:s.size], from)
			if err != nil {
				return 0, fmt.Errorf("read %s of %s at %d: %w", tp, r.c.Name(), from, err)
			}
			if found {
				return n, nil
			}
			at, set = max(at, s.next), set[s.size:]
		}
		if at == before {
			return 0, fmt.Errorf("read %s of %s at %d: nothing readable, and the end is %d", tp, r.c.Name(), from, end)
		}
	}
	return 0, errAtEnd
}

// firstNumber finds the number of the first record of a batch at or after an
// offset; a batch without one is passed over.
func firstNumber(raw []byte, from starferry.Offset) (int64, bool, error) {
	var b kmsg.RecordBatch
	if err := b.ReadFrom(raw); err != nil {
		return 0, false, err
	}
	if b.Attributes&attrControl != 0 {
		return 0, false, nil
	}
	records := b.Records
	if b.Attributes&7 == attrLZ4 {
		plain, err := io.ReadAll(io.LimitReader(lz4.NewReader(bytes.NewReader(records)), 64<<20))
		if err != nil {
			return 0, false, err
		}
		records = plain
	}
	for range b.NumRecords {
		length, n := binary.Varint(records)
		if n <= 0 || length < 0 || int(length)+n > len(records) {
			return 0, false, errors.New("a record is cut off")
		}
		var rec kmsg.Record
		if err := rec.ReadFrom(records[:n+int(length)]); err != nil {
			return 0, false, err
		}
		if starferry.Offset(b.FirstOffset+int64(rec.OffsetDelta)) >= from {
			num, err := numberOf(rec.Value)
			return num, true, err
		}
		records = records[n+int(length):]
	}
	return 0, false, nil
}
