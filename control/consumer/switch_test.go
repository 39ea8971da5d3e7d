package consumer_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/kafkatest"
)

// hand writes placements as an agent would, one step at a time.
type hand struct {
	*estate
	store *desired.Store
	at    control.Placement
	rev   uint64
}

// withNATS gives instances a NATS connection and the test a hand on the group.
func (e *estate) withNATS() (*hand, func(*consumer.Config)) {
	e.t.Helper()
	nc, _ := kafkatest.NATS(e.t)
	store, err := desired.Open(context.Background(), nc, desired.Options{Poll: 200 * time.Millisecond})
	require.NoError(e.t, err)
	h := &hand{estate: e, store: store, at: control.Placement{Version: control.ProtocolVersion, Group: e.group, Phase: control.Steady, Active: e.old.Name}}
	return h, func(c *consumer.Config) { c.NATS = nc }
}

func (h *hand) put(change func(p *control.Placement)) {
	h.t.Helper()
	change(&h.at)
	h.at.At = time.Now().UnixMilli()
	rev, err := h.store.PutPlacement(context.Background(), h.at, h.rev)
	require.NoError(h.t, err)
	h.rev = rev
}

func (h *hand) leases() []control.Lease {
	got, err := h.store.Leases(context.Background(), h.group)
	if err != nil {
		h.t.Logf("read leases: %v", err)
		return nil
	}
	return got
}

// all waits until the leases of n instances satisfy ok.
func (h *hand) all(n int, what string, ok func(control.Lease) bool) []control.Lease {
	h.t.Helper()
	var got []control.Lease
	deadline := time.Now().Add(patience)
	for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
		got = h.leases()
		bad := len(got) != n
		for _, l := range got {
			bad = bad || !ok(l)
		}
		if !bad {
			tick.Stop()
			return got
		}
		if time.Now().After(deadline) {
			text, err := json.MarshalIndent(got, "", " ")
			require.NoError(h.t, err)
			require.FailNow(h.t, "leases never agreed on "+what, string(text))
		}
	}
}

func good(l control.Lease, c starferry.ClusterName) (control.Membership, bool) {
	for _, m := range l.Memberships {
		if m.Cluster == c {
			return m, m.Good
		}
	}
	return control.Membership{}, false
}

func (h *hand) prepare(n int, target starferry.ClusterName) {
	h.t.Helper()
	h.put(func(p *control.Placement) { p.Epoch++; p.Phase, p.Target = control.Prepare, target })
	h.all(n, "prepare", func(l control.Lease) bool {
		m, ok := good(l, target)
		k, okA := good(l, h.at.Active)
		return ok && okA && l.Epoch == h.at.Epoch && len(m.Partitions) > 0 && len(k.Partitions) > 0
	})
}

func (h *hand) drain(n int) starferry.Cut {
	h.t.Helper()
	h.put(func(p *control.Placement) { p.Phase, p.DrainDeadlineMS = control.Drain, 10_000 })
	cut := starferry.Cut{}
	for _, l := range h.all(n, "drain", func(l control.Lease) bool { return l.Drained == h.at.Epoch && l.Revision == h.rev }) {
		for tp, p := range l.DrainedAt {
			cut[tp] = p
		}
	}
	return cut
}

func (h *hand) actor(c starferry.ClusterName) *control.Actor {
	l := h.leases()[0]
	m, _ := good(l, c)
	return &control.Actor{Instance: l.Instance, Boot: l.Boot, Member: m.Member, Generation: m.Generation}
}

// move carries a whole switch through. The clusters hold the same records at
// the same offsets, so a cut translates to itself.
func (h *hand) move(n int, target starferry.ClusterName) {
	h.t.Helper()
	h.prepare(n, target)
	h.finish(n, target, h.drain(n))
}

// finish carries a drained switch through.
func (h *hand) finish(n int, target starferry.ClusterName, cut starferry.Cut) {
	h.t.Helper()
	seeder := h.actor(target)
	h.put(func(p *control.Placement) { p.Phase, p.Cut, p.Seeds, p.Actor = control.Seed, cut, cut, seeder })
	h.one("seed", func(l control.Lease) bool { return l.Seeded == h.rev })
	decider := h.actor(h.at.Active)
	h.put(func(p *control.Placement) { p.Phase, p.Actor = control.Decide, decider })
	h.one("decide", func(l control.Lease) bool {
		return l.Decided != nil && l.Decided.Revision == h.rev && l.Decided.Result == control.Accepted
	})
	h.put(func(p *control.Placement) {
		p.Phase, p.Standby, p.Active, p.Actor = control.Announce, p.Active, target, nil
		p.StandbyUntil = time.Now().Add(time.Minute).UnixMilli()
	})
	h.all(n, "announce", func(l control.Lease) bool { return l.Home == target && l.HomeEpoch == h.at.Epoch })
	h.put(func(p *control.Placement) { p.Phase, p.Target = control.Steady, "" })
}

func (h *hand) one(what string, ok func(control.Lease) bool) {
	h.t.Helper()
	require.Eventually(h.t, func() bool {
		for _, l := range h.leases() {
			if ok(l) {
				return true
			}
		}
		return false
	}, patience, time.Millisecond, what)
}

func TestASwitchThereAndBackLosesAndRepeatsNothing(t *testing.T) {
	e := newEstate(t, 4)
	h, nats := e.withNATS()
	e.open("a", nats)
	e.open("b", nats)
	total := 0
	feed := func() {
		for p := range 4 {
			e.produce(p, 25, e.old, e.new)
		}
		total += 100
	}
	feed()
	e.settled(total)
	h.put(func(p *control.Placement) { p.Epoch = 1 })
	for _, target := range []starferry.ClusterName{e.new.Name, e.old.Name, e.new.Name} {
		h.move(2, target)
		feed()
		e.settled(total)
	}
	h.all(2, "pauses", func(l control.Lease) bool {
		return slices.ContainsFunc(l.Pauses, func(p control.Pause) bool { return p.Epoch == h.at.Epoch && p.First > p.Last && p.Last > 0 })
	})
}

func TestAnAbortedDrainGoesOnWhereItStood(t *testing.T) {
	e := newEstate(t, 4)
	h, nats := e.withNATS()
	e.open("a", nats)
	e.open("b", nats)
	for p := range 4 {
		e.produce(p, 25, e.old, e.new)
	}
	e.settled(100)
	h.put(func(p *control.Placement) { p.Epoch = 1 })
	h.prepare(2, e.new.Name)
	h.drain(2)
	for p := range 4 {
		e.produce(p, 25, e.old, e.new)
	}
	require.Never(t, func() bool { return e.seen.count() > 100 }, 200*time.Millisecond, 20*time.Millisecond)
	h.put(func(p *control.Placement) { p.Phase, p.Target = control.Steady, "" })
	e.settled(200)
	h.all(2, "given up", func(l control.Lease) bool { return l.HomeEpoch == h.at.Epoch && l.Drained == 0 })
	h.move(2, e.new.Name) // and the next switch is none the worse
	for p := range 4 {
		e.produce(p, 5, e.old, e.new)
	}
	e.settled(220)
}

func TestADrainThatNobodyEndsEndsByItself(t *testing.T) {
	e := newEstate(t, 2)
	h, nats := e.withNATS()
	e.open("a", nats)
	e.produce(0, 10, e.old)
	e.settled(10)
	h.put(func(p *control.Placement) { p.Epoch = 1 })
	h.prepare(1, e.new.Name)
	h.put(func(p *control.Placement) { p.Phase, p.DrainDeadlineMS = control.Drain, 300 })
	h.all(1, "drain", func(l control.Lease) bool { return l.Drained == h.at.Epoch })
	e.produce(0, 10, e.old)
	e.settled(20)
	h.all(1, "given up", func(l control.Lease) bool { return l.HomeEpoch == h.at.Epoch })
}

func TestAnInstanceThatStartsLaterFindsTheGroupWhereItLives(t *testing.T) {
	e := newEstate(t, 2)
	h, nats := e.withNATS()
	a := e.open("a", nats)
	e.produce(0, 10, e.old, e.new)
	e.settled(10)
	h.put(func(p *control.Placement) { p.Epoch = 1 })
	h.move(1, e.new.Name)
	closeIn(t, a)
	e.produce(0, 10, e.new)
	e.open("late") // without NATS: Kafka says where
	e.settled(20)
}

func TestTheLossOfNATSStopsNothing(t *testing.T) {
	e := newEstate(t, 2)
	nc, _ := kafkatest.NATS(t)
	e.open("a", func(c *consumer.Config) { c.NATS = nc })
	e.produce(0, 10, e.old)
	e.settled(10)
	nc.Close()
	e.produce(0, 10, e.old)
	e.produce(1, 10, e.old)
	e.settled(30)
}

func (h *hand) wish(s control.Settings) uint64 {
	h.t.Helper()
	_, rev, err := h.store.Settings(context.Background(), h.group)
	if err != nil && !errors.Is(err, desired.ErrNotFound) {
		require.NoError(h.t, err)
	}
	s.Version, s.Group = control.ProtocolVersion, h.group
	rev, err = h.store.PutSettings(context.Background(), s, rev)
	require.NoError(h.t, err)
	return rev
}

func TestASkipPassesARecordThatIsStuckInItsHandler(t *testing.T) {
	e := newEstate(t, 1)
	h, nats := e.withNATS()
	e.seen.block["0/2"] = make(chan struct{})
	e.produce(0, 5, e.old)
	e.open("a", nats)
	require.Eventually(t, func() bool { return e.seen.count() == 2 }, patience, 5*time.Millisecond)
	h.all(1, "blocked", func(l control.Lease) bool {
		return len(l.Partitions) == 1 && l.Partitions[0].Blocked != nil && *l.Partitions[0].Blocked == 2
	})
	rev := h.wish(control.Settings{Skips: []control.Skip{{ID: "1", Cluster: e.old.Name, Partition: e.tp(0), Range: starferry.Range{From: 2, To: 3}}}})
	require.Eventually(t, func() bool { return e.seen.count() == 4 }, patience, 5*time.Millisecond)
	h.all(1, "acknowledged", func(l control.Lease) bool { return l.SettingsRevision == rev })
	e.seen.mu.Lock()
	defer e.seen.mu.Unlock()
	require.Zero(t, e.seen.times["0/2"])
}

func TestAThrottleHoldsForTheWholeGroupAndIsLiftedAtOnce(t *testing.T) {
	e := newEstate(t, 2)
	h, nats := e.withNATS()
	h.wish(control.Settings{Throttle: &control.Throttle{Rate: 10}})
	e.open("a", nats)
	for p := range 2 {
		e.produce(p, 50, e.old)
	}
	require.Eventually(t, func() bool { return e.seen.count() > 0 }, patience, 5*time.Millisecond)
	begin, from := time.Now(), e.seen.count()
	require.Eventually(t, func() bool { return e.seen.count() >= from+10 }, patience, 5*time.Millisecond)
	require.Greater(t, time.Since(begin), 700*time.Millisecond, "ten records at ten a second")
	h.wish(control.Settings{})
	e.settled(100)
}

func TestSettingsOutliveRestartsAndRebalances(t *testing.T) {
	e := newEstate(t, 2)
	h, nats := e.withNATS()
	first := e.open("a", nats)
	e.produce(0, 2, e.old)
	e.settled(2)
	rev := h.wish(control.Settings{
		Throttle: &control.Throttle{Rate: 20},
		Skips:    []control.Skip{{ID: "1", Cluster: e.old.Name, Partition: e.tp(0), Range: starferry.Range{From: 2, To: 4}}},
	})
	h.all(1, "acknowledged", func(l control.Lease) bool { return l.SettingsRevision == rev })
	closeIn(t, first)
	for p := range 2 {
		e.produce(p, 300, e.old)
	}
	e.open("b", nats)
	e.open("c", nats)
	h.all(2, "acknowledged and shared", func(l control.Lease) bool { return l.SettingsRevision == rev && len(l.Partitions) == 1 })
	begin, from := time.Now(), e.seen.count()
	require.Eventually(t, func() bool { return e.seen.count() >= from+20 }, patience, 5*time.Millisecond)
	require.Greater(t, time.Since(begin), 700*time.Millisecond, "twenty records at twenty a second")
	h.wish(control.Settings{Skips: []control.Skip{{ID: "1", Cluster: e.old.Name, Partition: e.tp(0), Range: starferry.Range{From: 2, To: 4}}}})
	require.Eventually(t, func() bool { return e.seen.count() == 600 }, patience, 5*time.Millisecond)
	e.seen.mu.Lock()
	defer e.seen.mu.Unlock()
	require.Zero(t, e.seen.times["0/2"]+e.seen.times["0/3"], "skipped before the restart, and after it")
}

// Guarantee 6: A plan changes nothing, a hold ends by itself
func TestATimedThrottleEndsByItself(t *testing.T) {
	e := newEstate(t, 1)
	h, nats := e.withNATS()
	h.wish(control.Settings{Throttle: &control.Throttle{Rate: 1, Until: time.Now().Add(2 * time.Second).UnixMilli()}})
	e.produce(0, 100, e.old)
	e.open("a", nats)
	e.settled(100) // at one a second it would take longer than anybody waits
}
