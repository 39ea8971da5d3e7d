package fleet_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/control/switchover"
	"github.com/starferry/starferry/internal/wire"
)

// keeper lets an agent keep fences until the returned function ends it.
func (w *world) keeper() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { w.fleet.KeepFences(ctx) })
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	w.t.Cleanup(stop)
	return stop
}

// byHand commits as clients do that assign partitions themselves: as no member.
func (w *world) byHand(c *wire.Cluster, offsets ...starferry.Offset) error {
	com := wire.Commit{Group: w.group, Generation: -1, Offsets: map[starferry.TopicPartition]wire.Committed{}}
	for p, o := range offsets {
		com.Offsets[w.tp(p)] = wire.Committed{Offset: o, LeaderEpoch: 0, Metadata: fmt.Sprintf("by hand %d", p)}
	}
	return c.Commit(w.t.Context(), com)
}

func (w *world) committed(c *wire.Cluster) map[starferry.TopicPartition]wire.Committed {
	got, err := c.Committed(w.t.Context(), w.group, nil)
	require.NoError(w.t, err)
	return got
}

func (w *world) externalOrder(from, to starferry.Cluster, token string) fleet.ExternalOrder {
	return fleet.ExternalOrder{SwitchOrder: fleet.SwitchOrder{Group: w.group, Source: from.Name, Target: to.Name, Link: "old-new",
		By: "ann", Why: "test", Token: token, Within: patience, Progress: func(phase, waits string) { w.t.Logf("%s: %s", phase, waits) }}}
}

func (w *world) movedOutside(from, to starferry.Cluster, token string) fleet.ExternalReport {
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*patience)
	defer cancel()
	r, err := w.fleet.SwitchExternal(ctx, w.externalOrder(from, to, token))
	require.NoError(w.t, err)
	return r
}

// outsiders is a world with ten records in each partition and clients that have
// committed some of them.
func outsiders(t *testing.T) *world {
	w := newWorld(t, 2)
	for range 10 {
		w.produce()
	}
	require.NoError(t, w.byHand(w.oldW, 4, 7))
	return w
}

func TestAGroupWithoutTheLibraryMovesThereAndBack(t *testing.T) {
	w := outsiders(t)
	w.keeper()
	there := w.movedOutside(w.old, w.new, "run-1")
	require.Equal(t, starferry.Cut{w.tp(0): {Next: 4}, w.tp(1): {Next: 7}}, there.Cut)
	require.Equal(t, there.Cut, there.Seeds)
	require.Equal(t, 2, there.Exact)
	require.Equal(t, w.old.Name, there.Fenced)
	require.Equal(t, wire.Committed{Offset: 4, LeaderEpoch: -1, Metadata: "by hand 0"}, w.committed(w.newW)[w.tp(0)])
	require.Equal(t, "starferry/1 moved e=1 c=new", w.committed(w.oldW)[w.tp(1)].Metadata)
	h, err := w.fleet.Home(t.Context(), w.group)
	require.NoError(t, err)
	require.Equal(t, w.new.Name, h.Cluster)
	require.Equal(t, "run-1", h.Token)

	require.ErrorIs(t, w.byHand(w.oldW, 9, 9), kafka.UnknownMemberId, "the old cluster is fenced")
	require.NoError(t, w.byHand(w.newW, 6, 10), "the new one is free")
	again := w.movedOutside(w.old, w.new, "run-1")
	require.Equal(t, there.Epoch, again.Epoch, "the same token must not switch again")
	require.Equal(t, starferry.Offset(6), w.committed(w.newW)[w.tp(0)].Offset)

	back := w.movedOutside(w.new, w.old, "run-2")
	require.Greater(t, back.Epoch, there.Epoch)
	require.Equal(t, starferry.Offset(6), w.committed(w.oldW)[w.tp(0)].Offset)
	require.Equal(t, "by hand 1", w.committed(w.oldW)[w.tp(1)].Metadata)
	require.NoError(t, w.byHand(w.oldW, 8, 10))
	require.ErrorIs(t, w.byHand(w.newW, 9, 9), kafka.UnknownMemberId)

	require.NoError(t, w.fleet.LiftFence(contextFor(t, patience), w.group, w.new.Name, "ann", "no longer needed"))
	require.NoError(t, w.byHand(w.newW, 9, 9))
	events, err := w.store.AuditLog(t.Context(), desired.AuditFilter{Group: w.group})
	require.NoError(t, err)
	var what []string
	for _, e := range events {
		what = append(what, e.What)
	}
	require.Equal(t, []string{"switch", "switched", "switch", "switched", "switch", "switched", "lift fence"}, what)
}

// killed cancels a context when the agent is about to do something.
func (w *world) stopsAt(what string) (ctx context.Context, fl *fleet.Fleet) {
	ctx, cancel := context.WithCancel(w.t.Context())
	fl, err := fleet.Open(fleet.Config{Clusters: map[starferry.ClusterName]*wire.Cluster{w.old.Name: w.oldW, w.new.Name: w.newW},
		Store: w.store, Copies: interrupted{ideal{w}, what, cancel}, Logger: logger("stopped")})
	require.NoError(w.t, err)
	return ctx, fl
}

// interrupted is a copy whose question ends the switch.
type interrupted struct {
	ideal
	what   string
	cancel context.CancelFunc
}

func (i interrupted) Translate(ctx context.Context, l starferry.LinkName, d starferry.Direction, cut starferry.Cut, wait time.Duration) (starferry.Translation, error) {
	t, err := i.ideal.Translate(ctx, l, d, cut, wait)
	switch i.what {
	case "stop":
		i.cancel()
		t.Behind = map[starferry.TopicPartition]int64{{Topic: cutTopic(cut)}: 1}
	case "missing":
		t.Missing = map[starferry.TopicPartition]string{{Topic: cutTopic(cut), Partition: 1}: "the map does not reach that far"}
	case "ranges":
		p := t.Cut[starferry.TopicPartition{Topic: cutTopic(cut)}]
		p.Handled = []starferry.Range{{From: p.Next + 1, To: p.Next + 3}}
		t.Cut[starferry.TopicPartition{Topic: cutTopic(cut)}] = p
	}
	return t, err
}

func cutTopic(c starferry.Cut) starferry.Topic { return c.Topics()[0] }

// Guarantee 4: One commit decides where a group lives; before it every failure
// returns the group to where it was.
func TestAGroupWithoutTheLibraryIsAsItWasFoundAfterAFailure(t *testing.T) {
	for what, want := range map[string]string{"stop": "context canceled", "missing": "the map does not reach that far", "ranges": "2 offsets beyond"} {
		t.Run(what, func(t *testing.T) {
			w := outsiders(t)
			w.keeper()
			before := w.committed(w.oldW)
			ctx, fl := w.stopsAt(what)
			_, err := fl.SwitchExternal(ctx, w.externalOrder(w.old, w.new, "run-1"))
			var f switchover.Failure
			require.ErrorAs(t, err, &f)
			require.ErrorContains(t, err, want)
			require.Contains(t, f.Stands, "lives on old")
			require.Equal(t, before, w.committed(w.oldW))
			require.Empty(t, w.committed(w.newW))
			require.NoError(t, w.byHand(w.oldW, 5, 7), "it may go on")
			p, _, err := w.store.Placement(t.Context(), w.group)
			require.NoError(t, err)
			require.Equal(t, control.Steady, p.Phase)

			o := w.externalOrder(w.old, w.new, "run-2")
			o.Ranges = switchover.RangesRepeat
			_, fl = w.stopsAt("ranges")
			r, err := fl.SwitchExternal(t.Context(), o)
			require.NoError(t, err)
			require.Equal(t, map[starferry.TopicPartition]int64{w.tp(0): 2}, r.Again)
			require.Len(t, r.Repeats, 1)
			require.Equal(t, starferry.Offset(5), w.committed(w.newW)[w.tp(0)].Offset)
		})
	}
}

func TestAGroupWithMembersIsWaitedForAndTheyAreNamed(t *testing.T) {
	w := outsiders(t)
	w.instance("i1") // stands for any client that has not been stopped
	require.Eventually(t, func() bool { return w.seen() > 0 }, patience, 10*time.Millisecond)
	leases, err := w.store.Leases(t.Context(), w.group)
	require.NoError(t, err)
	require.NotEmpty(t, leases)
	_, err = w.fleet.SwitchExternal(t.Context(), w.externalOrder(w.old, w.new, "run-1"))
	require.ErrorContains(t, err, "live instances of the consumer library")
	require.NoError(t, w.store.DeleteLease(t.Context(), w.group, "i1"))
}

func TestAPartitionWithoutACommitIsRefusedByName(t *testing.T) {
	w := newWorld(t, 2)
	w.produce()
	require.NoError(t, w.byHand(w.oldW, 1))
	_, err := w.fleet.SwitchExternal(t.Context(), w.externalOrder(w.old, w.new, "run-1"))
	require.ErrorContains(t, err, fmt.Sprintf("%s: no commit, and it holds offsets 0 to 0", w.tp(1)))
	require.Equal(t, "by hand 0", w.committed(w.oldW)[w.tp(0)].Metadata)
	o := w.externalOrder(w.old, w.new, "run-2")
	o.Missing = switchover.MissingEarliest
	r, err := w.fleet.SwitchExternal(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, starferry.Cut{w.tp(0): {Next: 1}, w.tp(1): {Next: 0}}, r.Seeds)
}
