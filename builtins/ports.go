package builtins

import (
	"context"
	"time"

	"github.com/starferry/starferry"
)

// The interfaces below are all that builtins know of the world. The agent
// implements them over control and replication; tests implement them in memory.

// Clusters reads what clusters hold. It changes nothing.
type Clusters interface {
	// Names lists the configured clusters in order.
	Names() []starferry.ClusterName
	// Describe reaches a cluster and says what it is.
	Describe(ctx context.Context, c starferry.ClusterName) (ClusterInfo, error)
	// TopicsOf lists the topics a group reads: those its members subscribe to
	// and those it has commits for.
	TopicsOf(ctx context.Context, c starferry.ClusterName, g starferry.Group) ([]starferry.Topic, error)
	// Topics describes the named topics; a missing one is left out of the answer.
	Topics(ctx context.Context, c starferry.ClusterName, names []starferry.Topic) (map[starferry.Topic]TopicInfo, error)
	// GroupLag says how far a group is behind on a cluster.
	GroupLag(ctx context.Context, c starferry.ClusterName, g starferry.Group) (Lag, error)
	// Committed is the group's committed place on a cluster.
	Committed(ctx context.Context, c starferry.ClusterName, g starferry.Group) (starferry.Cut, error)
}

// Times finds records by their time.
type Times interface {
	// OffsetsAt finds in every partition of the topics the first record that is
	// as old as the time or newer. A partition that has none answers with the end
	// of what is committed there.
	OffsetsAt(ctx context.Context, c starferry.ClusterName, topics []starferry.Topic, at time.Time) (starferry.Cut, error)
}

// Copier makes and asks links.
type Copier interface {
	// Replicate creates the link, or widens it by the request's topics if it
	// exists, and returns once the target topics exist and the shards have
	// taken the link up. It does not wait for the copy.
	Replicate(ctx context.Context, r ReplicateRequest) (LinkInfo, error)
	// Link describes a link; an unknown name is ErrNotFound.
	Link(ctx context.Context, name starferry.LinkName) (LinkInfo, error)
	// LinkLag says how far the copy is behind its source.
	LinkLag(ctx context.Context, name starferry.LinkName) (Lag, error)
	// Translate answers for a cut in one direction.
	Translate(ctx context.Context, name starferry.LinkName, d starferry.Direction, c starferry.Cut) (starferry.Translation, error)
	// Stop ends a link; its target topics stay. Stopping an unknown link is no error.
	Stop(ctx context.Context, name starferry.LinkName) error
}

// Prover compares copies with their source. It changes nothing.
type Prover interface {
	// Verify compares a link's copies; an unknown link is ErrNotFound. What
	// differs, or cannot be compared, is in the report and no error.
	Verify(ctx context.Context, r VerifyRequest) (VerifyReport, error)
}

// Hand acts on the running instances of groups.
type Hand interface {
	// Switch moves a group. It returns when the group lives on the target and
	// every instance has said so, or an error that tells what stands now. Token
	// makes it repeatable: a switch that has been done is not done again.
	Switch(ctx context.Context, r SwitchRequest) (SwitchReport, error)
	// Home says where a group lives now, and at which epoch.
	Home(ctx context.Context, g starferry.Group) (GroupHome, error)
	// Skip passes a range of records, acknowledged by every instance.
	Skip(ctx context.Context, r SkipRequest) (Receipt, error)
	// Throttle sets the group-wide rate, acknowledged by every instance.
	Throttle(ctx context.Context, r ThrottleRequest) (Receipt, error)
	// Settings reads back what is set now, for plan, reconcile and undo.
	Settings(ctx context.Context, g starferry.Group) (GroupSettings, error)
	// Unskip takes a skip back, by its id.
	Unskip(ctx context.Context, g starferry.Group, id, reason string) (Receipt, error)
}

// ClusterInfo is what a cluster says of itself.
type ClusterInfo struct {
	Name    starferry.ClusterName `json:"name"`
	ID      string                `json:"id"`
	Brokers int                   `json:"brokers"`
	// Version is the newest Kafka release whose requests the cluster answers,
	// such as "4.3"; "unknown" if it cannot be told.
	Version string `json:"version"`
}

// TopicInfo describes one topic.
type TopicInfo struct {
	Name       starferry.Topic   `json:"name"`
	Partitions int               `json:"partitions"`
	Configs    map[string]string `json:"configs,omitempty"` // those set on the topic
}

// Lag is how far something is behind, partition by partition.
type Lag struct {
	Records map[starferry.TopicPartition]int64 `json:"records"`
	// Unknown says for each partition that could not be measured why not.
	Unknown map[starferry.TopicPartition]string `json:"unknown,omitempty"`
	// Stopped says for each partition that will not move by itself why not.
	Stopped map[starferry.TopicPartition]string `json:"stopped,omitempty"`
	// Stalled says what holds up a partition that goes on by itself afterwards.
	Stalled map[starferry.TopicPartition]string `json:"stalled,omitempty"`
}

// ReplicateRequest asks for a link.
type ReplicateRequest struct {
	Link   starferry.LinkName    `json:"link"` // empty: named after the clusters
	Source starferry.ClusterName `json:"source"`
	Target starferry.ClusterName `json:"target"`
	Topics []starferry.Topic     `json:"topics"`
	// Settings are fixed when the link is made, but for Match and OnLoss.
	Settings LinkSettings `json:"settings,omitzero"`
	// Rate limits the copy, bytes per second; 0 means no limit.
	Rate int64 `json:"rate,omitempty"`
	// RateRecords limits it in records per second; 0 means no limit.
	RateRecords int64 `json:"rate_records,omitempty"`
	// Verify lets the shards compare the copies with their source all the time,
	// bytes per second; 0 means not.
	Verify int64  `json:"verify,omitempty"`
	Token  string `json:"token"`
}

// VerifyRequest asks for a comparison.
type VerifyRequest struct {
	Link   starferry.LinkName `json:"link"`
	Topics []starferry.Topic  `json:"topics,omitempty"` // empty: all
	// Range is of source offsets in each partition; To 0: as far as the copy is.
	Range starferry.Range `json:"range"`
	Rate  int64           `json:"rate,omitempty"` // bytes per second; 0: no limit
	// Progress, if set, is told now and then how far it is.
	Progress func(string) `json:"-"`
}

// VerifyReport is what a comparison found.
type VerifyReport struct {
	Verdict     string `json:"verdict"`   // PASS, FAIL, UNKNOWN
	Identical   int64  `json:"identical"` // records
	Compared    int64  `json:"compared"`
	Differences int64  `json:"differences"`
	First       string `json:"first"` // the first difference, without contents
	Notes       string `json:"notes"` // holes and what was not compared
	Lanes       int    `json:"lanes"`
	Bytes       int64  `json:"bytes"` // read on both clusters
}

// LinkInfo is a link as scripts see it.
type LinkInfo struct {
	Name   starferry.LinkName    `json:"name"`
	Source starferry.ClusterName `json:"source"`
	Target starferry.ClusterName `json:"target"`
	Topics []starferry.Topic     `json:"topics"`
	// TargetTopics are the same on the target, if the link renames any.
	TargetTopics []starferry.Topic `json:"target_topics,omitempty"`

	Lanes  int    `json:"lanes"`
	State  string `json:"state"` // starting, copying, stalled, stopped
	Reason string `json:"reason,omitempty"`
	// Created is true if this request made the link, and Added lists the topics
	// it added: what an undo takes away.
	Created bool              `json:"created,omitempty"`
	Added   []starferry.Topic `json:"added,omitempty"`
	// Settings the link has, not for scripts.
	Settings LinkSettings `json:"-"`
}

// Matcher is what a Copier may also be able to do: tell which topics match.
type Matcher interface {
	// Matching lists the topics of a cluster that match a pattern.
	Matching(ctx context.Context, c starferry.ClusterName, patterns []string) ([]starferry.Topic, error)
}

// SwitchRequest asks for a group to be moved.
type SwitchRequest struct {
	Group  starferry.Group       `json:"group"`
	Source starferry.ClusterName `json:"source"`
	Target starferry.ClusterName `json:"target"`
	Link   starferry.LinkName    `json:"link"`
	// Within bounds the time from prepare to the decision.
	Within time.Duration `json:"within"`
	// Patience is how long a member that is no live instance is waited for; 0:
	// the protocol's default.
	Patience time.Duration `json:"patience,omitempty"`
	// Standby is how long members stay on the old cluster afterwards.
	Standby time.Duration `json:"standby"`
	// OnStraggler is "abort" or "evict": what becomes of a frozen instance.
	OnStraggler string `json:"on_straggler,omitempty"`
	// Fence has everybody kept out of the group on the old cluster from then on.
	Fence bool `json:"fence,omitempty"`
	// External is set for a group without the library.
	External *ExternalSwitch `json:"external,omitempty"`
	By       string          `json:"by"`
	Why      string          `json:"why"`
	Token    string          `json:"token"`
	// Progress, if set, is told each phase and what it waits for, and the same
	// again from time to time.
	Progress func(SwitchProgress) `json:"-"`
}

// SwitchReport is what a switch leaves behind.
type SwitchReport struct {
	Group  starferry.Group       `json:"group"`
	Source starferry.ClusterName `json:"source"`
	Target starferry.ClusterName `json:"target"`
	Epoch  starferry.Epoch       `json:"epoch"`
	Cut    starferry.Cut         `json:"cut"`   // on the source
	Seeds  starferry.Cut         `json:"seeds"` // on the target
	Exact  int                   `json:"exact"` // partitions whose place is exact
	// Pauses is how long each partition handed out nothing, in milliseconds;
	// partitions without records around the switch are left out.
	Pauses map[starferry.TopicPartition]float64 `json:"pauses_ms"`
	// ControlMS is the time from the order to drain to the decision.
	ControlMS float64  `json:"control_ms"`
	Instances []string `json:"instances"`
	Repeats   []string `json:"repeats"` // ranges that may have been handled twice
	Attempts  int      `json:"attempts"`

	// PauseP50MS and PauseMaxMS are of Pauses.
	PauseP50MS float64 `json:"pause_p50_ms"`
	PauseMaxMS float64 `json:"pause_max_ms"`
	// Behind are the partitions that went on behind a marker or a hole.
	Behind []starferry.TopicPartition `json:"behind"`
	Began  int64                      `json:"began"` // Unix milliseconds
	Ended  int64                      `json:"ended"`
	Phases []SwitchPhase              `json:"phases"`
	// Members took part; Evicted were removed as stragglers.
	Members []SwitchMember `json:"members"`
	Evicted []SwitchMember `json:"evicted"`
	Notes   []string       `json:"notes"`
	// Fenced is the cluster where everybody is kept out of the group from now on.
	Fenced starferry.ClusterName `json:"fenced"`
	By     string                `json:"by"`
	Why    string                `json:"why"`
}

// filled has empty lists for those that are nil, so that scripts find lists.
func (r SwitchReport) filled() SwitchReport {
	r.Instances, r.Repeats, r.Behind, r.Notes = filledList(r.Instances), filledList(r.Repeats), filledList(r.Behind), filledList(r.Notes)
	r.Phases, r.Members, r.Evicted = filledList(r.Phases), filledList(r.Members), filledList(r.Evicted)
	for i := range r.Evicted {
		r.Evicted[i].Perhaps = filledList(r.Evicted[i].Perhaps)
	}
	for i := range r.Members {
		r.Members[i].Perhaps = filledList(r.Members[i].Perhaps)
	}
	return r
}

func filledList[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

func filledMap[K comparable, V any](m map[K]V) map[K]V {
	if m == nil {
		return map[K]V{}
	}
	return m
}

// SwitchPhase is how long a switch was in one phase.
type SwitchPhase struct {
	Phase string  `json:"phase"`
	MS    float64 `json:"ms"`
	Times int     `json:"times"` // that it was entered
}

// SwitchMember is an instance and its memberships in a switch.
type SwitchMember struct {
	Instance starferry.InstanceID `json:"instance"`
	Boot     string               `json:"boot"`
	Host     string               `json:"host"`
	// The memberships on source and target; empty where it has none.
	SourceMember     string               `json:"source_member"`
	SourceGeneration starferry.Generation `json:"source_generation"`
	TargetMember     string               `json:"target_member"`
	TargetGeneration starferry.Generation `json:"target_generation"`
	// Perhaps are ranges that an evicted instance may have handled.
	Perhaps []string `json:"perhaps"`
}

// GroupHome is where a group lives.
type GroupHome struct {
	Group   starferry.Group       `json:"group"`
	Cluster starferry.ClusterName `json:"cluster"`
	Epoch   starferry.Epoch       `json:"epoch"`
	Phase   string                `json:"phase"`
	// Token is that of the switch that brought it here, if one did.
	Token string `json:"token,omitempty"`
}

// SkipRequest asks to pass records [Range.From, Range.To) of one partition.
type SkipRequest struct {
	Group     starferry.Group          `json:"group"`
	Cluster   starferry.ClusterName    `json:"cluster"` // empty: the group's home
	Partition starferry.TopicPartition `json:"partition"`
	Range     starferry.Range          `json:"range"`
	// Keep is the topic where each record is put before it is passed; empty: the
	// group's own. Drop has none kept.
	Keep  starferry.Topic `json:"keep,omitempty"`
	Drop  bool            `json:"drop,omitempty"`
	By    string          `json:"by"`
	Why   string          `json:"why"`
	Token string          `json:"token"`
}

// Limit is how much a group, or a partition of it, is handed at most. The zero
// value is no limit.
type Limit struct {
	Rate        float64 `json:"rate"` // records per second; 0: no limit
	Parallelism int     `json:"parallelism,omitempty"`
	DelayMS     int64   `json:"delay_ms,omitempty"`
	QueueHigh   int     `json:"queue_high,omitempty"`
	QueueLow    int     `json:"queue_low,omitempty"`
	Until       int64   `json:"until,omitempty"` // Unix milliseconds; 0: until changed
}

// ThrottleRequest limits a group, or one partition.
type ThrottleRequest struct {
	Group     starferry.Group           `json:"group"`
	Partition *starferry.TopicPartition `json:"partition,omitempty"` // nil: the group
	Limit     Limit                     `json:"limit"`
	// For ends the throttle by itself; 0 means until changed.
	For   time.Duration `json:"for,omitempty"`
	By    string        `json:"by"`
	Why   string        `json:"why"`
	Token string        `json:"token"`
}

// Receipt says who acknowledged a setting.
type Receipt struct {
	Group     starferry.Group `json:"group"`
	Revision  uint64          `json:"revision"`
	ID        string          `json:"id,omitempty"` // of the skip or pause
	Keep      starferry.Topic `json:"keep"`         // where a skip puts what it passes
	Instances []string        `json:"instances"`
	// Before is what was set before, for an undo.
	Before GroupSettings `json:"before"`
}

// GroupSettings is what is set for a group now.
type GroupSettings struct {
	Revision uint64 `json:"revision"`
	Limit           // of the group
	// Limits are those of single partitions.
	Limits map[starferry.TopicPartition]Limit `json:"limits,omitempty"`
	Skips  []GroupSkip                        `json:"skips,omitempty"`
	Holds  []GroupHold                        `json:"holds,omitempty"`
	// Redistribution is the one under way; nil: there is none.
	Redistribution *GroupSpread `json:"redistribution"`
}

// GroupHold is one pause that is in force.
type GroupHold struct {
	ID    string `json:"id"`
	On    string `json:"on"`              // topic, topic/partition; empty: the whole group
	Until int64  `json:"until,omitempty"` // Unix milliseconds; 0: until it is resumed
	By    string `json:"by"`
	Why   string `json:"why"`
}

// GroupSkip is one skip that is in force.
type GroupSkip struct {
	ID        string                   `json:"id"`
	Cluster   starferry.ClusterName    `json:"cluster"`
	Partition starferry.TopicPartition `json:"partition"`
	Range     starferry.Range          `json:"range"`
	Keep      starferry.Topic          `json:"keep,omitempty"`
}
