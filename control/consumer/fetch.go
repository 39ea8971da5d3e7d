package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/records"
	"github.com/starferry/starferry/internal/wire"
)

// The bounds of one fetch, in bytes.
const (
	fetchBytes     = 16 << 20
	partitionBytes = 1 << 20
)

// route finds the leaders of partitions, now and whenever they change, and sees
// to a fetch loop per broker.
func (s *session) route() {
	for s.ctx.Err() == nil {
		missing := false
		for _, p := range s.list() {
			leader, free := p.route()
			if free {
				s.wakeUp(leader)
			}
			if leader >= 0 {
				continue
			}
			leader, _, err := s.wc.Leader(s.ctx, p.tp)
			if err != nil || leader < 0 {
				missing = true
				if s.ctx.Err() == nil {
					s.c.log.Warn("find leader", "cluster", s.cluster, "partition", p.tp, "error", err)
				}
				continue
			}
			p.mu.Lock()
			p.leader = leader
			p.mu.Unlock()
			s.wakeUp(leader)
		}
		if missing {
			s.pause(100 * time.Millisecond)
			continue
		}
		s.pause(50 * time.Millisecond)
	}
}

// wakeUp makes the fetch loop of a broker look again, and starts it if there is
// none.
func (s *session) wakeUp(broker int32) {
	if broker < 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return
	}
	wake, ok := s.loops[broker]
	if !ok {
		wake = make(chan struct{}, 1)
		s.loops[broker] = wake
		s.fetchers.Add(1)
		go func() { defer s.fetchers.Done(); s.fetchFrom(broker, wake) }()
	}
	select {
	case wake <- struct{}{}:
	default:
	}
}

// fetchFrom is one long poll after another to one broker.
func (s *session) fetchFrom(broker int32, wake chan struct{}) {
	for turn := 0; s.ctx.Err() == nil; turn++ {
		req, at, waiting := s.request(broker, turn)
		if len(at) == 0 {
			select {
			case <-s.ctx.Done():
				return
			case <-wake:
			}
			continue
		}
		if waiting {
			req.MaxWaitMillis = min(req.MaxWaitMillis, 10) // a full partition may have room soon
		}
		resp, err := s.roundTrip(broker, req)
		if err != nil {
			if s.ctx.Err() == nil {
				s.c.log.Warn("fetch", "cluster", s.cluster, "broker", broker, "error", err)
				s.lostBroker(broker)
				s.pause(100 * time.Millisecond)
			}
			continue
		}
		if s.take(resp, at) {
			s.pause(50 * time.Millisecond)
		}
	}
}

// request asks for all partitions of a broker that have room.
func (s *session) request(broker int32, turn int) (*kmsg.FetchRequest, map[starferry.TopicPartition]starferry.Offset, bool) {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = int32(s.c.cfg.FetchWait.Milliseconds()), 1, fetchBytes
	req.IsolationLevel, req.SessionEpoch = 1, -1
	at := map[starferry.TopicPartition]starferry.Offset{}
	waiting := false
	var ready []*part
	for _, p := range s.list() {
		p.mu.Lock()
		mine := p.leader == broker && !p.halted && p.barred.IsZero()
		if mine && p.full {
			waiting = true
		} else if mine {
			ready = append(ready, p)
			at[p.tp] = p.fetchAt
		}
		p.mu.Unlock()
	}
	slices.SortFunc(ready, func(a, b *part) int { return a.tp.Compare(b.tp) })
	for i := range ready {
		p := ready[(i+turn)%len(ready)] // the broker fills partitions in this order
		if n := len(req.Topics); n == 0 || req.Topics[n-1].Topic != string(p.tp.Topic) {
			t := kmsg.NewFetchRequestTopic()
			t.Topic = string(p.tp.Topic)
			req.Topics = append(req.Topics, t)
		}
		fp := kmsg.NewFetchRequestTopicPartition()
		fp.Partition, fp.CurrentLeaderEpoch = int32(p.tp.Partition), -1
		fp.FetchOffset, fp.PartitionMaxBytes = int64(at[p.tp]), partitionBytes
		t := &req.Topics[len(req.Topics)-1]
		t.Partitions = append(t.Partitions, fp)
	}
	return req, at, waiting
}

// roundTrip sends a fetch and waits for its answer, or abandons it with its
// connection: a drain never waits for a long poll.
func (s *session) roundTrip(broker int32, req *kmsg.FetchRequest) (*kmsg.FetchResponse, error) {
	conn, err := s.conns.get(s.ctx, broker)
	if err != nil {
		return nil, err
	}
	resp, err := conn.Do(s.ctx, req)
	if err != nil {
		conn.Close() //nolint:errcheck // given up
		s.conns.warm()
		return nil, err
	}
	s.conns.put(broker, conn)
	out, ok := resp.(*kmsg.FetchResponse)
	if !ok {
		return nil, wire.ErrFrame
	}
	return out, wire.Code(out.ErrorCode)
}

// lostBroker has the leaders of a broker's partitions looked up again.
func (s *session) lostBroker(broker int32) {
	for _, p := range s.list() {
		p.mu.Lock()
		if p.leader == broker {
			p.leader = -1
			s.wc.Forget(p.tp.Topic)
		}
		p.mu.Unlock()
	}
}

// take queues what a fetch brought; true if some partition could not be read.
func (s *session) take(resp *kmsg.FetchResponse, at map[starferry.TopicPartition]starferry.Offset) (troubled bool) {
	for _, t := range resp.Topics {
		for i := range t.Partitions {
			fp := &t.Partitions[i]
			tp := starferry.TopicPartition{Topic: starferry.Topic(t.Topic), Partition: starferry.Partition(fp.Partition)}
			s.mu.Lock()
			p := s.parts[tp]
			s.mu.Unlock()
			if p == nil {
				continue
			}
			if fp.ErrorCode != 0 {
				troubled = true
				s.partitionError(p, at[tp], fp)
				continue
			}
			var aborted []records.Aborted
			for _, a := range fp.AbortedTransactions {
				aborted = append(aborted, records.Aborted{Producer: a.ProducerID, First: a.FirstOffset})
			}
			recs, next, err := records.Decode(fp.RecordBatches, int64(at[tp]), aborted)
			if err != nil {
				troubled = true
				s.c.log.Error("read records", "cluster", s.cluster, "partition", tp, "error", err)
			}
			end := fp.HighWatermark
			if fp.LastStableOffset >= 0 {
				end = min(end, fp.LastStableOffset)
			}
			p.add(at[tp], recs, starferry.Offset(next), starferry.Offset(end))
		}
	}
	return troubled
}

func (s *session) partitionError(p *part, at starferry.Offset, fp *kmsg.FetchResponseTopicPartition) {
	err := s.wc.Code(kmsg.Fetch, fp.ErrorCode, wire.On{Topic: p.tp.Topic})
	switch {
	case errors.Is(err, kafka.OffsetOutOfRange):
		s.outOfRange(p, at)
		return
	case errors.Is(err, kafka.TopicAuthorizationFailed):
		s.refuse(p, fmt.Sprintf("%s on %s stands still: %v", p.tp, s.cluster, err))
		return
	}
	s.c.log.Warn("fetch", "cluster", s.cluster, "partition", p.tp, "error", err)
	p.mu.Lock()
	p.leader = -1
	p.mu.Unlock()
	s.wc.Forget(p.tp.Topic)
}

// lookAgain is how long a partition that is out of range is left alone.
const lookAgain = time.Second

// outOfRange: retention has overtaken the group, or the log was cut short. The
// answer to the fetch does not say where the log begins, so that is asked. The
// other partitions of the broker are fetched meanwhile.
func (s *session) outOfRange(p *part, at starferry.Offset) {
	ctx, cancel := context.WithTimeout(s.ctx, lookAgain)
	defer cancel()
	got, err := s.wc.Offsets(ctx, []starferry.TopicPartition{p.tp}, wire.Earliest)
	start, known := got[p.tp]
	switch {
	case err != nil || !known:
		if s.ctx.Err() == nil {
			s.c.log.Warn("find the start of a partition", "cluster", s.cluster, "partition", p.tp, "error", err)
		}
		p.bar("")
	case start <= at:
		s.refuse(p, fmt.Sprintf("%s on %s stands still: offset %d lies beyond the end of the log, which was cut short; set the group's offset and restart", p.tp, s.cluster, at))
	case s.c.cfg.Start == Refuse:
		s.refuse(p, fmt.Sprintf("%s on %s stands still: records %d to %d were deleted by retention before they were read, and the start policy refuses to pass them; set the group's offset, or Start, and restart", p.tp, s.cluster, at, start-1))
	default:
		if !p.jump(at, start) {
			p.bar("") // what was fetched before is handled first
			return
		}
		s.c.log.Error("records were deleted by retention before they were read", "cluster", s.cluster, "partition", p.tp, "from", at, "to", start)
	}
}

// refuse leaves a partition where it is and says so, in the log and the lease.
func (s *session) refuse(p *part, why string) {
	if p.bar(why) {
		s.c.log.Error("partition refused", "cluster", s.cluster, "reason", why)
		s.c.post(s.c.publish)
	}
}

// connections keeps fetch connections to one cluster warm: on a standby they
// are what a switch does not have to wait for.
type connections struct {
	c  *Consumer
	wc *wire.Cluster

	mu     sync.Mutex
	idle   map[int32][]*wire.Conn
	busy   bool // warming
	cold   bool // what was warm has died
	closed bool
}

func newConnections(c *Consumer, wc *wire.Cluster) *connections {
	return &connections{c: c, wc: wc, idle: map[int32][]*wire.Conn{}}
}

func (k *connections) get(ctx context.Context, broker int32) (*wire.Conn, error) {
	k.mu.Lock()
	for list := k.idle[broker]; len(list) > 0; list = k.idle[broker] {
		conn := list[len(list)-1]
		k.idle[broker] = list[:len(list)-1]
		if conn.Err() == nil {
			k.mu.Unlock()
			return conn, nil
		}
	}
	k.mu.Unlock()
	return k.wc.Dial(ctx, broker)
}

func (k *connections) put(broker int32, conn *wire.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed || len(k.idle[broker]) >= 2 {
		conn.Close() //nolint:errcheck // not needed
		return
	}
	k.idle[broker] = append(k.idle[broker], conn)
}

// warm sees to an idle connection to every broker, and to known leaders.
func (k *connections) warm() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed || k.busy || k.c.closing() {
		return
	}
	k.busy = true
	k.c.spawn(func() {
		defer func() { k.mu.Lock(); k.busy = false; k.mu.Unlock() }()
		md, err := k.wc.Metadata(k.c.ctx, k.c.cfg.Topics...)
		if err != nil {
			return // warmth is a favour, not a duty
		}
		leaders := map[int32]bool{}
		for _, t := range md.Topics {
			for _, p := range t.Partitions {
				leaders[p.Leader] = p.Leader >= 0
			}
		}
		for broker, ok := range leaders {
			k.mu.Lock()
			have := len(k.idle[broker])
			k.mu.Unlock()
			if !ok || have > 0 {
				continue
			}
			conn, err := k.wc.Dial(k.c.ctx, broker)
			if err != nil {
				return
			}
			k.put(broker, conn)
		}
		k.mu.Lock()
		k.cold = false
		k.mu.Unlock()
	})
}

// tend warms again what has died: a broker closes connections that say nothing
// for long (connections.max.idle.ms, 10 minutes), and it restarts.
func (k *connections) tend() {
	k.mu.Lock()
	for broker, list := range k.idle {
		live := slices.DeleteFunc(list, func(c *wire.Conn) bool { return c.Err() != nil })
		k.cold = k.cold || len(live) == 0 && len(list) > 0
		k.idle[broker] = live
	}
	cold := k.cold
	k.mu.Unlock()
	if cold {
		k.warm()
	}
}

func (k *connections) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	for _, list := range k.idle {
		for _, conn := range list {
			conn.Close() //nolint:errcheck // closing
		}
	}
}
