package control

import "github.com/starferry/starferry"

// Lease is what an instance says of itself. It is renewed at a third of its
// time to live, and at once whenever it answers an order: leases are the
// acknowledgements of the switch.
type Lease struct {
	Version  int                  `json:"v"`
	Group    starferry.Group      `json:"group"`
	Instance starferry.InstanceID `json:"instance"`
	Boot     string               `json:"boot"` // new with every process start
	Library  string               `json:"library"`
	Host     string               `json:"host"`
	PID      int                  `json:"pid"`
	At       int64                `json:"at"` // Unix milliseconds

	// Home is the cluster it hands out records from; empty while it does not
	// know. HomeEpoch is what it writes in "home" commits.
	Home      starferry.ClusterName `json:"home,omitempty"`
	HomeEpoch starferry.Epoch       `json:"home_epoch"`
	// Epoch is the highest placement epoch it obeys; Revision the KV revision of
	// the placement that this lease answers; SettingsRevision that of the
	// settings in force here.
	Epoch            starferry.Epoch   `json:"epoch"`
	Revision         uint64            `json:"revision"`
	SettingsRevision uint64            `json:"settings_revision"`
	Topics           []starferry.Topic `json:"topics"` // what it subscribes to
	// DeadLetter and Retry are where its records go that are given up, and where
	// they are tried again first; empty if there is no such topic.
	DeadLetter starferry.Topic `json:"dead_letter,omitempty"`
	Retry      starferry.Topic `json:"retry,omitempty"`
	// Labels are the service's own, such as dc and sla: waves go by them.
	Labels map[string]string `json:"labels,omitempty"`

	Memberships []Membership     `json:"memberships"`
	Partitions  []PartitionState `json:"partitions,omitempty"`

	// Drained is the epoch for which this instance has stopped, finished what
	// was in flight and committed "draining" on the old home (0: not drained).
	// DrainedAt is what it committed there for the partitions it owns.
	Drained   starferry.Epoch `json:"drained,omitempty"`
	DrainedAt starferry.Cut   `json:"drained_at,omitempty"`
	// Seeded is the KV revision of the seed order it has carried out.
	Seeded uint64 `json:"seeded,omitempty"`
	// Decided is the outcome of the decide order it was given.
	Decided *Outcome `json:"decided,omitempty"`
	// Refusal says why it cannot do what the placement asks, for people.
	Refusal string `json:"refusal,omitempty"`
	// Repeats are ranges that may have been handed out before, by an instance
	// that died without committing them.
	Repeats []Repeat `json:"repeats,omitempty"`
	// Pauses tell of the last switch: what each partition saw of it.
	Pauses []Pause `json:"pauses,omitempty"`
}

// Membership is one group membership of an instance.
type Membership struct {
	Cluster    starferry.ClusterName `json:"cluster"`
	Member     string                `json:"member"`
	Generation starferry.Generation  `json:"generation"`
	// Good is true while the membership is joined, synced, not being rebalanced
	// and answered its last heartbeat with this generation.
	Good       bool                       `json:"good"`
	Partitions []starferry.TopicPartition `json:"partitions,omitempty"`
}

// PartitionState is how one partition stands inside an instance.
type PartitionState struct {
	Partition starferry.TopicPartition `json:"partition"`
	Cluster   starferry.ClusterName    `json:"cluster"`
	Position  starferry.Offset         `json:"position"`  // next to hand out
	Committed starferry.Offset         `json:"committed"` // low-water mark
	End       starferry.Offset         `json:"end"`       // high watermark last seen
	InFlight  int                      `json:"in_flight"`
	Handled   int64                    `json:"handled"`
	// Blocked is the record a handler has been busy with for over a second.
	Blocked *starferry.Offset `json:"blocked,omitempty"`
	// BusyMS is for how long a handler has had the record it has had longest.
	BusyMS int64 `json:"busy_ms,omitempty"`
	// Deaf: a handler was told to stop, by the end of its context, and goes on.
	Deaf bool `json:"deaf,omitempty"`
	// BlockedSince is when it was handed that record, Unix milliseconds.
	BlockedSince int64 `json:"blocked_since,omitempty"`
	// Held says why nothing of it is handed out: a pause, or a rewind.
	Held string `json:"held,omitempty"`
	// Skipped counts the records passed by skips since it was assigned.
	Skipped int64 `json:"skipped,omitempty"`
	// Rewound is the rewind that gave it its place, while that is set.
	Rewound string `json:"rewound,omitempty"`
}

// Outcome is what became of a decide order.
type Outcome struct {
	// Epoch and Revision are those of the order: revisions begin anew when their
	// bucket does, and what was said of an earlier switch is not said of this one.
	Epoch    starferry.Epoch `json:"epoch"`
	Revision uint64          `json:"revision"`
	// Result is "accepted", "refused" or "unknown".
	Result string `json:"result"`
	Detail string `json:"detail,omitempty"`
}

// The results of an Outcome.
const (
	Accepted = "accepted"
	Refused  = "refused"
	Unclear  = "unknown"
)

// Repeat is a stretch of records that may have been handed out twice.
type Repeat struct {
	Cluster   starferry.ClusterName    `json:"cluster"`
	Partition starferry.TopicPartition `json:"partition"`
	Range     starferry.Range          `json:"range"`
	Reason    string                   `json:"reason"`
}

// Pause is what one partition saw of a switch.
type Pause struct {
	Epoch     starferry.Epoch          `json:"epoch"`
	Partition starferry.TopicPartition `json:"partition"`
	// Last is when the last record was handed out on the old home, First when
	// the first one was on the new; Unix microseconds.
	Last  int64 `json:"last"`
	First int64 `json:"first"`
	// From is the offset of that first record, to be compared with the cut.
	From starferry.Offset `json:"from"`
}
