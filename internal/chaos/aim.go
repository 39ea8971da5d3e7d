package chaos

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/process"
)

// Aim is the step of a switch at which a fault strikes: a phase of the
// placement, or Translate, or none.
type Aim string

// The aims, as the steps follow each other. Anytime is a random time.
const (
	Anytime   Aim = ""
	Prepare   Aim = "prepare"
	Drain     Aim = "drain"
	Translate Aim = "translate" // everyone stands still, and nothing is seeded yet
	Seed      Aim = "seed"
	Decide    Aim = "decide"
	Announce  Aim = "announce"
	over      Aim = "steady"
)

func aims() []Aim { return []Aim{Prepare, Drain, Translate, Seed, Decide, Announce} }

// sight sees the steps of a group's switch as they come.
type sight struct {
	mu      sync.Mutex
	now     Aim             // the last step seen of this switch
	epoch   starferry.Epoch // of it
	changed chan struct{}
	stop    func()
}

func (c *crew) watch(ctx context.Context, store *desired.Store) *sight {
	ctx, cancel := context.WithCancel(ctx)
	s := &sight{changed: make(chan struct{})}
	var watching sync.WaitGroup
	first := true
	watching.Go(func() {
		_ = store.WatchGroup(ctx, c.group, func(u desired.Update) { // it ends with ctx
			if u.Placement != nil && !first {
				s.step(Aim(u.Placement.Phase), u.Placement.Epoch)
			}
			first = false
		})
	})
	watching.Go(func() {
		_ = store.WatchLeases(ctx, c.group, func(all []control.Lease, _ error) {
			e := starferry.Epoch(0)
			for _, l := range all {
				if l.Drained == 0 {
					return
				}
				e = l.Drained
			}
			if len(all) > 0 {
				s.stands(e)
			}
		})
	})
	s.stop = func() { cancel(); watching.Wait() }
	return s
}

func (s *sight) step(a Aim, e starferry.Epoch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now, s.epoch = a, e
	close(s.changed)
	s.changed = make(chan struct{})
}

// stands notes that everyone stands still for an epoch.
func (s *sight) stands(e starferry.Epoch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == Drain && s.epoch == e {
		s.now = Translate
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// last is the last step seen of this switch, Anytime before the first.
func (s *sight) last() Aim {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// reach waits until the switch comes to a step; false if the run ended before.
func (s *sight) reach(ctx context.Context, aim Aim, op *process.Process) bool {
	if aim == Anytime {
		return op.Running()
	}
	ctx, cancel := context.WithTimeout(ctx, hitWithin)
	defer cancel()
	for {
		s.mu.Lock()
		now, changed := s.now, s.changed
		s.mu.Unlock()
		// Steps that follow each other fast may be seen as one.
		if slices.Index(aims(), now) >= slices.Index(aims(), aim) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-op.Done():
			return false
		case <-changed:
		}
	}
}

// hitWithin is how long a switch may take to come to a step.
const hitWithin = 20 * time.Second
