package switchover

import (
	"maps"
	"slices"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// Event is something that happened to an instance.
type Event interface{ event() }

// The events.
type (
	// Start is the first event.
	Start struct{}
	// Assigned: SyncGroup has answered in a new generation.
	Assigned struct {
		Cluster    starferry.ClusterName
		Member     string
		Generation starferry.Generation
		Own        []starferry.TopicPartition
		All        []starferry.TopicPartition // of the group's topics
	}
	// Rebalance: the coordinator asks the members to join again.
	Rebalance struct{ Cluster starferry.ClusterName }
	// Lost: the coordinator does not know this member or generation any more.
	Lost struct {
		Cluster starferry.ClusterName
		Reason  string
	}
	// Read answers ReadCommits with the commits of all partitions of the group.
	Read struct {
		Cluster starferry.ClusterName
		ID      int64
		Found   Found
	}
	// Seen: the desired placement, as KV has it.
	Seen struct {
		Placement control.Placement
		Revision  uint64
	}
	// Drained answers Halt: no record is in flight. Cut holds the low-water
	// marks of the partitions that were fetched.
	Drained struct {
		Cluster starferry.ClusterName
		Cut     starferry.Cut
	}
	// Progress: low-water marks that differ from what was committed last.
	Progress struct {
		Cluster starferry.ClusterName
		Cut     starferry.Cut
	}
	// Answered tells what became of a Commit.
	Answered struct {
		Cluster starferry.ClusterName
		ID      int64
		Result  string // control.Accepted, control.Refused or control.Unclear
		Detail  string
	}
	// Tick lets time pass.
	Tick struct{}
	// Stop closes the instance gracefully.
	Stop struct{}
)

func (Start) event()     {}
func (Assigned) event()  {}
func (Rebalance) event() {}
func (Lost) event()      {}
func (Read) event()      {}
func (Seen) event()      {}
func (Drained) event()   {}
func (Progress) event()  {}
func (Answered) event()  {}
func (Tick) event()      {}
func (Stop) event()      {}

// Effect is something to be done. The order of effects matters.
type Effect interface{ effect() }

// The effects.
type (
	// Join asks for a membership, or for the next generation of it.
	Join struct {
		Cluster starferry.ClusterName
		Standby bool
	}
	// Rejoin joins again with changed user data, which forces a generation.
	Rejoin struct {
		Cluster starferry.ClusterName
		Nonce   int64
	}
	// Leave ends a membership.
	Leave struct{ Cluster starferry.ClusterName }
	// ReadCommits reads the commits of all partitions of the group, until it
	// succeeds; answered by Read.
	ReadCommits struct {
		Cluster starferry.ClusterName
		ID      int64
	}
	// Fetch hands out records from Cut on. The partitions in Start have no
	// commit anywhere: the start policy says where they begin.
	Fetch struct {
		Cluster starferry.ClusterName
		Cut     starferry.Cut
		Start   []starferry.TopicPartition
		Epoch   starferry.Epoch
	}
	// Halt hands out no further record, abandons fetches, finishes what is in
	// flight; answered by Drained.
	Halt struct{ Cluster starferry.ClusterName }
	// Commit commits Cut with Mark; answered by Answered. A Commit that repeats
	// an ID is the same request sent again.
	Commit struct {
		ID         int64
		Cluster    starferry.ClusterName
		Member     string
		Generation starferry.Generation
		Mark       control.Mark
		Cut        starferry.Cut
	}
	// Publish renews the lease now.
	Publish struct{}
	// Done is the last effect: nothing is in flight, uncommitted or joined.
	Done struct{}
)

func (Join) effect()        {}
func (Rejoin) effect()      {}
func (Leave) effect()       {}
func (ReadCommits) effect() {}
func (Fetch) effect()       {}
func (Halt) effect()        {}
func (Commit) effect()      {}
func (Publish) effect()     {}
func (Done) effect()        {}

// Found is what the commits of a group say on one cluster. Partitions without
// a commit are absent.
type Found map[starferry.TopicPartition]FoundCommit

// FoundCommit is one committed offset.
type FoundCommit struct {
	Offset starferry.Offset
	// Mark is nil for commits of other clients.
	Mark *control.Mark
}

// with returns f with the places of cut marked m.
func (f Found) with(cut starferry.Cut, m control.Mark) Found {
	out := maps.Clone(f)
	if out == nil {
		out = Found{}
	}
	for tp, p := range cut {
		mark := m
		mark.Handled = p.Handled
		out[tp] = FoundCommit{Offset: p.Next, Mark: &mark}
	}
	return out
}

// places returns where the partitions stand, and those without a commit.
func (f Found) places(tps []starferry.TopicPartition) (starferry.Cut, []starferry.TopicPartition) {
	cut := starferry.Cut{}
	var missing []starferry.TopicPartition
	for _, tp := range tps {
		c, ok := f[tp]
		if !ok {
			missing = append(missing, tp)
			continue
		}
		p := starferry.Place{Next: c.Offset}
		if c.Mark != nil {
			p.Handled = slices.Clone(c.Mark.Handled)
		}
		cut[tp] = p
	}
	return cut, missing
}

// verdict is what the commits of one cluster say together.
type verdict struct {
	state   control.State // "" : no mark of ours
	epoch   starferry.Epoch
	cluster starferry.ClusterName // of Moved and Seeded
}

// judge reads all partitions together: an instance that judged by its own would
// see nothing and stay behind. The highest epoch decides. Within it Moved beats
// everything; Home comes next, because it is only ever written for an epoch that
// has arrived here or has been given up; then Draining, then Seeded.
func (f Found) judge() verdict {
	rank := map[control.State]int{control.Moved: 4, control.Home: 3, control.Draining: 2, control.Seeded: 1}
	var v verdict
	for _, c := range f {
		if c.Mark == nil {
			continue
		}
		if v.state == "" || c.Mark.Epoch > v.epoch || c.Mark.Epoch == v.epoch && rank[c.Mark.State] > rank[v.state] {
			v = verdict{c.Mark.State, c.Mark.Epoch, c.Mark.Cluster}
		}
	}
	return v
}
