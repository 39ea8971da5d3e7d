package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/chaos/checker"
	"github.com/starferry/starferry/internal/chaos/ground"
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
	only   []string
	deck   []string
}

// gone stands in the deck for agent and NATS together, for good.
const gone = "agent and NATS gone"

// NewFaults makes the same faults for the same seed. If roles are named, only
// those are killed.
func NewFaults(seed uint64, only ...string) *Faults {
	return &Faults{random: rand.New(rand.NewPCG(seed, seed)), only: only}
}

// Next deals one fault.
func (f *Faults) Next() Fault {
	if len(f.deck) == 0 {
		f.deck = slices.Clone(f.only)
		if len(f.deck) == 0 {
			f.deck = slices.Concat([]string{agentRole, agentRole, natsRole, gone}, shardRoles(), serviceRoles())
		}
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
		// The drain is where nobody is left to decide; it lasts milliseconds.
		open := []control.Phase{control.Prepare, control.Drain, control.Drain, control.Drain, control.Seed}
		fault = Fault{Kill: []string{agentRole, natsRole}, At: open[f.random.IntN(len(open))], Delay: time.Duration(f.random.IntN(3)) * time.Millisecond, Gone: true}
	}
	return fault
}

// Result is what a trial has shown.
type Result struct {
	Fault   Fault
	Way     string        // "there" or "back"
	Void    string        // why it proves nothing, or ""
	Hit     control.Phase // where the switch had come to when the fault struck
	Outcome string        // of the run, in a few words
	Stopped bool          // the run ended without having moved the group
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
	// plantWithin is how long to look for records that a planted bug has lost.
	plantWithin = 5 * time.Second
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
	op, err := w.command(args...)
	if err != nil {
		return r, err
	}
	hit := phases.reach(ctx, f.At, op)
	if hit {
		ground.Pause(ctx, f.Delay)
		hit = op.Running()
	}
	r.Hit = phases.last()
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
		ground.Pause(ctx, comeBack)
	}
	if err := w.StartAll(ctx); err != nil {
		return r, err
	}
	if r.Outcome, r.Stopped, err = w.settle(ctx, op, r.Way); err != nil {
		return r, err
	}
	if err := w.flows(ctx, time.Now(), settleWithin); err != nil {
		return r, fmt.Errorf("after the trial %w", err)
	}
	switch n := w.history.count(began); {
	case !hit:
		r.Void = "the switch was over before the fault"
	case f.Gone && (r.Hit == control.Announce || r.Hit == control.Steady):
		r.Void = "the switch was decided before agent and NATS were gone"
	case n < minHandled:
		r.Void = fmt.Sprintf("only %d records were handled", n)
	}
	within := settleWithin / 2
	if w.Early > 0 {
		within = plantWithin
	}
	r.Verdict, err = w.Check(ctx, within, false)
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
	err := ground.Until(ctx, settleWithin, ground.Often, func() (bool, error) {
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

// overAlready is how a run that has nothing left to do is refused.
var overAlready = regexp.MustCompile(`it is finished; nothing is left to do|it is rolled back already`)

var runName = regexp.MustCompile(`(?m)^run (\S+)$`)

// settle brings the run to an end: a run whose agent died is resumed, as an
// operator would.
func (w *World) settle(ctx context.Context, op *process.Process, way string) (outcome string, stopped bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	for attempt := 1; ; attempt++ {
		err := op.Wait(ctx)
		if ctx.Err() != nil {
			op.Kill()
			return "", false, fmt.Errorf("the run did not end: %w", err)
		}
		if way == "there" && attempt == 1 {
			m := runName.FindStringSubmatch(op.Tail())
			if m == nil {
				return "it never began", true, nil
			}
			w.lastRun = m[1]
		}
		switch op.ExitCode() {
		case 0:
			return fmt.Sprintf("done after %d attempts", attempt), false, nil
		case exitUnmet, exitRolledBack:
			if way == "there" {
				return fmt.Sprintf("stopped with exit code %d", op.ExitCode()), true, nil
			}
		case exitUsage:
			if overAlready.MatchString(op.Tail()) { // the agent was killed before it could say so
				return fmt.Sprintf("done before attempt %d", attempt), false, nil
			}
		}
		ground.Pause(ctx, ground.Rare)
		if err := w.StartAll(ctx); err != nil { // one that has given up
			return "", false, err
		}
		verb := "resume"
		if way == "back" {
			verb = "rollback"
		}
		if op, err = w.command(verb, w.lastRun); err != nil {
			return "", false, err
		}
	}
}

// command starts a command line with a log of its own.
func (w *World) command(args ...string) (*process.Process, error) {
	w.commands++
	return w.estate.Run(fmt.Sprintf("starferry-%d-%s", w.commands, args[0]), args...)
}

// Exit codes of the program that mean a run has ended otherwise than well.
const (
	exitUsage      = 2
	exitUnmet      = 3
	exitRolledBack = 4
)

// phaseOrder is the phases of a switch as they follow each other.
func phaseOrder() []control.Phase {
	return []control.Phase{control.Prepare, control.Drain, control.Seed, control.Decide, control.Announce}
}

// phaseWatch sees the phases of the group's switch as they come.
type phaseWatch struct {
	seen chan control.Phase
	now  *atomic.Value // the last one seen, a control.Phase
	stop func()
}

func (w *World) watch(ctx context.Context) phaseWatch {
	ctx, cancel := context.WithCancel(ctx)
	p := phaseWatch{seen: make(chan control.Phase, 100), now: new(atomic.Value)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		first := true
		_ = w.store.WatchGroup(ctx, w.group, func(u desired.Update) { // it ends with ctx
			if u.Placement != nil && !first {
				p.now.Store(u.Placement.Phase)
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

// last is the last phase seen of this switch, empty before the first.
func (p phaseWatch) last() control.Phase {
	phase, _ := p.now.Load().(control.Phase)
	return phase
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
