package fleet_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/control/switchover"
	"github.com/starferry/starferry/internal/wire"
)

// words are what somebody who watches was told.
type words struct {
	mu   sync.Mutex
	said []string
}

func (w *words) add(s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, s)
}

func (w *words) has(part string) func() bool {
	return func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return strings.Contains(strings.Join(w.said, "\n"), part)
	}
}

// holdEach has the handlers wait at each of some records; release lets one go.
func (w *world) holdEach(values ...string) (release func(string)) {
	held := map[string]chan struct{}{}
	for _, v := range values {
		held[v] = make(chan struct{})
	}
	w.hold = func(v string) <-chan struct{} {
		if c := held[v]; c != nil {
			return c
		}
		return nil
	}
	return func(v string) { close(held[v]) }
}

func (w *world) livesOn(c starferry.Cluster) {
	w.t.Helper()
	h, err := w.fleet.Home(w.t.Context(), w.group)
	require.NoError(w.t, err)
	require.Equal(w.t, c.Name, h.Cluster)
}

// noOverflowLeft holds that nothing of a redistribution is left.
func (w *world) noOverflowLeft(topic starferry.Topic) {
	w.t.Helper()
	v, _, err := w.store.Settings(w.t.Context(), w.group)
	require.NoError(w.t, err)
	require.Nil(w.t, v.Overflow)
	require.Eventually(w.t, func() bool {
		w.oldW.Forget(topic)
		md, err := w.oldW.Metadata(w.t.Context(), topic)
		return err == nil && md.Topics[topic].Err != nil
	}, patience, 10*time.Millisecond, "the overflow topic is still there")
}

// A switch has what was moved handled first, says so, and takes the group along
// when nothing is in the overflow; whoever waits for the redistribution hears of
// its end.
func TestASwitchWaitsForTheOverflow(t *testing.T) {
	w := newWorld(t, 2)
	release := w.holdEach("0/1", "0/10")
	w.instance("a")
	w.begun(2)
	for range 20 {
		w.produce()
	}
	ended, done := w.redistributing(t.Context(), w.hotOrder())
	is := w.phase(control.OverflowMove)
	release("0/1")
	require.Eventually(t, func() bool { // all of it is moved, and the handler stuck in the overflow
		got, err := w.oldW.Committed(t.Context(), w.group, []starferry.TopicPartition{w.tp(0)})
		return err == nil && got[w.tp(0)].Offset == is.Until
	}, patience, 5*time.Millisecond)

	short := w.order(w.old, w.new, "short")
	short.Within = 500 * time.Millisecond
	_, err := w.fleet.Switch(t.Context(), short)
	var refused switchover.Failure
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "overflow", refused.Phase)
	require.Contains(t, refused.Rows[0].What, "of the overflow to be handled")
	require.ErrorContains(t, err, "not handled within 500ms")
	w.livesOn(w.old)

	ctx, die := context.WithCancel(t.Context()) // the agent dies while it waits
	told := &words{}
	order := w.order(w.old, w.new, "run-1")
	order.Watch = func(p fleet.Progress) {
		for _, r := range p.Rows {
			told.add(p.Phase + ": " + r.String())
		}
	}
	died := make(chan error, 1)
	go func() { _, err := w.fleet.Switch(ctx, order); died <- err }()
	require.Eventually(t, told.has("overflow: "+w.tp(0).String()+" to be handled before it can move: 0 offsets are to be moved and "), patience, 5*time.Millisecond)
	die()
	require.Error(t, <-died)
	w.livesOn(w.old)

	moved := make(chan error, 1)
	go func() { _, err := w.fleet.Switch(t.Context(), order); moved <- err }() // another takes over
	release("0/10")
	require.NoError(t, <-moved)
	require.NoError(t, <-ended)
	require.True(t, done.Stopped)
	w.livesOn(w.new)
	w.noOverflowLeft(is.Topic)
	w.produce()
	_, twice := w.settled()
	require.Zero(t, twice)
	require.Contains(t, w.trail(), "switch failed")
}

// Whoever asked for a redistribution died in its first step, or in its last.
func TestASwitchEndsWhatIsLeftOfARedistribution(t *testing.T) {
	for _, phase := range []control.OverflowPhase{control.OverflowPrepare, control.OverflowClose} {
		t.Run(string(phase), func(t *testing.T) {
			w := newWorld(t, 1)
			w.instance("a")
			w.begun(1)
			is := &control.Overflow{ID: "left", Cluster: w.old.Name, Partition: w.tp(0), Until: 1, Topic: control.OverflowTopic(w.group, "left"),
				Order: control.KeyOrder, Phase: phase, By: "ops", Token: "tok-1"}
			require.NoError(t, w.oldW.CreateTopic(t.Context(), wire.TopicSpec{Topic: is.Topic, Partitions: 2, Replication: 1}))
			_, err := w.store.PutSettings(t.Context(), control.Settings{Group: w.group, Overflow: is}, 0)
			require.NoError(t, err)
			w.switched(w.old, w.new, "run-1")
			w.livesOn(w.new)
			w.noOverflowLeft(is.Topic)
			w.produce()
			_, twice := w.settled()
			require.Zero(t, twice)
		})
	}
}

// A redistribution that is asked for while the group is being switched waits,
// and spreads what there is where the group lives then.
func TestARedistributionWaitsForASwitch(t *testing.T) {
	w := newWorld(t, 1)
	release := w.holdEach("0/1", "0/5")
	w.instance("a")
	w.begun(1)
	w.produce()
	moved := make(chan error, 1)
	go func() { _, err := w.fleet.Switch(t.Context(), w.order(w.old, w.new, "run-1")); moved <- err }()
	w.standsStill()
	for range 20 {
		w.produce()
	}
	told := &words{}
	o := w.hotOrder()
	o.Progress = told.add
	ended, done := w.redistributing(t.Context(), o)
	require.Eventually(t, told.has("a switch is open (drain, "), patience, 5*time.Millisecond)
	release("0/1")
	require.NoError(t, <-moved)
	is := w.phase(control.OverflowMove)
	require.Equal(t, w.new.Name, is.Cluster)
	release("0/5")
	require.NoError(t, <-ended)
	require.Equal(t, starferry.Offset(22), done.Range.To)
	require.False(t, done.Stopped)
	_, twice := w.settled()
	require.Zero(t, twice)
	events, err := w.store.AuditLog(t.Context(), desired.AuditFilter{Group: w.group})
	require.NoError(t, err)
	require.Equal(t, "redistributed", lastOf(events).What)
}

func lastOf(events []desired.Event) (last desired.Event) {
	for _, e := range events {
		if !strings.HasSuffix(e.What, "acknowledged") {
			last = e
		}
	}
	return last
}
