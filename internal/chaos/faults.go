package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry/internal/chaos/proxy"
)

// Fault is what goes wrong in a trial.
type Fault struct {
	Deed  string
	What  string        // the role or the cluster that is struck
	Side  int           // which cluster, where the deed strikes the way to one
	At    Aim           // strike when the switch reaches it; Anytime: after Delay alone
	Delay time.Duration // beyond that
	Long  float64       // how long it lasts, of what is usual: between 0 and 1
	Crew  int           // which crew is switched
	Both  bool          // or both
	Slow  bool          // the links are slow meanwhile, which makes the steps longer
}

// String describes a fault in a few words.
func (f Fault) String() string {
	at := "start"
	if f.At != Anytime {
		at = string(f.At)
	}
	return fmt.Sprintf("%s %s, %s + %s", f.Deed, f.What, at, f.Delay.Round(time.Millisecond))
}

// deed is something that goes wrong for a while.
type deed struct {
	name   string
	weight int
	takes  []string // what it may strike; nil: an instance of the crew that is switched
	aims   []Aim    // nil: all, and Anytime
	// arm is done before the switch begins, run when the aim is reached. It undoes
	// what it has done.
	arm func(ctx context.Context, t *trial) error
	run func(ctx context.Context, t *trial) error
}

// gone stands for agent and NATS together, for good.
const gone = "agent and NATS gone for good"

// deck is everything that may happen, by the kind of brokers.
func deck(real bool) []deed {
	clusters, all := []string{"old", "new"}, append(shardRoles(), agentRole, natsRole)
	parties := append(shardRoles(), agentRole)
	d := []deed{
		{name: "kill -9", weight: 6, run: kill},
		{name: "kill -9", weight: 5, takes: append(all, agentRole), run: kill},
		{name: gone, weight: 6, takes: []string{"agent+nats"}, aims: aims(), run: loseAgentAndNATS},
		{name: "freeze for two leases", weight: 3, run: freeze},
		{name: "freeze for two leases", weight: 3, takes: all, run: freeze},
		{name: "freeze, then slow link", weight: 1, run: freezeThenSlow},
		{name: "cut link", weight: 3, run: cut(proxy.Weather{Refused: true})},
		{name: "cut link", weight: 2, takes: parties, run: cut(proxy.Weather{Refused: true})},
		{name: "frozen link", weight: 2, run: cut(proxy.Weather{Frozen: true})},
		{name: "frozen link", weight: 1, takes: parties, run: cut(proxy.Weather{Frozen: true})},
		{name: "slow link", weight: 2, run: slow},
		{name: "slow link", weight: 2, takes: parties, run: slow},
		{name: "slow seeder", weight: 2, takes: []string{"crew"}, arm: slowSeeder, run: wait},
		{name: "slow seeder, then alone", weight: 2, takes: []string{"crew"}, aims: []Aim{Seed}, arm: slowSeeder, run: loseAnInstanceToo},
		{name: "cut from NATS", weight: 2, run: cutNATS},
		{name: "cut from NATS", weight: 2, takes: append(parties, natsRole), run: cutNATS},
		{name: "late packets", weight: 3, run: latePackets},
		{name: "cluster away", weight: 1, takes: clusters, run: clusterAway},
		{name: "empty NATS", weight: 2, takes: []string{natsRole}, run: emptyNATS},
		{name: "restore NATS", weight: 2, takes: []string{natsRole}, arm: backUpNATS, run: restoreNATS},
		{name: "deploy", weight: 2, takes: []string{"crew"}, run: deploy},
		{name: "scale", weight: 2, takes: []string{"crew"}, run: scale},
		{name: "add partition", weight: 1, takes: []string{"crew"}, run: addPartition},
	}
	for _, k := range []kmsg.Key{kmsg.OffsetCommit, kmsg.Heartbeat, kmsg.OffsetFetch, kmsg.SyncGroup} {
		d = append(d, deed{name: "no answer to " + k.Name(), weight: 1, run: trick(proxy.Trick{Key: k, Deed: proxy.LoseAnswer, Times: 2})})
	}
	for _, k := range []kmsg.Key{kmsg.OffsetCommit, kmsg.Heartbeat, kmsg.OffsetFetch} {
		d = append(d, deed{name: "refused " + k.Name(), weight: 1, run: trick(proxy.Trick{Key: k, Deed: proxy.Refuse, Code: kerr.NotCoordinator.Code, Times: 2})})
	}
	d = append(d,
		deed{name: "half a commit", weight: 1, run: trick(proxy.Trick{Key: kmsg.OffsetCommit, Deed: proxy.CutRequest, Times: 2})},
		deed{name: "half a fetch answer", weight: 1, run: trick(proxy.Trick{Key: kmsg.Fetch, Deed: proxy.CutAnswer, Times: 3})},
		deed{name: "commit timed out after append", weight: 2, run: trick(proxy.Trick{Key: kmsg.OffsetCommit, Deed: proxy.Lie, Code: kerr.RequestTimedOut.Code})},
		deed{name: "commit refused while rebalancing", weight: 1, run: trick(proxy.Trick{Key: kmsg.OffsetCommit, Deed: proxy.Refuse, Code: kerr.RebalanceInProgress.Code})},
		deed{name: "join refused while loading", weight: 1, run: trick(proxy.Trick{Key: kmsg.JoinGroup, Deed: proxy.Refuse, Code: kerr.CoordinatorLoadInProgress.Code, Times: 2})},
	)
	if real {
		d = append(d, deed{name: "restart broker", weight: 2, takes: clusters, run: restartBroker},
			deed{name: "kill -9 broker", weight: 2, takes: clusters, run: killBroker},
			deed{name: "freeze broker", weight: 2, takes: clusters, run: freezeBroker})
	} else {
		d = append(d, deed{name: "freeze brokers", weight: 2, takes: []string{"kafkas"}, run: freezeBroker})
	}
	return d
}

// Faults deals faults so that each deed gets its share and no order repeats.
type Faults struct {
	random *rand.Rand
	deck   []deed
	crews  []*crew
	left   []int
	gone   int // how often it was dealt: its aims take turns
}

// NewFaults makes the same faults for the same seed. If a deed is named, only
// that happens.
func NewFaults(seed uint64, real bool, only string, crews []*crew) (*Faults, error) {
	f := &Faults{random: rand.New(rand.NewPCG(seed, seed)), deck: deck(real), crews: crews}
	if only != "" {
		f.deck = slices.DeleteFunc(f.deck, func(d deed) bool { return d.name != only })
		if len(f.deck) == 0 {
			return nil, fmt.Errorf("no fault is called %q", only)
		}
	}
	return f, nil
}

// Next deals one fault and what is to be done.
func (f *Faults) Next() (Fault, deed) {
	if len(f.left) == 0 {
		for i, d := range f.deck {
			for range d.weight {
				f.left = append(f.left, i)
			}
		}
		f.random.Shuffle(len(f.left), func(i, j int) { f.left[i], f.left[j] = f.left[j], f.left[i] })
	}
	d := f.deck[f.left[0]]
	f.left = f.left[1:]
	fault := Fault{Deed: d.name, Side: f.random.IntN(2), Long: f.random.Float64(), Slow: f.random.IntN(3) == 0,
		Delay: time.Duration(f.random.IntN(15)) * time.Millisecond}
	if len(f.crews) > 1 {
		fault.Crew, fault.Both = min(1, f.random.IntN(4)/3), f.random.IntN(4) == 0
	}
	takes := d.takes
	if takes == nil {
		takes = f.crews[fault.Crew].instances
		takes = takes[:len(takes)-1]
	}
	fault.What = takes[f.random.IntN(len(takes))]
	fault.At = append([]Aim{Anytime}, aims()...)[f.random.IntN(len(aims())+1)]
	if len(d.aims) == 1 {
		fault.At = d.aims[0]
	}
	if d.name == gone {
		fault.At = aims()[f.gone%len(aims())]
		f.gone++
		fault.Delay = min(fault.Delay, 3*time.Millisecond) // the steps last milliseconds
	}
	if fault.At == Anytime {
		fault.Delay = time.Duration(f.random.IntN(1500)) * time.Millisecond
	}
	return fault, d
}
