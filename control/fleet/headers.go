package fleet

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// headerLimit bounds what is read of a topic to find out who has written it, in
// bytes.
const headerLimit = 64 << 20

// tally counts the records of each producer id between two ends of a topic's log,
// by the headers of its batches (KIP-98). Markers count as the id −2, what was
// written without an id as −1. What lies beyond the limit is not counted.
func (f *Fleet) tally(ctx context.Context, w *wire.Cluster, from, to map[starferry.TopicPartition]starferry.Offset) (map[int64]int64, error) {
	out, left := map[int64]int64{}, headerLimit
	for tp, end := range to {
		for at := from[tp]; at < end && left > 0; {
			broker, _, err := w.Leader(ctx, tp)
			if err != nil {
				return nil, err
			}
			req := kmsg.NewPtrFetchRequest()
			req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 100, 1, 8<<20, -1
			ft, fp := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
			fp.Partition, fp.FetchOffset, fp.PartitionMaxBytes = int32(tp.Partition), int64(at), 8<<20
			ft.Topic, ft.Partitions = string(tp.Topic), append(ft.Partitions, fp)
			req.Topics = append(req.Topics, ft)
			resp, err := w.DoOn(ctx, broker, req)
			if err != nil {
				return nil, err
			}
			r, ok := resp.(*kmsg.FetchResponse)
			if !ok || len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
				return nil, wire.ErrFrame
			}
			if err := w.Code(kmsg.Fetch, r.Topics[0].Partitions[0].ErrorCode, wire.On{Topic: tp.Topic}); err != nil {
				return nil, fmt.Errorf("read %s@%d on %s: %w", tp, at, w.Name(), err)
			}
			raw := r.Topics[0].Partitions[0].RecordBatches
			left -= len(raw)
			next := count(raw, at, end, out)
			if next <= at {
				break // a batch cut off, or nothing of it is left
			}
			at = next
		}
	}
	return out, nil
}

// count adds the records from an offset to an end, and says where to go on.
func count(raw []byte, from, end starferry.Offset, by map[int64]int64) starferry.Offset {
	const header = 61
	next := from
	for len(raw) >= header {
		base := starferry.Offset(binary.BigEndian.Uint64(raw))
		size := int(int32(binary.BigEndian.Uint32(raw[8:]))) + 12
		if raw[16] != 2 || size < header || size > len(raw) || base >= end {
			break
		}
		last := base + starferry.Offset(int32(binary.BigEndian.Uint32(raw[23:])))
		id := int64(binary.BigEndian.Uint64(raw[43:]))
		if binary.BigEndian.Uint16(raw[21:])&0x20 != 0 {
			id = marker
		}
		if last >= from {
			by[id] += int64(min(last, end-1) - max(base, from) + 1)
		}
		next, raw = last+1, raw[size:]
	}
	return next
}

// marker stands for the transactions' markers.
const marker = -2
