package replication

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/starferry/starferry"
)

// A weighted table is complete, deterministic and stable, its loads differ by no
// more than they must, and noise moves nothing.
func TestWeightedTablesAreEvenAndSticky(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := LinkSpec{Name: "l", Buckets: rapid.IntRange(1, 70).Draw(t, "buckets")}
		rate := rapid.Int64Range(0, 1000)
		rates := make([]int64, spec.Buckets)
		for b := range rates {
			rates[b] = rate.Draw(t, "rate")
		}
		var table Table
		for step := range rapid.IntRange(1, 5).Draw(t, "steps") {
			live := someShards(t, step)
			if len(live) == 0 {
				continue
			}
			table = Assign(spec, live, table)
			table.Weights = weights(rates)
			next := Assign(spec, live, table)
			require.True(t, next.equal(Assign(spec, live, table)), "not deterministic")
			require.True(t, next.equal(Assign(spec, live, next)), "not stable")
			checkLoads(t, live, next)
			for b, o := range table.Owners {
				require.Equal(t, o.Epoch+map[bool]int64{true: 0, false: 1}[o.Shard == next.Owners[b].Shard], next.Owners[b].Epoch)
			}
			noisy := next
			noisy.Weights = slices.Clone(next.Weights)
			for b := range noisy.Weights {
				noisy.Weights[b] += noisy.Weights[b] * rapid.Int64Range(-3, 3).Draw(t, "noise") / 100
			}
			if spread(live, next) < 0.10 {
				require.True(t, next.equal(Assign(spec, live, noisy)), "noise moved a bucket")
			}
			table = next
		}
	})
}

// spread is by how much the loads differ, in mean loads.
func spread(live []ShardID, t Table) float64 {
	load := map[ShardID]int64{}
	var sum int64
	for b, o := range t.Owners {
		if len(t.Weights) > 0 {
			load[o.Shard] += t.Weights[b]
			sum += t.Weights[b]
		}
	}
	hi, lo := extremes(live, load, t.Link)
	return float64(load[hi]-load[lo]) * float64(len(live)) / math.Max(float64(sum), 1)
}

func checkLoads(t *rapid.T, live []ShardID, next Table) {
	for _, o := range next.Owners {
		require.Contains(t, live, o.Shard)
	}
	if len(next.Weights) == 0 {
		return
	}
	var sum int64
	for _, w := range next.Weights {
		sum += w
	}
	heaviest := float64(slices.Max(next.Weights)) * float64(len(live)) / float64(sum)
	require.LessOrEqual(t, spread(live, next), math.Max(imbalance, heaviest)+1e-9)
}

// 200,000 lanes over 20 shards: what it takes to plan and to store, and how much
// moves when shards come and go.
func TestPlanningTwoHundredThousandLanes(t *testing.T) {
	spec := LinkSpec{Name: "big", Source: "old", Target: "new", Buckets: maxBuckets}
	rates := make([]int64, spec.Buckets)
	var lanes []LaneStatus
	for topic := range 2000 {
		name := starferry.Topic(fmt.Sprintf("topic-%04d", topic))
		spec.Topics = append(spec.Topics, name)
		for p := range starferry.Partition(100) {
			tp := starferry.TopicPartition{Topic: name, Partition: p}
			b := spec.BucketOf(tp)
			rates[b] += int64(1e9 / (topic + 1) / 100) // few topics carry most
			lanes = append(lanes, LaneStatus{Partition: tp, Bucket: b, Owner: "shard-01", State: Copying})
		}
	}
	var live []ShardID
	for n := range 20 {
		live = append(live, ShardID(fmt.Sprintf("shard-%02d", n)))
	}
	table := Assign(spec, live, Table{})
	table.Weights = weights(rates)
	began := time.Now()
	table = Assign(spec, live, table)
	took := time.Since(began)
	require.Less(t, spread(live, table), imbalance+1e-9)
	moved := func(live []ShardID) (n int) {
		for b, o := range Assign(spec, live, table).Owners {
			if o.Shard != table.Owners[b].Shard {
				n++
			}
		}
		return n
	}
	gone, come := moved(live[1:]), moved(append(slices.Clone(live), "shard-20"))
	require.LessOrEqual(t, gone, 2*maxBuckets/20)
	require.LessOrEqual(t, come, 2*maxBuckets/20)
	size := func(v any) int {
		b, err := json.Marshal(v)
		require.NoError(t, err)
		return len(b)
	}
	t.Logf("%d lanes, %d buckets, %d shards: assigned in %v; loads differ by %.0f%%; a shard that leaves moves %d buckets, one that comes %d; table %d bytes, spec %d bytes, status %d MB in %d pages",
		len(lanes), spec.Buckets, len(live), took, 100*spread(live, table), gone, come, size(table), size(spec), size(lanes)>>20, len(lanes)/pageLanes)
	require.Less(t, size(table), 900<<10, "NATS takes a megabyte")
	require.Less(t, took, 5*time.Second)
}

// The busy buckets of one shard are shared out; what is idle stays.
func TestBusyBucketsAreSharedOut(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(4, nil)
	fast := func(c *ShardConfig) { c.weigh = 300 * time.Millisecond }
	w.shard("a", t.TempDir(), fast)
	w.link(topic)
	w.shard("b", t.TempDir(), fast)
	require.Eventually(t, func() bool { o := w.owners(); return o["a"] == 2 && o["b"] == 2 }, patience, 50*time.Millisecond)
	var busy []starferry.Partition
	for p, l := range w.lanes(topic) {
		if l.Owner == "a" {
			busy = append(busy, p)
		}
	}
	n := 0
	require.Eventually(t, func() bool {
		for _, p := range busy {
			w.put(topic, p, numbered(n, 3)...)
		}
		n += 3
		all := w.lanes(topic)
		return all[busy[0]].Owner != all[busy[1]].Owner && all[busy[0]].Owner != "" && all[busy[1]].Owner != ""
	}, 2*patience, 5*time.Millisecond)
	w.everythingIsThere(topic, 4)
}
