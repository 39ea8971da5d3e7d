package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/process"
	"github.com/starferry/starferry/internal/records"
	"github.com/starferry/starferry/replication/batch"
)

// recovery kills a shard with kill -9 once it has copied 10,000 batches, deletes
// its offset maps and all that JetStream's object store holds of them, so that
// none of the batches is mapped any more, adds one to each partition, and starts the shard again at once under its own id. It has
// recovered when every lane copies and has nothing left to copy. The clock starts
// when the dead process's lease has run out or the new one was started, whatever
// came later; the figure that includes the wait stands beside it.
//
// Then the target is read from the first record to the last and compared, by the
// numbers in the records, with what was written to the source.
func recovery(b *bench, ctx context.Context, dir string) (values Values, err error) {
	load := b.Load
	load.Topic, load.Codec = "recovery", batch.None
	load.Records = max(1, b.sized(10_000, 1000)/load.Partitions) * load.Partitions * load.Batch
	r, err := b.outage(ctx, dir, load)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.f.Close()) }()
	if err := r.kill(ctx, load); err != nil {
		return nil, err
	}
	if err := r.forget(ctx); err != nil {
		return nil, err
	}
	started := time.Now()
	shard, err := r.f.Shard(doomed)
	if err != nil {
		return nil, err
	}
	defer shard.Stop()
	lease := make(chan time.Time, 1)
	go func() { lease <- r.leaseEnd(ctx) }()
	copied, err := r.f.awaitCopied(ctx, load.Partitions, shard)
	if err != nil {
		return nil, err
	}
	began := latest(started, <-lease)
	lost, doubled, err := r.compare(ctx, load)
	return Values{
		"recovery_10000_batches_s":            copied.Sub(began).Seconds(),
		"recovery_10000_batches_with_lease_s": copied.Sub(started).Seconds(),
		"recovery_batches":                    float64(load.Records / load.Batch),
		"recovery_lost":                       float64(lost),
		"recovery_doubled":                    float64(doubled),
	}, err
}

// takeover kills the only shard of a link with 1,000 lanes in 64 buckets, adds a
// batch to every lane, waits for the end of the dead shard's lease, and starts
// another shard at that moment with no maps. It has taken over when every lane
// copies and has nothing left to copy: the start of its process counts. (A second
// shard that runs before would own half of the buckets already.)
func takeover(b *bench, ctx context.Context, dir string) (values Values, err error) {
	load := Load{Topic: "takeover", Partitions: b.sized(1000, 100), Size: 100, Batch: 10}
	load.Records = load.Partitions * load.Batch * 10
	r, err := b.outage(ctx, dir, load)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.f.Close()) }()
	if err := r.kill(ctx, load); err != nil {
		return nil, err
	}
	began := r.leaseEnd(ctx)
	shard, err := r.f.Shard("second")
	if err != nil {
		return nil, err
	}
	defer shard.Stop()
	before, err := spentBy(shard, r.p.target)
	if err != nil {
		return nil, err
	}
	copied, err := r.f.awaitCopied(ctx, load.Partitions, shard)
	if err != nil {
		return nil, err
	}
	after, err := spentBy(shard, r.p.target)
	if err != nil {
		return nil, err
	}
	b.say("taken over in %.1f s: %.1f CPU s of the shard, %.1f of the target broker", copied.Sub(began).Seconds(),
		(after.copier - before.copier).Seconds(), (after.broker - before.broker).Seconds())
	lost, doubled, err := r.compare(ctx, load)
	if err == nil && lost+doubled > 0 {
		err = fmt.Errorf("the takeover lost %d records and doubled %d", lost, doubled)
	}
	return Values{"takeover_64_buckets_s": copied.Sub(began).Seconds()}, err
}

// doomed is the shard that is killed.
const doomed = "doomed"

// outage is a link whose only shard is about to be killed.
type outage struct {
	b     *bench
	p     *pair
	f     *ferry
	shard *process.Process
	lease jetstream.KeyValue
	held  string // the shard's lease, which tells its process from another's
}

// outage copies a topic by one shard.
func (b *bench) outage(ctx context.Context, dir string, load Load) (*outage, error) {
	p, err := b.pair(ctx)
	if err != nil {
		return nil, err
	}
	b.say("filling %s with %d records in %d partitions", load.Topic, load.Records, load.Partitions)
	if err := load.Fill(ctx, p.source.cluster); err != nil {
		return nil, err
	}
	r := &outage{b: b, p: p}
	if r.f, err = b.ferry(ctx, dir, p); err != nil {
		return nil, err
	}
	if err := r.copy(ctx, load); err != nil {
		return nil, errors.Join(err, r.f.Close())
	}
	return r, nil
}

func (r *outage) copy(ctx context.Context, load Load) (err error) {
	if r.shard, err = r.f.Shard(doomed); err != nil {
		return err
	}
	if err := r.f.replicate(ctx, load.Topic); err != nil {
		return err
	}
	if _, err := r.f.awaitCopied(ctx, load.Partitions, r.shard); err != nil {
		return err
	}
	js, err := jetstream.New(r.f.nc)
	if err != nil {
		return err
	}
	if r.lease, err = js.KeyValue(ctx, "starferry_shards"); err != nil {
		return err
	}
	e, err := r.lease.Get(ctx, doomed)
	if err != nil {
		return fmt.Errorf("read the shard's lease: %w", err)
	}
	r.held = string(e.Value())
	return nil
}

// kill ends the shard without a word and gives every lane something to copy.
func (r *outage) kill(ctx context.Context, load Load) error {
	r.b.say("kill -9")
	r.shard.Kill()
	more := load
	more.Records = load.Partitions * load.Batch
	return more.Write(ctx, r.p.source.cluster, int64(load.Records/load.Partitions))
}

// forget deletes the maps: the target's log alone knows then where records went.
func (r *outage) forget(ctx context.Context) error {
	if err := os.RemoveAll(r.f.store(doomed)); err != nil {
		return err
	}
	js, err := jetstream.New(r.f.nc)
	if err != nil {
		return err
	}
	names := js.ObjectStoreNames(ctx)
	for name := range names.Name() {
		if err := js.DeleteObjectStore(ctx, name); err != nil {
			return fmt.Errorf("delete object store %s: %w", name, err)
		}
	}
	return names.Error()
}

// leaseEnd waits until the store has no lease of the dead process any more: the
// key is gone, or belongs to who came after it. It returns the time.
func (r *outage) leaseEnd(ctx context.Context) time.Time {
	for {
		e, err := r.lease.Get(ctx, doomed)
		if errors.Is(err, jetstream.ErrKeyNotFound) || err == nil && string(e.Value()) != r.held {
			return time.Now()
		}
		select {
		case <-ctx.Done():
			return time.Now()
		case <-time.After(pollEvery):
		}
	}
}

// compare reads the target with what was written to the source in mind. Records of a partition are numbered
// from 0 in order: one that comes again, or too early, shows.
func (r *outage) compare(ctx context.Context, load Load) (lost, doubled int64, err error) {
	want := int64(load.Records/load.Partitions + load.Batch)
	from := map[starferry.TopicPartition]starferry.Offset{}
	for _, tp := range load.lanes(load.Topic) {
		from[tp] = 0
	}
	next := map[starferry.TopicPartition]int64{}
	err = readAll(ctx, r.p.target.cluster, from, func(tp starferry.TopicPartition, rec records.Record) error {
		n, _, ok := stampOf(rec.Value)
		switch {
		case !ok:
			return fmt.Errorf("%s has a record at %d that nobody wrote", tp, rec.Offset)
		case n < next[tp]:
			doubled++
		default:
			lost += n - next[tp]
			next[tp] = n + 1
		}
		return nil
	})
	for tp := range from {
		lost += want - next[tp]
	}
	return lost, doubled, err
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
