package control

import "github.com/starferry/starferry"

// Phase is a step of the switch, as the desired placement states it.
type Phase string

// The phases in order. After Announce has been acknowledged the placement
// returns to Steady on the new cluster; an aborted switch returns to Steady on
// the old one.
const (
	Steady   Phase = "steady"   // no switch is open
	Prepare  Phase = "prepare"  // join Target as standby
	Drain    Phase = "drain"    // stop on Active, commit "draining", stay a member
	Seed     Phase = "seed"     // Actor commits "seeded" on Target
	Decide   Phase = "decide"   // Actor commits "moved" on Active
	Announce Phase = "announce" // the decision stands: live on Active, which is the new home
)

// Placement is what the agent wants of a group: where it lives, and how far an
// open switch has come. It is stored under a key of its own, so its KV revision
// counts changes of placement alone.
type Placement struct {
	Version int             `json:"v"`
	Group   starferry.Group `json:"group"`
	Epoch   starferry.Epoch `json:"epoch"` // of the open switch, or of the last one
	Phase   Phase           `json:"phase"`

	// Active is the cluster the group lives on: the old home until Decide, the
	// new home from Announce on.
	Active starferry.ClusterName `json:"active"`
	// Target is where an open switch leads; empty when Steady. At Announce it
	// equals Active.
	Target starferry.ClusterName `json:"target,omitempty"`
	// Standby is the cluster on which members keep a membership that fetches
	// nothing (the old home after a switch); empty for none.
	Standby starferry.ClusterName `json:"standby,omitempty"`
	// StandbyUntil is when instances may leave Standby, Unix milliseconds.
	StandbyUntil int64              `json:"standby_until,omitempty"`
	Link         starferry.LinkName `json:"link,omitempty"`

	// DrainDeadlineMS is how long a drained instance waits without seeing a
	// newer revision of this placement before it takes the way out by itself.
	// The agent extends it by writing a new revision while it works.
	DrainDeadlineMS int64 `json:"drain_deadline_ms,omitempty"`

	// Actor is the one member that carries out a Seed or Decide order.
	Actor *Actor `json:"actor,omitempty"`
	// Cut is the group's place on the old home, set from Seed on. The "moved"
	// commit carries it.
	Cut starferry.Cut `json:"cut,omitempty"`
	// Seeds is the translated cut, what "seeded" commits on Target.
	Seeds starferry.Cut `json:"seeds,omitempty"`

	By  string `json:"by,omitempty"`  // who asked
	Why string `json:"why,omitempty"` // reason, or run and script line
	At  int64  `json:"at"`            // Unix milliseconds
	// Token names the request that opened the switch, so that the same request,
	// made again, continues the switch or learns that it is done.
	Token string `json:"token,omitempty"`
	// External is set while an open switch is one of a group whose clients know
	// nothing of starferry: the agent alone carries it out.
	External bool `json:"external,omitempty"`
	// Beat grows with every extension of the drain deadline.
	Beat int64 `json:"beat,omitempty"`
}

// Actor names one member in one generation. An order to an actor is void in any
// other generation and for any other boot of the instance.
type Actor struct {
	Instance   starferry.InstanceID `json:"instance"`
	Boot       string               `json:"boot"`
	Member     string               `json:"member"`
	Generation starferry.Generation `json:"generation"`
}

// Open reports whether a switch is under way and undecided.
func (p Placement) Open() bool {
	switch p.Phase {
	case Prepare, Drain, Seed, Decide:
		return true
	}
	return false
}
