package replication

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/batch"
)

// loop keeps copies from travelling back. Where two links lead between the same
// two topics, each leaves out what the other wrote: holes with the reason
// returned. Nothing is added to records for this, and nothing is declared: the
// state topic of the cluster a batch is read from says which link wrote it, and
// from which topic. What any other link wrote is data like everybody's.
//
// Why no copy is ever mistaken for a record of the cluster's own: a bucket's
// claim of its producer id, and the anchor of its epoch on the lane, are
// acknowledged before the first batch under them is sent. A batch that has been
// fetched is younger than both, so a look at the state topic that begins after
// the fetch finds them. An id that such a look does not find is not ours, and
// never will be: clusters do not give an id out twice. So it takes one look for
// each producer id, and the answer is the same whenever it is asked.
type loop struct {
	c        *copier
	from, to starferry.Topic // on the source, and on the target

	mu      sync.RWMutex
	foreign map[int64]bool         // ids that are no link's
	ours    map[wire.Producer]bool // of links; true: from the target topic itself
}

// maxForeign bounds what a loop remembers of producers that come and go.
const maxForeign = 1 << 16

func newLoop(c *copier, from, to starferry.Topic) *loop {
	return &loop{c: c, from: from, to: to, foreign: map[int64]bool{}, ours: map[wire.Producer]bool{}}
}

// read turns what a fetch returned into entries, as classify does, after it has
// found out about all producers. A halting error is about the records; any other
// is worth a second try.
func (r rules) read(ctx context.Context, p *kmsg.FetchResponseTopicPartition, from starferry.Offset) ([]*entry, error) {
	if r.loop != nil {
		if err := r.loop.meet(ctx, p.RecordBatches); err != nil {
			return nil, err
		}
	}
	es, err := classify(p, from, r)
	if err != nil {
		err = halting{err}
	}
	return es, err
}

// returned reports whether a batch is a copy of what the target topic has.
func (l *loop) returned(b batch.Batch) (bool, error) {
	if l == nil || b.ProducerID() < 0 {
		return false, nil
	}
	back, known := l.recall(producerOf(b))
	if !known {
		return false, fmt.Errorf("batch at offset %d: nobody has looked up its producer id %d", b.BaseOffset(), b.ProducerID())
	}
	return back, nil
}

func (l *loop) recall(p wire.Producer) (back, known bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.foreign[p.ID] {
		return false, true
	}
	back, known = l.ours[p]
	return back, known
}

func producerOf(b batch.Batch) wire.Producer {
	return wire.Producer{ID: b.ProducerID(), Epoch: b.ProducerEpoch()}
}

// meet finds out about the producers of a record set. What is wrong with the
// set itself is for its reader to say.
func (l *loop) meet(ctx context.Context, set []byte) error {
	var strange []wire.Producer
	for {
		b, rest, err := batch.Next(set)
		if err != nil && !errors.Is(err, batch.ErrMagic) {
			break
		}
		set = rest
		if err != nil || b.Control() || b.ProducerID() < 0 {
			continue // messages of old formats have no producer
		}
		p := producerOf(b)
		if _, known := l.recall(p); !known && !slices.Contains(strange, p) {
			strange = append(strange, p)
		}
	}
	if len(strange) == 0 {
		return nil
	}
	return l.judge(ctx, strange)
}

// judge looks producers up, after they have been met.
func (l *loop) judge(ctx context.Context, strange []wire.Producer) error {
	if err := l.c.origin.Look(ctx, l.from); err != nil {
		return fmt.Errorf("find out who wrote topic %s of %s: %w", l.from, l.c.spec.Source, err)
	}
	var t *lives
	for _, p := range strange {
		claims, anchors := l.c.origin.Written(p.ID)
		if len(claims) == 0 {
			l.learn(func() { l.foreign[p.ID] = true })
			continue
		}
		if t == nil {
			var err error
			if t, err = l.lives(ctx); err != nil {
				return err
			}
		}
		back, err := t.returned(p, anchors)
		if err != nil {
			return stopf("topic %s of %s has records under producer id %d epoch %d of link %s, and topic %s there does not say where they came from; was it emptied? Make the copies of that link anew before they are copied on",
				l.from, l.c.spec.Source, p.ID, p.Epoch, claims[0].Link, stateTopic)
		}
		l.learn(func() { l.ours[p] = back })
	}
	return nil
}

func (l *loop) learn(what func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.foreign)+len(l.ours) >= maxForeign {
		clear(l.foreign)
		clear(l.ours)
	}
	what()
}

// lives are the two topics of a lane with their ids, "" where a cluster has none
// (before Kafka 2.8): then names have to do.
type lives struct {
	from, to     starferry.Topic
	fromID, toID string
	target       starferry.ClusterName
}

func (l *loop) lives(ctx context.Context) (*lives, error) {
	src, err := l.c.src.Metadata(ctx, l.from)
	if err != nil {
		return nil, fmt.Errorf("look up topic %s on %s: %w", l.from, l.c.spec.Source, err)
	}
	tgt, err := l.c.tgt.Metadata(ctx, l.to)
	if err != nil {
		return nil, fmt.Errorf("look up topic %s on %s: %w", l.to, l.c.spec.Target, err)
	}
	return &lives{from: l.from, to: l.to, fromID: topicID(src, l.from), toID: topicID(tgt, l.to), target: l.c.spec.Target}, nil
}

var errNotSaid = errors.New("no anchor")

// returned reports whether what a producer of ours wrote to the source topic it
// had copied from the target topic. An anchor of the very epoch decides; where
// it was dropped, because the log has since forgotten its records, one of
// another epoch of the same bucket says the same.
func (t *lives) returned(p wire.Producer, anchors []anchor) (bool, error) {
	anchors = slices.DeleteFunc(anchors, func(a anchor) bool { return !t.wroteHere(a) })
	if i := slices.IndexFunc(anchors, func(a anchor) bool { return a.Epoch == p.Epoch }); i >= 0 {
		return t.readThere(anchors[i]), nil
	}
	if len(anchors) == 0 {
		return false, errNotSaid
	}
	return t.readThere(anchors[0]), nil
}

func (t *lives) wroteHere(a anchor) bool {
	if a.TargetTopic != "" && t.fromID != "" {
		return a.TargetTopic == t.fromID
	}
	return a.To.Topic == t.from
}

func (t *lives) readThere(a anchor) bool {
	if a.SourceTopic != "" && t.toID != "" {
		return a.SourceTopic == t.toID
	}
	return a.From == t.target && a.Lane.Topic == t.to
}

// Look reads what was written since the last time, up to the end as it is when
// Look is called. A missing topic is not made: a source is only read. It then
// says that no link ever wrote to the cluster. Known is a topic that the cluster
// has: a broker that does not know it either knows nothing yet.
//
// A broker's word that the topic is missing is good: who makes it waits until
// every broker has it, before its first claim.
//
// Who asks while others look waits for the next look, which serves them all.
func (s *stateLog) Look(ctx context.Context, known starferry.Topic) error {
	arrived := s.looks.begun.Load()
	s.looks.Lock()
	defer s.looks.Unlock()
	if s.looks.done > arrived {
		return nil
	}
	n := s.looks.begun.Add(1)
	err := s.look(ctx, known)
	if err == nil {
		s.looks.done = n
	}
	return err
}

// looks numbers the looks at a state topic.
type looks struct {
	sync.Mutex
	begun atomic.Uint64
	done  uint64 // the last that succeeded
}

func (s *stateLog) look(ctx context.Context, known starferry.Topic) error {
	s.mu.Lock()
	made := s.made
	s.mu.Unlock()
	if made {
		return s.Refresh(ctx)
	}
	m, err := s.c.Metadata(ctx, stateTopic, known)
	if err != nil {
		return fmt.Errorf("look for state topic of %s: %w", s.c.Name(), err)
	}
	switch t := m.Topics[stateTopic]; {
	case len(t.Partitions) > 0:
		return s.Refresh(ctx)
	case errors.Is(t.Err, kafka.TopicAuthorizationFailed): // others may have written it
		return fmt.Errorf("look for state topic of %s, which tells copies from its own records: %w", s.c.Name(), t.Err)
	case errors.Is(t.Err, kafka.UnknownTopicOrPartition) && len(m.Topics[known].Partitions) > 0:
		return nil
	default:
		return fmt.Errorf("look for state topic of %s: a broker knows neither it nor topic %s: %w", s.c.Name(), known, t.Err)
	}
}

// looked reports whether a look has ever succeeded.
func (s *stateLog) looked() bool {
	s.looks.Lock()
	defer s.looks.Unlock()
	return s.looks.done > 0
}

// Everywhere is every anchor on the cluster.
func (s *stateLog) Everywhere() []anchor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.anchors))
}

// Written is what is known of a producer id: who claimed it, and where it began
// to write.
func (s *stateLog) Written(pid int64) (claims []claim, anchors []anchor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.claims {
		if c.PID == pid {
			claims = append(claims, c)
		}
	}
	if len(claims) == 0 {
		return nil, nil
	}
	for _, a := range s.anchors {
		if a.PID == pid {
			anchors = append(anchors, a)
		}
	}
	return claims, anchors
}

// everywhere waits until every broker of the cluster has the state topic, so
// that none can say that it is missing.
func (s *stateLog) everywhere(ctx context.Context) error {
	return again(ctx, func() error {
		m, err := s.c.Metadata(ctx) // a broker that has died leaves the list
		if err != nil {
			return err
		}
		for _, b := range m.Brokers {
			if err := s.listedBy(ctx, b.ID); err != nil {
				return fmt.Errorf("wait for broker %d to know topic %s: %w", b.ID, stateTopic, err)
			}
		}
		return nil
	})
}

func (s *stateLog) listedBy(ctx context.Context, broker int32) error {
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = kmsg.StringPtr(string(stateTopic))
	req.Topics = append(req.Topics, t)
	resp, err := s.c.DoOn(ctx, broker, req)
	if err != nil {
		return err
	}
	r, ok := resp.(*kmsg.MetadataResponse)
	if !ok || len(r.Topics) != 1 {
		return wire.ErrFrame
	}
	return s.c.Code(kmsg.Metadata, r.Topics[0].ErrorCode, wire.On{Topic: stateTopic})
}
