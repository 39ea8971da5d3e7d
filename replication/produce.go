package replication

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
	"github.com/starferry/starferry/internal/wire"
)

const (
	// A partition whose followers don't keep up holds an answer back this long,
	// for all partitions in the request. Then it is set apart.
	produceTimeoutMS = 5_000
	produceBytes     = 4 << 20 // of one request
	// produceGivenUp is when a broker that neither answers nor hangs up is left.
	produceGivenUp = 60 * time.Second
	// inFlight is how many requests are under way on a connection. A broker
	// works on one at a time; the others hide the way there.
	inFlight = 5
)

// sender writes all lanes of a link whose target partition one broker leads.
type sender struct {
	c      *copier
	broker int32
	slots  chan struct{}

	mu    sync.Mutex
	ready []*lane
	kick  chan struct{}
}

func newSender(c *copier, broker int32) *sender {
	return &sender{c: c, broker: broker, slots: make(chan struct{}, inFlight), kick: make(chan struct{}, 1)}
}

// offer queues a lane that has something to send. It does not block.
func (s *sender) offer(l *lane) {
	s.mu.Lock()
	s.ready = append(s.ready, l)
	s.mu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// parcel is one lane's batch in a request.
type parcel struct {
	l     *lane
	e     *entry
	term  uint64
	batch []byte
	load  *load // of the batch, until it is in a request: the lane may let it go
}

// run sends until the context ends.
func (s *sender) run(ctx context.Context) {
	var conn *wire.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close()
			<-conn.Done()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.kick:
		}
		for {
			select {
			case <-ctx.Done():
				return
			case s.slots <- struct{}{}:
			}
			parcels := s.collect()
			if len(parcels) == 0 {
				<-s.slots
				break
			}
			conn = s.send(ctx, conn, parcels)
		}
	}
}

// collect takes one batch of each ready lane, up to the size of a request.
func (s *sender) collect() []parcel {
	s.mu.Lock()
	lanes := s.ready
	s.ready = nil
	s.mu.Unlock()
	var out []parcel
	seen := make(map[*lane]bool, len(lanes))
	size := 0
	for i, l := range lanes {
		if size >= produceBytes {
			s.mu.Lock()
			s.ready = append(slices.Clone(lanes[i:]), s.ready...)
			s.mu.Unlock()
			break
		}
		if seen[l] {
			s.offer(l) // one batch of a partition in a request
			continue
		}
		seen[l] = true
		if p := l.take(); p.e != nil {
			out = append(out, p)
			size += len(p.batch)
		}
	}
	slices.SortFunc(out, func(a, b parcel) int { return a.l.to.Compare(b.l.to) })
	return out
}

// send writes one request. The lease is looked at last, so that a process that
// was frozen finds out before it writes.
func (s *sender) send(ctx context.Context, conn *wire.Conn, parcels []parcel) *wire.Conn {
	defer func() {
		for _, p := range parcels {
			p.load.drop()
		}
	}()
	var err error
	if conn == nil || conn.Err() != nil {
		conn, err = dial(ctx, s.c.tgt, s.broker)
	}
	if err == nil && !s.c.lease.Valid() {
		err = errLease
	}
	if err == nil {
		req := newProduce()
		for _, p := range parcels {
			addProduce(req, p.l.to, p.batch)
		}
		cn := conn
		late := time.AfterFunc(produceGivenUp, func() { _ = cn.Close() })
		err = conn.Send(req, func(resp kmsg.Response, err error) {
			late.Stop()
			<-s.slots
			s.answered(parcels, resp, err)
		})
	}
	if err == nil {
		return conn
	}
	if conn != nil && !errors.Is(err, errLease) {
		_ = conn.Close()
	}
	<-s.slots
	if ctx.Err() == nil {
		s.failed(parcels, err)
	}
	return conn
}

func (s *sender) failed(parcels []parcel, err error) {
	err = fmt.Errorf("produce to broker %d of %s: %w", s.broker, s.c.spec.Target, err)
	for _, p := range parcels {
		s.c.tgt.Forget(p.l.to.Topic)
		p.l.repeat(p.term, p.e, err)
	}
}

// answered runs on the connection's goroutine and must not block.
func (s *sender) answered(parcels []parcel, resp kmsg.Response, err error) {
	r, ok := resp.(*kmsg.ProduceResponse)
	if err != nil || !ok {
		s.failed(parcels, errors.Join(err))
		return
	}
	parts := make(map[starferry.TopicPartition]*kmsg.ProduceResponseTopicPartition, len(parcels))
	for i := range r.Topics {
		t := &r.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			parts[starferry.TopicPartition{Topic: starferry.Topic(t.Topic), Partition: starferry.Partition(p.Partition)}] = p
		}
	}
	for _, p := range parcels {
		a := parts[p.l.to]
		if a == nil {
			s.failed([]parcel{p}, wire.ErrNoAnswer)
			continue
		}
		s.settle(p, a)
	}
}

// settle acts on the answer for one batch.
func (s *sender) settle(p parcel, a *kmsg.ProduceResponseTopicPartition) {
	err := s.c.tgt.Code(kmsg.Produce, a.ErrorCode, wire.On{Topic: p.l.to.Topic})
	if err == nil && a.BaseOffset >= 0 {
		p.l.acked(p.term, p.e, starferry.Offset(a.BaseOffset))
		return
	}
	if err != nil && a.ErrorMessage != nil {
		err = fmt.Errorf("%w (%s)", err, *a.ErrorMessage)
	}
	at := p.e.pieces[0].source
	if errors.Is(err, kafka.RequestTimedOut) {
		p.l.setApart(p.term)
	}
	switch {
	case errors.Is(err, kafka.OutOfOrderSequenceNumber) && p.l.echo(p.term, p.e),
		err != nil && passing(err) && !errors.Is(err, kafka.InvalidMessage):
		s.failed([]parcel{p}, err)
	case errors.Is(err, kafka.MessageSizeTooLarge), errors.Is(err, kafka.RecordListTooLarge):
		if p.l.current(p.term) {
			s.c.tooLarge(p.l, at, len(p.batch), err)
		}
	case errors.Is(err, kafka.TopicAuthorizationFailed), errors.Is(err, kafka.ClusterAuthorizationFailed):
		if p.l.current(p.term) {
			p.l.stop(fmt.Errorf("produce %s to %s: %w; then ask for the link again", p.l.to, s.c.spec.Target, err))
		}
	default:
		s.c.doubt(p, at, err)
	}
}

// maxRefusals is how often a batch may be refused for what is in it: a bit that
// flipped on the way is right when the batch is fetched again.
const maxRefusals = 3

// doubt deals with a sequence or an epoch that does not fit, a checksum that a
// flipped bit has spoiled, a duplicate whose place the broker has forgotten:
// what the target holds is found out by reading it.
func (c *copier) doubt(p parcel, at starferry.Offset, err error) {
	l := p.l
	l.mu.Lock()
	if p.term != l.term {
		l.mu.Unlock()
		return
	}
	stop := false
	switch {
	case errors.Is(err, kafka.InvalidProducerEpoch), errors.Is(err, kafka.ProducerFenced), errors.Is(err, kafka.Unknown),
		errors.Is(err, kafka.OutOfOrderSequenceNumber), errors.Is(err, kafka.DuplicateSequenceNumber), errors.Is(err, kafka.UnknownProducerId),
		errors.Is(err, kafka.InvalidTransactionState): // a fence of the bucket's is under way
	default:
		stop = l.refused.again(at) >= maxRefusals
	}
	l.mu.Unlock()
	err = fmt.Errorf("produce %s, source offset %d, to %s: %w", l.tp, at, c.spec.Target, err)
	if stop {
		l.stop(fmt.Errorf("%w; refused %d times: look at the batch on %s and at the settings of topic %s on %s, then ask for the link again",
			err, maxRefusals, c.spec.Source, l.to.Topic, c.spec.Target))
		return
	}
	l.halt(Recovering, err.Error())
	l.bucket.refence(l, err)
}

func newProduce() *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Acks = -1
	req.TimeoutMillis = produceTimeoutMS
	return req
}

// addProduce adds a batch; those of one topic must follow each other.
func addProduce(req *kmsg.ProduceRequest, tp starferry.TopicPartition, records []byte) {
	n := len(req.Topics)
	if n == 0 || req.Topics[n-1].Topic != string(tp.Topic) {
		t := kmsg.NewProduceRequestTopic()
		t.Topic = string(tp.Topic)
		req.Topics = append(req.Topics, t)
		n++
	}
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition = int32(tp.Partition)
	p.Records = records
	req.Topics[n-1].Partitions = append(req.Topics[n-1].Partitions, p)
}

// dial bounds the time a connection may take.
func dial(ctx context.Context, c *wire.Cluster, broker int32) (*wire.Conn, error) {
	short, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return c.Dial(short, broker)
}
