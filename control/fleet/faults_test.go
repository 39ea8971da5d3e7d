package fleet_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/control/switchover"
	"github.com/stretchr/testify/require"
)

// running is a world with traffic and two instances at work.
func running(t *testing.T) (w *world, stop func()) {
	w = newWorld(t, 4)
	stop = w.traffic()
	w.instance("i1")
	w.instance("i2")
	require.Eventually(t, func() bool { return w.handledOn(w.old) > 50 }, patience, 10*time.Millisecond)
	return w, stop
}

func (w *world) nothingLost(stop func()) {
	stop()
	lost, twice := w.settled()
	require.Zero(w.t, lost)
	require.Zero(w.t, twice)
}

func (w *world) consumesOn(c starferry.Cluster) {
	before := w.handledOn(c)
	require.Eventually(w.t, func() bool { return w.handledOn(c) > before+50 }, patience, 10*time.Millisecond, "nothing is handled on %s", c.Name)
}

// Guarantee 4: One commit decides where a group lives; before it every failure
// returns the group to where it was.
func TestASwitchThatIsStoppedIsUndoneInEveryPhase(t *testing.T) {
	for _, phase := range []string{"prepare", "drain", "seed", "decide"} {
		t.Run(phase, func(t *testing.T) {
			w, stop := running(t)
			ctx, cancel := context.WithCancel(t.Context())
			o := w.order(w.old, w.new, "run-1")
			o.Progress = func(at, _ string) {
				if at == phase {
					cancel()
				}
			}
			_, err := w.fleet.Switch(ctx, o)
			home := w.old
			if err == nil {
				home = w.new // the decision had been made when the word came
			} else {
				var f switchover.Failure
				require.ErrorAs(t, err, &f)
				require.Contains(t, f.Stands, "lives on old")
			}
			w.consumesOn(home)
			w.switched(home, map[starferry.ClusterName]starferry.Cluster{w.old.Name: w.new, w.new.Name: w.old}[home.Name], "run-2")
			w.nothingLost(stop)
		})
	}
}

// withoutNATS starts an instance that has no lease, and waits until it is one of
// so many members.
func (w *world) withoutNATS(name starferry.InstanceID, members int) {
	w.t.Helper()
	silent, err := consumer.Open(w.t.Context(), consumer.Config{
		Group: w.group, Topics: []starferry.Topic{w.topic}, Clusters: []starferry.Cluster{w.old}, Instance: name,
		Start: consumer.Earliest, CommitInterval: 20 * time.Millisecond, SessionTimeout: 6 * time.Second, HeartbeatInterval: 100 * time.Millisecond,
	}, w.handle)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, silent.Close(context.Background())) })
	require.Eventually(w.t, func() bool {
		v, err := w.fleet.Group(w.t.Context(), w.group)
		return err == nil && len(v.On[w.old.Name].Group.Members) == members && v.On[w.old.Name].Group.State == "Stable"
	}, patience, 20*time.Millisecond)
}

func TestAMemberWithoutALeaseIsNamed(t *testing.T) {
	w, stop := running(t)
	w.withoutNATS("forgotten", 3)
	o := w.order(w.old, w.new, "run-1")
	o.Patience = 300 * time.Millisecond
	_, err := w.fleet.Switch(t.Context(), o)
	require.ErrorContains(t, err, "forgotten")
	require.ErrorContains(t, err, "lives on old")
	_, err = w.fleet.Throttle(contextFor(t, 3*time.Second), fleet.ThrottleOrder{Group: w.group, Limit: control.Throttle{Rate: 1000}, By: "ann"})
	require.ErrorContains(t, err, "forgotten")
	w.nothingLost(stop)
}

func contextFor(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestAnotherAgentFinishesWhatADeadOneHasBegun(t *testing.T) {
	w, stop := running(t)
	o := w.order(w.old, w.new, "run-1")
	_, err := w.store.PutPlacement(t.Context(), control.Placement{Group: w.group, Epoch: 1, Phase: control.Drain, Active: w.old.Name, Target: w.new.Name,
		Link: o.Link, DrainDeadlineMS: 10_000, Token: "run-1", By: "the dead agent"}, 0)
	require.NoError(t, err)
	r := w.switched(w.old, w.new, "run-1")
	require.Equal(t, starferry.Epoch(1), r.Epoch)
	w.consumesOn(w.new)
	w.nothingLost(stop)
}

// An agent that finds a switch made, and KV emptied, knows whose it was and tells
// as much of it as the agent that made it would have.
func TestASwitchIsToldInFullAfterKVWasEmptied(t *testing.T) {
	w, stop := running(t)
	there := w.switched(w.old, w.new, "run-1")
	for range 2 {
		js, err := jetstream.New(w.nc)
		require.NoError(t, err)
		kv, err := js.KeyValue(t.Context(), desired.DesiredBucket)
		require.NoError(t, err)
		keys, err := kv.Keys(t.Context())
		require.NoError(t, err)
		for _, key := range keys {
			require.NoError(t, kv.Purge(t.Context(), key))
		}
		h, err := w.fleet.Home(t.Context(), w.group)
		require.NoError(t, err)
		require.Equal(t, w.new.Name, h.Cluster)
		require.Equal(t, "run-1", h.Token)

		again := w.switched(w.old, w.new, "run-1")
		require.Equal(t, there.Epoch, again.Epoch)
		require.True(t, there.Cut.Equal(again.Cut), "%v", again.Cut)
		require.True(t, there.Seeds.Equal(again.Seeds), "%v", again.Seeds)
		require.Equal(t, there.Exact, again.Exact)
	}
	w.consumesOn(w.new)
	w.nothingLost(stop)
}

// Guarantee 7: No record is skipped without an audit entry.
func TestSettingsAreAcknowledgedByEveryone(t *testing.T) {
	w, stop := running(t)
	r, err := w.fleet.Throttle(t.Context(), fleet.ThrottleOrder{Group: w.group, Limit: control.Throttle{Rate: 5000}, By: "ann", Why: "test"})
	require.NoError(t, err)
	require.Equal(t, []string{"i1", "i2"}, r.Instances)
	require.Nil(t, r.Before.Throttle)

	stop()
	w.settled()
	// records 10 ahead of the end are passed before they are written
	next := starferry.Offset(w.wrote)
	s, err := w.fleet.Skip(t.Context(), fleet.SkipOrder{Group: w.group, Partition: w.tp(1), Range: starferry.Range{From: next + 2, To: next + 5}, By: "ann", Token: "s1"})
	require.NoError(t, err)
	trail, err := w.store.AuditLog(t.Context(), desired.AuditFilter{Group: w.group, Last: 2})
	require.NoError(t, err)
	require.Equal(t, []string{"skip", "ann", "s1"}, []string{trail[0].What, trail[0].Who, trail[0].Token})
	require.Equal(t, "skip acknowledged", trail[1].What)
	require.Len(t, trail[1].Instances, 2, "each instance's answer is on record")
	again, err := w.fleet.Skip(t.Context(), fleet.SkipOrder{Group: w.group, Partition: w.tp(1), Range: starferry.Range{From: next + 2, To: next + 5}, By: "ann", Token: "s1"})
	require.NoError(t, err)
	require.Equal(t, s.Revision, again.Revision, "the same token must not skip again")
	handled := func() int { w.mu.Lock(); defer w.mu.Unlock(); return len(w.handled) }
	for range 10 {
		w.produce()
	}
	want := w.wrote*w.partitions - 3
	require.Eventually(t, func() bool { return handled() >= want }, patience, 10*time.Millisecond)
	require.Equal(t, want, handled())
	u, err := w.fleet.Unskip(t.Context(), w.group, s.ID, "ann", "test")
	require.NoError(t, err)
	require.Len(t, u.Before.Skips, 1)
	v, _, err := w.fleet.Settings(t.Context(), w.group)
	require.NoError(t, err)
	require.Empty(t, v.Skips)
}

func TestSkipsMoveWithTheGroup(t *testing.T) {
	w, stop := running(t)
	stop()
	w.settled()
	// the handlers are ahead of nothing: the skip lies beyond what was handled
	next := starferry.Offset(w.wrote)
	_, err := w.fleet.Skip(t.Context(), fleet.SkipOrder{Group: w.group, Partition: w.tp(2), Range: starferry.Range{From: next - 1, To: next}, By: "ann", Token: "past"})
	require.NoError(t, err)
	w.switched(w.old, w.new, "run-1")
	v, _, err := w.fleet.Settings(t.Context(), w.group)
	require.NoError(t, err)
	require.Len(t, v.Skips, 1, "a skip that lies behind the cut stays behind")
}
