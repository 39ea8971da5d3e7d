package fleet_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/fleet"
)

func (w *world) hotOrder() fleet.RedistributeOrder {
	return fleet.RedistributeOrder{Group: w.group, Partition: w.tp(0), By: "ops", Why: "INC-1", Token: "tok-1"}
}

// redistributing orders it and returns when instances move the backlog.
func (w *world) redistributing(ctx context.Context, o fleet.RedistributeOrder) (ended chan error, done *fleet.Redistributed) {
	ended, done = make(chan error, 1), &fleet.Redistributed{}
	go func() {
		r, err := w.fleet.Redistribute(ctx, o)
		*done = r
		ended <- err
	}()
	return ended, done
}

func (w *world) phase(want control.OverflowPhase) control.Overflow {
	var is control.Overflow
	require.Eventually(w.t, func() bool {
		v, _, err := w.store.Settings(w.t.Context(), w.group)
		if err != nil || v.Overflow == nil || v.Overflow.Phase != want {
			return false
		}
		is = *v.Overflow
		return true
	}, patience, 5*time.Millisecond, "it never comes to %s", want)
	return is
}

func (w *world) begun(n int) {
	w.produce()
	require.Eventually(w.t, func() bool { return w.seen() >= n }, patience, 5*time.Millisecond)
}

func TestABacklogIsRedistributedAndTheOverflowDeleted(t *testing.T) {
	w := newWorld(t, 2)
	release := w.holdAt("0/1")
	w.instance("a")
	w.instance("b")
	require.Eventually(t, func() bool { // or one that comes later waits for the record that is held
		ls, err := w.store.Leases(t.Context(), w.group)
		for _, l := range ls {
			if len(l.Memberships) != 1 || !l.Memberships[0].Good || len(l.Memberships[0].Partitions) != 1 {
				return false
			}
		}
		return err == nil && len(ls) == 2
	}, patience, 5*time.Millisecond)
	w.begun(2)
	for range 200 {
		w.produce()
	}
	ended, done := w.redistributing(t.Context(), w.hotOrder())
	is := w.phase(control.OverflowMove)
	release()
	require.NoError(t, <-ended)
	require.Equal(t, starferry.Range{From: 1, To: 201}, done.Range)
	require.Equal(t, []string{"a", "b"}, done.Instances)
	w.produce()
	_, twice := w.settled()
	require.Zero(t, twice)
	md, err := w.oldW.Metadata(t.Context(), is.Topic)
	require.NoError(t, err)
	require.Error(t, md.Topics[is.Topic].Err, "the overflow topic is still there")
	v, _, err := w.store.Settings(t.Context(), w.group)
	require.NoError(t, err)
	require.Nil(t, v.Overflow)

	again, err := w.fleet.Redistribute(t.Context(), w.hotOrder())
	require.NoError(t, err)
	require.Equal(t, *done, again, "the same order is not carried out twice")

	events, err := w.store.AuditLog(t.Context(), desired.AuditFilter{Group: w.group})
	require.NoError(t, err)
	var told []string
	for _, e := range events {
		if !strings.HasSuffix(e.What, "acknowledged") {
			told = append(told, e.What)
		}
		require.Equal(t, "ops", e.Who)
	}
	require.Equal(t, []string{"redistribute", "redistribute moves", "redistribute ends", "redistributed"}, told)
}

func TestASecondRedistributionWaitsForTheFirst(t *testing.T) {
	w := newWorld(t, 2)
	release := w.holdAt("0/1")
	w.instance("a")
	w.begun(2)
	for range 20 {
		w.produce()
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended, _ := w.redistributing(ctx, w.hotOrder())
	w.phase(control.OverflowMove)
	cancel() // whoever asked dies
	require.ErrorContains(t, <-ended, "goes on without anybody waiting")

	other := w.hotOrder()
	other.Partition, other.Token = w.tp(1), "tok-2"
	_, err := w.fleet.Redistribute(t.Context(), other)
	require.ErrorContains(t, err, "a group has one at a time")

	release()
	_, err = w.fleet.Redistribute(t.Context(), w.hotOrder()) // another finishes it
	require.NoError(t, err)
	_, twice := w.settled()
	require.Zero(t, twice)
}

func TestRedistributeRefusesInWords(t *testing.T) {
	w := newWorld(t, 1)
	refused := func(want string, change func(*fleet.RedistributeOrder)) {
		t.Helper()
		o := w.hotOrder()
		o.Token = want
		change(&o)
		_, err := w.fleet.Redistribute(t.Context(), o)
		require.ErrorContains(t, err, want)
	}
	w.instance("a")
	w.begun(1)
	refused("order \"time\" is unknown", func(o *fleet.RedistributeOrder) { o.Order = "time" })
	refused("instance nobody does not live; those that do are a", func(o *fleet.RedistributeOrder) { o.To = []starferry.InstanceID{"nobody"} })
	refused("reads topic other", func(o *fleet.RedistributeOrder) { o.Partition.Topic = "other" })
	require.Eventually(t, func() bool {
		got, err := w.oldW.Committed(t.Context(), w.group, nil)
		return err == nil && got[w.tp(0)].Offset == 1
	}, patience, 5*time.Millisecond)
	r, err := w.fleet.Redistribute(t.Context(), w.hotOrder())
	require.NoError(t, err, "nothing left: nothing to do")
	require.Equal(t, starferry.Range{}, r.Range)
	_, _, err = w.store.Settings(t.Context(), w.group)
	require.True(t, errors.Is(err, desired.ErrNotFound), "nothing was set: %v", err)
}

func TestARedistributionIsStopped(t *testing.T) {
	w := newWorld(t, 1)
	release := w.holdAt("0/1")
	w.instance("a")
	w.begun(1)
	for range 50 {
		w.produce()
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended, _ := w.redistributing(ctx, w.hotOrder())
	w.phase(control.OverflowMove)
	cancel()
	require.Error(t, <-ended)
	stop := w.hotOrder()
	stop.Stop, stop.Token = true, "tok-2"
	halted, _ := w.redistributing(t.Context(), stop)
	require.Eventually(t, func() bool {
		v, _, err := w.store.Settings(t.Context(), w.group)
		return err == nil && (v.Overflow == nil || v.Overflow.Until == 0)
	}, patience, 5*time.Millisecond)
	release()
	require.NoError(t, <-halted)
	_, twice := w.settled()
	require.Zero(t, twice)
	v, _, err := w.store.Settings(t.Context(), w.group)
	require.NoError(t, err)
	require.Nil(t, v.Overflow)
}
