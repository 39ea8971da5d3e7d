package bench

import (
	"context"
	"errors"
	"time"

	"github.com/starferry/starferry/internal/process"
	"github.com/starferry/starferry/replication/batch"
)

// warmRecords is enough for the JVM to have compiled what it will.
const warmRecords = 300_000

// copyWith measures one link beside MirrorMaker 2 on one topic: both copy all of
// it, one after the other, each warmed up on another topic of the same kind. What
// is counted begins with the first record seen on the target. MirrorMaker 2
// compresses as the source did.
//
// Gigabytes are of values before compression, so that the codecs compare.
func copyWith(prefix string, codec batch.Codec) func(*bench, context.Context, string) (Values, error) {
	return func(b *bench, ctx context.Context, dir string) (Values, error) {
		load := b.Load
		load.Codec, load.Records = codec, b.sized(load.Records, 100_000)
		ours, mm2, err := b.compare(ctx, dir, load)
		if err != nil {
			return nil, err
		}
		return Values{
			prefix + "_rps":                 ours.PerSecond(),
			prefix + "_rps_mm2":             mm2.PerSecond(),
			prefix + "_rps_ratio_mm2":       ours.PerSecond() / mm2.PerSecond(),
			prefix + "_cpu_s_per_gb":        ours.CPUPerGB(),
			prefix + "_cpu_s_per_gb_mm2":    mm2.CPUPerGB(),
			prefix + "_cpu_ratio_mm2":       mm2.CPUPerGB() / ours.CPUPerGB(),
			prefix + "_cpu_s_per_gb_broker": ours.BrokerPerGB(),
		}, nil
	}
}

// tinyRecords is how many batches of one record each are copied.
const tinyRecords = 300_000

// tiny is the same with one record a batch, as a source with linger.ms=0 has
// them. MirrorMaker 2 gathers them into large batches; so does a lane that is
// behind.
func tiny(b *bench, ctx context.Context, dir string) (Values, error) {
	load := b.Load
	load.Batch, load.Codec, load.Records = 1, batch.None, b.sized(min(tinyRecords, load.Records), 20_000)
	ours, mm2, err := b.compare(ctx, dir, load)
	if err != nil {
		return nil, err
	}
	return Values{
		"tiny_batch_rps":           ours.PerSecond(),
		"tiny_batch_rps_mm2":       mm2.PerSecond(),
		"tiny_batch_cpu_ratio_mm2": ours.PerCPUSecond() / mm2.PerCPUSecond(),
	}, nil
}

// compare runs both copiers on the load, MirrorMaker 2 first.
func (b *bench) compare(ctx context.Context, dir string, load Load) (ours, mm2 Copy, err error) {
	p, err := b.pair(ctx)
	if err != nil {
		return ours, mm2, err
	}
	warm := load
	load.Topic, warm.Topic, warm.Records = "load", "warm", min(warmRecords, load.Records)
	b.say("filling %s with %d records", warm.Topic, warm.Records)
	began := time.Now()
	if err := warm.Fill(ctx, p.source.cluster); err != nil {
		return ours, mm2, err
	}
	fill := time.Since(began) * time.Duration(load.Records) / time.Duration(warm.Records)
	if mm2, err = b.runMM2(ctx, dir, p, warm, load, refreshFor(fill)); err != nil {
		return ours, mm2, err
	}
	b.say("MirrorMaker 2: %.0f records/s, %.2f CPU s/GB", mm2.PerSecond(), mm2.CPUPerGB())
	if ours, err = b.runOurs(ctx, dir, p, warm, load); err != nil {
		return ours, mm2, err
	}
	b.say("starferry: %.0f records/s, %.2f CPU s/GB", ours.PerSecond(), ours.CPUPerGB())
	return ours, mm2, nil
}

// runOurs copies both topics by one shard, which is what is measured.
func (b *bench) runOurs(ctx context.Context, dir string, p *pair, warm, load Load) (last Copy, err error) {
	f, err := b.ferry(ctx, dir, p)
	if err != nil {
		return Copy{}, err
	}
	defer f.Close()
	shard, err := f.Shard("bench")
	if err != nil {
		return Copy{}, err
	}
	defer shard.Stop()
	for _, l := range []Load{warm, load} {
		b.say("copying %s by starferry", l.Topic)
		if last, err = f.copyOne(ctx, p.target, l, shard); err != nil {
			return Copy{}, err
		}
	}
	return last, nil
}

// copyOne asks for one more topic to be copied and measures it.
func (f *ferry) copyOne(ctx context.Context, target *side, l Load, shard *process.Process) (Copy, error) {
	return measureCopy(ctx, target, l, shard, func(ctx context.Context) error { return f.replicate(ctx, l.Topic) })
}

// measureCopy asks for a load to be copied and measures it from its first record
// on, which comes before the answer does.
func measureCopy(ctx context.Context, target *side, l Load, shard *process.Process, ask func(context.Context) error) (Copy, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		if err := ask(ctx); err != nil {
			cancel(err)
		}
	}()
	c, err := watch(ctx, "starferry", target, l.lanes(l.Topic), l, shard)
	if err != nil {
		cancel(err)
	}
	<-asked
	return c, errors.Join(err, context.Cause(ctx))
}
