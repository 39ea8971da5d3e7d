package switchover

import (
	"fmt"
	"strings"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// Request asks a Driver for a switch. Times are milliseconds; zero values are
// filled in by NewDriver.
type Request struct {
	Group          starferry.Group
	Source, Target starferry.ClusterName
	Link           starferry.LinkName
	// Direction is Back when Target is the link's own source.
	Direction starferry.Direction
	// Within bounds the time to the decision; 0 means 60 s.
	Within int64
	// DrainDeadline is how long instances stand still without hearing from the
	// agent, and how long the agent lets them stand still; 0 means 10 s.
	DrainDeadline int64
	// Patience is how long a group member that is no live instance may stay in
	// prepare before the switch is refused; 0 means 12 s, above the session
	// timeout of an instance that has just died.
	Patience int64
	// OnStraggler says what becomes of an instance that is a member and has no
	// lease; empty means Abort. EvictAfter is how long such a one is waited for
	// before it is removed; 0 means 5 s, above the time in which a living instance
	// renews a lease that NATS has lost.
	OnStraggler OnStraggler
	EvictAfter  int64
	// Standby is how long members stay on Source afterwards; 0 means 10 min.
	Standby int64
	// MaxLag is how many records each lane may be behind when the drain begins,
	// for the pause includes copying them; 0 means 500.
	MaxLag int64
	// Verify is how long to wait for first records on Target; 0 means 2.5 s.
	Verify int64
	By     string
	Why    string
	Token  string
}

func (r Request) filled() Request {
	def := func(v *int64, d int64) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&r.Within, 60_000)
	def(&r.DrainDeadline, 10_000)
	def(&r.Patience, 12_000)
	def(&r.EvictAfter, 5_000)
	def(&r.Standby, 600_000)
	def(&r.MaxLag, 500)
	def(&r.Verify, 2_500)
	if r.Direction == "" {
		r.Direction = starferry.Forward
	}
	return r
}

// News is something that the agent has learned.
type News interface{ news() }

// The news.
type (
	// Stored answers ReadStored. Placement is nil where nothing is stored.
	Stored struct {
		Placement *control.Placement
		Revision  uint64
	}
	// Written answers Write.
	Written struct{ Revision uint64 }
	// WriteLost answers Write: it lost the race, or nobody knows what became of
	// it. What is stored tells.
	WriteLost struct{ Detail string }
	// LeasesSeen tells all live instances of the group.
	LeasesSeen struct{ Leases []control.Lease }
	// Answers answers Ask.
	Answers struct {
		Round     int64
		Groups    map[starferry.ClusterName]GroupSeen
		Commits   map[starferry.ClusterName]Found
		Link      *LinkSeen
		Translate *starferry.Translation
		DelayMS   int64
		// Failed says what could not be learned; it is asked again.
		Failed []string

		settled bool // of the Ask
	}
	// Passed lets time pass.
	Passed struct{}
	// Abandon asks to undo the switch, if it is not decided.
	Abandon struct{ Reason string }
)

func (Stored) news()     {}
func (Written) news()    {}
func (WriteLost) news()  {}
func (LeasesSeen) news() {}
func (Answers) news()    {}
func (Passed) news()     {}
func (Abandon) news()    {}

// GroupSeen is a group as its coordinator describes it.
type GroupSeen struct {
	State        string // Stable, PreparingRebalance, …
	ProtocolType string
	Protocol     string // the assignor that all members agree on
	Members      []MemberSeen
}

// MemberSeen is one member as the coordinator describes it.
type MemberSeen struct {
	ID, Client, Host string
	// Library is true for members that use the library. Boot is then that of the
	// instance, unless it is a static member.
	Library bool
	Boot    string
	// Static is its group.instance.id, if it has one.
	Static string
}

// LinkSeen is how the link's lanes stand: a partition that appears nowhere has
// no lane.
type LinkSeen struct {
	Lag     map[starferry.TopicPartition]int64
	Stopped map[starferry.TopicPartition]string
}

// Order is something the agent is to do.
type Order interface{ order() }

// The orders.
type (
	// ReadStored reads the placement.
	ReadStored struct{}
	// Write stores a placement if the stored revision is still Expect.
	Write struct {
		Placement control.Placement
		Expect    uint64
	}
	// Ask learns several things at the same time, each read after this order.
	Ask struct {
		Round    int64
		Describe []starferry.ClusterName
		Commits  []starferry.ClusterName
		// Link asks for the lanes of these topics.
		Link []starferry.Topic
		// Translate asks for this cut; Wait lets the copy pass it first.
		Translate starferry.Cut
		Wait      bool
		// Delay asks how long the copy takes to pass where these partitions of
		// Source end now.
		Delay []starferry.TopicPartition
		// Skips carries the skips of Source over to Target.
		Skips bool

		// settled: the generation of an order to decide was known to be gone when
		// this was asked.
		settled bool
	}
	// Say tells people what the switch waits for.
	Say struct {
		Phase, Waits string
		// Rows are the same one by one; More counts those that were left out.
		Rows []Wait
		More int
		// Began is when the request began, Since when the phase did, Unix ms.
		Began, Since int64
	}
	// EvictMembers removes members from the group on a cluster, through its
	// coordinator. Nothing answers it: what the group looks like does.
	EvictMembers struct {
		Cluster starferry.ClusterName
		Members []MemberSeen
		Why     string
	}
	// Finished is the last order of a switch that has been made.
	Finished struct{ Report Report }
	// Failed is the last order of one that has not, or not completely.
	Failed struct{ Failure Failure }
)

func (ReadStored) order()   {}
func (Write) order()        {}
func (Ask) order()          {}
func (Say) order()          {}
func (EvictMembers) order() {}
func (Finished) order()     {}
func (Failed) order()       {}

// Report is what a switch leaves behind.
type Report struct {
	Group          starferry.Group
	Source, Target starferry.ClusterName
	Epoch          starferry.Epoch
	Cut            starferry.Cut // on Source
	Seeds          starferry.Cut // on Target
	Exact          int           // partitions whose place is exact
	// Pauses is how long each partition handed out nothing, in milliseconds.
	Pauses map[starferry.TopicPartition]float64
	// ControlMS is the time from the order to drain to the decision.
	ControlMS float64
	Instances []string
	Repeats   []string  // ranges that may have been handled twice
	Evicted   []Evicted // stragglers that were removed
	Notes     []string  // what people should look at
	// Attempts counts the orders to drain: 0 means that nothing was to be done.
	Attempts int
	// Behind are the partitions whose next record was not copied itself: they
	// went on behind a marker, or behind what was filtered or cleaned away.
	Behind  []starferry.TopicPartition
	Members []Participant // who took part, by instance
	// Began and Ended are Unix milliseconds. Phases is how long each took; both
	// are of whoever carries out the orders.
	Began, Ended int64
	Phases       []PhaseTime
	By, Why      string
	Token        string
}

// PhaseTime is how long a switch was in one phase.
type PhaseTime struct {
	Phase string  `json:"phase"`
	MS    float64 `json:"ms"`
	Times int     `json:"times"` // that it was entered
}

// Participant is an instance that took part in a switch.
type Participant struct {
	Instance starferry.InstanceID `json:"instance"`
	Boot     string               `json:"boot"`
	Library  string               `json:"library,omitempty"`
	Host     string               `json:"host,omitempty"`
	// Old and New are its memberships; nil where it has none any more.
	Old *Membership `json:"old,omitempty"`
	New *Membership `json:"new,omitempty"`
}

// Membership is a membership as a report names it.
type Membership struct {
	Member     string               `json:"member"`
	Generation starferry.Generation `json:"generation"`
	Partitions int                  `json:"partitions"`
}

// Failure says why a switch was not made, in the four parts an operator needs.
type Failure struct {
	Group    starferry.Group
	Phase    string
	Expected string
	Found    []string
	// Rows are what was found one by one, for tables; empty where Found says all.
	Rows   []Row
	Stands string // what stands now
	Do     string
	// Conflict: another agent drives the group.
	Conflict bool
	// Moved: the decision has been made all the same.
	Moved bool
}

// Error implements error.
func (f Failure) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "switch %s: %s: expected %s; found %s", f.Group, f.Phase, f.Expected, list(f.Found, 20))
	if f.Stands != "" {
		fmt.Fprintf(&b, "; now %s", f.Stands)
	}
	if f.Do != "" {
		fmt.Fprintf(&b, "; %s", f.Do)
	}
	return b.String()
}

// list joins the first n of the lines.
func list(lines []string, n int) string {
	if len(lines) == 0 {
		return "nothing"
	}
	if len(lines) > n {
		return strings.Join(lines[:n], "; ") + fmt.Sprintf("; and %d more", len(lines)-n)
	}
	return strings.Join(lines, "; ")
}
