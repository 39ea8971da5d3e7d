package desired

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/internal/testlog"
)

// service is a store as a service has it.
func (w *town) service(o Options) *Store {
	w.t.Helper()
	s, err := OpenService(w.t.Context(), w.nc, o)
	require.NoError(w.t, err)
	return s
}

func place(boot string, next starferry.Offset) control.Lease {
	return control.Lease{Group: "pay.v2", Instance: "i 1", Boot: boot, Topics: []starferry.Topic{"orders"}, Partitions: []control.PartitionState{
		{Partition: starferry.TopicPartition{Topic: "orders"}, Cluster: "old", Position: next},
	}}
}

// What an instance said last is told by an agent, and found without one by
// whoever may look for it.
func TestLastWordsAreTold(t *testing.T) {
	w := newTown(t, Options{})
	s := w.service(Options{})
	writer := s.LeaseWriter()
	require.NoError(t, writer.Put(t.Context(), place("b1", 7)))
	require.NoError(t, s.LeaseWriter().Put(t.Context(), place("b2", 9)))
	require.NoError(t, writer.Put(t.Context(), place("b1", 8)))
	require.NoError(t, w.nc.Flush())
	said := func() string {
		words, err := s.LastWords(t.Context(), "pay.v2")
		require.NoError(t, err)
		var all []string
		for _, l := range words {
			all = append(all, l.Boot+"@"+string(rune('0'+l.Partitions[0].Position)))
		}
		return strings.Join(all, " ")
	}
	both := func() bool { return said() == "b2@9 b1@8" || said() == "b1@8 b2@9" }
	require.Eventually(t, both, 10*time.Second, 5*time.Millisecond, "found")
	sub, err := w.s.AnswerLastWords("agents")
	require.NoError(t, err)
	defer func() { require.NoError(t, sub.Unsubscribe()) }()
	require.Eventually(t, both, 10*time.Second, 5*time.Millisecond, "told")
	asked, _, err := sub.Pending()
	require.NoError(t, err)
	require.Zero(t, asked)
	words, err := s.askLastWords(t.Context(), "pay.v2")
	require.NoError(t, err)
	require.Len(t, words, 2)
}

// Buckets of an older version take roll-ups, with which a message on one key
// takes all of them away, and do not say again what they store: services hear of
// changes late. An agent mends them, and makes those that are gone.
func TestBucketsAreMended(t *testing.T) {
	w := newTown(t, Options{Poll: time.Hour})
	for _, name := range []string{DesiredBucket, LiveBucket, ProducersBucket} {
		if name != ProducersBucket {
			require.NoError(t, w.s.js.DeleteKeyValue(t.Context(), name))
		}
		_, err := w.s.js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: name, History: 1, TTL: map[string]time.Duration{LiveBucket: time.Minute}[name]})
		require.NoError(t, err)
	}
	require.NoError(t, w.s.js.DeleteKeyValue(t.Context(), LastBucket))
	require.NoError(t, w.s.Ensure(t.Context()))
	require.NoError(t, w.s.Ensure(t.Context()), "once more changes nothing")

	updates := w.watching()
	require.Nil(t, next(t, updates).Placement)
	rev := w.placed(control.Steady, 0)
	require.Equal(t, rev, next(t, updates).PlacementRevision, "heard, since nobody polls")

	require.NoError(t, w.s.PutLease(t.Context(), control.Lease{Group: "other", Instance: "i1"}))
	m := nats.NewMsg(kvSubject(LiveBucket, "pay=2ev2.i1"))
	m.Header.Set("Nats-Rollup", "all")
	answer, err := w.nc.RequestMsg(m, 10*time.Second)
	require.NoError(t, err)
	require.Contains(t, string(answer.Data), "rollup not permitted")
	leases, err := w.s.Leases(t.Context(), "other")
	require.NoError(t, err)
	require.Len(t, leases, 1)
	_, err = w.s.js.KeyValue(t.Context(), LastBucket)
	require.NoError(t, err)
}

// A service that is not told of changes asks for them, and says that it is late.
func TestChangesThatAreNotToldAreAskedFor(t *testing.T) {
	var said testlog.Log
	w := newTown(t, Options{Poll: 50 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&said, nil))})
	stream, err := w.s.js.Stream(t.Context(), "KV_"+DesiredBucket)
	require.NoError(t, err)
	cfg := stream.CachedInfo().Config
	cfg.RePublish = nil
	_, err = w.s.js.UpdateStream(t.Context(), cfg)
	require.NoError(t, err)
	updates := w.watching()
	next(t, updates)
	for rev := uint64(0); !strings.Contains(said.String(), "seen late"); {
		rev = w.placed(control.Steady, rev)
		require.Equal(t, rev, next(t, updates).PlacementRevision)
	}
}

// One server of several may be behind: what it answers is taken for a step back
// only if it is said twice.
func TestALaggingServerTakesNothingBack(t *testing.T) {
	h := &heeder{all: map[string]held{}, fell: map[string]uint64{}, changed: func(map[string]entry) {}}
	at := func(rev uint64) held { return held{entry{revision: rev}, true} }
	require.True(t, h.compare("k", at(9)))
	require.False(t, h.compare("k", at(4)))
	require.Equal(t, uint64(9), h.all["k"].revision)
	require.False(t, h.compare("k", at(9)))
	require.False(t, h.compare("k", at(4)), "once again, after it had caught up")
	require.Equal(t, uint64(9), h.all["k"].revision)
	require.False(t, h.compare("k", at(4)))
	require.Equal(t, uint64(4), h.all["k"].revision, "the bucket was made anew")
}
