package replication

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/batch"
	"github.com/starferry/starferry/replication/offsetmap"
)

// brokerSets are record sets as Kafka 3.9.2 and 4.3.1 have sent them.
func brokerSets(t testing.TB) [][]byte {
	t.Helper()
	paths, err := filepath.Glob("batch/testdata/real/*.bin")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	var out [][]byte
	for _, p := range paths {
		b, err := os.ReadFile(p)
		require.NoError(t, err)
		out = append(out, b)
	}
	return out
}

// Whatever a fetch returns, it becomes entries without a gap from the offset
// asked for, or an error behind them; and the same bytes say the same again.
func FuzzClassify(f *testing.F) {
	for _, set := range brokerSets(f) {
		f.Add(set, int64(0), int64(-1), int64(0), byte(0))
		f.Add(set, int64(3), int64(0), int64(1), byte(3))
	}
	f.Fuzz(func(t *testing.T, set []byte, from, pid, first int64, kind byte) {
		if from < 0 {
			return // nobody asks for it
		}
		r := rules{limits: batch.Limits{Decompressed: 1 << 20, Batch: 1 << 20}, brokerTime: kind&1 != 0, compacted: kind&2 != 0}
		p := kmsg.NewFetchResponseTopicPartition()
		p.AbortedTransactions = []kmsg.FetchResponseTopicPartitionAbortedTransaction{{ProducerID: pid, FirstOffset: first}}
		p.RecordBatches = slices.Clone(set)
		es, err := classify(&p, starferry.Offset(from), r)
		at := starferry.Offset(from)
		for _, e := range es {
			require.NotEmpty(t, e.pieces)
			var records int64
			for _, pc := range e.pieces {
				require.Equal(t, at, pc.source, "a gap")
				require.Positive(t, pc.count)
				if at = pc.end(); pc.hole == "" {
					records += pc.count
				}
			}
			require.Equal(t, int64(e.records), records)
			require.Equal(t, records > 0, len(e.batch) > 0)
			require.Equal(t, at, e.next())
		}
		p.RecordBatches = slices.Clone(set)
		again, err2 := classify(&p, starferry.Offset(from), r)
		require.Equal(t, err == nil, err2 == nil)
		require.Equal(t, es, again)
	})
}

// Whatever stands in the state topic is read, passed over, or refused.
func FuzzState(f *testing.F) {
	for _, v := range []any{claim{Link: "l", Bucket: 3, PID: 7, At: 1}, anchor{Link: "l", PID: 7, Epoch: 1, Source: 5, Target: 6}} {
		b, err := json.Marshal(v)
		require.NoError(f, err)
		f.Add("claim/l/3/7", b, []byte(nil))
		f.Add("anchor/l/orders-0/7/1", b, []byte(nil))
	}
	f.Add("anchor/l/orders-0/7/1", []byte(`{"link":"l","lane":"orders/0","epoch":99999,"source":-1}`), []byte(nil))
	for _, set := range brokerSets(f) {
		f.Add("", []byte(nil), set)
	}
	f.Fuzz(func(t *testing.T, key string, value, set []byte) {
		s := newStateLog(nil)
		s.apply(key, value)
		_ = s.take(set)
		all, own := s.PIDs("l", 3)
		require.LessOrEqual(t, len(own), len(all))
		for _, tp := range []starferry.TopicPartition{{}, {Topic: "orders"}} {
			_ = s.Anchors("l", tp)
		}
		_ = s.LastSign("l", all)
		s.apply(key, nil)
		_, own = s.PIDs("l", 3)
		require.Empty(t, own, "a deleted record says nothing any more")
	})
}

// Whatever stands in NATS under a link's name: a spec that can be used and says
// the same when it is stored again, or an error; and any table beside it is
// mended to one that gives each bucket one owner.
func FuzzStored(f *testing.F) {
	spec := LinkSpec{Name: "l", Source: "old", Target: "new", Topics: []starferry.Topic{"orders", "payments"}, Buckets: 4, Token: "t",
		AddedBy: map[starferry.Topic]string{"": "t", "orders": "t"}}.normal()
	stored, err := encodeSpec(spec)
	require.NoError(f, err)
	f.Add(stored, []byte(`{"v":1,"link":"l","owners":[{"shard":"a","epoch":1},{"shard":"gone","epoch":9},{"epoch":3},{"shard":"b","epoch":2}]}`))
	f.Add([]byte(`{"v":1}`), []byte(`{"owners":[{"shard":"a","epoch":-9223372036854775808},{},{},{},{},{},{},{}]}`))
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0}, []byte(`null`))
	f.Fuzz(func(t *testing.T, value, table []byte) {
		s, err := decodeSpec(value)
		if err == nil {
			require.NoError(t, s.Check())
			b, err := encodeSpec(s)
			require.NoError(t, err)
			same, err := decodeSpec(b)
			require.NoError(t, err)
			require.Equal(t, s, same)
		} else {
			s = spec
		}
		var old Table
		if json.Unmarshal(table, &old) != nil {
			return
		}
		s.Buckets = min(s.Buckets, 1024)
		next := Assign(s, []ShardID{"a", "b", "a"}, old)
		require.Len(t, next.Owners, max(s.Buckets, 1))
		for _, o := range next.Owners {
			require.Contains(t, []ShardID{"a", "b"}, o.Shard)
		}
		require.True(t, next.equal(Assign(s, []ShardID{"b", "a"}, next)), "it is settled")
	})
}

// askedShard is a shard with one lane, without anything that runs.
func askedShard(f *testing.F) *Shard {
	store, err := offsetmap.OpenStore(f.TempDir(), offsetmap.Options{})
	require.NoError(f, err)
	f.Cleanup(func() { require.NoError(f, store.Close()) })
	nowhere := map[starferry.ClusterName]starferry.Cluster{}
	for _, n := range []starferry.ClusterName{"old", "new"} {
		nowhere[n] = starferry.Cluster{Name: n, Brokers: []string{"127.0.0.1:1"}}
	}
	log := slog.New(slog.DiscardHandler)
	s := &Shard{cfg: ShardConfig{ID: "s", Clusters: nowhere}, log: log, maps: store, budget: newBudget(1 << 20), copiers: map[starferry.LinkName]*copier{},
		clusters: map[starferry.ClusterName]*wire.Cluster{}, states: map[starferry.ClusterName]*stateLog{}}
	s.proofs = newProofs(s)
	f.Cleanup(s.proofs.close)
	spec := LinkSpec{Name: "l", Source: "old", Target: "new", Topics: []starferry.Topic{"orders"}, Buckets: 2}.normal()
	c, err := s.newLink(context.Background(), spec)
	require.NoError(f, err)
	f.Cleanup(func() {
		c.close()
		for _, w := range s.clusters {
			_ = w.Close()
		}
	})
	tp := starferry.TopicPartition{Topic: "orders"}
	m, err := store.Lane(offsetmap.LaneKey{Link: "l", TopicPartition: tp})
	require.NoError(f, err)
	require.NoError(f, m.Reset(0, 5))
	require.NoError(f, m.Append(offsetmap.Run{Source: 0, Target: 5, Count: 10}))
	require.NoError(f, m.Hole(10, 12, starferry.Aborted))
	require.NoError(f, m.MarkUnknown(12, 14))
	require.NoError(f, m.Append(offsetmap.Run{Source: 14, Target: 20, Count: 10}))
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := range 2 {
		c.buckets[n] = &running{bucket: newBucket(c, n, 1)}
	}
	b := c.buckets[c.spec.BucketOf(tp)].bucket
	b.lanes[tp] = &lane{tp: tp, to: tp, bucket: b, c: c, state: Copying, omap: m, end: 30}
	s.copiers["l"] = c
	return s
}

// Whoever asks a shard gets an answer, and soon.
func FuzzRequests(f *testing.F) {
	s := askedShard(f)
	for i, q := range []any{
		statusRequest{Link: "l"}, translateRequest{Link: "l", Direction: starferry.Forward, WaitMS: 1,
			Cut: starferry.Cut{{Topic: "orders"}: {Next: 3, Handled: []starferry.Range{{From: 5, To: 9}, {From: 11, To: 13}}}}},
		lagRequest{Link: "l"}, verifyStep{Link: "l", Lane: starferry.TopicPartition{Topic: "orders"}, Session: "x", To: -1, Budget: 1 << 10},
		translateRequest{Link: "l", Direction: starferry.Back, Cut: starferry.Cut{{Topic: "orders"}: {Next: 7}, {Topic: "orders", Partition: -1}: {Next: -5}}},
	} {
		b, err := json.Marshal(q)
		require.NoError(f, err)
		f.Add(byte(i), b)
	}
	for _, away := range []bool{false, true} {
		b, err := json.Marshal(crossRequest{Link: "l", Away: away, Ask: map[starferry.TopicPartition]crossingQuestion{{Topic: "orders"}: {
			Place: starferry.Place{Next: 3, Handled: []starferry.Range{{From: 5, To: 9}, {From: 20, To: 21}}}, Listed: true,
			Within: starferry.Range{From: 2, To: 40}, Passed: 1,
		}}})
		require.NoError(f, err)
		f.Add(byte(4), b)
	}
	f.Add(byte(4), []byte(`{"link":"l","away":true,"ask":{"orders/0":{"place":{"next":-9},"listed":true,"within":{"from":-9223372036854775808,"to":9223372036854775807},"passed":-1}}}`))
	f.Add(byte(1), []byte(`{"link":"l","direction":"back","wait_ms":9223372036854775807,"cut":{"orders/0":{"next":-9223372036854775808,"handled":[{"from":0,"to":9223372036854775807}]}}}`))
	f.Fuzz(func(t *testing.T, what byte, data []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		ask := []func(context.Context, []byte) any{s.answerStatus, s.answerTranslate, s.answerLag, s.answerVerify, s.answerCross}[what%5]
		b, err := json.Marshal(ask(ctx, data))
		require.NoError(t, err)
		require.NotEmpty(t, b)
	})
}
