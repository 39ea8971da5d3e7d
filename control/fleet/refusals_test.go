package fleet_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

// holdAt lets handlers wait with one record until release.
func (w *world) holdAt(value string) (release func()) {
	held := make(chan struct{})
	w.hold = func(v string) <-chan struct{} {
		if v == value {
			return held
		}
		return nil
	}
	return func() { close(held) }
}

// standsStill waits until a switch has been ordered to drain and the one
// instance hands out nothing more.
func (w *world) standsStill() {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		p, rev, err := w.store.Placement(w.t.Context(), w.group)
		if err != nil || p.Phase != control.Drain {
			return false
		}
		ls, err := w.store.Leases(w.t.Context(), w.group)
		return err == nil && len(ls) == 1 && ls[0].Revision == rev
	}, patience, time.Millisecond)
}

// A skip that reaches further than the copy has no place on the target yet.
func TestASkipBeyondTheCopyIsRefused(t *testing.T) {
	w := newWorld(t, 1)
	for range 10 {
		w.produce()
	}
	release := w.holdAt("0/4")
	w.instance("i1")
	require.Eventually(t, func() bool { return w.seen() == 4 }, patience, 10*time.Millisecond)
	_, err := w.fleet.Skip(t.Context(), fleet.SkipOrder{Group: w.group, Partition: w.tp(0), Range: starferry.Range{From: 8, To: 15}, By: "ann", Token: "s1"})
	require.NoError(t, err)
	refused := make(chan error, 1)
	go func() {
		o := w.order(w.old, w.new, "run-1")
		o.Within = 5 * time.Second
		_, err := w.fleet.Switch(t.Context(), o)
		refused <- err
	}()
	w.standsStill()
	release()
	err = <-refused
	require.ErrorContains(t, err, "reaches 5 records beyond the copy")
	require.ErrorContains(t, err, "lives on old")
	for range 10 {
		w.produce()
	}
	require.Eventually(t, func() bool { return w.seen() == 20-7 }, patience, 10*time.Millisecond, "the group goes on without the skipped records")
}

// crowded is a copy in which what is handled lies in so many pieces.
type crowded struct {
	ideal
	pieces int
}

func (c crowded) Translate(ctx context.Context, l starferry.LinkName, d starferry.Direction, cut starferry.Cut, wait time.Duration) (starferry.Translation, error) {
	t, err := c.ideal.Translate(ctx, l, d, cut, wait)
	out := starferry.Cut{}
	for tp, p := range t.Cut {
		for i := range c.pieces {
			from := p.Next + starferry.Offset(2*i+1)
			p.Handled = append(p.Handled, starferry.Range{From: from, To: from + 1})
		}
		out[tp] = p
	}
	t.Cut = out
	return t, err
}

// A commit holds some hundred ranges: a cut that needs more is refused, and the
// group stays.
func TestMoreRangesThanACommitHoldsAreRefused(t *testing.T) {
	kafkatest.Waits(t)
	w, stop := running(t)
	f, err := fleet.Open(fleet.Config{
		Clusters: map[starferry.ClusterName]*wire.Cluster{w.old.Name: w.oldW, w.new.Name: w.newW},
		Store:    w.store, Copies: crowded{ideal{w}, 800}, Logger: logger("agent"),
	})
	require.NoError(t, err)
	_, err = f.Switch(contextFor(t, 2*patience), w.order(w.old, w.new, "run-1"))
	require.ErrorContains(t, err, "800 handled ranges need")
	require.ErrorContains(t, err, "lives on old")
	w.consumesOn(w.old)
	w.nothingLost(stop)
}

// An instance that may not join the group on the target is named, with the
// broker's reason, before anything stands still.
func TestAnInstanceThatMayNotJoinTheTargetIsNamed(t *testing.T) {
	if kafkatest.Real() {
		t.Skip("the brokers of the tests have no authorizer; the in-process ones deny on demand")
	}
	fake, denied := kafkatest.Fake(t, "new")
	_, old := kafkatest.Fake(t, "old")
	w := newWorldOn(t, old, denied, 2)
	fake.ControlKey(int16(kmsg.JoinGroup), func(r kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		answer := r.ResponseKind().(*kmsg.JoinGroupResponse)
		answer.ErrorCode = int16(kafka.GroupAuthorizationFailed)
		return answer, nil, true
	})
	stop := w.traffic()
	w.instance("i1")
	w.consumesOn(w.old)
	o := w.order(w.old, w.new, "run-1")
	o.Within = 4 * time.Second
	_, err := w.fleet.Switch(contextFor(t, 2*patience), o)
	require.ErrorContains(t, err, "i1")
	require.ErrorContains(t, err, "prepare")
	require.ErrorContains(t, err, "lacks the ACL Read on group "+string(w.group))
	w.consumesOn(w.old)
	w.nothingLost(stop)
}

// A settled group that comes back finds its old cluster fenced: the switch lifts
// the fence by itself.
func TestASettledGroupComesBackOntoItsFence(t *testing.T) {
	if !kafkatest.Real() {
		t.Skip("the in-process Kafka keeps an emptied group's protocol type and refuses the fence; real brokers let it in")
	}
	w, stop := running(t)
	w.keeper()
	o := w.order(w.old, w.new, "run-1")
	o.Fence, o.Standby = true, 100*time.Millisecond
	_, err := w.fleet.Switch(contextFor(t, 2*patience), o)
	require.NoError(t, err)
	w.consumesOn(w.new)
	fenced := func() bool {
		v, err := w.fleet.Group(t.Context(), w.group)
		return err == nil && fleet.Fenced(v.On[w.old.Name].Group)
	}
	require.Eventually(t, fenced, patience, 20*time.Millisecond, "the old cluster is not fenced when standby has ended")
	require.Error(t, w.byHand(w.oldW, 1), "others are kept out")
	_, err = w.fleet.Pause(t.Context(), fleet.PauseOrder{Group: w.group, For: time.Millisecond, By: "ann"})
	require.NoError(t, err, "the agents that keep the fence have nothing to acknowledge")
	w.switched(w.new, w.old, "run-2")
	w.consumesOn(w.old)
	require.False(t, fenced())
	w.nothingLost(stop)
}

// asks sends one request as franz-go does, which knows coordinators.
func asks[R kmsg.Response](w *world, c starferry.Cluster, r kmsg.Request) R {
	w.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers...))
	require.NoError(w.t, err)
	defer client.Close()
	answer, err := client.Request(contextFor(w.t, patience), r)
	require.NoError(w.t, err)
	return answer.(R)
}

// Kafka Streams commits to topics that it makes for itself.
func TestApplicationsOfKafkaStreamsAreRefusedOutside(t *testing.T) {
	w := outsiders(t)
	own := starferry.Topic(string(w.group) + "-sums-repartition")
	kafkatest.MakeTopic(t, w.old, own, 1, nil)
	require.NoError(t, w.oldW.Commit(t.Context(), wire.Commit{Group: w.group, Generation: -1,
		Offsets: map[starferry.TopicPartition]wire.Committed{{Topic: own}: {Offset: 0, LeaderEpoch: -1}}}))
	w.refusedOutside("an application of Kafka Streams")
}

// Workers of Kafka Connect share connectors out through a group.
func TestWorkersOfConnectAreRefusedOutside(t *testing.T) {
	w := newWorld(t, 1)
	join := kmsg.NewPtrJoinGroupRequest()
	join.Version = 3 // without a second round for the member's id
	join.Group, join.ProtocolType, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = string(w.group), "connect", 30_000, 30_000
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name = "sessioned"
	join.Protocols = append(join.Protocols, p)
	client, err := kgo.NewClient(kgo.SeedBrokers(w.old.Brokers...))
	require.NoError(t, err)
	defer client.Close()
	answer, err := client.Request(contextFor(t, patience), join)
	require.NoError(t, err)
	joined := answer.(*kmsg.JoinGroupResponse)
	if wire.Code(joined.ErrorCode) == kafka.MemberIDRequired {
		join.MemberID = joined.MemberID
		answer, err = client.Request(contextFor(t, patience), join)
		require.NoError(t, err)
		joined = answer.(*kmsg.JoinGroupResponse)
	}
	require.NoError(t, wire.Code(joined.ErrorCode))
	w.refusedOutside("Kafka Connect workers")
}

// Records of a share group (KIP-932) are acknowledged one by one.
func TestShareGroupsAreRefusedOutside(t *testing.T) {
	w := newWorld(t, 1)
	md, err := w.oldW.Metadata(t.Context())
	require.NoError(t, err)
	if v, err := w.oldW.MaxVersion(t.Context(), md.Brokers[0].ID, kmsg.ShareGroupHeartbeat.Int16()); err != nil || v < 1 {
		t.Skip("this cluster has no share groups (Kafka 4.2)")
	}
	beat := kmsg.NewPtrShareGroupHeartbeatRequest()
	beat.GroupID, beat.MemberID, beat.SubscribedTopicNames = string(w.group), "8b8b8b8b-8b8b-4b8b-8b8b-8b8b8b8b8b8b", []string{string(w.topic)}
	require.Eventually(t, func() bool {
		return wire.Code(asks[*kmsg.ShareGroupHeartbeatResponse](w, w.old, beat).ErrorCode) == nil
	}, patience, 50*time.Millisecond)
	w.refusedOutside("a share group")
}

func (w *world) refusedOutside(why string) {
	w.t.Helper()
	o := w.externalOrder(w.old, w.new, "run-1")
	o.Within = 3 * time.Second
	_, err := w.fleet.SwitchExternal(contextFor(w.t, 2*patience), o)
	require.ErrorContains(w.t, err, why)
}

// An instance of a version to come is named by what its lease says of itself, not
// only as a member that says nothing.
func TestAnInstanceOfANewerVersionIsNamed(t *testing.T) {
	w := newWorld(t, 2)
	w.produce()
	w.instance("i1")
	newer, err := consumer.Open(t.Context(), consumer.Config{
		Group: w.group, Topics: []starferry.Topic{w.topic}, Clusters: []starferry.Cluster{w.old, w.new}, Home: w.old.Name, Instance: "i2",
		Start: consumer.Earliest, SessionTimeout: 6 * time.Second, HeartbeatInterval: 100 * time.Millisecond, // no NATS: its lease is written below
	}, w.handle)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, newer.Close(context.Background())) })
	require.Eventually(t, func() bool { return w.seen() == 2 }, patience, 10*time.Millisecond)
	js, err := jetstream.New(w.nc)
	require.NoError(t, err)
	kv, err := js.KeyValue(t.Context(), desired.LiveBucket)
	require.NoError(t, err)
	over := make(chan struct{})
	told := make(chan struct{})
	t.Cleanup(func() { close(over); <-told })
	go func() { // it lives for as long as the switch is tried
		defer close(told)
		for tick := time.NewTicker(200 * time.Millisecond); ; {
			_, _ = kv.Put(context.Background(), desired.EncodeKey(string(w.group))+".i2", []byte(`{"v":2,"speaks":"of other things"}`))
			select {
			case <-over:
				tick.Stop()
				return
			case <-tick.C:
			}
		}
	}()

	o := w.order(w.old, w.new, "run-1")
	o.Patience, o.Within = 2*time.Second, patience
	_, err = w.fleet.Switch(t.Context(), o)
	require.ErrorContains(t, err, "i2")
	require.ErrorContains(t, err, "is of protocol version 2 and this program knows up to 1; upgrade it")
	require.ErrorContains(t, err, "agents first")
}
