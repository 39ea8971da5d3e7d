package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/process"
)

// Sizes and times of the lanes part.
const (
	fewLanes    = 1_000
	manyLanes   = 10_000
	topicLanes  = 1_000 // partitions of each topic
	watchFor    = 20 * time.Second
	restFor     = 10 * time.Second // before idleness is measured
	sampleEvery = 200 * time.Millisecond
)

// lanes measures what a shard holds in memory, as the kernel counts it (mapped
// files included), on the same brokers: with 1,000 lanes of which 200 a second
// get a batch of ten records, and with 10,000 lanes of which 100 get such a
// batch every second and the others nothing. The figure is the largest of the
// samples taken all along, after every lane copies.
//
// What an idle lane costs is the processor time of the whole process while nothing
// is written anywhere, divided by the number of lanes.
func lanes(b *bench, ctx context.Context, dir string) (Values, error) {
	few := &crowd{b: b, name: "few", lanes: b.sized(fewLanes, 100), busy: fewLanes, perSecond: 200}
	many := &crowd{b: b, name: "many", lanes: b.sized(manyLanes, 1000), busy: 100, perSecond: 100, idle: true}
	for _, c := range []*crowd{few, many} {
		if err := c.measure(ctx, filepath.Join(dir, c.name)); err != nil {
			return nil, fmt.Errorf("%d lanes: %w", c.lanes, err)
		}
	}
	return Values{
		"rss_1000_lanes_mb":       megabytes(few.rss),
		"rss_10000_idle_lanes_mb": megabytes(many.rss),
		"rss_10000_lanes_peak_mb": megabytes(many.peak),
		"idle_lane_cpu_us_per_s":  many.idleCPU.Seconds() * 1e6 / float64(many.lanes),
	}, nil
}

func megabytes(bytes int64) float64 { return float64(bytes) / 1e6 }

// crowd is one shard with many lanes.
type crowd struct {
	b         *bench
	name      string
	lanes     int
	busy      int // so many of them get records
	perSecond int // batches, in turn over the busy lanes
	idle      bool

	rss, peak int64         // bytes
	idleCPU   time.Duration // a second
}

// topics are those that the lanes belong to.
func (c *crowd) topics() []Load {
	var out []Load
	for left := c.lanes; left > 0; left -= topicLanes {
		n := min(left, topicLanes)
		out = append(out, Load{Topic: starferry.Topic(fmt.Sprintf("%s-%d", c.name, len(out))), Partitions: n, Records: 10 * n, Size: 100, Batch: 10})
	}
	return out
}

func (c *crowd) measure(ctx context.Context, dir string) (err error) {
	p, err := c.b.pair(ctx)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	began := time.Now()
	var names []starferry.Topic
	for _, l := range c.topics() {
		if err := l.Fill(ctx, p.source.cluster); err != nil {
			return err
		}
		names = append(names, l.Topic)
	}
	c.b.say("%d partitions with ten records each were made in %.0f s", c.lanes, time.Since(began).Seconds())
	f, err := c.b.ferry(ctx, dir, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	shard, err := f.Shard("bench")
	if err != nil {
		return err
	}
	defer shard.Stop()
	began = time.Now()
	if err := f.replicate(ctx, names...); err != nil {
		return err
	}
	if _, err := f.awaitCopied(ctx, c.lanes, shard); err != nil {
		return err
	}
	c.b.say("%d lanes copied after %.0f s", c.lanes, time.Since(began).Seconds())
	if c.idle {
		if err := c.rest(ctx, shard); err != nil {
			return err
		}
	}
	return c.trickle(ctx, p, shard)
}

// rest measures the processor time of a shard that has nothing to do.
func (c *crowd) rest(ctx context.Context, shard *process.Process) error {
	if err := c.sample(ctx, shard, restFor, nil); err != nil {
		return err
	}
	before, err := shard.CPU()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := c.sample(ctx, shard, watchFor, nil); err != nil {
		return err
	}
	after, err := shard.CPU()
	c.idleCPU = time.Duration(float64(after-before) / time.Since(began).Seconds())
	return err
}

// trickle writes to some lanes and watches the memory meanwhile.
func (c *crowd) trickle(ctx context.Context, p *pair, shard *process.Process) error {
	f, err := newFeed(ctx, p.source.cluster)
	if err != nil {
		return err
	}
	l := c.topics()[0]
	busy := l.lanes(l.Topic)[:min(c.busy, l.Partitions)]
	m := l.maker(0)
	at := 0
	err = c.sample(ctx, shard, watchFor, func() error {
		for range max(1, c.perSecond*int(sampleEvery)/int(time.Second)) {
			batch, err := m.batch(int64(at), l.Batch, 0)
			if err != nil {
				return err
			}
			if err := f.Send(ctx, busy[at%len(busy)], batch, nil); err != nil {
				return err
			}
			at++
		}
		return nil
	})
	return errors.Join(err, f.Close(ctx))
}

// sample looks at the shard's memory for a while, and does something each time.
func (c *crowd) sample(ctx context.Context, shard *process.Process, d time.Duration, each func() error) error {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-shard.Done():
			return fmt.Errorf("the shard ended; it said:\n%s", shard.Tail())
		case <-tick.C:
		}
		now, peak, err := shard.Memory()
		if err != nil {
			return err
		}
		c.rss, c.peak = max(c.rss, now), max(c.peak, peak)
		if each != nil {
			if err := each(); err != nil {
				return err
			}
		}
	}
	return nil
}
