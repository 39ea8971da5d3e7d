package control

import "github.com/starferry/starferry"

// The phases of a topic whose producers are being moved are those of a group,
// but for HoldSends, which takes the place of drain, seed and decide.
//
// HoldSends: producers stop sending, wait for what is under way, and say so.
const HoldSends Phase = "hold"

// TopicPlacement is what the agent wants of the producers of a topic.
type TopicPlacement struct {
	Version int             `json:"v"`
	Topic   starferry.Topic `json:"topic"`
	Epoch   starferry.Epoch `json:"epoch"` // of the open switch, or of the last one
	Phase   Phase           `json:"phase"` // Steady, Prepare, HoldSends or Announce
	// Active is the cluster they write to: the old home until the decision, the
	// new one from Announce on. Target is where an open switch leads.
	Active starferry.ClusterName `json:"active"`
	Target starferry.ClusterName `json:"target,omitempty"`
	// HoldDeadlineMS is how long a producer holds before it finds out by itself
	// whether the topic has moved.
	HoldDeadlineMS int64 `json:"hold_deadline_ms,omitempty"`
	// With are the processes, by boot id, whose records the copy had passed when it
	// was decided. One that had written on the old home and is none of them goes on
	// there until the next switch.
	With []string `json:"with,omitempty"`

	Link  starferry.LinkName `json:"link,omitempty"`
	By    string             `json:"by,omitempty"`
	Why   string             `json:"why,omitempty"`
	At    int64              `json:"at"` // Unix milliseconds
	Token string             `json:"token,omitempty"`
}

// Open reports whether a switch is under way and undecided.
func (p TopicPlacement) Open() bool { return p.Phase == Prepare || p.Phase == HoldSends }

// ProducerLease is what a producer says of one of its topics. It is renewed at a
// third of its time to live, and at once whenever it answers an order.
type ProducerLease struct {
	Version  int                  `json:"v"`
	Topic    starferry.Topic      `json:"topic"`
	Instance starferry.InstanceID `json:"instance"`
	Boot     string               `json:"boot"` // new with every process start
	Host     string               `json:"host"`
	PID      int                  `json:"pid"`
	At       int64                `json:"at"` // Unix milliseconds

	// Home is where it writes, or is about to; empty while it does not know.
	Home  starferry.ClusterName `json:"home,omitempty"`
	Epoch starferry.Epoch       `json:"epoch"` // of Home
	// Revision is the newest order it has seen; Ready the epoch for which it has
	// connections to the target; Held the epoch for which nothing is under way.
	Revision uint64          `json:"revision"`
	Ready    starferry.Epoch `json:"ready,omitempty"`
	Held     starferry.Epoch `json:"held,omitempty"`
	// Ends are the offsets after its last acknowledged records on Home.
	Ends map[starferry.TopicPartition]starferry.Offset `json:"ends,omitempty"`
	// Writers are its producer ids by cluster.
	Writers map[starferry.ClusterName][]int64 `json:"writers,omitempty"`

	Buffered int64   `json:"buffered"`
	Acked    int64   `json:"acked"`
	Failed   int64   `json:"failed"`
	HoldMS   float64 `json:"hold_ms,omitempty"` // how long its last hold took
	// Refusal says why it cannot do what is asked, for people.
	Refusal string `json:"refusal,omitempty"`
	// Closed: it has ended in good order.
	Closed bool `json:"closed,omitempty"`
}
