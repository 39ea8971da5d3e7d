package chaos

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/chaos/checker"
	"github.com/starferry/starferry/internal/chaos/ground"
	"github.com/starferry/starferry/internal/estate"
)

// kindOfAct is something that an operator does.
type kindOfAct struct {
	kind   string   // of what is heard of it
	phases []string // in order; nil: it is only done beside others
	do     func(context.Context, *act) error
}

// The kinds of what is heard.
const (
	redistributes = "redistribute"
	switches      = "switch"
	moves         = "producers"
)

func acts() map[string]kindOfAct {
	phases := []string{string(control.OverflowPrepare), string(control.OverflowMove), string(control.OverflowClose)}
	return map[string]kindOfAct{
		"redistribute by key": {redistributes, phases, redistribute(control.KeyOrder)},
		"redistribute":        {redistributes, phases, redistribute(control.NoOrder)},
		"switch":              {switches, []string{string(control.Prepare), string(control.Drain), string(control.Announce)}, switchGroup},
		"producers":           {moves, []string{string(control.Prepare), string(control.HoldSends), string(control.Announce)}, moveProducers},
		"throttle":            {do: throttle},
		"skip":                {do: skip},
		"pause":               {do: pause},
	}
}

// act is one under way.
type act struct {
	kindOfAct
	r     *handRun
	t     *trial
	once  sync.Once
	begun chan struct{} // closed when what may fail begins
	over  chan struct{} // closed when it has ended
}

func newAct(r *handRun, t *trial, name string) *act {
	a := &act{kindOfAct: acts()[name], r: r, t: t, begun: make(chan struct{}), over: make(chan struct{})}
	r.expect(a.kind)
	return a
}

func (a *act) begin() { a.once.Do(func() { close(a.begun) }) }

// insist has a call carried out as an operator would: again and again, until it
// is done, or what it asks for is so.
func (r *handRun) insist(ctx context.Context, call string, done func(context.Context) bool) error {
	_, err := r.insistFrom(ctx, call, done)
	return err
}

// insistFrom does the same and returns when the last attempt began.
func (r *handRun) insistFrom(ctx context.Context, call string, done func(context.Context) bool) (asked time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.w.patience)
	defer cancel()
	for attempt := 0; ; attempt++ {
		asked = time.Now()
		op, err := r.w.command("exec", "--auto-approve", "-c", call)
		if err != nil {
			return asked, err
		}
		_ = op.Wait(ctx) // its exit code tells
		if ctx.Err() != nil {
			op.Kill()
			return asked, stuckError{fmt.Errorf("%s is not done after %s; the last attempt said:\n%s", call, r.w.patience, op.Tail())}
		}
		if op.ExitCode() == 0 || done != nil && done(ctx) {
			return asked, nil
		}
		if held := openRun.FindStringSubmatch(op.Tail()); held != nil {
			if err := r.finish(ctx, held[1], attempt); err != nil {
				return asked, err
			}
		}
		ground.Pause(ctx, ground.Rare)
	}
}

// finish does what the refusal of a lock tells an operator to do.
func (r *handRun) finish(ctx context.Context, run string, attempt int) error {
	op, err := r.w.command([]string{"resume", "rollback"}[attempt%2], run)
	if err != nil {
		return err
	}
	if _ = op.Wait(ctx); ctx.Err() != nil {
		op.Kill()
	}
	return nil
}

// redistribute lets a backlog grow and spreads it.
func redistribute(order control.OverflowOrder) func(context.Context, *act) error {
	return func(ctx context.Context, a *act) error {
		r, tp := a.r, a.t.lane
		limit := func(rate int) error {
			return r.insist(ctx, fmt.Sprintf("throttle(%q, partition = %q, rate = \"%d/s\", reason = \"chaos\")", r.c.group, tp, rate), nil)
		}
		if err := limit(5); err != nil {
			return err
		}
		ground.Pause(ctx, 2*time.Second)
		if err := r.expectFrom(ctx); err != nil {
			return err
		}
		a.begin()
		call := fmt.Sprintf("redistribute(%q, partition = %q, order = %q, reason = \"chaos\")", r.c.group, tp, order)
		lifted := make(chan error, 1)
		if a.t.fault.Long < 0.5 { // later records come as fast as they may while the backlog is moved
			go func() {
				r.reach(ctx, a, string(control.OverflowMove))
				lifted <- limit(0)
			}()
		} else {
			lifted <- nil
		}
		// The backlog may be gone by the time that it is asked for once more.
		if err := r.insist(ctx, call, nil); err != nil {
			return errors.Join(err, <-lifted)
		}
		return errors.Join(<-lifted, limit(0))
	}
}

// switchGroup moves the group to where it does not live.
func switchGroup(ctx context.Context, a *act) error {
	r := a.r
	home, _, err := r.c.truth(ctx, r.w)
	if err != nil {
		return err
	}
	target := estate.New
	if home == estate.New {
		target = estate.Old
	}
	a.begin()
	call := fmt.Sprintf("switch_consumer(%q, source = %q, target = %q, link = %q)", r.c.group, home, target, starferry.LinkBetween(estate.Old, estate.New))
	return r.insist(ctx, call, func(ctx context.Context) bool {
		now, _, err := r.c.truth(ctx, r.w)
		p, _, perr := r.w.store.Placement(ctx, r.c.group)
		return err == nil && perr == nil && now == target && p.Phase == control.Steady
	})
}

// moveProducers moves the writers to where they do not write.
func moveProducers(ctx context.Context, a *act) error {
	r, topic, target := a.r, a.t.lane.Topic, starferry.ClusterName(estate.New)
	source := starferry.ClusterName(estate.Old)
	if p, _, err := r.w.store.Producing().Placement(ctx, topic); err == nil && p.Active == target {
		source, target = target, source
	} else if err != nil && !errors.Is(err, desired.ErrNotFound) {
		return err
	}
	a.begin()
	call := fmt.Sprintf("switch_producer(%q, source = %q, target = %q, link = %q)", topic, source, target, starferry.LinkBetween(source, target))
	return r.insist(ctx, call, func(ctx context.Context) bool {
		p, _, err := r.w.store.Producing().Placement(ctx, topic)
		return err == nil && p.Active == target && p.Phase == control.Steady
	})
}

// limited is how long limits and pauses hold by themselves, if nobody lifts them.
const limited = 8 * time.Second

// throttle limits the group for a while.
func throttle(ctx context.Context, a *act) error {
	const rate = 80
	return a.hold(ctx, fmt.Sprintf("throttle(%q, rate = \"%d/s\", for_ = %q, reason = \"chaos\")", a.r.c.group, rate, limited), rate, 4*time.Second,
		fmt.Sprintf("throttle(%q, rate = \"0/s\", reason = \"chaos\")", a.r.c.group))
}

// pause has the group hand out nothing for a while.
func pause(ctx context.Context, a *act) error {
	return a.hold(ctx, fmt.Sprintf("pause(%q, for_ = %q, reason = \"chaos\")", a.r.c.group, limited), 0, 2*time.Second,
		fmt.Sprintf("resume(%q, reason = \"chaos\")", a.r.c.group))
}

// hold sets a limit for a while, and lifts it.
func (a *act) hold(ctx context.Context, call string, rate float64, long time.Duration, lift string) error {
	r := a.r
	asked, err := r.insistFrom(ctx, call, nil)
	if err != nil {
		return err
	}
	a.begin()
	l := checker.Limit{Rate: rate, From: time.Now()}
	ground.Pause(ctx, long)
	if l.To = time.Now(); l.To.After(asked.Add(limited)) {
		l.To = asked.Add(limited)
	}
	r.mu.Lock()
	r.limits = append(r.limits, l)
	r.mu.Unlock()
	return r.insist(ctx, lift, r.free)
}

// free reports whether nothing limits the group any more.
func (r *handRun) free(ctx context.Context) bool {
	v, _, err := r.w.store.Settings(ctx, r.c.group)
	now := time.Now().UnixMilli()
	for _, h := range v.Holds {
		if h.Until == 0 || h.Until > now {
			return false
		}
	}
	t := v.Throttle
	return err == nil && (t == nil || t.Rate == 0 || t.Until > 0 && t.Until <= now)
}

// skip passes a few records of a partition that is held meanwhile.
func skip(ctx context.Context, a *act) error {
	r, tp := a.r, a.t.lane
	on := tp.String()
	if err := r.insist(ctx, fmt.Sprintf("pause(%q, on = %q, for_ = %q, reason = \"chaos\")", r.c.group, on, limited), nil); err != nil {
		return err
	}
	ground.Pause(ctx, 500*time.Millisecond)
	s, err := r.choose(ctx, tp)
	if err != nil {
		return err
	}
	a.begin()
	if s.To > s.From {
		op, err := r.w.command("exec", "--auto-approve", "-c", fmt.Sprintf("skip(%q, at = \"%s@%d\", count = %d, on = %q, reason = \"chaos\")", r.c.group, tp, s.From, s.To-s.From, s.Cluster))
		if err != nil {
			return err
		}
		bounded, cancel := context.WithTimeout(ctx, r.w.patience)
		if op.Wait(bounded) == nil {
			s.Acked = time.Now()
		}
		cancel()
		op.Kill() // if it has not ended
		r.mu.Lock()
		r.skips = append(r.skips, s)
		r.mu.Unlock()
	}
	return r.insist(ctx, fmt.Sprintf("resume(%q, on = %q, reason = \"chaos\")", r.c.group, on), r.free)
}

// choose chooses what is skipped: a few records from just beyond where the group
// stands.
func (r *handRun) choose(ctx context.Context, tp starferry.TopicPartition) (checker.Skip, error) {
	home, _, err := r.c.truth(ctx, r.w)
	if err != nil {
		return checker.Skip{}, err
	}
	s := checker.Skip{Cluster: starferry.ClusterName(home), TopicPartition: tp}
	reader := r.w.readers[s.Cluster]
	commits, err := reader.Committed(ctx, r.c.group)
	if err != nil {
		return s, err
	}
	ends, err := reader.ends(ctx)
	s.From, s.To = commits[tp]+1, min(commits[tp]+5, starferry.Offset(ends[tp]))
	return s, err
}

// released waits until nothing of what was asked for is left.
func (r *handRun) released(ctx context.Context, v *checker.HandVerdict) error {
	var left []string
	err := ground.Until(ctx, r.w.patience/4, ground.Rare, func() (bool, error) {
		left = r.left(ctx)
		return len(left) == 0, nil
	})
	if ctx.Err() != nil {
		return err
	}
	for _, what := range left {
		v.Release("%s", what)
	}
	return nil
}

// left lists what of the acts is still there.
func (r *handRun) left(ctx context.Context) (left []string) {
	now := time.Now().UnixMilli()
	v, _, err := r.w.store.Settings(ctx, r.c.group)
	if err != nil && !errors.Is(err, desired.ErrNotFound) {
		return []string{"the settings cannot be read: " + err.Error()}
	}
	if !r.free(ctx) && err == nil {
		left = append(left, fmt.Sprintf("a limit or a pause: %v %v", v.Throttle, v.Holds))
	}
	for tp, t := range v.Throttles {
		if t.Rate > 0 && (t.Until == 0 || t.Until > now) {
			left = append(left, fmt.Sprintf("a limit of %s: %s", tp, t))
		}
	}
	if v.Overflow != nil {
		left = append(left, fmt.Sprintf("the redistribution %s of %s, in phase %s", v.Overflow.ID, v.Overflow.Partition, v.Overflow.Phase))
	}
	if p, _, err := r.w.store.Placement(ctx, r.c.group); err == nil && p.Phase != control.Steady {
		left = append(left, fmt.Sprintf("the switch of the group, in phase %s", p.Phase))
	}
	if p, _, err := r.w.store.Producing().Placement(ctx, r.c.lanes[0].Topic); err == nil && p.Phase != control.Steady {
		left = append(left, fmt.Sprintf("the switch of producers, in phase %s", p.Phase))
	}
	for name, reader := range r.w.readers {
		topics, err := reader.topics(ctx, string(r.c.group)+".overflow-")
		if err != nil {
			left = append(left, err.Error())
		}
		for _, t := range topics {
			left = append(left, fmt.Sprintf("topic %s on %s", t, name))
		}
	}
	return left
}
