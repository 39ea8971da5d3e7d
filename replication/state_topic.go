package replication

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/batch"
)

// stateTopic is the compacted topic on each target cluster that says which
// producer ids are ours, and where each epoch began. It lives and dies with the
// data it describes: the map on disk and NATS may be lost without it.
const stateTopic starferry.Topic = "starferry.state"

var statePartition = starferry.TopicPartition{Topic: stateTopic}

// claim says that a bucket of a link uses a producer id. It is acknowledged
// before the id's first use.
type claim struct {
	Link   starferry.LinkName `json:"link"`
	Bucket int                `json:"bucket"`
	PID    int64              `json:"pid"`
	At     int64              `json:"at"` // Unix milliseconds
}

// anchor says at which source offset an epoch began to write a lane. It is
// acknowledged before the epoch's first record, whose sequence is 0; so the
// sequence of any batch tells its records' place among the source's.
type anchor struct {
	Link   starferry.LinkName       `json:"link"`
	From   starferry.ClusterName    `json:"from,omitempty"` // the cluster the lane reads
	Lane   starferry.TopicPartition `json:"lane"`           // there
	To     starferry.TopicPartition `json:"to,omitzero"`    // on this cluster
	PID    int64                    `json:"pid"`
	Epoch  int16                    `json:"epoch"`
	Source starferry.Offset         `json:"source"`
	Target starferry.Offset         `json:"target"` // position behind the fence's marker
	// Seq is the sequence of the epoch's next record here: 0 where it began; what
	// was written along the way is a mark.
	Seq int32 `json:"seq,omitempty"`
	// The topics' ids, or "" where a cluster has none.
	SourceTopic string `json:"source_topic,omitempty"`
	TargetTopic string `json:"target_topic,omitempty"`
	At          int64  `json:"at"` // Unix milliseconds
	// Ways is what the link does to records, "" for a plain copy.
	Ways string `json:"ways,omitempty"`
	// Gone is how many offsets before Source the source had dropped before they
	// were copied.
	Gone int64 `json:"gone,omitempty"`
	// Barred is who else had written the lane and is shut out.
	Barred barred `json:"barred,omitempty"`
}

func (c claim) key() string {
	return fmt.Sprintf("claim/%s/%d/%d", c.Link, c.Bucket, c.PID)
}

func (a anchor) key() string {
	if a.Seq != 0 {
		return fmt.Sprintf("anchor/%s/%s/%d/%d/%d", a.Link, a.Lane, a.PID, a.Epoch, a.Source)
	}
	return fmt.Sprintf("anchor/%s/%s/%d/%d", a.Link, a.Lane, a.PID, a.Epoch)
}

// stateLog is one target cluster's state topic, read and written.
type stateLog struct {
	c           *wire.Cluster
	replication int16

	mu      sync.Mutex
	made    bool
	next    starferry.Offset
	claims  map[string]claim
	anchors map[string]anchor

	group   sync.Mutex // guards open
	open    *writing
	flushed sync.Mutex // one flush at a time

	looks looks
}

type writing struct {
	records []batch.Record
	done    chan struct{}
	err     error
}

func newStateLog(c *wire.Cluster) *stateLog {
	return &stateLog{c: c, replication: -1, claims: map[string]claim{}, anchors: map[string]anchor{}}
}

// Refresh reads what was written since the last time, up to the end as it is
// now; a missing topic is made.
func (s *stateLog) Refresh(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.make(ctx); err != nil {
		return fmt.Errorf("read state topic of %s: %w", s.c.Name(), err)
	}
	ends, err := s.c.Offsets(ctx, []starferry.TopicPartition{statePartition}, wire.Latest)
	if err != nil {
		return fmt.Errorf("read state topic of %s: %w", s.c.Name(), err)
	}
	end := ends[statePartition]
	if end < s.next {
		// The topic was deleted and made again: what it said is gone.
		s.next, s.claims, s.anchors = 0, map[string]claim{}, map[string]anchor{}
	}
	for s.next < end {
		p, err := fetchOnce(ctx, s.c, statePartition, s.next, glance{waitMS: 100, maxBytes: 8 << 20})
		if errors.Is(err, kafka.OffsetOutOfRange) && p != nil && starferry.Offset(p.LogStartOffset) > s.next {
			s.next = starferry.Offset(p.LogStartOffset)
			continue
		}
		if err != nil {
			return fmt.Errorf("read state topic: %w", err)
		}
		if err := s.take(p.RecordBatches); err != nil {
			return fmt.Errorf("read state topic of %s at offset %d: %w", s.c.Name(), s.next, err)
		}
	}
	return nil
}

func (s *stateLog) make(ctx context.Context) error {
	if s.made {
		return nil
	}
	m, err := s.c.Metadata(ctx, stateTopic)
	if err != nil {
		return err
	}
	if t := m.Topics[stateTopic]; len(t.Partitions) > 0 && t.Err == nil {
		s.made = true
		return nil
	}
	err = s.c.CreateTopic(ctx, wire.TopicSpec{
		Topic: stateTopic, Partitions: 1, Replication: s.replication,
		Configs: map[string]string{"cleanup.policy": "compact"},
	})
	if err != nil && !errors.Is(err, kafka.TopicAlreadyExists) {
		return err
	}
	if err := settled(ctx, s.c, stateTopic, 1); err != nil {
		return err
	}
	if err := s.everywhere(ctx); err != nil {
		return err
	}
	s.made = true
	return nil
}

func (s *stateLog) take(set []byte) error {
	for {
		b, rest, err := batch.Next(set)
		if errors.Is(err, io.EOF) || errors.Is(err, batch.ErrTruncated) {
			return nil
		}
		if err != nil {
			return err
		}
		set = rest
		if b.NextOffset() <= s.next {
			continue
		}
		if !b.Control() {
			for r, err := range batch.Records(b, maxDecompressed) {
				if err != nil {
					return err
				}
				s.apply(string(r.Key), r.Value)
			}
		}
		s.next = b.NextOffset()
	}
}

// apply takes one record; what is not ours or of a later version is passed over.
func (s *stateLog) apply(key string, value []byte) {
	switch {
	case strings.HasPrefix(key, "claim/"):
		var c claim
		if value == nil {
			delete(s.claims, key)
		} else if json.Unmarshal(value, &c) == nil {
			s.claims[key] = c
		}
	case strings.HasPrefix(key, "anchor/"):
		var a anchor
		if value == nil {
			delete(s.anchors, key)
		} else if json.Unmarshal(value, &a) == nil {
			s.anchors[key] = a
		}
	}
}

// PIDs are the producer ids that a link has ever used on this cluster, and
// those of one of its buckets.
func (s *stateLog) PIDs(link starferry.LinkName, bucket int) (all, own map[int64]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, own = map[int64]bool{}, map[int64]bool{}
	for _, c := range s.claims {
		if c.Link != link {
			continue
		}
		all[c.PID] = true
		if c.Bucket == bucket {
			own[c.PID] = true
		}
	}
	return all, own
}

// BucketOf is the bucket of a link that uses a producer id.
func (s *stateLog) BucketOf(link starferry.LinkName, pid int64) (int, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.claims {
		if c.Link == link && c.PID == pid {
			return c.Bucket, true
		}
	}
	return 0, false
}

// Anchors are a lane's anchors in the order of the target log.
func (s *stateLog) Anchors(link starferry.LinkName, tp starferry.TopicPartition) []anchor {
	s.mu.Lock()
	defer s.mu.Unlock()
	prefix := "anchor/" + string(link) + "/" + tp.String() + "/"
	var out []anchor
	for k, a := range s.anchors {
		if strings.HasPrefix(k, prefix) {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b anchor) int {
		return cmp.Or(cmp.Compare(a.Target, b.Target), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Epoch, b.Epoch))
	})
	return out
}

// LastSign is when a bucket of a link last showed life here, Unix milliseconds.
func (s *stateLog) LastSign(link starferry.LinkName, pids map[int64]bool) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var last int64
	for _, c := range s.claims {
		if c.Link == link && pids[c.PID] {
			last = max(last, c.At)
		}
	}
	for _, a := range s.anchors {
		if a.Link == link && pids[a.PID] {
			last = max(last, a.At)
		}
	}
	return last
}

// Sign writes a claim, or says anew that its owner lives.
func (s *stateLog) Sign(ctx context.Context, c claim) error {
	return s.put(ctx, c.key(), c)
}

// Anchor writes an anchor.
func (s *stateLog) Anchor(ctx context.Context, a anchor) error {
	return s.put(ctx, a.key(), a)
}

// prune drops those of a lane's anchors that say nothing any more beside the
// newest: of epochs that wrote nothing, and of those whose every record the target
// has forgotten. Start is where the target log starts.
func (s *stateLog) prune(ctx context.Context, newest anchor, all []anchor, start starferry.Offset) error {
	for i := range len(all) - 1 {
		o, next := all[i], all[i+1]
		if o.TargetTopic != newest.TargetTopic || o.SourceTopic != newest.SourceTopic {
			continue // kept: they tell that a topic has been another one
		}
		if o.Source == next.Source || next.Target <= start {
			if err := s.put(ctx, o.key(), nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// put writes one record and returns when it is acknowledged. Records that are
// put at the same time share a request.
func (s *stateLog) put(ctx context.Context, key string, v any) error {
	var value []byte // nil deletes the key
	if v != nil {
		var err error
		if value, err = json.Marshal(v); err != nil {
			return fmt.Errorf("write state topic: %w", err)
		}
	}
	s.group.Lock()
	lead := s.open == nil
	if lead {
		s.open = &writing{done: make(chan struct{})}
	}
	w := s.open
	w.records = append(w.records, batch.Record{
		Offset: starferry.Offset(len(w.records)), Time: time.Now().UnixMilli(), Key: []byte(key), Value: value,
	})
	s.group.Unlock()
	if lead {
		s.flush(ctx, w)
	}
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *stateLog) flush(ctx context.Context, w *writing) {
	s.flushed.Lock()
	defer s.flushed.Unlock()
	s.group.Lock()
	s.open = nil
	s.group.Unlock()
	w.err = s.produce(ctx, w.records)
	if w.err == nil {
		s.mu.Lock()
		for _, r := range w.records {
			s.apply(string(r.Key), r.Value)
		}
		s.mu.Unlock()
	}
	close(w.done)
}

// produce appends records, repeating what may be repeated: a record written
// twice says the same twice.
func (s *stateLog) produce(ctx context.Context, records []batch.Record) error {
	b, err := batch.Build(records, batch.Options{})
	if err != nil {
		return fmt.Errorf("write state topic: %w", err)
	}
	return again(ctx, func() error {
		leader, _, err := s.c.Leader(ctx, statePartition)
		if err != nil {
			return fmt.Errorf("write state topic of %s: %w", s.c.Name(), err)
		}
		req := newProduce()
		addProduce(req, statePartition, b)
		resp, err := s.c.DoOn(ctx, leader, req)
		if err == nil {
			err = s.c.Denied(kmsg.Produce, produceError(resp), wire.On{Topic: stateTopic})
		}
		if err != nil {
			s.c.Forget(stateTopic)
			return fmt.Errorf("write state topic %s of %s: %w", stateTopic, s.c.Name(), err)
		}
		return nil
	})
}

func produceError(resp kmsg.Response) error {
	r, ok := resp.(*kmsg.ProduceResponse)
	if !ok || len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
		return wire.ErrFrame
	}
	return wire.Code(r.Topics[0].Partitions[0].ErrorCode)
}

// String is for logs.
func (a anchor) String() string {
	return a.Lane.String() + " source " + strconv.FormatInt(int64(a.Source), 10) + " target " + strconv.FormatInt(int64(a.Target), 10)
}

// pidList is for messages.
func pidList(m map[int64]bool) []int64 { return slices.Sorted(maps.Keys(m)) }
