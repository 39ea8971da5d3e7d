package control

import (
	"fmt"
	"slices"
	"strings"

	"github.com/starferry/starferry"
)

// Overflow spreads the backlog of one hot partition over the instances of its
// group: the partition's owner moves the records [committed, Until) into a topic
// of the group's own, and its instances read that beside their other topics. A
// group has one at a time, and it does not outlive a switch: one begins only
// when the other has ended.
type Overflow struct {
	ID        string                   `json:"id"`
	Cluster   starferry.ClusterName    `json:"cluster"`
	Partition starferry.TopicPartition `json:"partition"`
	// Until is where the backlog ends: the end of the partition when it was asked
	// for; 0 once it is to be stopped.
	Until starferry.Offset `json:"until"`
	// Topic is made for this one redistribution and deleted after it, so that
	// offsets committed for it mean nothing else ever.
	Topic starferry.Topic `json:"topic"`
	// To are the instances that read Topic; empty: all.
	To    []starferry.InstanceID `json:"to,omitempty"`
	Order OverflowOrder          `json:"order"`
	Phase OverflowPhase          `json:"phase"`
	By    string                 `json:"by,omitempty"`
	Why   string                 `json:"why,omitempty"`
	Token string                 `json:"token,omitempty"`
	At    int64                  `json:"at"`
}

// OverflowOrder is which order is kept.
type OverflowOrder string

// The orders.
const (
	// KeyOrder puts all records of a key on one partition of the overflow, and has
	// the hot partition's later records wait until the overflow is handled.
	KeyOrder OverflowOrder = "key"
	// NoOrder lets the later records go on at once.
	NoOrder OverflowOrder = "none"
)

// OverflowPhase is a step of a redistribution.
type OverflowPhase string

// The phases, in order. Each is acknowledged by every instance before the next,
// so that no owner hands out what has to wait because it has not heard of it.
const (
	// OverflowPrepare: instances subscribe to the topic; nothing moves.
	OverflowPrepare OverflowPhase = "prepare"
	// OverflowMove: the owner moves the backlog.
	OverflowMove OverflowPhase = "move"
	// OverflowClose: all is handled; instances leave the topic, which is deleted
	// then.
	OverflowClose OverflowPhase = "close"
)

// ReadBy reports whether an instance is to read the overflow topic.
func (o *Overflow) ReadBy(i starferry.InstanceID) bool {
	return o != nil && o.Phase != OverflowClose && (len(o.To) == 0 || slices.Contains(o.To, i))
}

// TransactionalID names who moves the backlog: one producer per hot partition,
// whoever owns it. Taking it over ends what the one before had begun.
func (o *Overflow) TransactionalID(g starferry.Group) string {
	return fmt.Sprintf("starferry-overflow-%s-%s-%d", g, o.Partition.Topic, o.Partition.Partition)
}

// maxTopic is how long Kafka lets the name of a topic be.
const maxTopic = 249

// OverflowHeader is the last header of a record in an overflow topic: where it
// comes from, TOPIC/PARTITION@OFFSET, and its own timestamp behind a space.
const OverflowHeader = "starferry.overflow"

// OverflowIDs is how long the ID of a redistribution is.
const OverflowIDs = 8

// OverflowOf is the ID of a redistribution of a group that would name its topic
// so; empty if none would.
func OverflowOf(g starferry.Group, t starferry.Topic) string {
	if len(t) < OverflowIDs {
		return ""
	}
	if id := string(t[len(t)-OverflowIDs:]); OverflowTopic(g, id) == t {
		return id
	}
	return ""
}

// OverflowTopic names the topic of a redistribution: by its group, and with a
// part of its own, since offsets committed for a topic of the same name must not
// be taken for its own. What a topic's name cannot hold becomes '-'.
func OverflowTopic(g starferry.Group, id string) starferry.Topic {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-' {
			return r
		}
		return '-'
	}, string(g))
	tail := ".overflow-" + id
	return starferry.Topic(name[:min(len(name), maxTopic-len(tail))] + tail)
}
