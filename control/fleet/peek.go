package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/records"
	"github.com/starferry/starferry/internal/wire"
)

// Peeked is a record somebody looked at.
type Peeked struct {
	Partition starferry.TopicPartition
	records.Record
}

// Digest names a record's contents: key, value and headers, not its place or
// time. It tells whether two looks saw the same record.
func (p Peeked) Digest() string {
	h := sha256.New()
	part := func(b []byte) {
		n := int64(len(b))
		if b == nil {
			n = -1
		}
		binary.Write(h, binary.BigEndian, n) //nolint:errcheck // a hash takes everything
		h.Write(b)
	}
	part(p.Key)
	part(p.Value)
	for _, x := range p.Headers {
		part([]byte(x.Key))
		part(x.Value)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// peekBytes bounds one answer of a broker.
const peekBytes = 1 << 20

// Peek reads up to most records of a partition from an offset on, as consumers
// that read committed see them, and below an end if that is not 0. It changes
// nothing.
func (f *Fleet) Peek(ctx context.Context, c starferry.ClusterName, tp starferry.TopicPartition, from, below starferry.Offset, most int) ([]Peeked, error) {
	var out []Peeked
	err := f.scan(ctx, c, tp, from, below, func(rs []records.Record) (bool, error) {
		for _, r := range rs {
			if len(out) == most {
				break
			}
			out = append(out, Peeked{tp, r})
		}
		return len(out) < most, nil
	})
	if err != nil {
		return nil, fmt.Errorf("look at %s on %s from %d on: %w", tp, c, from, err)
	}
	return out, nil
}

// scan reads a partition from an offset to an end; below 0 that of what is
// committed now. take is given stretches of records and says whether to go on.
func (f *Fleet) scan(ctx context.Context, c starferry.ClusterName, tp starferry.TopicPartition, from, below starferry.Offset, take func([]records.Record) (bool, error)) error {
	w, err := f.cluster(c)
	if err != nil {
		return err
	}
	ends, err := w.Offsets(ctx, []starferry.TopicPartition{tp}, wire.LatestStable)
	if err != nil {
		return err
	}
	starts, err := w.Offsets(ctx, []starferry.TopicPartition{tp}, wire.Earliest)
	if err != nil {
		return err
	}
	if below <= 0 || below > ends[tp] {
		below = ends[tp]
	}
	for at := max(from, starts[tp]); at < below; {
		rs, next, err := fetchOnce(ctx, w, tp, at)
		if err != nil {
			return err
		}
		if next <= at {
			return fmt.Errorf("the broker answers nothing at offset %d, below the end %d; try again", at, below)
		}
		n := 0
		for n < len(rs) && starferry.Offset(rs[n].Offset) < below {
			n++
		}
		if more, err := take(rs[:n]); err != nil || !more {
			return err
		}
		at = next
	}
	return nil
}

// fetchOnce asks a partition's leader for what stands at an offset.
func fetchOnce(ctx context.Context, w *wire.Cluster, tp starferry.TopicPartition, at starferry.Offset) ([]records.Record, starferry.Offset, error) {
	broker, _, err := w.Leader(ctx, tp)
	if err != nil {
		return nil, 0, err
	}
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = int32(time.Second.Milliseconds()), 1, peekBytes
	req.IsolationLevel, req.SessionEpoch = 1, -1
	t, p := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.CurrentLeaderEpoch, p.FetchOffset, p.PartitionMaxBytes = int32(tp.Partition), -1, int64(at), peekBytes
	t.Topic, t.Partitions = string(tp.Topic), append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	answer, err := w.DoOn(ctx, broker, req)
	if err != nil {
		return nil, 0, err
	}
	resp, ok := answer.(*kmsg.FetchResponse)
	if !ok || resp.ErrorCode == 0 && (len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1) {
		return nil, 0, wire.ErrFrame
	}
	if err := wire.Code(resp.ErrorCode); err != nil {
		return nil, 0, err
	}
	fp := &resp.Topics[0].Partitions[0]
	if err := w.Code(kmsg.Fetch, fp.ErrorCode, wire.On{Topic: tp.Topic}); err != nil {
		w.Forget(tp.Topic)
		return nil, 0, err
	}
	var aborted []records.Aborted
	for _, a := range fp.AbortedTransactions {
		aborted = append(aborted, records.Aborted{Producer: a.ProducerID, First: a.FirstOffset})
	}
	rs, next, err := records.Decode(fp.RecordBatches, int64(at), aborted)
	return rs, starferry.Offset(next), err
}
