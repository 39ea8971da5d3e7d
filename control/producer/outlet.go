package producer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

const (
	requestBytes = 8 << 20 // of one request, before compression
	inFlight     = 5       // requests on a connection
	ackTimeout   = 10 * time.Second
	dialTimeout  = 10 * time.Second
)

// outlet sends what one broker of a side leads.
type outlet struct {
	s      *side
	broker int32
	work   chan struct{}
	ready  chan struct{} // kicked: connect, though there is nothing to send
	slots  chan struct{}
}

func newOutlet(s *side, broker int32) *outlet {
	return &outlet{s: s, broker: broker, work: make(chan struct{}, 1), ready: make(chan struct{}, 1), slots: make(chan struct{}, inFlight)}
}

func (o *outlet) wake() {
	select {
	case o.work <- struct{}{}:
	default:
	}
}

func (o *outlet) warm() {
	select {
	case o.ready <- struct{}{}:
	default:
	}
}

// run sends until the producer ends.
func (o *outlet) run() {
	ctx := o.s.l.p.ctx
	var conn *wire.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close()
			<-conn.Done()
		}
	}()
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.ready:
			if conn == nil || conn.Err() != nil {
				conn, _ = o.dial(ctx) // if it fails, sending says why
			}
			continue
		case <-o.work:
		case <-t.C:
		}
		for ctx.Err() == nil {
			select {
			case o.slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			parcels, again := o.s.l.take(o.s, o.broker, requestBytes)
			if len(parcels) == 0 {
				<-o.slots
				if !again.IsZero() {
					t.Reset(time.Until(again))
				}
				break
			}
			conn = o.send(ctx, conn, parcels)
		}
	}
}

func (o *outlet) dial(ctx context.Context) (*wire.Conn, error) {
	short, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return o.s.w.Dial(short, o.broker)
}

// send writes one request; the answer gives its slot back.
func (o *outlet) send(ctx context.Context, conn *wire.Conn, parcels []flight) *wire.Conn {
	var err error
	if conn == nil || conn.Err() != nil {
		conn, err = o.dial(ctx)
	}
	if err == nil {
		err = o.number(ctx, parcels)
	}
	var req *kmsg.ProduceRequest
	if err == nil {
		req, parcels = o.request(parcels)
		if len(parcels) == 0 {
			<-o.slots
			return conn
		}
		err = conn.Send(req, func(resp kmsg.Response, err error) {
			<-o.slots
			o.answered(parcels, resp, err)
			o.wake()
		})
	}
	if err == nil {
		return conn
	}
	<-o.slots
	for _, f := range parcels {
		o.s.l.again(o, f, err, false)
	}
	return conn
}

// number gives each parcel its identity and sequence. One that was sent before
// keeps them, or it would be written twice.
func (o *outlet) number(ctx context.Context, parcels []flight) error {
	l, name := o.s.l, o.s.w.Name()
	for _, f := range parcels {
		l.mu.Lock()
		seq := f.k.at[name]
		l.mu.Unlock()
		if seq == nil {
			id, err := o.first(ctx, f.k)
			if err != nil {
				return err
			}
			seq = &sequence{id: id}
			l.mu.Lock()
			f.k.at[name] = seq
			l.mu.Unlock()
		}
		if !f.p.doubt {
			f.p.id, f.p.seq = seq.id, seq.next
		}
	}
	return nil
}

// first is the producer id of a lane that has none: the side's, or, if the lane
// has had that, a new one.
func (o *outlet) first(ctx context.Context, k *lane) (identity, error) {
	o.s.mu.Lock()
	id := o.s.id
	o.s.mu.Unlock()
	o.s.l.mu.Lock()
	used := k.used(o.s)
	o.s.l.mu.Unlock()
	if !used && id != (identity{}) {
		return id, nil
	}
	return o.s.fresh(ctx)
}

// request encodes the parcels. What cannot be encoded is given up and left out.
func (o *outlet) request(parcels []flight) (*kmsg.ProduceRequest, []flight) {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, int32(ackTimeout.Milliseconds())
	t := kmsg.NewProduceRequestTopic()
	t.Topic = string(o.s.l.topic)
	kept := parcels[:0]
	for _, f := range parcels {
		raw, err := f.p.batch(o.s.l.p.codec)
		if err != nil {
			o.s.l.give(o, f, err)
			continue
		}
		p := kmsg.NewProduceRequestTopicPartition()
		p.Partition, p.Records = int32(f.k.partition), raw
		t.Partitions = append(t.Partitions, p)
		kept = append(kept, f)
	}
	req.Topics = append(req.Topics, t)
	return req, kept
}

// answered runs on the connection's goroutine.
func (o *outlet) answered(parcels []flight, resp kmsg.Response, err error) {
	answers := map[int32]*kmsg.ProduceResponseTopicPartition{}
	if r, ok := resp.(*kmsg.ProduceResponse); ok && err == nil {
		for i := range r.Topics {
			for j := range r.Topics[i].Partitions {
				p := &r.Topics[i].Partitions[j]
				answers[p.Partition] = p
			}
		}
	}
	for _, f := range parcels {
		a := answers[int32(f.k.partition)]
		switch {
		case err != nil:
			o.s.l.again(o, f, err, true)
		case a == nil:
			o.s.l.again(o, f, fmt.Errorf("%w: it says nothing of %s", wire.ErrNoAnswer, o.s.l.tp(f.k.partition)), true)
		default:
			err := o.s.w.Code(kmsg.Produce, a.ErrorCode, wire.On{Topic: o.s.l.topic})
			if err != nil && a.ErrorMessage != nil {
				err = fmt.Errorf("%w (%s)", err, *a.ErrorMessage)
			}
			o.settle(f, starferry.Offset(a.BaseOffset), err)
		}
	}
}

// settle acts on the answer for one parcel.
func (o *outlet) settle(f flight, base starferry.Offset, err error) {
	l := o.s.l
	switch {
	case err == nil:
		l.written(o, f, base)
	case errors.Is(err, kafka.DuplicateSequenceNumber): // it was, and the broker does not remember where
		l.written(o, f, starferry.NoOffset)
	case errors.Is(err, kafka.MessageSizeTooLarge), errors.Is(err, kafka.RecordListTooLarge):
		l.divide(o, f, err)
	case errors.Is(err, kafka.OutOfOrderSequenceNumber), errors.Is(err, kafka.UnknownProducerId), errors.Is(err, kafka.InvalidProducerEpoch),
		errors.Is(err, kafka.InvalidProducerIDMapping), errors.Is(err, kafka.ProducerFenced):
		l.renumber(o, f, err)
	case errors.Is(err, kafka.UnknownTopicOrPartition), errors.Is(err, kafka.NotEnoughReplicas), errors.Is(err, kafka.InvalidMessage):
		l.again(o, f, err, false) // certainly not written by this try
	case passing(err):
		l.again(o, f, err, true) // a leader that stepped down, or waited in vain for followers, may have written it
	default:
		l.give(o, f, err)
	}
}

func passing(err error) bool {
	var k kafka.Error
	return errors.As(err, &k) && k.Temporary()
}
