package desired

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// town is a NATS server that can be stopped and started again on its port, and
// a store that talks to it.
type town struct {
	t   *testing.T
	o   *server.Options
	srv *server.Server
	nc  *nats.Conn
	s   *Store
}

func newTown(t *testing.T, o Options) *town {
	w := &town{t: t, o: &server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true}}
	w.start()
	w.o.Port = w.srv.Addr().(*net.TCPAddr).Port
	nc, err := nats.Connect(w.srv.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0))
	require.NoError(t, err)
	w.nc = nc
	t.Cleanup(func() { nc.Close(); w.stop() })
	w.s, err = Open(t.Context(), nc, o)
	require.NoError(t, err)
	return w
}

func (w *town) start() {
	srv, err := server.NewServer(w.o)
	require.NoError(w.t, err)
	w.srv = srv
	srv.Start()
	require.True(w.t, srv.ReadyForConnections(5*time.Second), "NATS did not start")
}

func (w *town) stop() {
	w.srv.Shutdown()
	w.srv.WaitForShutdown()
}

func (w *town) placed(phase control.Phase, expect uint64) uint64 {
	p := control.Placement{Group: "pay.v2", Phase: phase, Active: "old"}
	if p.Open() {
		p.Target = "new"
	}
	rev, err := w.s.PutPlacement(w.t.Context(), p, expect)
	require.NoError(w.t, err)
	return rev
}

// watching starts a follower and returns what it is told.
func (w *town) watching() <-chan Update {
	ctx, cancel := context.WithCancel(context.Background())
	out, done := make(chan Update, 100), make(chan struct{})
	go func() {
		defer close(done)
		_ = w.s.WatchGroup(ctx, "pay.v2", func(u Update) { out <- u })
	}()
	w.t.Cleanup(func() { cancel(); <-done })
	return out
}

func next(t *testing.T, c <-chan Update) Update {
	select {
	case u := <-c:
		return u
	case <-time.After(10 * time.Second):
		require.FailNow(t, "no update came")
		return Update{}
	}
}

func TestAPlacementIsChangedOnlyByWhoKnowsIt(t *testing.T) {
	w := newTown(t, Options{})
	_, rev, err := w.s.Placement(t.Context(), "pay.v2")
	require.ErrorIs(t, err, ErrNotFound)
	require.Zero(t, rev)

	first := w.placed(control.Steady, 0)
	_, err = w.s.PutPlacement(t.Context(), control.Placement{Group: "pay.v2"}, 0)
	require.ErrorIs(t, err, ErrConflict)
	second := w.placed(control.Prepare, first)
	_, err = w.s.PutPlacement(t.Context(), control.Placement{Group: "pay.v2"}, first)
	require.ErrorIs(t, err, ErrConflict)

	p, rev, err := w.s.Placement(t.Context(), "pay.v2")
	require.NoError(t, err)
	require.Equal(t, second, rev)
	require.Equal(t, control.Prepare, p.Phase)
	require.Equal(t, control.ProtocolVersion, p.Version)
}

func TestSettingsHaveARevisionOfTheirOwn(t *testing.T) {
	w := newTown(t, Options{})
	updates := w.watching()
	require.Nil(t, next(t, updates).Placement)
	rev := w.placed(control.Steady, 0)
	require.Equal(t, rev, next(t, updates).PlacementRevision)
	srev, err := w.s.PutSettings(t.Context(), control.Settings{Group: "pay.v2", Throttle: &control.Throttle{Rate: 5}}, 0)
	require.NoError(t, err)
	u := next(t, updates)
	require.Equal(t, rev, u.PlacementRevision)
	require.Equal(t, srev, u.SettingsRevision)
	require.Equal(t, 5.0, u.Settings.Throttle.Rate)
}

func TestAWatchSurvivesARestartOfNATS(t *testing.T) {
	w := newTown(t, Options{Poll: 200 * time.Millisecond})
	rev := w.placed(control.Steady, 0)
	updates := w.watching()
	require.Equal(t, rev, next(t, updates).PlacementRevision)

	w.stop()
	w.start()
	require.Eventually(t, w.nc.IsConnected, 15*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool { // a request that meets a starting JetStream is never answered
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, _, err := w.s.Placement(ctx, "pay.v2")
		return err == nil
	}, 15*time.Second, 10*time.Millisecond)
	rev = w.placed(control.Prepare, rev)
	for u := next(t, updates); u.PlacementRevision != rev; u = next(t, updates) {
		require.NoError(t, u.Err)
	}
	// the memory bucket did not survive; the next lease makes it again
	require.NoError(t, w.s.PutLease(t.Context(), control.Lease{Group: "pay.v2", Instance: "i1"}))
	ls, err := w.s.Leases(t.Context(), "pay.v2")
	require.NoError(t, err)
	require.Len(t, ls, 1)
}

func TestAnEmptiedBucketIsSeen(t *testing.T) {
	w := newTown(t, Options{Poll: 100 * time.Millisecond})
	rev := w.placed(control.Steady, w.placed(control.Drain, w.placed(control.Prepare, 0)))
	updates := w.watching()
	require.Equal(t, rev, next(t, updates).PlacementRevision)
	require.NoError(t, w.s.js.DeleteKeyValue(t.Context(), DesiredBucket))
	require.Nil(t, next(t, updates).Placement, "the follower must notice that nothing is stored any more")
	again := w.placed(control.Steady, 0)
	require.Less(t, again, rev)
	require.Equal(t, again, next(t, updates).PlacementRevision)
}

func TestWhatCannotBeReadIsNamed(t *testing.T) {
	w := newTown(t, Options{})
	kv, err := w.s.js.KeyValue(t.Context(), DesiredBucket)
	require.NoError(t, err)
	updates := w.watching()
	next(t, updates)
	for value, want := range map[string]string{
		"\x00garbage": "no JSON of ours", `{}`: "protocol version 0", `{"v":99}`: "upgrade", `{"v":1,"epoch":"x"}`: "epoch",
	} {
		_, err = kv.Put(t.Context(), "pay=2ev2.placement", []byte(value))
		require.NoError(t, err)
		_, _, err = w.s.Placement(t.Context(), "pay.v2")
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "pay=2ev2.placement")
		u := next(t, updates)
		require.Nil(t, u.Placement)
		require.ErrorContains(t, u.Err, want)
	}
}

func TestALeaseThatIsNotRenewedIsForgotten(t *testing.T) {
	w := newTown(t, Options{LeaseTTL: time.Second, Poll: 100 * time.Millisecond})
	require.Equal(t, time.Second, w.s.LeaseTTL())
	ctx, cancel := context.WithCancel(t.Context())
	seen, done := make(chan string, 100), make(chan struct{})
	go func() {
		defer close(done)
		_ = w.s.WatchLeases(ctx, "pay.v2", func(ls []control.Lease, _ error) {
			var names []string
			for _, l := range ls {
				names = append(names, string(l.Instance))
			}
			seen <- strings.Join(names, " ")
		})
	}()
	defer func() { cancel(); <-done }()
	require.Equal(t, "", <-seen)
	for _, i := range []starferry.InstanceID{"host 1/a", "host 2/b"} {
		require.NoError(t, w.s.PutLease(t.Context(), control.Lease{Group: "pay.v2", Instance: i}))
	}
	for <-seen != "host 1/a host 2/b" {
	}
	require.NoError(t, w.s.DeleteLease(t.Context(), "pay.v2", "host 1/a"))
	require.Equal(t, "host 2/b", <-seen, "leaving in good order is seen at once")
	require.Equal(t, "", <-seen, "and silence after the time to live")
}

// NATS is emptied under whoever reads: the trail begins anew.
func TestAnAuditTrailThatHasVanishedIsEmpty(t *testing.T) {
	w := newTown(t, Options{})
	require.NoError(t, w.s.Audit(t.Context(), Event{Group: "g", What: "switch", Who: "ann"}))
	require.NoError(t, w.s.js.DeleteStream(t.Context(), AuditStream))
	es, err := w.s.AuditLog(t.Context(), AuditFilter{Group: "g"})
	require.NoError(t, err)
	require.Empty(t, es)
	require.NoError(t, w.s.Audit(t.Context(), Event{Group: "g", What: "switched", Who: "ann"}))
	es, err = w.s.AuditLog(t.Context(), AuditFilter{Group: "g"})
	require.NoError(t, err)
	require.Len(t, es, 1)
}

func TestTheAuditTrailKeepsItsOrder(t *testing.T) {
	w := newTown(t, Options{})
	began := time.Now()
	for _, what := range []string{"switch", "switched", "skip"} {
		require.NoError(t, w.s.Audit(t.Context(), Event{Group: "pay.v2", What: what, Who: "ann"}))
	}
	require.NoError(t, w.s.Audit(t.Context(), Event{Group: "other", What: "throttle", Who: "bob"}))
	es, err := w.s.AuditLog(t.Context(), AuditFilter{Group: "pay.v2", Since: began.Add(-time.Second)})
	require.NoError(t, err)
	require.Len(t, es, 3)
	require.Equal(t, "switch", es[0].What)
	require.Equal(t, "skip", es[2].What)
	require.NotZero(t, es[0].When)
	es, err = w.s.AuditLog(t.Context(), AuditFilter{Last: 1})
	require.NoError(t, err)
	require.Equal(t, starferry.Group("other"), es[0].Group)
	groups, err := w.s.Groups(t.Context())
	require.NoError(t, err)
	require.Empty(t, groups)
}

func TestWithoutJetStreamItSaysWhatToDo(t *testing.T) {
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true})
	require.NoError(t, err)
	srv.Start()
	defer func() { srv.Shutdown(); srv.WaitForShutdown() }()
	require.True(t, srv.ReadyForConnections(5*time.Second))
	nc, err := nats.Connect(srv.ClientURL())
	require.NoError(t, err)
	defer nc.Close()
	_, err = Open(t.Context(), nc, Options{})
	require.ErrorContains(t, err, "-js")
}

func TestKeysAreReversible(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.String().Draw(t, "a"), rapid.String().Draw(t, "b")
		got, err := DecodeKey(EncodeKey(a))
		require.NoError(t, err)
		require.Equal(t, a, got)
		require.NotContains(t, EncodeKey(a), ".")
		require.Equal(t, a == b, EncodeKey(a) == EncodeKey(b))
	})
	_, err := DecodeKey("a=4")
	require.Error(t, err)
}
