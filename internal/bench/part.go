package bench

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/starferry/starferry/replication/batch"
)

// part is one measurement. It may use the directory, and the pair of brokers,
// which are empty when it begins.
type part struct {
	name string
	what string
	run  func(b *bench, ctx context.Context, dir string) (Values, error)
}

// parts lists all of them in the order they run. Latency comes first: what other
// parts have written is on its way to the disk for long, and what was deleted is
// removed a minute later. The many lanes come last: the brokers take long to be
// rid of so many partitions.
func parts() []part {
	return []part{
		{"latency", "source to target at a tenth of the load the link can copy", latency},
		{"copy", "one link beside MirrorMaker 2, uncompressed", copyWith("copy", batch.None)},
		{"relay", "what moving the same bytes through a process costs at least", relay},
		{"copy-lz4", "one link beside MirrorMaker 2, lz4", copyWith("copy_lz4", batch.LZ4)},
		{"tiny", "batches of one record each, beside MirrorMaker 2", tiny},
		{"map", "an offset map of 1,000,000 runs", offsetMap},
		{"recovery", "kill -9 and the map deleted", recovery},
		{"takeover", "another shard takes over 1,000 lanes in 64 buckets", takeover},
		{"reread", "records a moved group reads again, beside MirrorMaker 2", reread},
		{"switch", "the pause of a group that changes cluster, beside leave and join", switches},
		{"beside", "one link while a live group on the same clusters is switched to and fro", beside},
		{"hand", "a throttle to 2,000 instances, and a skip of a record that blocks", hand},
		{"redistribute", "the backlog of one partition spread over a group, beside the plain copy of it", redistribute},
		{"producers", "the hold of producers that are moved there and back while they write", producers},
		{"consumer", "the consumer library beside kafka-go's Reader and franz-go, and idle", contest},
		{"sidecar", "records through a sidecar to a service over HTTP, beside the library alone", throughSidecar},
		{"lanes", "memory and idle cost of 1,000 and 10,000 lanes", lanes},
	}
}

// List prints the parts.
func List(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, p := range parts() {
		fmt.Fprintf(t, "%s\t%s\n", p.name, p.what)
	}
	return t.Flush()
}
