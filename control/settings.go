package control

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/starferry/starferry"
)

// Settings is what operators ask of a running group beside its placement. It
// has a key, and so a revision, of its own. Settings survive restarts and
// rebalances, because every instance reads them before it hands out anything.
type Settings struct {
	Version  int             `json:"v"`
	Group    starferry.Group `json:"group"`
	Throttle *Throttle       `json:"throttle,omitempty"`
	// Throttles are limits of single partitions, beside the group's.
	Throttles map[starferry.TopicPartition]Throttle `json:"throttles,omitempty"`
	Skips     []Skip                                `json:"skips,omitempty"`
	Holds     []Hold                                `json:"holds,omitempty"`
	Rewinds   []Rewind                              `json:"rewinds,omitempty"`
	Overflow  *Overflow                             `json:"overflow,omitempty"`
	By        string                                `json:"by,omitempty"`
	Why       string                                `json:"why,omitempty"`
	At        int64                                 `json:"at"`
}

// Throttle limits a whole group. Each instance takes the share of the rate that
// its owned partitions have of all partitions, so it follows rebalances without
// messages.
type Throttle struct {
	// Rate is in records per second for the whole group; 0 means no limit.
	Rate float64 `json:"rate"`
	// Parallelism is how many records of one partition are handled at once, in
	// place of what the service has configured; 0: as configured. Records of a
	// key stay in order. Handlers of batches do not follow it.
	Parallelism int `json:"parallelism,omitempty"`
	// DelayMS is the pause before each record, or batch, that a worker is handed.
	DelayMS int64 `json:"delay_ms,omitempty"`
	// QueueHigh and QueueLow bound the records that wait in each partition, in
	// place of what the service has configured; 0: as configured.
	QueueHigh int `json:"queue_high,omitempty"`
	QueueLow  int `json:"queue_low,omitempty"`
	// Until ends it, Unix milliseconds; 0 means until changed.
	Until int64 `json:"until,omitempty"`
}

// String says what is limited, for people.
func (t Throttle) String() string {
	var parts []string
	add := func(set bool, format string, a ...any) {
		if set {
			parts = append(parts, fmt.Sprintf(format, a...))
		}
	}
	add(t.Rate > 0, "%s/s", strconv.FormatFloat(t.Rate, 'f', -1, 64))
	add(t.Parallelism > 0, "%d at once", t.Parallelism)
	add(t.DelayMS > 0, "%d ms before each", t.DelayMS)
	add(t.QueueHigh > 0, "at most %d queued", t.QueueHigh)
	add(t.QueueLow > 0, "fetched again at %d queued", t.QueueLow)
	if len(parts) == 0 {
		return "no limit"
	}
	return strings.Join(parts, ", ")
}

// Skip passes over the records of one partition of one cluster without handing
// them out. A skip is a cluster's own: a switch translates it with the cut.
type Skip struct {
	ID        string                   `json:"id"`
	Cluster   starferry.ClusterName    `json:"cluster"`
	Partition starferry.TopicPartition `json:"partition"`
	Range     starferry.Range          `json:"range"`
	// Keep is the topic where each record is put before it is passed; empty:
	// nowhere.
	Keep starferry.Topic `json:"keep,omitempty"`
	By   string          `json:"by,omitempty"`
	Why  string          `json:"why,omitempty"`
	At   int64           `json:"at"`
}

// Hold is a pause: instances stay members and hand out nothing of what it
// covers, wherever the group lives.
type Hold struct {
	ID    string          `json:"id"`
	Topic starferry.Topic `json:"topic,omitempty"` // empty: all the group reads
	// Partition is one of Topic; nil: all of them.
	Partition *starferry.Partition `json:"partition,omitempty"`
	// Until ends it, Unix milliseconds; 0 means until it is resumed.
	Until int64  `json:"until,omitempty"`
	By    string `json:"by,omitempty"`
	Why   string `json:"why,omitempty"`
	At    int64  `json:"at"`
}

// Covers reports whether a partition is held.
func (h Hold) Covers(tp starferry.TopicPartition) bool {
	return h.Topic == "" || h.Topic == tp.Topic && (h.Partition == nil || *h.Partition == tp.Partition)
}

// Rewind gives partitions another place. As long as it is set they are held,
// stand at that place and have it committed, however often their owner changes;
// they go on from there when it is taken away. It counts on one cluster and at
// one epoch of the group's home: a switch makes it void.
type Rewind struct {
	ID      string                                        `json:"id"`
	Cluster starferry.ClusterName                         `json:"cluster"`
	Epoch   starferry.Epoch                               `json:"epoch"`
	Places  map[starferry.TopicPartition]starferry.Offset `json:"places"`
	// Until makes it void, Unix milliseconds, if nobody takes it away.
	Until int64  `json:"until"`
	By    string `json:"by,omitempty"`
	Why   string `json:"why,omitempty"`
	At    int64  `json:"at"`
}
