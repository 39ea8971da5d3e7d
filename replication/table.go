package replication

import (
	"cmp"
	"hash/fnv"
	"slices"

	"github.com/starferry/starferry"
)

// ShardID names a shard. It becomes part of NATS subjects.
type ShardID string

// Table says which shard owns which bucket of a link.
type Table struct {
	Version int                `json:"v"`
	Link    starferry.LinkName `json:"link"`
	// Owners has one entry for each bucket, at the bucket's index.
	Owners []Ownership `json:"owners"`
	// Weights has one entry for each bucket, as of when loads were last evened out;
	// none: all weigh the same.
	Weights []int64 `json:"weights,omitempty"`
	// Revision is the KV revision the table was read at; 0 if there is none yet.
	Revision uint64 `json:"-"`
}

// Ownership is one bucket's entry in a table.
type Ownership struct {
	Shard ShardID `json:"shard,omitempty"` // empty: nobody
	// Epoch grows with every change of owner.
	Epoch int64 `json:"epoch"`
}

// Assign shares a link's buckets among the live shards. It is pure and
// deterministic: every shard that sees the same spec, the same living and the
// same old table computes the same new one. It moves only the buckets it must.
// Without weights no two shards' shares differ by more than one.
func Assign(spec LinkSpec, live []ShardID, old Table) Table {
	n := max(spec.Buckets, 1)
	next := Table{Version: 1, Link: spec.Name, Owners: make([]Ownership, n), Revision: old.Revision}
	copy(next.Owners, old.Owners)
	live = slices.Clone(live)
	slices.Sort(live)
	live = slices.Compact(live)
	if len(live) == 0 {
		return next.without(func(ShardID) bool { return false })
	}
	next = next.without(func(s ShardID) bool { _, ok := slices.BinarySearch(live, s); return ok })
	if len(old.Weights) == n {
		next.Weights = old.Weights
		next.balance(live)
		next.keepEpochs(old)
		return next
	}
	quota := quotas(spec.Name, live, next)
	held := next.trim(quota)
	order := slices.SortedFunc(slices.Values(live), func(a, b ShardID) int { return cmp.Compare(quota[a].rank, quota[b].rank) })
	at := 0
	for b, o := range next.Owners {
		if o.Shard != "" {
			continue
		}
		for held[order[at%len(order)]] == quota[order[at%len(order)]].n {
			at++
		}
		s := order[at%len(order)]
		next.Owners[b] = Ownership{Shard: s, Epoch: o.Epoch + 1}
		held[s]++
		at++
	}
	next.keepEpochs(old)
	return next
}

// keepEpochs gives the buckets that have not changed hands the epochs they had,
// and the others the next one.
func (t Table) keepEpochs(old Table) {
	for b := range min(len(t.Owners), len(old.Owners)) {
		t.Owners[b].Epoch = old.Owners[b].Epoch
		if old.Owners[b].Shard != t.Owners[b].Shard {
			t.Owners[b].Epoch++
		}
	}
}

// without takes their buckets from the shards that are not kept.
func (t Table) without(keep func(ShardID) bool) Table {
	for b, o := range t.Owners {
		if o.Shard != "" && !keep(o.Shard) {
			t.Owners[b] = Ownership{Epoch: o.Epoch}
		}
	}
	return t
}

// trim takes from each shard what is above its quota and returns what each one
// keeps. What is taken lies spread among what is kept, as what is handed out
// goes round the shards: the partitions of a topic follow each other through the
// buckets, and a topic of few partitions is to be shared by all as well.
func (t Table) trim(quota map[ShardID]share) map[ShardID]int {
	had, kept, seen := map[ShardID]int{}, map[ShardID]int{}, map[ShardID]int{}
	for _, o := range t.Owners {
		had[o.Shard]++
	}
	for b, o := range t.Owners {
		if o.Shard == "" {
			continue
		}
		seen[o.Shard]++
		h, q := had[o.Shard], min(quota[o.Shard].n, had[o.Shard])
		if seen[o.Shard]*q/h > kept[o.Shard] {
			kept[o.Shard]++
		} else {
			t.Owners[b] = Ownership{Epoch: o.Epoch}
		}
	}
	return kept
}

type share struct{ n, rank int }

// quotas says how many buckets each shard may hold. The shards that hold most
// already take the remainder, so that nothing moves for its sake; between equals
// a hash of the link's name decides, so that small links spread over the shards.
func quotas(link starferry.LinkName, live []ShardID, t Table) map[ShardID]share {
	held := map[ShardID]int{}
	for _, o := range t.Owners {
		held[o.Shard]++
	}
	order := slices.SortedFunc(slices.Values(live), func(a, b ShardID) int {
		return cmp.Or(cmp.Compare(held[b], held[a]), cmp.Compare(weight(link, a), weight(link, b)), cmp.Compare(a, b))
	})
	each, rest := len(t.Owners)/len(live), len(t.Owners)%len(live)
	out := map[ShardID]share{}
	for i, s := range order {
		n := each
		if i < rest {
			n++
		}
		out[s] = share{n, i}
	}
	return out
}

func weight(link starferry.LinkName, s ShardID) uint64 {
	h := fnv.New64a()
	h.Write([]byte(link))
	h.Write([]byte{0})
	h.Write([]byte(s))
	return h.Sum64()
}

// equal reports whether two tables say the same, whatever their revisions.
func (t Table) equal(o Table) bool { return slices.Equal(t.Owners, o.Owners) }

// mine lists the buckets a shard owns.
func (t Table) mine(s ShardID) map[int]int64 {
	out := map[int]int64{}
	for b, o := range t.Owners {
		if o.Shard == s {
			out[b] = o.Epoch
		}
	}
	return out
}
