package replication

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/starferry/starferry"
)

// A table is balanced, complete, deterministic and moves only what it must.
func TestAssignMovesOnlyWhatItMust(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := LinkSpec{Name: "l", Buckets: rapid.IntRange(1, 70).Draw(t, "buckets")}
		var table Table
		for step := range rapid.IntRange(1, 6).Draw(t, "steps") {
			live := someShards(t, step)
			next := Assign(spec, live, table)
			require.True(t, next.equal(Assign(spec, live, table)), "not deterministic")
			require.True(t, next.equal(Assign(spec, live, next)), "not stable")
			checkShares(t, spec, live, next)
			checkMoves(t, live, table, next)
			table = next
		}
	})
}

func someShards(t *rapid.T, step int) []ShardID {
	var live []ShardID
	for i := range 6 {
		if rapid.Bool().Draw(t, fmt.Sprintf("live %d at %d", i, step)) {
			live = append(live, ShardID(fmt.Sprintf("s%d", i)))
		}
	}
	return live
}

func checkShares(t *rapid.T, spec LinkSpec, live []ShardID, next Table) {
	require.Len(t, next.Owners, spec.Buckets)
	held := map[ShardID]int{}
	for _, o := range next.Owners {
		held[o.Shard]++
	}
	if len(live) == 0 {
		require.Equal(t, spec.Buckets, held[""])
		return
	}
	require.Zero(t, held[""], "a bucket without an owner")
	for _, s := range live {
		require.GreaterOrEqual(t, held[s], spec.Buckets/len(live))
		require.LessOrEqual(t, held[s], (spec.Buckets+len(live)-1)/len(live))
	}
}

// The least number of moves: whatever the dead held, plus what each living one
// holds above its share.
func checkMoves(t *rapid.T, live []ShardID, old, next Table) {
	if len(live) == 0 || len(old.Owners) == 0 {
		return
	}
	alive := map[ShardID]bool{}
	for _, s := range live {
		alive[s] = true
	}
	held, moved := map[ShardID]int{}, 0
	for b, o := range old.Owners {
		if o.Shard != next.Owners[b].Shard {
			moved++
			require.Greater(t, next.Owners[b].Epoch, o.Epoch, "a new owner without a new epoch")
		} else {
			require.Equal(t, o.Epoch, next.Owners[b].Epoch)
		}
		if alive[o.Shard] {
			held[o.Shard]++
		}
	}
	n, each, rest := len(old.Owners), len(old.Owners)/len(live), len(old.Owners)%len(live)
	kept, above := 0, 0
	for _, s := range live {
		kept += min(held[s], each)
		if held[s] > each {
			above++
		}
	}
	require.Equal(t, n-kept-min(above, rest), moved, "moved more than it must")
}

func TestPartitionsOfATopicSpreadOverBuckets(t *testing.T) {
	spec := LinkSpec{Name: "l", Buckets: 8}
	seen := map[int]bool{}
	for p := range 8 {
		seen[spec.BucketOf(starferry.TopicPartition{Topic: "orders", Partition: starferry.Partition(p)})] = true
	}
	require.Len(t, seen, 8)
}

// A topic of few partitions is shared by all shards, whether they were there from
// the start or came one by one.
func TestATopicOfFewPartitionsIsSharedByAll(t *testing.T) {
	spec := LinkSpec{Name: "l", Buckets: 64}
	for name, steps := range map[string][][]ShardID{
		"together":   {{"s1", "s2"}},
		"one by one": {{"s1"}, {"s1", "s2"}},
		"one back":   {{"s1", "s2", "s3"}, {"s1", "s3"}, {"s1", "s2", "s3"}},
	} {
		var table Table
		for _, live := range steps {
			table = Assign(spec, live, table)
		}
		for _, topic := range []starferry.Topic{"orders", "payments", "clicks"} {
			owners := map[ShardID]int{}
			for p := range 8 {
				owners[table.Owners[spec.BucketOf(starferry.TopicPartition{Topic: topic, Partition: starferry.Partition(p)})].Shard]++
			}
			require.GreaterOrEqual(t, len(owners), 2, "%s: all 8 partitions of %s are with one shard: %v", name, topic, owners)
		}
	}
}

func TestLinkSpecSaysWhatIsWrong(t *testing.T) {
	good := LinkSpec{Name: "old-to-new", Source: "old", Target: "new", Topics: []starferry.Topic{"a"}}
	require.NoError(t, good.Check())
	for want, change := range map[string]func(*LinkSpec){
		"link name":             func(s *LinkSpec) { s.Name = "a.b" },
		"both old":              func(s *LinkSpec) { s.Target = "old" },
		"at least one topic":    func(s *LinkSpec) { s.Topics = nil },
		"belongs to a cluster":  func(s *LinkSpec) { s.Topics = []starferry.Topic{stateTopic} },
		"buckets: want":         func(s *LinkSpec) { s.Buckets = -1 },
		"want bytes per second": func(s *LinkSpec) { s.RateBytes = -1 },
		"a source and a target": func(s *LinkSpec) { s.Source = "" },
		"empty topic name":      func(s *LinkSpec) { s.Topics = []starferry.Topic{""} },
	} {
		s := good
		change(&s)
		require.ErrorContains(t, s.Check(), want)
	}
}
