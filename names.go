package starferry

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// ClusterName is the name a cluster has in the configuration.
type ClusterName string

// Group is a Kafka consumer group id.
type Group string

// Topic is a Kafka topic name.
type Topic string

// Partition is a Kafka partition index.
type Partition int32

// Offset is a position in the log of one partition. As a position it means
// "the next record to read", as Kafka's committed offsets do.
type Offset int64

// NoOffset marks the absence of an offset, as Kafka's −1 does.
const NoOffset Offset = -1

// LinkName names a link; it becomes part of transactional ids and NATS subjects.
type LinkName string

// LinkBetween is the name of a link between two clusters that was given none:
// "old-new" from old to new.
func LinkBetween(source, target ClusterName) LinkName {
	return LinkName(string(source) + "-" + string(target))
}

// InstanceID names one process of a service. It travels in Kafka's client id.
type InstanceID string

// Epoch grows with every decision about where a group lives.
type Epoch int64

// Generation is the generation of a group membership on one cluster.
type Generation int32

// TopicPartition names one partition. Its text form is "orders/7".
type TopicPartition struct {
	Topic     Topic
	Partition Partition
}

// String returns "topic/partition". Topic names cannot contain a slash.
func (tp TopicPartition) String() string {
	return string(tp.Topic) + "/" + strconv.Itoa(int(tp.Partition))
}

// MarshalText makes TopicPartition a JSON object key.
func (tp TopicPartition) MarshalText() ([]byte, error) { return []byte(tp.String()), nil }

// UnmarshalText reads the form String writes.
func (tp *TopicPartition) UnmarshalText(b []byte) error {
	v, err := ParseTopicPartition(string(b))
	if err != nil {
		return err
	}
	*tp = v
	return nil
}

// Compare orders by topic, then by partition.
func (tp TopicPartition) Compare(o TopicPartition) int {
	return cmp.Or(cmp.Compare(tp.Topic, o.Topic), cmp.Compare(tp.Partition, o.Partition))
}

// ParseTopicPartition reads "topic/partition".
func ParseTopicPartition(s string) (TopicPartition, error) {
	i := strings.LastIndexByte(s, '/')
	if i <= 0 {
		return TopicPartition{}, fmt.Errorf("parse partition %q: want topic/partition, such as orders/7", s)
	}
	p, err := strconv.ParseInt(s[i+1:], 10, 32)
	if err != nil || p < 0 {
		return TopicPartition{}, fmt.Errorf("parse partition %q: %q is no partition number", s, s[i+1:])
	}
	return TopicPartition{Topic(s[:i]), Partition(p)}, nil
}

// Position is one place in one partition. Its text form is "orders/7@184223".
type Position struct {
	TopicPartition
	Offset Offset
}

// String returns "topic/partition@offset".
func (p Position) String() string {
	return p.TopicPartition.String() + "@" + strconv.FormatInt(int64(p.Offset), 10)
}

// ParsePosition reads "topic/partition@offset".
func ParsePosition(s string) (Position, error) {
	left, right, ok := strings.Cut(s, "@")
	if !ok {
		return Position{}, fmt.Errorf("parse position %q: want topic/partition@offset, such as orders/7@184223", s)
	}
	tp, err := ParseTopicPartition(left)
	if err != nil {
		return Position{}, err
	}
	o, err := strconv.ParseInt(right, 10, 64)
	if err != nil || o < 0 {
		return Position{}, fmt.Errorf("parse position %q: %q is no offset", s, right)
	}
	return Position{tp, Offset(o)}, nil
}
