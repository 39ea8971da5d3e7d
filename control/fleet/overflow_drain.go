package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/switchover"
)

// An overflow has no place on another cluster: its records are handed out as
// what they were on the one where they were moved. So a group is switched once
// its overflow is empty: no more of the backlog is moved, all instances handle
// what has been, and the rest goes with the group like any other record.

// phaseOverflow is what progress calls this before a switch begins.
const phaseOverflow = "overflow"

// drainWithin is how long an overflow is waited for if the order says nothing:
// as long as the switch itself.
const drainWithin = time.Minute

// errEnded: somebody else has seen to the end of a redistribution.
var errEnded = errors.New("somebody else has ended it meanwhile")

// drainOverflow ends what is being redistributed on the cluster a group is to
// leave. It returns what is left of the order's time. A failure leaves the group
// at work where it is.
func (f *Fleet) drainOverflow(ctx context.Context, o SwitchOrder) (left time.Duration, err error) {
	v, _, err := f.Settings(ctx, o.Group)
	is := v.Overflow
	if err != nil {
		return 0, fmt.Errorf("switch %s: %w", o.Group, err)
	}
	if is == nil {
		if is, err = f.recallOverflow(ctx, RedistributeOrder{Group: o.Group, By: o.By, Why: o.Why}, o.Source); err != nil {
			return 0, fmt.Errorf("switch %s: %w", o.Group, err)
		}
	}
	if is == nil || is.Cluster != o.Source {
		return o.Within, nil
	}
	within := o.Within
	if within <= 0 {
		within = drainWithin
	}
	began := f.c.Now()
	f.log.Info("a switch waits for the overflow to be handled", "group", o.Group, "partition", is.Partition, "topic", is.Topic)
	dctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("not handled within %v", within))
	defer cancel()
	_, err = f.redistribute(dctx, RedistributeOrder{Group: o.Group, Partition: is.Partition, Stop: true, By: o.By, Why: o.Why, Progress: f.tellOverflow(o, is)})
	if err == nil {
		return max(within-f.c.Now().Sub(began), time.Second), nil
	}
	look, done := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer done()
	stopped := *is
	stopped.Until = 0
	row := switchover.Row{Subject: is.Partition.String(), What: f.describeOverflow(look, o.Group, &stopped),
		Why: err.Error(), Do: "ask again, with more time (within), or wait with redistribute --stop; skip a record that blocks it"}
	return 0, switchover.Failure{Group: o.Group, Phase: phaseOverflow, Expected: "the overflow of a redistributed backlog to be handled, which cannot move",
		Found: []string{row.String()}, Rows: []switchover.Row{row}, Do: row.Do,
		Stands: fmt.Sprintf("the group is at work on %s, and goes on handling what was moved", o.Source)}
}

// tellOverflow tells whoever watches a switch how the overflow gets less.
func (f *Fleet) tellOverflow(o SwitchOrder, is *control.Overflow) func(string) {
	began := f.c.Now().UnixMilli()
	waits := fmt.Sprintf("the redistributed backlog of %s to be handled", is.Partition)
	if o.Progress != nil {
		o.Progress(phaseOverflow, waits)
	}
	return func(left string) {
		if o.Watch == nil {
			return
		}
		row := switchover.Wait{Partition: is.Partition, Cluster: is.Cluster, What: "to be handled before it can move: " + left, Since: began}
		o.Watch(Progress{Phase: phaseOverflow, Waits: waits, Rows: []switchover.Wait{row}, Began: began, Since: began, At: f.c.Now().UnixMilli()})
	}
}

// steadyWithin is how long a switch under way is waited for by what cannot be
// done meanwhile.
const steadyWithin = 30 * time.Second

// steady waits for a switch that is open to end, and tells the home.
func (f *Fleet) steady(ctx context.Context, g starferry.Group, progress func(string)) (Home, error) {
	limit := time.NewTimer(steadyWithin)
	defer limit.Stop()
	t := time.NewTicker(askEvery)
	defer t.Stop()
	for {
		h, err := f.Home(ctx, g)
		if err != nil || h.Phase == control.Steady {
			return h, err
		}
		open := fmt.Sprintf("a switch is open (%s, epoch %d) and positions belong to it", h.Phase, h.Epoch)
		if progress != nil {
			progress(open + ": waits for its end")
		}
		select {
		case <-ctx.Done():
			return h, fmt.Errorf("%s: %w", open, context.Cause(ctx))
		case <-limit.C:
			return h, fmt.Errorf("%s; it has not ended within %v: see starferry consumers %s, and ask again then", open, steadyWithin, g)
		case <-t.C:
		}
	}
}

// refreshOverflow reads how a redistribution stands in the settings. Who waits
// for one learns so that another has stopped or ended it; settings that were
// lost say nothing of its end.
func (f *Fleet) refreshOverflow(ctx context.Context, g starferry.Group, is *control.Overflow) error {
	v, _, err := f.Settings(ctx, g)
	switch {
	case err != nil:
		return err
	case v.Overflow != nil && v.Overflow.ID == is.ID:
		*is = *v.Overflow
		return nil
	}
	if _, done, err := f.Redistributed(ctx, g, is.Token); err != nil || !done {
		return err
	}
	return errEnded
}

// afterOverflow has a switch wait until nothing is in an overflow, and take what
// is left of its time.
func (f *Fleet) afterOverflow(ctx context.Context, s *run) error {
	left, err := f.drainOverflow(ctx, s.o)
	if err != nil || left == s.o.Within {
		return err
	}
	s.o.Within = left
	s.d = s.driver()
	return nil
}
