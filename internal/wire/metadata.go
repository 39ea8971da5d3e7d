package wire

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
)

// leaderWithin is how long Leader waits for a partition that has none now: an
// election takes moments, a missing topic is told at once.
const leaderWithin = 5 * time.Second

// Metadata is what a cluster says of itself.
type Metadata struct {
	ClusterID  string
	Controller int32 // −1 if unknown
	Brokers    []Broker
	Topics     map[starferry.Topic]TopicMeta
}

// Broker is one broker of a cluster.
type Broker struct {
	ID   int32
	Host string
	Port int32
	Rack string // empty if it has none
}

// TopicMeta describes one topic. Err tells why nothing is known of it, such as
// kafka.UnknownTopicOrPartition.
type TopicMeta struct {
	ID         [16]byte // zero before Kafka 2.8
	Partitions []PartitionMeta
	Err        error
}

// PartitionMeta describes one partition. Leader is −1 while there is none, and
// Err says why.
type PartitionMeta struct {
	Partition   starferry.Partition
	Leader      int32
	LeaderEpoch int32 // −1 before Kafka 2.1
	Replicas    []int32
	ISR         []int32
	Err         error
}

// Metadata asks any broker about the cluster and the named topics; without
// names it asks for the brokers only. Missing topics are in the answer with
// their error. No topic is created by asking.
func (c *Cluster) Metadata(ctx context.Context, topics ...starferry.Topic) (*Metadata, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = make([]kmsg.MetadataRequestTopic, 0, len(topics)) // nil would mean all
	for _, t := range topics {
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = kmsg.StringPtr(string(t))
		req.Topics = append(req.Topics, rt)
	}
	r, err := c.Do(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("read metadata: %w", err)
	}
	m := c.readMetadata(r.(*kmsg.MetadataResponse))
	c.remember(m)
	return m, nil
}

// TopicNames lists all topics of the cluster but internal ones, in order.
func (c *Cluster) TopicNames(ctx context.Context) ([]starferry.Topic, error) {
	r, err := c.Do(ctx, kmsg.NewPtrMetadataRequest()) // nil topics: all
	if err != nil {
		return nil, fmt.Errorf("list topics of %s: %w", c.Name(), err)
	}
	var out []starferry.Topic
	for _, t := range r.(*kmsg.MetadataResponse).Topics {
		if t.Topic != nil && !t.IsInternal && t.ErrorCode == 0 {
			out = append(out, starferry.Topic(*t.Topic))
		}
	}
	slices.Sort(out)
	return out, nil
}

func (c *Cluster) readMetadata(r *kmsg.MetadataResponse) *Metadata {
	m := &Metadata{Controller: r.ControllerID, Topics: make(map[starferry.Topic]TopicMeta, len(r.Topics))}
	if r.ClusterID != nil {
		m.ClusterID = *r.ClusterID
	}
	for _, b := range r.Brokers {
		mb := Broker{ID: b.NodeID, Host: b.Host, Port: b.Port}
		if b.Rack != nil {
			mb.Rack = *b.Rack
		}
		m.Brokers = append(m.Brokers, mb)
	}
	for _, t := range r.Topics {
		if t.Topic == nil {
			continue
		}
		meta := TopicMeta{ID: t.TopicID, Err: c.Code(kmsg.Metadata, t.ErrorCode, On{Topic: starferry.Topic(*t.Topic)}), Partitions: make([]PartitionMeta, 0, len(t.Partitions))}
		for _, p := range t.Partitions {
			meta.Partitions = append(meta.Partitions, PartitionMeta{
				Partition: starferry.Partition(p.Partition), Leader: p.Leader, LeaderEpoch: p.LeaderEpoch,
				Replicas: p.Replicas, ISR: p.ISR, Err: Code(p.ErrorCode),
			})
		}
		m.Topics[starferry.Topic(*t.Topic)] = meta
	}
	return m
}

// remember keeps brokers and leaders.
func (c *Cluster) remember(m *Metadata) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(m.Brokers) > 0 {
		clear(c.nodes)
	}
	for _, b := range m.Brokers {
		c.nodes[b.ID] = b
	}
	for t, meta := range m.Topics {
		for _, p := range meta.Partitions {
			tp := starferry.TopicPartition{Topic: t, Partition: p.Partition}
			if p.Leader < 0 {
				delete(c.leads, tp)
				continue
			}
			c.leads[tp] = leader{p.Leader, p.LeaderEpoch}
		}
	}
}

// Leader returns the broker that leads a partition and its leader epoch, from
// what is remembered if it can. A partition that is between leaders is waited
// for, a few seconds and within ctx.
func (c *Cluster) Leader(ctx context.Context, tp starferry.TopicPartition) (broker, epoch int32, err error) {
	c.mu.Lock()
	l, ok := c.leads[tp]
	c.mu.Unlock()
	if ok {
		return l.broker, l.epoch, nil
	}
	wait := c.newBackoff(leaderWithin)
	for {
		m, err := c.Metadata(ctx, tp.Topic)
		if err != nil {
			return -1, -1, fmt.Errorf("find leader of %s: %w", tp, err)
		}
		l, err := m.leader(tp)
		if err == nil {
			return l.broker, l.epoch, nil
		}
		if !between(err) || !wait.next(ctx, err) {
			return -1, -1, fmt.Errorf("find leader of %s on cluster %q: %w", tp, c.conf.Name, err)
		}
	}
}

func (m *Metadata) leader(tp starferry.TopicPartition) (leader, error) {
	t, ok := m.Topics[tp.Topic]
	if !ok {
		return leader{}, kafka.UnknownTopicOrPartition
	}
	if t.Err != nil {
		return leader{}, t.Err
	}
	for _, p := range t.Partitions {
		switch {
		case p.Partition != tp.Partition:
		case p.Leader >= 0:
			return leader{p.Leader, p.LeaderEpoch}, nil
		case p.Err != nil:
			return leader{}, p.Err
		default:
			return leader{}, kafka.LeaderNotAvailable
		}
	}
	return leader{}, fmt.Errorf("%w: the topic has %d partitions", kafka.UnknownTopicOrPartition, len(t.Partitions))
}

// Forget drops remembered leaders of topics, after an answer said they are wrong.
func (c *Cluster) Forget(topics ...starferry.Topic) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for tp := range c.leads {
		for _, t := range topics {
			if tp.Topic == t {
				delete(c.leads, tp)
			}
		}
	}
}
