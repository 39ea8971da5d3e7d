package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/process"
	"github.com/starferry/starferry/replication/batch"
)

// contestRounds is how often each client reads each topic.
const contestRounds = 3

// shape is a kind of records that is read, and what its figures are called.
type shape struct {
	suffix  string
	records int
	size    int
	codec   batch.Codec
}

func shapes() []shape {
	return []shape{
		{"", 600_000, 1000, batch.None},
		{"_small", 3_000_000, 100, batch.None},
		{"_lz4", 600_000, 1000, batch.LZ4},
	}
}

// consumerFigures are the part's figures.
func consumerFigures() (out []Figure) {
	for _, c := range []struct{ suffix, text string }{{"", "1 KB"}, {"_small", "100 bytes"}, {"_lz4", "1 KB, lz4"}} {
		out = append(out,
			Figure{Name: "consumer_rps" + c.suffix, Text: "records/s to a handler that does nothing, " + c.text, Unit: "records/s"},
			Figure{Name: "consumer_rps" + c.suffix + "_reader", Text: "records/s of kafka-go's Reader, " + c.text, Unit: "records/s"},
			Figure{Name: "consumer_rps" + c.suffix + "_franz", Text: "records/s of franz-go, " + c.text, Unit: "records/s"},
			Figure{Name: "consumer_rps_ratio_reader" + c.suffix, Text: "records/s beside kafka-go's Reader, " + c.text, Unit: "ratio", Bar: least(1.5)},
			Figure{Name: "consumer_rps_ratio_franz" + c.suffix, Text: "records/s beside franz-go, " + c.text, Unit: "ratio", Bar: least(0.7)},
			Figure{Name: "consumer_cpu_ratio_reader" + c.suffix, Text: "records a CPU second beside kafka-go's Reader, " + c.text, Unit: "ratio"},
			Figure{Name: "consumer_cpu_ratio_franz" + c.suffix, Text: "records a CPU second beside franz-go, " + c.text, Unit: "ratio"},
		)
	}
	return append(out, Figure{Name: "instance_idle_cpu_ms_per_s", Text: "CPU of an idle instance with 48 partitions", Unit: "ms/s"})
}

// contestant reads a topic from its beginning as a new group with one member,
// and calls seen for each record.
type contestant struct {
	name string
	read func(ctx context.Context, s *side, l Load, group string, seen func()) error
}

func contestants() []contestant {
	return []contestant{{"", readOurs}, {"_reader", readReader}, {"_franz", readFranz}}
}

// contest measures how many records a second a handler gets that does nothing,
// by the library and by two other clients: kafka-go's Reader and franz-go, each
// in a group of its own with its own defaults, in this one process and in turn.
// A round is timed from where a fifth of the records is handled to the last:
// joining, and what was fetched before the first record was handed out, are left
// out. The figure is that of the median round.
func contest(b *bench, ctx context.Context, dir string) (Values, error) {
	p, err := b.pair(ctx)
	if err != nil {
		return nil, err
	}
	out := Values{}
	for _, sh := range shapes() {
		l := Load{Topic: starferry.Topic("contest" + sh.suffix), Partitions: 8, Records: b.sized(sh.records, 1000), Size: sh.size, Batch: 200, Codec: sh.codec}
		if err := l.Fill(ctx, p.source.cluster); err != nil {
			return nil, err
		}
		speed, cost := map[string][]float64{}, map[string][]float64{}
		for round := range contestRounds {
			for _, c := range contestants() {
				perSecond, perCPU, err := b.timed(ctx, c, p.source, l, round)
				if err != nil {
					return out, fmt.Errorf("read %s by %q: %w", l.Topic, c.name, err)
				}
				b.say("%s%s: %s records/s, %s a processor second", l.Topic, c.name, number(perSecond), number(perCPU))
				speed[c.name], cost[c.name] = append(speed[c.name], perSecond), append(cost[c.name], perCPU)
			}
		}
		for _, c := range contestants() {
			out["consumer_rps"+sh.suffix+c.name] = percentile(speed[c.name], 50)
			if c.name != "" {
				out["consumer_rps_ratio"+c.name+sh.suffix] = percentile(speed[""], 50) / percentile(speed[c.name], 50)
				out["consumer_cpu_ratio"+c.name+sh.suffix] = percentile(cost[""], 50) / percentile(cost[c.name], 50)
			}
		}
	}
	out["instance_idle_cpu_ms_per_s"], err = b.idle(ctx, dir, p)
	return out, err
}

// timed is one round of one contestant: records per second, and per second of
// this process's processor time.
func (b *bench) timed(ctx context.Context, c contestant, s *side, l Load, round int) (perSecond, perCPU float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, pauseWithin)
	defer cancel()
	var n atomic.Int64
	var began time.Time
	var before, after time.Duration
	var took time.Duration
	var failed error
	done := make(chan struct{})
	first := int64(l.Records / 5)
	seen := func() {
		switch n.Add(1) {
		case first:
			began = time.Now()
			before, failed = process.CPU(os.Getpid())
		case int64(l.Records):
			took = time.Since(began)
			var err error
			after, err = process.CPU(os.Getpid())
			failed = errors.Join(failed, err)
			close(done)
		}
	}
	ended := make(chan error, 1)
	rctx, stop := context.WithCancel(ctx)
	group := fmt.Sprintf("contest%s-%d-%d", c.name, round, time.Now().UnixNano())
	go func() { ended <- c.read(rctx, s, l, group, seen) }()
	select {
	case <-done:
		stop()
		err = <-ended
	case err = <-ended:
		stop()
	}
	if err = errors.Join(err, failed); err != nil {
		return 0, 0, fmt.Errorf("%w after %d of %d records", err, n.Load(), l.Records)
	}
	counted := float64(int64(l.Records) - first)
	return counted / took.Seconds(), counted / (after - before).Seconds(), nil
}

func readOurs(ctx context.Context, s *side, l Load, group string, seen func()) error {
	c, err := consumer.Open(ctx, consumer.Config{
		Group: starferry.Group(group), Topics: []starferry.Topic{l.Topic}, Start: consumer.Earliest,
		Clusters: []starferry.Cluster{{Name: s.cluster.Name(), Brokers: []string{s.address}}},
	}, func(context.Context, consumer.Record) error { seen(); return nil })
	if err != nil {
		return err
	}
	<-ctx.Done()
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWithin)
	defer cancel()
	return c.Close(late)
}

func readReader(ctx context.Context, s *side, l Load, group string, seen func()) error {
	r := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{s.address}, GroupID: group, Topic: string(l.Topic), StartOffset: kafka.FirstOffset, CommitInterval: time.Second,
		MaxWait: 500 * time.Millisecond}) // as the others; its close waits for it
	for {
		_, err := r.ReadMessage(ctx)
		if err != nil {
			return errors.Join(quiet(ctx, err), r.Close())
		}
		seen()
	}
}

func readFranz(ctx context.Context, s *side, l Load, group string, seen func()) error {
	c, err := kgo.NewClient(kgo.SeedBrokers(s.address), kgo.ConsumerGroup(group), kgo.ConsumeTopics(string(l.Topic)),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return err
	}
	defer c.Close()
	for ctx.Err() == nil {
		fetches := c.PollFetches(ctx)
		if err := quiet(ctx, fetches.Err()); err != nil {
			return err
		}
		fetches.EachRecord(func(*kgo.Record) { seen() })
	}
	return nil
}

// quiet is the error of a client that was not told to stop.
func quiet(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
