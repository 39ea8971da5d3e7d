package crossing

import (
	"context"
	"slices"
	"time"

	"github.com/starferry/starferry/internal/chaos/plant"
)

// Variant is the program with some lines changed.
type Variant struct {
	Name  string
	Lease time.Duration // of its shards
	Bug   string        // that is planted; empty: none
	Only  string        // the fault that shows it soonest; empty: all
	Real  bool          // only real brokers show it
	edits []plant.Edit
}

// productLease is the lease of shards as they are built for users.
const productLease = 6 * time.Second

// Product is the program as it is.
func Product() Variant { return Variant{Name: "product", Lease: productLease} }

// Variants are those that can be built, by name.
func Variants() map[string]Variant {
	quick := Variant{Name: "quick", Lease: 2 * time.Second, edits: []plant.Edit{
		{Dir: "replication", Old: "const DefaultLeaseTTL = 6 * time.Second", New: "const DefaultLeaseTTL = 2 * time.Second"},
		{Dir: "replication", Old: "renewEvery = time.Hour", New: "renewEvery = 5 * time.Second"},
	}}
	soak := Variant{Name: "soak", Lease: quick.Lease, edits: []plant.Edit{quick.edits[0],
		{Dir: "replication", Old: "renewEvery = time.Hour", New: "renewEvery = time.Second"}}}
	all := []Variant{quick, soak}
	for _, bug := range []Variant{
		// In-process brokers refuse an old epoch as soon as its coordinator has given
		// a new one. A producer id of its own shuts nobody out on any broker.
		{Name: "no-fence", Bug: "the owner before is not fenced: each shard has producer ids of its own", Only: "late packets of a dead shard", edits: []plant.Edit{
			{Dir: "replication", Old: "import (\n\t\"fmt\"\n\t\"hash/fnv\"\n\t\"regexp\"\n", New: "import (\n\t\"fmt\"\n\t\"hash/fnv\"\n\t\"os\"\n\t\"regexp\"\n"},
			{Dir: "replication", Old: `return fmt.Sprintf("starferry.%s.%d", s.Name, bucket)`, New: `return fmt.Sprintf("starferry.%s.%d.%d", s.Name, bucket, os.Getpid())`},
			{Dir: "replication", Old: "left := min(c.unfenced, time.Until(last.Add(c.renew+c.unfenced)))", New: "left := min(0, time.Until(last))"},
		}},
		// A real partition leader hears of a new epoch by what is written under it.
		{Name: "no-marker", Bug: "the coordinator fences the owner before, and the partitions are not told", Only: "late packets of a dead shard", Real: true, edits: []plant.Edit{
			{Dir: "replication", Old: "return c.tgt.AddPartitionsToTxn(ctx, txid, f.producer, tps)", New: "_ = txid\n\t\treturn nil"},
			{Dir: "replication", Old: "return c.tgt.EndTxn(ctx, txid, f.producer, false)", New: "return nil"},
			{Dir: "replication", Old: "p, err := fetchOnce(ctx, r.l.c.tgt, r.l.to, at, glance{waitMS: 20, maxBytes: 4 << 20})",
				New: "if end := r.f.before[r.l.to]; at >= end {\n\t\t\treturn end - 1, nil\n\t\t}\n\t\tp, err := fetchOnce(ctx, r.l.c.tgt, r.l.to, at, glance{waitMS: 20, maxBytes: 4 << 20})"},
		}},
		{Name: "trusting", Bug: "what the store holds is taken for all there is", Only: "kill -9", edits: []plant.Edit{
			{Dir: "replication", Old: "r.resume()\n\t\tours, err := r.standing(ctx)", New: "if ok {\n\t\t\tr.resume()\n\t\t\treturn before, nil\n\t\t}\n\t\tr.resume()\n\t\tours, err := r.standing(ctx)"},
		}},
		{Name: "off-by-one", Bug: "the map is off by one at a hole", Only: "cut connections", edits: []plant.Edit{
			{Dir: "replication/offsetmap", Old: "if a, err = m.forwardHole(j, b, i); err != nil {", New: "if a, err = m.forwardHole(j, b, i); err == nil && a.Status == starferry.InHole {\n\t\t\ta.Offset++\n\t\t}\n\t\tif err != nil {"},
		}},
	} {
		bug.Lease, bug.edits = quick.Lease, slices.Concat(quick.edits, bug.edits)
		all = append(all, bug)
	}
	out := map[string]Variant{}
	for _, v := range all {
		out[v.Name] = v
	}
	return out
}

// Build builds the program from the module at root and returns its path, below dir.
func (v Variant) Build(ctx context.Context, root, dir string) (string, error) {
	return plant.Build(ctx, root, dir, v.Name, "./agent/starferry", v.edits)
}
