package bench

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/records"
	"github.com/starferry/starferry/internal/wire"
)

// Bytes of one answer, in all and of one partition.
const (
	readBytes     = 16 << 20
	readPartition = 1 << 20
)

// reader reads partitions over one connection, all of them in each request, so
// that what arrives anywhere is answered at once.
type reader struct {
	conn *wire.Conn
	at   map[starferry.TopicPartition]starferry.Offset // next to read
}

func newReader(ctx context.Context, c *wire.Cluster, from map[starferry.TopicPartition]starferry.Offset) (*reader, error) {
	conn, err := dialOnly(ctx, c)
	if err != nil {
		return nil, err
	}
	return &reader{conn: conn, at: from}, nil
}

func (r *reader) Close() error { return r.conn.Close() }

// fetched is what one answer holds of one partition.
type fetched struct {
	tp  starferry.TopicPartition
	raw []byte
}

// fetch asks once and waits for records at most so long.
func (r *reader) fetch(ctx context.Context, waitMS int32) ([]fetched, error) {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = waitMS, 1, readBytes, -1
	topics := map[starferry.Topic]int{}
	for tp, at := range r.at {
		i, ok := topics[tp.Topic]
		if !ok {
			i = len(req.Topics)
			topics[tp.Topic] = i
			t := kmsg.NewFetchRequestTopic()
			t.Topic = string(tp.Topic)
			req.Topics = append(req.Topics, t)
		}
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.PartitionMaxBytes = int32(tp.Partition), int64(at), readPartition
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, p)
	}
	answer, err := r.conn.Do(ctx, req)
	if err != nil {
		return nil, err
	}
	var out []fetched
	for _, t := range answer.(*kmsg.FetchResponse).Topics {
		for _, p := range t.Partitions {
			tp := starferry.TopicPartition{Topic: starferry.Topic(t.Topic), Partition: starferry.Partition(p.Partition)}
			if err := wire.Code(p.ErrorCode); err != nil {
				return nil, fmt.Errorf("read %s: %w", tp, err)
			}
			if len(p.RecordBatches) > 0 {
				out = append(out, fetched{tp, p.RecordBatches})
			}
		}
	}
	return out, nil
}

// decode hands on the records of an answer and moves on behind them.
func (r *reader) decode(f fetched, each func(starferry.TopicPartition, records.Record) error) error {
	all, next, err := records.Decode(f.raw, int64(r.at[f.tp]), nil)
	if err != nil {
		return fmt.Errorf("read %s: %w", f.tp, err)
	}
	r.at[f.tp] = starferry.Offset(next)
	for _, rec := range all {
		if err := each(f.tp, rec); err != nil {
			return err
		}
	}
	return nil
}

// readAll hands on every record from the given offsets to the partitions' ends
// as they are now.
func readAll(ctx context.Context, c *wire.Cluster, from map[starferry.TopicPartition]starferry.Offset, each func(starferry.TopicPartition, records.Record) error) (err error) {
	var tps []starferry.TopicPartition
	left := map[starferry.TopicPartition]starferry.Offset{}
	for tp, at := range from {
		tps = append(tps, tp)
		left[tp] = at
	}
	to, err := c.Offsets(ctx, tps, wire.Latest)
	if err != nil {
		return err
	}
	r, err := newReader(ctx, c, left)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for {
		for tp, at := range left {
			if at >= to[tp] {
				delete(left, tp)
			}
		}
		if len(left) == 0 {
			return nil
		}
		got, err := r.fetch(ctx, 500)
		if err != nil {
			return err
		}
		for _, f := range got {
			if err := r.decode(f, each); err != nil {
				return err
			}
		}
	}
}
