package bench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/records"
	"github.com/starferry/starferry/replication/batch"
)

// Times of the latency part.
const (
	latencyWarm = 5 * time.Second
	latencyFor  = 30 * time.Second
	// loadShare is the load, as a share of what the link copied at full speed.
	loadShare = 0.1
	// enough is how many records a percentile needs.
	enough = 10_000
)

// latency measures how long a record takes from its maker to a reader of the
// target, while a tenth of the load flows that the same shard has just copied per
// second. Each record carries the time at which it was made, before the request
// that writes it to the source; a reader long-polls all partitions of the target
// and looks at the same clock when an answer arrives. Nothing is subtracted, so
// the figure holds the write to the source, the copy, and the read from the
// target.
//
// What the brokers have in it stands beside it: how long the source took to
// acknowledge the same batches, how long it was from there to the reader, and how
// long the target takes meanwhile to acknowledge a batch that is written to it
// directly, which is what any copier pays there.
//
// Batches of the usual size go to the partitions in turn at even distances.
func latency(b *bench, ctx context.Context, dir string) (values Values, err error) {
	p, err := b.pair(ctx)
	if err != nil {
		return nil, err
	}
	load := b.Load
	load.Topic, load.Codec = "latency", batch.None
	warm := load
	warm.Topic, warm.Records = "warm", b.sized(load.Records, 100_000)
	direct := load
	direct.Topic, direct.Partitions = "direct", 1
	err = errors.Join(warm.Fill(ctx, p.source.cluster), load.Make(ctx, p.source.cluster), direct.Make(ctx, p.target.cluster))
	if err != nil {
		return nil, err
	}
	f, err := b.ferry(ctx, dir, p)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	shard, err := f.Shard("bench")
	if err != nil {
		return nil, err
	}
	defer shard.Stop()
	full, err := f.copyOne(ctx, p.target, warm, shard)
	if err != nil {
		return nil, err
	}
	if err := f.replicate(ctx, load.Topic); err != nil {
		return nil, err
	}
	m := &meter{load: load, began: time.Now(), warm: latencyWarm, until: latencyWarm + latencyFor, rate: loadShare * full.PerSecond(),
		seen: map[time.Duration]time.Duration{}, acked: map[time.Duration]time.Duration{}}
	if b.Small {
		m.warm, m.until = latencyWarm/5, (latencyWarm+latencyFor)/5
	}
	b.say("%.0f records/s, a tenth of %.0f, for %s", m.rate, full.PerSecond(), m.until)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.write(gctx, p.source) })
	g.Go(func() error { return m.read(gctx, p.target) })
	g.Go(func() error { return m.probe(gctx, p.target, direct) })
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("%w; the shard said:\n%s", err, shard.Tail())
	}
	return m.values()
}

// meter writes records at an even rate, reads them on the other side, and keeps
// how long each took.
type meter struct {
	load        Load
	rate        float64 // records per second
	began       time.Time
	warm, until time.Duration // since it began

	// Of batches made after warm, by when they were made: no two at once.
	seen map[time.Duration]time.Duration // by a reader of the target, since they were made

	mu     sync.Mutex
	acked  map[time.Duration]time.Duration // by the source
	direct []time.Duration                 // those written to the target directly
	sent   int                             // records, once all are
	done   bool
}

// write sends a batch whenever one is due. One that is late because the source
// was slow is still stamped when it is made: the table shows the load reached.
func (m *meter) write(ctx context.Context, s *side) error {
	f, err := newFeed(ctx, s.cluster)
	if err != nil {
		return err
	}
	tps := m.load.lanes(m.load.Topic)
	makers, next := make([]*maker, len(tps)), make([]int64, len(tps))
	for i, tp := range tps {
		makers[i] = m.load.maker(tp.Partition)
	}
	every := time.Duration(float64(m.load.Batch) / m.rate * float64(time.Second))
	timer := time.NewTimer(0)
	defer timer.Stop()
	sent := 0
	for i := 0; time.Since(m.began) < m.until && err == nil; i++ {
		timer.Reset(time.Until(m.began.Add(time.Duration(i) * every)))
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), f.Close(ctx))
		case <-timer.C:
		}
		p := i % len(tps)
		made := time.Since(m.began)
		var b batch.Batch
		if b, err = makers[p].batch(next[p], m.load.Batch, made); err == nil {
			err = f.Send(ctx, tps[p], b, func() { m.note(m.acked, made) })
		}
		next[p] += int64(m.load.Batch)
		sent += m.load.Batch
	}
	m.mu.Lock()
	m.sent, m.done = sent, true
	m.mu.Unlock()
	return errors.Join(err, f.Close(ctx))
}

// note keeps how long ago a batch was made.
func (m *meter) note(in map[time.Duration]time.Duration, made time.Duration) {
	took := time.Since(m.began) - made
	if made < m.warm {
		return
	}
	m.mu.Lock()
	in[made] = took
	m.mu.Unlock()
}

// probeEvery is how often the target itself is asked how fast it is: little
// beside the load.
const probeEvery = 20 * time.Millisecond

// probe writes batches to the target, past the link, while the load flows.
func (m *meter) probe(ctx context.Context, s *side, l Load) error {
	f, err := newFeed(ctx, s.cluster)
	if err != nil {
		return err
	}
	tp, mk := l.lanes(l.Topic)[0], l.maker(0)
	took := map[time.Duration]time.Duration{}
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for n := int64(0); time.Since(m.began) < m.until && err == nil; n += int64(l.Batch) {
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), f.Close(ctx))
		case <-tick.C:
		}
		made := time.Since(m.began)
		var b batch.Batch
		if b, err = mk.batch(n, l.Batch, made); err == nil {
			err = f.Send(ctx, tp, b, func() { m.note(took, made) })
		}
	}
	err = errors.Join(err, f.Close(ctx)) // all have been noted
	m.direct = slices.Sorted(maps.Values(took))
	return err
}

// finished says how many records there will be, once it is known.
func (m *meter) finished() (int, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sent, m.done
}

// read takes records off the target until all have come.
func (m *meter) read(ctx context.Context, s *side) error {
	from := map[starferry.TopicPartition]starferry.Offset{}
	for _, tp := range m.load.lanes(m.load.Topic) {
		from[tp] = 0
	}
	r, err := newReader(ctx, s.cluster, from)
	if err != nil {
		return err
	}
	defer r.Close()
	next := map[starferry.TopicPartition]int64{}
	for got := 0; ; {
		if sent, done := m.finished(); done && got >= sent {
			return nil
		}
		answer, err := r.fetch(ctx, 100)
		if err != nil {
			return err
		}
		now := time.Since(m.began)
		for _, f := range answer {
			err := r.decode(f, func(tp starferry.TopicPartition, rec records.Record) error {
				n, made, ok := stampOf(rec.Value)
				if !ok || n != next[tp] {
					return fmt.Errorf("read %s: record %d came where %d was due", tp, n, next[tp])
				}
				next[tp]++
				got++
				if made >= m.warm {
					m.seen[made] = now - made
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
}

func (m *meter) values() (Values, error) {
	if n := len(m.seen) * m.load.Batch; n < enough {
		return nil, fmt.Errorf("measure latency: %d records are too few; take more with -records", n)
	}
	var added []time.Duration
	for made, took := range m.seen {
		added = append(added, took-m.acked[made])
	}
	slices.Sort(added)
	seen, acked := slices.Sorted(maps.Values(m.seen)), slices.Sorted(maps.Values(m.acked))
	return Values{
		"latency_load_rps":      float64(len(seen)*m.load.Batch) / (m.until - m.warm).Seconds(),
		"latency_p50_ms":        millis(seen, 50),
		"latency_p99_ms":        millis(seen, 99),
		"latency_added_p50_ms":  millis(added, 50),
		"latency_added_p99_ms":  millis(added, 99),
		"latency_source_p50_ms": millis(acked, 50),
		"latency_source_p99_ms": millis(acked, 99),
		"latency_target_p50_ms": millis(m.direct, 50),
		"latency_target_p99_ms": millis(m.direct, 99),
	}, nil
}

// millis is a percentile of sorted times.
func millis(sorted []time.Duration, percent int) float64 {
	return sorted[len(sorted)*percent/100].Seconds() * 1e3
}
