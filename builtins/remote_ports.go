package builtins

import (
	"context"
	"time"

	"github.com/starferry/starferry"
)

// Remote is the hand on running groups beyond what Hand sets.
type Remote interface {
	// Pause holds a group, a topic or a partition, acknowledged by every instance.
	Pause(ctx context.Context, r PauseRequest) (Receipt, error)
	// Resume ends pauses. Ending what is not paused is no error.
	Resume(ctx context.Context, r ResumeRequest) (Receipt, error)
	// Rewind takes partitions to other places, committed by their owners. The
	// same token finds what was done.
	Rewind(ctx context.Context, r RewindRequest) (RewindReport, error)
	// State is how a group stands: its home, settings, instances and partitions.
	State(ctx context.Context, g starferry.Group) (GroupState, error)
	// Peek reads records of a partition; it changes nothing.
	Peek(ctx context.Context, r PeekRequest) ([]PeekedRecord, error)
	// Replay puts kept records back. The same token finds what was done.
	Replay(ctx context.Context, r ReplayRequest) (ReplayReport, error)
}

// PauseRequest asks a group to hand out nothing of what On names.
type PauseRequest struct {
	Group starferry.Group `json:"group"`
	On    string          `json:"on"` // topic, topic/partition; empty: all
	For   time.Duration   `json:"for,omitempty"`
	By    string          `json:"by"`
	Why   string          `json:"why"`
	Token string          `json:"token"`
}

// ResumeRequest ends the pause of an id, those of just what On names, or all.
type ResumeRequest struct {
	Group starferry.Group `json:"group"`
	ID    string          `json:"id"`
	On    string          `json:"on"`
	By    string          `json:"by"`
	Why   string          `json:"why"`
	Token string          `json:"token"`
}

// RewindRequest gives partitions other places on the group's home.
type RewindRequest struct {
	Group  starferry.Group                               `json:"group"`
	Places map[starferry.TopicPartition]starferry.Offset `json:"places"`
	Within time.Duration                                 `json:"within,omitempty"`
	By     string                                        `json:"by"`
	Why    string                                        `json:"why"`
	Token  string                                        `json:"token"`
}

// RewindReport says what a rewind did.
type RewindReport struct {
	Group     starferry.Group                               `json:"group"`
	Cluster   starferry.ClusterName                         `json:"cluster"`
	Revision  uint64                                        `json:"revision"`
	Instances []string                                      `json:"instances"`
	Before    map[starferry.TopicPartition]starferry.Offset `json:"before"`
	After     map[starferry.TopicPartition]starferry.Offset `json:"after"`
}

// GroupState is how a group stands.
type GroupState struct {
	Group      starferry.Group       `json:"group"`
	Home       starferry.ClusterName `json:"home"`
	Epoch      starferry.Epoch       `json:"epoch"`
	Phase      string                `json:"phase"`
	Settings   GroupSettings         `json:"settings"`
	Lag        int64                 `json:"lag"` // records, of all partitions on its home
	Instances  []InstanceState       `json:"instances"`
	Partitions []PartitionState      `json:"partitions"`
}

// InstanceState is one instance.
type InstanceState struct {
	Name     starferry.InstanceID `json:"name"`
	Host     string               `json:"host"`
	Home     string               `json:"home"`
	Revision uint64               `json:"revision"` // of the settings it has
	Refusal  string               `json:"refusal"`  // what it cannot do, and why
}

// PartitionState is one partition and who has it.
type PartitionState struct {
	Partition string               `json:"partition"`
	Instance  starferry.InstanceID `json:"instance"` // empty: nobody has it
	Position  starferry.Offset     `json:"position"` // next to hand out; -1 without an instance
	Committed starferry.Offset     `json:"committed"`
	Lag       int64                `json:"lag"`
	Blocked   starferry.Offset     `json:"blocked"` // the record a handler is busy with for over a second; -1: none
	BusyMS    int64                `json:"busy_ms"`
	Held      string               `json:"held"` // why nothing is handed out
	Skipped   int64                `json:"skipped"`
}

// PeekRequest asks for records of a partition.
type PeekRequest struct {
	Cluster   starferry.ClusterName    `json:"cluster"`
	Partition starferry.TopicPartition `json:"partition"`
	From      starferry.Offset         `json:"from"`
	Below     starferry.Offset         `json:"below"` // 0: the end
	Most      int                      `json:"most"`
}

// PeekedRecord is a record as it stands in its topic. Key and value are text
// where they are; else they are base64 and Binary is true.
type PeekedRecord struct {
	Position string            `json:"position"`
	Time     string            `json:"time"` // RFC 3339
	Key      string            `json:"key"`
	Value    string            `json:"value"`
	Headers  map[string]string `json:"headers"`
	Bytes    int               `json:"bytes"` // of key and value
	Binary   bool              `json:"binary"`
	// Digest names the contents, for skip's expect.
	Digest string `json:"digest"`
	// Blocks is the instance whose handler is busy with it, if one is.
	Blocks starferry.InstanceID `json:"blocks"`
}

// ReplayRequest puts records back that a group was spared.
type ReplayRequest struct {
	Group starferry.Group `json:"group"`
	Skip  string          `json:"skip"` // only what this one kept; empty: all
	From  starferry.Topic `json:"from"` // empty: the group's own
	To    starferry.Topic `json:"to"`   // empty: its retry topic
	Again bool            `json:"again"`
	By    string          `json:"by"`
	Why   string          `json:"why"`
	Token string          `json:"token"`
}

// ReplayReport says what a replay did.
type ReplayReport struct {
	Group    starferry.Group       `json:"group"`
	Cluster  starferry.ClusterName `json:"cluster"`
	From     starferry.Topic       `json:"from"`
	To       starferry.Topic       `json:"to"`
	Records  int                   `json:"records"`
	Repeated int                   `json:"repeated"` // left out: kept twice
	Before   int                   `json:"before"`   // left out: put back before
}
