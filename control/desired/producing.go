package desired

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// The buckets of producers: what they should be doing, by topic, and what each
// says of itself.
const (
	ProducersBucket = "starferry_producers"
	ProducingBucket = "starferry_producing"
)

// Producing is the part of the store that is about producers. It is safe for
// concurrent use.
type Producing struct {
	s            *Store
	wanted, live *bucket
}

// Producing returns it. The buckets are made when they are first used.
func (s *Store) Producing() *Producing {
	return &Producing{
		s: s,
		wanted: &bucket{s: s, cfg: jetstream.KeyValueConfig{
			Bucket: ProducersBucket, Description: "starferry: where the producers of topics should write",
			History: 16, Storage: jetstream.FileStorage, Replicas: s.o.Replicas, RePublish: republish(ProducersBucket),
		}},
		live: &bucket{s: s, cfg: jetstream.KeyValueConfig{
			Bucket: ProducingBucket, Description: "starferry: what producers say of themselves",
			History: 1, TTL: s.o.LeaseTTL, Storage: jetstream.MemoryStorage, Replicas: s.o.Replicas,
		}},
	}
}

func topicKey(t starferry.Topic) (string, error) {
	if t == "" {
		return "", errors.New("desired state: the topic has no name")
	}
	return EncodeKey(string(t)), nil
}

// Placement reads the placement of a topic's producers and its revision. A topic
// without one is ErrNotFound, revision 0.
func (p *Producing) Placement(ctx context.Context, t starferry.Topic) (v control.TopicPlacement, rev uint64, err error) {
	key, err := topicKey(t)
	if err != nil {
		return v, 0, err
	}
	e, err := p.wanted.get(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return v, 0, ErrNotFound
	}
	if err == nil {
		err = decode(ProducersBucket, key, e.value, &v)
	}
	if rev = e.revision; err != nil {
		return v, rev, fmt.Errorf("read placement of producers of %s: %w", t, err)
	}
	return v, rev, nil
}

// Put writes a placement if the stored revision is still expect (0: nothing is
// stored) and returns the new one. A lost race is ErrConflict.
func (p *Producing) Put(ctx context.Context, v control.TopicPlacement, expect uint64) (rev uint64, err error) {
	key, err := topicKey(v.Topic)
	if err != nil {
		return 0, err
	}
	v.Version = control.ProtocolVersion
	data, err := json.Marshal(v)
	if err != nil {
		return 0, fmt.Errorf("write placement of producers of %s: %w", v.Topic, err)
	}
	err = p.wanted.do(ctx, func(kv jetstream.KeyValue) (err error) {
		if expect == 0 {
			rev, err = kv.Create(ctx, key, data)
		} else {
			rev, err = kv.Update(ctx, key, data, expect)
		}
		return err
	})
	if lostRace(err) {
		err = fmt.Errorf("%w (expected revision %d)", ErrConflict, expect)
	}
	if err != nil {
		return 0, fmt.Errorf("write placement of producers of %s: %w", v.Topic, err)
	}
	return rev, nil
}

// Watch calls f with the placement of a topic's producers, nil if there is none:
// once when it has been read, then after every change. What cannot be read is
// told as an error. It blocks until ctx ends and survives the loss of NATS.
func (p *Producing) Watch(ctx context.Context, t starferry.Topic, f func(*control.TopicPlacement, uint64, error)) error {
	key, err := topicKey(t)
	if err != nil {
		return err
	}
	return p.s.heed(ctx, p.wanted, []string{key}, func(all map[string]entry) {
		e, ok := all[key]
		if !ok {
			f(nil, 0, nil)
			return
		}
		v := new(control.TopicPlacement)
		if err := decode(ProducersBucket, key, e.value, v); err != nil {
			f(nil, e.revision, err)
			return
		}
		f(v, e.revision, nil)
	})
}

func producerKey(l control.ProducerLease) string {
	return EncodeKey(string(l.Topic)) + "." + EncodeKey(l.Boot)
}

// PutLease renews the lease of one process for one topic.
func (p *Producing) PutLease(ctx context.Context, l control.ProducerLease) error {
	if l.Topic == "" || l.Boot == "" {
		return errors.New("renew lease of a producer: it names no topic or no process")
	}
	l.Version = control.ProtocolVersion
	data, err := json.Marshal(l)
	if err == nil {
		err = p.live.put(ctx, producerKey(l), data)
	}
	if err != nil {
		return fmt.Errorf("renew lease of producer %s of %s: %w", l.Instance, l.Topic, err)
	}
	return nil
}

// Leases reads the leases of all live producers of a topic, or, without a topic,
// of all, in order of their names. One that cannot be read is an error beside
// those that can.
func (p *Producing) Leases(ctx context.Context, t starferry.Topic) ([]control.ProducerLease, error) {
	filter := "*.*"
	if t != "" {
		filter = EncodeKey(string(t)) + ".*"
	}
	all, err := p.s.list(ctx, p.live, filter)
	if err != nil {
		return nil, fmt.Errorf("read leases of producers: %w", err)
	}
	return decodeProducers(all)
}

// WatchLeases calls f with the leases of a topic's producers, as Store.WatchLeases
// does for a group.
func (p *Producing) WatchLeases(ctx context.Context, t starferry.Topic, f func([]control.ProducerLease, error)) error {
	if _, err := topicKey(t); err != nil {
		return err
	}
	return p.s.follow(ctx, p.live, EncodeKey(string(t))+".*", func(all map[string]entry) { f(decodeProducers(all)) })
}

func decodeProducers(all map[string]entry) ([]control.ProducerLease, error) {
	var errs []error
	out := make([]control.ProducerLease, 0, len(all))
	for key, e := range all {
		var l control.ProducerLease
		if err := decode(ProducingBucket, key, e.value, &l); err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b control.ProducerLease) int {
		return strings.Compare(string(a.Topic)+"\x00"+string(a.Instance)+a.Boot, string(b.Topic)+"\x00"+string(b.Instance)+b.Boot)
	})
	return out, errors.Join(errs...)
}
