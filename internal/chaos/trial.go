package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"time"

	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/chaos/checker"
	"github.com/starferry/starferry/internal/estate"
	"github.com/starferry/starferry/internal/process"
)

// Fault is what goes wrong in a trial.
type Fault struct {
	Kill  []string      // roles
	At    control.Phase // kill when the switch reaches it; empty: after Delay alone
	Delay time.Duration // beyond that
	// Gone keeps what was killed away until the group has consumed again by
	// itself.
	Gone bool
}

// String describes a fault in a few words.
func (f Fault) String() string {
	at := "start"
	if f.At != "" {
		at = string(f.At)
	}
	gone := ""
	if f.Gone {
		gone = ", for good"
	}
	return fmt.Sprintf("kill -9 %v, %s + %s%s", f.Kill, at, f.Delay.Round(time.Millisecond), gone)
}

// Faults deals faults so that every role gets its share and no order repeats.
type Faults struct {
	random *rand.Rand
	deck   []string
}

// gone stands in the deck for agent and NATS together, for good.
const gone = "agent and NATS gone"

// NewFaults makes the same faults for the same seed.
func NewFaults(seed uint64) *Faults { return &Faults{random: rand.New(rand.NewPCG(seed, seed))} }

// Next deals one fault.
func (f *Faults) Next() Fault {
	if len(f.deck) == 0 {
		f.deck = append([]string{agentRole, agentRole, natsRole, gone}, shardRoles()...)
		f.deck = append(f.deck, serviceRoles()...)
		f.random.Shuffle(len(f.deck), func(i, j int) { f.deck[i], f.deck[j] = f.deck[j], f.deck[i] })
	}
	who := f.deck[0]
	f.deck = f.deck[1:]
	phases := append([]control.Phase{""}, phaseOrder()...)
	fault := Fault{Kill: []string{who}, At: phases[f.random.IntN(len(phases))], Delay: time.Duration(f.random.IntN(15)) * time.Millisecond}
	if fault.At == "" {
		fault.Delay = time.Duration(f.random.IntN(1500)) * time.Millisecond
	}
	if who == gone {
		fault = Fault{Kill: []string{agentRole, natsRole}, At: phases[1+f.random.IntN(4)], Delay: fault.Delay % (15 * time.Millisecond), Gone: true}
	}
	return fault
}

// Result is what a trial has shown.
type Result struct {
	Fault   Fault
	Way     string // "there" or "back"
	Void    string // why it proves nothing, or ""
	Outcome string // of the run, in a few words
	// Resumed is how long after a fault for good the last lane went on.
	Resumed time.Duration
	Verdict checker.Verdict
}

// The limits of a trial.
const (
	hitWithin    = 20 * time.Second // for the switch to reach the phase
	settleWithin = 60 * time.Second // for the run to end after the fault
	comeBack     = time.Second      // until a killed process is started again
	minHandled   = 100              // records, for a trial to count
	// agentDrain is the drain deadline that agents set, and goneLimit what a
	// group may stand still without anybody.
	agentDrain = 10 * time.Second
	goneLimit  = agentDrain + 10*time.Second
)

// Trial moves the group one way and lets a fault happen meanwhile.
func (w *World) Trial(ctx context.Context, f Fault) (Result, error) {
	r := Result{Fault: f, Way: "there"}
	home, err := w.home(ctx)
	if err != nil {
		return r, err
	}
	args := []string{"run", w.Script, "--auto-approve", "-p", "group=" + string(w.group)}
	if home == estate.New {
		r.Way, args = "back", []string{"rollback", w.lastRun}
	}
	phases := w.watch(ctx)
	defer phases.stop()
	began := time.Now()
	op, err := w.estate.Run("starferry-"+args[0], args...)
	if err != nil {
		return r, err
	}
	hit := phases.reach(ctx, f.At, op)
	if hit {
		pause(ctx, f.Delay)
		hit = op.Running()
	}
	if err := w.Kill(ctx, f.Kill...); err != nil {
		return r, err
	}
	killed := time.Now()
	if f.Gone {
		if err := w.flows(ctx, killed, goneLimit); err != nil {
			return r, fmt.Errorf("agent and NATS are gone for good, and %w", err)
		}
		r.Resumed = w.slowest(killed)
	} else {
		pause(ctx, comeBack)
	}
	if err := w.StartAll(); err != nil {
		return r, err
	}
	if r.Outcome, err = w.settle(ctx, op, r.Way); err != nil {
		return r, err
	}
	if err := w.flows(ctx, time.Now(), settleWithin); err != nil {
		return r, fmt.Errorf("after the trial %w", err)
	}
	switch n := w.history.count(began); {
	case !hit:
		r.Void = "the switch was over before the fault"
	case n < minHandled:
		r.Void = fmt.Sprintf("only %d records were handled", n)
	}
	r.Verdict, err = w.Check(ctx, settleWithin/2, false)
	return r, err
}

// slowest is how long the last lane took to go on.
func (w *World) slowest(since time.Time) time.Duration {
	var worst time.Duration
	for _, at := range w.history.since(since) {
		worst = max(worst, at.Sub(since))
	}
	return worst
}

// home is the cluster the group lives on, as the agent has written it. A group
// that was never moved lives on the old one.
func (w *World) home(ctx context.Context) (string, error) {
	home := estate.Old
	err := until(ctx, settleWithin, often, func() (bool, error) {
		p, revision, err := w.store.Placement(ctx, w.group)
		if err != nil || revision == 0 {
			return errors.Is(err, desired.ErrNotFound) || err == nil, nil
		}
		home = string(p.Active)
		return !p.Open(), nil
	})
	if err != nil {
		return "", fmt.Errorf("where does the group live: %w", err)
	}
	return home, nil
}

var runName = regexp.MustCompile(`(?m)^run (\S+)$`)

// settle brings the run to an end: a run whose agent died is resumed, as an
// operator would.
func (w *World) settle(ctx context.Context, op *process.Process, way string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	for attempt := 1; ; attempt++ {
		err := op.Wait(ctx)
		if ctx.Err() != nil {
			op.Kill()
			return "", fmt.Errorf("the run did not end: %w", err)
		}
		if m := runName.FindAllStringSubmatch(op.Tail(), -1); way == "there" && len(m) > 0 {
			w.lastRun = m[len(m)-1][1]
		}
		switch op.ExitCode() {
		case 0:
			return fmt.Sprintf("done after %d attempts", attempt), nil
		case exitUnmet, exitRolledBack:
			if way == "there" {
				return fmt.Sprintf("stopped with exit code %d", op.ExitCode()), nil
			}
		}
		pause(ctx, rare)
		verb := "resume"
		if way == "back" {
			verb = "rollback"
		}
		if w.lastRun == "" {
			return "it never began", nil
		}
		if op, err = w.estate.Run("starferry-"+verb, verb, w.lastRun); err != nil {
			return "", err
		}
	}
}

// Exit codes of the program that mean a run has ended otherwise than well.
const (
	exitUnmet      = 3
	exitRolledBack = 4
)

// pause waits. Faults are about time.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// phaseOrder is the phases of a switch as they follow each other.
func phaseOrder() []control.Phase {
	return []control.Phase{control.Prepare, control.Drain, control.Seed, control.Decide, control.Announce}
}

// phaseWatch sees the phases of the group's switch as they come.
type phaseWatch struct {
	seen chan control.Phase
	stop func()
}

func (w *World) watch(ctx context.Context) phaseWatch {
	ctx, cancel := context.WithCancel(ctx)
	p := phaseWatch{seen: make(chan control.Phase, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		first := true
		_ = w.store.WatchGroup(ctx, w.group, func(u desired.Update) { // it ends with ctx
			if u.Placement != nil && !first {
				select {
				case p.seen <- u.Placement.Phase:
				default:
				}
			}
			first = false
		})
	}()
	p.stop = func() { cancel(); <-done }
	return p
}

// reach waits until the switch comes to a phase; false if the run ended before.
func (p phaseWatch) reach(ctx context.Context, phase control.Phase, op *process.Process) bool {
	if phase == "" {
		return op.Running()
	}
	ctx, cancel := context.WithTimeout(ctx, hitWithin)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-op.Done():
			return false
		case seen := <-p.seen:
			// Phases that follow each other fast may be seen as one.
			if slices.Index(phaseOrder(), seen) >= slices.Index(phaseOrder(), phase) {
				return true
			}
		}
	}
}
