package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/chaos/checker"
	"github.com/starferry/starferry/internal/chaos/ground"
	"github.com/starferry/starferry/internal/chaos/proxy"
	"github.com/starferry/starferry/internal/estate"
	"github.com/starferry/starferry/internal/process"
)

// Result is what a trial has shown.
type Result struct {
	Fault   Fault
	Way     string // "there", "back" or "rollback"
	Void    string // why it proves nothing, or ""
	Hit     Aim    // where the switch had come to when the fault struck
	Outcome string // of the runs, in a few words
	Made    int    // switches
	Undone  int    // runs that ended without having moved the group
	// Resumed is how long after a fault for good the last lane went on.
	Resumed time.Duration
	Stuck   error // why there was no way forward
	Verdict checker.Verdict
}

// trial is one under way.
type trial struct {
	w       *World
	fault   Fault
	crews   []*crew
	moves   []move
	resumed time.Duration
	// forgotten says that NATS has lost what it knew: links are to be asked for
	// again, and runs are gone.
	forgotten bool
	lane      starferry.TopicPartition // on which a hand is laid
}

// move is the switch of one crew.
type move struct {
	crew   *crew
	target string
	op     *process.Process
	undoes string // the run that op rolls back; "": op is a run itself
}

// stuckError says that a group has no way forward.
type stuckError struct{ error }

// The limits of a trial.
const (
	settleWithin = 90 * time.Second // for the groups to be well again
	minHandled   = 100              // records, for a trial to count
)

// Trial moves groups one way and lets a fault happen meanwhile.
func (w *World) Trial(ctx context.Context, f Fault, d deed) (Result, error) {
	t := &trial{w: w, fault: f, crews: []*crew{w.crews[f.Crew]}}
	if f.Both {
		t.crews = append(t.crews, w.crews[1-f.Crew])
	}
	r := Result{Fault: f}
	began := time.Now()
	hit, err := t.strike(ctx, d, &r)
	r.Resumed = t.resumed
	if err == nil {
		err = t.recover(ctx, &r)
	}
	var stuck stuckError
	if errors.As(err, &stuck) {
		r.Stuck, err = stuck, nil
	}
	if err != nil {
		return r, err
	}
	handled := 0
	for _, c := range t.crews {
		handled += c.history.count(began)
	}
	switch {
	case r.Stuck != nil:
	case !hit:
		r.Void = "the switch was over before the fault"
	case handled < minHandled:
		r.Void = fmt.Sprintf("only %d records were handled", handled)
	}
	r.Verdict, err = w.check(ctx, r.Stuck != nil)
	return r, err
}

// strike begins the switches and does the deed when the aim is reached. It
// reports whether the switch was still under way then.
func (t *trial) strike(ctx context.Context, d deed, r *Result) (hit bool, err error) {
	if d.arm != nil {
		if err := d.arm(ctx, t); err != nil {
			return false, err
		}
	}
	if err := t.fog(); err != nil {
		return false, err
	}
	seen := t.crews[0].watch(ctx, t.w.store)
	defer seen.stop()
	for _, c := range t.crews {
		m, way, err := c.begin(ctx, t.w, t.fault)
		if err != nil {
			return false, err
		}
		t.moves = append(t.moves, m)
		r.Way = way
	}
	op := t.moves[0].op
	if hit = seen.reach(ctx, t.fault.At, op); hit {
		ground.Pause(ctx, t.fault.Delay)
		hit = op.Running()
	}
	r.Hit = seen.last()
	err = d.run(ctx, t)
	t.w.clear()
	return hit, err
}

// fog makes the steps of a switch last longer: slow links of everybody, or slow
// shards, so that the cut waits for the copy.
func (t *trial) fog() error {
	switch {
	case t.fault.At == Translate:
		return t.w.weather(proxy.Weather{Delay: 60 * time.Millisecond}, shardRoles()...)
	case t.fault.Slow:
		return t.w.weather(proxy.Weather{Delay: 10 * time.Millisecond}, t.w.parties()...)
	}
	return nil
}

// recover starts what does not run and waits until all groups consume and have
// been moved without a fault.
func (t *trial) recover(ctx context.Context, r *Result) error {
	if err := t.w.StartAll(ctx); err != nil {
		return err
	}
	if t.forgotten {
		if err := t.w.relink(ctx); err != nil {
			return err
		}
	}
	for _, m := range t.moves {
		outcome, undone, err := m.settle(ctx, t.w)
		r.Outcome, r.Undone = outcome, r.Undone+undone
		if err != nil {
			return err
		}
		r.Made++
	}
	for _, c := range t.w.crews {
		if err := c.flows(ctx, time.Now(), t.w.patience); err != nil {
			return stuckError{fmt.Errorf("after the trial %w", err)}
		}
	}
	return nil
}

// relink asks for the links of all crews, as an operator does when NATS has
// lost what it knew.
func (w *World) relink(ctx context.Context) error {
	for _, c := range w.crews {
		c.lastRun = ""
		call := fmt.Sprintf("replicate(%s, source = %q, target = %q)", strings.ReplaceAll(fmt.Sprintf("%q", c.topics()), " ", ", "), estate.Old, estate.New)
		var last error
		err := ground.Until(ctx, w.patience, ground.Rare, func() (bool, error) {
			_, last = w.estates[""].Command(ctx, "exec", "--auto-approve", "-c", call)
			return last == nil, nil
		})
		if err != nil {
			return stuckError{fmt.Errorf("the link is not made again: %w", errors.Join(err, last))}
		}
	}
	return nil
}

// begin starts the run that moves the crew to where it does not live.
func (c *crew) begin(ctx context.Context, w *World, f Fault) (move, string, error) {
	// A placement that says otherwise is nobody's any more: the run sets it right.
	home, _, err := c.truth(ctx, w)
	if err != nil {
		return move{}, "", err
	}
	if home == estate.New && c.lastRun != "" && f.Long < 0.5 {
		op, err := w.command("rollback", c.lastRun)
		return move{c, estate.Old, op, c.lastRun}, "rollback", err
	}
	way, target := "there", estate.New
	if home == estate.New {
		way, target = "back", estate.Old
	}
	op, err := c.run(w, target)
	return move{c, target, op, ""}, way, err
}

// run starts a migration that moves the crew.
func (c *crew) run(w *World, target string) (*process.Process, error) {
	script := w.Script
	if target == estate.Old {
		script = filepath.Join(w.Dir, "back.star")
		if err := os.WriteFile(script, []byte(backScript), 0o644); err != nil {
			return nil, err
		}
	}
	return w.command("run", script, "--auto-approve", "-p", "group="+string(c.group))
}

// backScript moves a group back over the link that brought it.
const backScript = `"""Move a consumer group back."""

params(group = param(group, "orders", "group to move back"))

def link(m):
    return struct(link = replicate(topics_of("old", m.p.group), source = "old", target = "new"))

def switch(m):
    switch_consumer(m.p.group, source = "new", target = "old", link = m.out.link.link)

back = migration(name = "{group}-back", lock = ["group {group}"], phases = [phase("link", do = link), phase("switch", do = switch)])
`

// Exit codes of the program that mean a run has ended otherwise than well.
const (
	exitUsage      = 2
	exitUnmet      = 3
	exitRolledBack = 4
)

var (
	runName = regexp.MustCompile(`(?m)^run (\S+)$`)
	// unknownRun is how a run is refused that NATS has lost.
	unknownRun = regexp.MustCompile(`not in the journal|is finished; |is rolled back already`)
	// openRun is the run that stands in the way of another: a backup may bring
	// one back.
	openRun = regexp.MustCompile(`held by run (\S+), which is not finished`)
)

// settle brings a switch to its end as an operator would: what an agent has left
// is resumed; what was undone, or is known no more, is asked for again.
func (m *move) settle(ctx context.Context, w *World) (outcome string, undone int, err error) {
	ctx, cancel := context.WithTimeout(ctx, w.patience)
	defer cancel()
	op, run, verb := m.op, m.undoes, "resume"
	if m.undoes != "" {
		verb = "rollback"
	}
	last := ""
	for attempt := 1; ; attempt++ {
		_ = op.Wait(ctx) // its exit code tells
		if ctx.Err() != nil {
			op.Kill()
			return "", undone, stuckError{fmt.Errorf("%s is not moved to %s %s after the fault; the last attempt said:\n%s", m.crew.group, m.target, w.patience, last)}
		}
		last = op.Tail()
		if found := runName.FindStringSubmatch(last); found != nil {
			run = found[1]
		}
		held := openRun.FindStringSubmatch(last)
		switch code := op.ExitCode(); {
		case held != nil && code != 0:
			if err := w.rollBack(ctx, held[1]); err != nil {
				return "", undone, err
			}
			run = ""
		case code == 0:
			if m.crew.lastRun = ""; m.target == estate.New {
				m.crew.lastRun = run
			}
			return fmt.Sprintf("done after %d attempts", attempt), undone, nil
		case verb == "resume" && (code == exitUnmet || code == exitRolledBack):
			undone++
			run = ""
		case code == exitUsage && unknownRun.MatchString(last):
			run = ""
		}
		ground.Pause(ctx, ground.Rare)
		if err := w.StartAll(ctx); err != nil && ctx.Err() == nil { // one that has given up
			return "", undone, err
		}
		if run != "" {
			if op, err = w.command(verb, run); err != nil {
				return "", undone, err
			}
			continue
		}
		home, _, err := m.crew.truth(context.WithoutCancel(ctx), w)
		if err != nil {
			return "", undone, err
		}
		m.crew.lastRun = ""
		if home == m.target {
			return fmt.Sprintf("found moved after %d attempts", attempt), undone, nil
		}
		verb = "resume"
		if op, err = m.crew.run(w, m.target); err != nil {
			return "", undone, err
		}
	}
}

// rollBack does what the refusal of a lock tells an operator to do. Whether it
// succeeds, the next attempt shows.
func (w *World) rollBack(ctx context.Context, run string) error {
	op, err := w.command("rollback", run)
	if err != nil {
		return err
	}
	if _ = op.Wait(ctx); ctx.Err() != nil {
		op.Kill()
	}
	return nil
}

// check lets the checker read what all crews have done.
func (w *World) check(ctx context.Context, stuck bool) (checker.Verdict, error) {
	within := w.patience / 2
	if w.Early > 0 || stuck {
		within = plantWithin
	}
	var all checker.Verdict
	for _, c := range w.crews {
		v, err := c.check(ctx, w, within)
		if err != nil {
			return all, err
		}
		all.Add(v)
	}
	return all, nil
}

// plantWithin is how long to look for records that a planted bug has lost.
const plantWithin = 5 * time.Second
