package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/estate"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

// pair is the two brokers that everything is measured on.
type pair struct{ source, target *side }

// side is one cluster of the pair.
type side struct {
	address string
	broker  *kafkatest.Broker
	cluster *wire.Cluster
}

// brokerHeap is what a broker gets; with less it collects garbage instead of
// serving.
const brokerHeap = "1g"

// pair starts the brokers when they are first wanted.
func (b *bench) pair(ctx context.Context) (*pair, error) {
	if b.brokers != nil {
		return b.brokers, nil
	}
	p := &pair{}
	for _, s := range []struct {
		name string
		side **side
	}{{estate.Old, &p.source}, {estate.New, &p.target}} {
		var err error
		if *s.side, err = b.startSide(ctx, s.name); err != nil {
			return nil, errors.Join(err, p.stop())
		}
	}
	b.brokers = p
	return p, nil
}

func (b *bench) startSide(ctx context.Context, name string) (*side, error) {
	b.say("starting Kafka %s as %s", b.Kafka, name)
	broker, err := kafkatest.StartBroker(ctx, kafkatest.BrokerOptions{
		Version: b.Kafka, Jars: b.Jars, Dir: filepath.Join(b.dir, "kafka-"+name), Heap: brokerHeap,
		// Kafka's default, by which a group waits for more members when it begins.
		Properties: map[string]string{"group.initial.rebalance.delay.ms": "3000"},
	})
	if err != nil {
		return nil, err
	}
	c, err := wire.Open(starferry.Cluster{Name: starferry.ClusterName(name), Brokers: []string{broker.Addr}})
	if err != nil {
		return nil, errors.Join(err, broker.Kill())
	}
	return &side{address: broker.Addr, broker: broker, cluster: c}, nil
}

func (b *bench) stopBrokers() {
	if b.brokers == nil {
		return
	}
	if err := b.brokers.stop(); err != nil {
		b.say("end Kafka: %v", err)
	}
}

// stop kills the brokers: their files are removed anyway.
func (p *pair) stop() error {
	var errs error
	for _, s := range []*side{p.source, p.target} {
		if s != nil {
			errs = errors.Join(errs, s.cluster.Close(), s.broker.Kill())
		}
	}
	return errs
}

// clear deletes all topics but Kafka's own, so that a part finds nothing of the
// one before.
func (p *pair) clear(ctx context.Context) error {
	for _, s := range []*side{p.source, p.target} {
		r, err := s.cluster.Do(ctx, kmsg.NewPtrMetadataRequest()) // no topics given: all
		if err != nil {
			return fmt.Errorf("list topics of %s: %w", s.cluster.Name(), err)
		}
		var topics []starferry.Topic
		for _, t := range r.(*kmsg.MetadataResponse).Topics {
			if t.Topic != nil && !strings.HasPrefix(*t.Topic, "__") {
				topics = append(topics, starferry.Topic(*t.Topic))
			}
		}
		if err := s.cluster.DeleteTopics(ctx, topics...); err != nil {
			return fmt.Errorf("empty %s: %w", s.cluster.Name(), err)
		}
	}
	return nil
}
