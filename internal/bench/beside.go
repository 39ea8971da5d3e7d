package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/internal/estate"
	"github.com/starferry/starferry/replication/batch"
)

const (
	// bulk is the link whose throughput is measured; the group's topic has its own.
	bulk = starferry.LinkName("bulk")
	// besideEvery is the time between two switches, somewhat less than in the demo.
	besideEvery = 2 * time.Second
)

// beside measures whether a copy keeps its throughput while a live group on the
// same clusters is switched to and fro, once a second. One shard carries both
// links. The same copy is measured with nothing beside it before and after, with
// a group that stays where it is, and with one that is switched: what the group
// and its records cost the two brokers is in both of the latter.
//
// The group is checked as in the part switch: a run that lost a record, handled
// one twice or out of order tells nothing.
func beside(b *bench, ctx context.Context, dir string) (_ Values, err error) {
	p, err := b.pair(ctx)
	if err != nil {
		return nil, err
	}
	load := b.Load
	load.Codec, load.Records = batch.None, b.sized(load.Records, 100_000)
	warm := load
	warm.Topic, warm.Records = "warm", min(warmRecords, load.Records)
	// Nothing flows beside the copy at first.
	r, err := b.openFleetRun(ctx, dir, p, plan{name: "beside", instances: switchInstances, partitions: switchPartitions})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	c := &companion{fleetRun: r, group: "switched-beside", s: &switching{}, out: Values{}}
	if _, err := c.copy(ctx, warm, "warm"); err != nil {
		return nil, err
	}
	alone, err := c.copy(ctx, load, "alone-before")
	if err != nil {
		return nil, err
	}
	still, with, err := c.besideGroup(ctx, load)
	if err != nil {
		return nil, fmt.Errorf("%w; the shard said:\n%s", err, r.shard.Tail())
	}
	after, err := c.copy(ctx, load, "alone-after")
	if err != nil {
		return nil, err
	}
	rps := (alone.PerSecond() + after.PerSecond()) / 2
	return Values{
		"copy_rps_alone":                  rps,
		"copy_rps_with_group":             still.PerSecond(),
		"copy_rps_with_switch":            with.PerSecond(),
		"copy_rps_with_switch_ratio":      with.PerSecond() / still.PerSecond(),
		"switches_beside_copy":            float64(c.s.switches),
		"switch_pause_beside_copy_p50_ms": percentile(c.s.pauses, 50),
	}, nil
}

// companion is a group beside the copy that is measured.
type companion struct {
	*fleetRun
	group starferry.Group
	s     *switching
	out   Values
}

// copy fills a topic, copies it and measures that.
func (c *companion) copy(ctx context.Context, l Load, topic starferry.Topic) (Copy, error) {
	l.Topic = topic
	if err := l.Fill(ctx, c.pair.source.cluster); err != nil {
		return Copy{}, err
	}
	got, err := measureCopy(ctx, c.pair.target, l, c.shard, func(ctx context.Context) error {
		_, err := c.ports.Copier.Replicate(ctx, builtins.ReplicateRequest{Link: bulk, Source: estate.Old, Target: estate.New,
			Topics: []starferry.Topic{topic}, Token: string(topic)})
		return err
	})
	if err == nil {
		c.b.say("%s: %.0f records/s", topic, got.PerSecond())
	}
	return got, err
}

// besideGroup copies beside a group that lives, first in peace and then while it
// is switched, and ends the group.
func (c *companion) besideGroup(ctx context.Context, load Load) (still, with Copy, err error) {
	if _, err := c.flow.Stop(); err != nil {
		return still, with, err
	}
	if c.flow, err = newFlow(ctx, c.pair.source.cluster, c.topic, c.partitions, switchRate); err != nil {
		return still, with, err
	}
	if err := c.start(ctx, c.group, estate.Old, true); err != nil {
		return still, with, err
	}
	if err := c.settle(ctx, estate.Old); err != nil {
		return still, with, err
	}
	if still, err = c.copy(ctx, load, "beside-group"); err != nil {
		return still, with, err
	}
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- c.toAndFro(ctx, stop) }()
	with, err = c.copy(ctx, load, "beside-switch")
	close(stop)
	if err = errors.Join(err, <-done); err == nil {
		err = c.account(ctx, c.s, c.out)
	}
	return still, with, errors.Join(err, c.fleetRun.group.Close())
}

// toAndFro switches the group until it is told to stop. The first switch, to
// where the group has never been, is no different from the others here.
func (c *companion) toAndFro(ctx context.Context, stop <-chan struct{}) error {
	from, to := starferry.ClusterName(estate.Old), starferry.ClusterName(estate.New)
	tick := time.NewTicker(besideEvery)
	defer tick.Stop()
	for {
		if err := c.settle(ctx, from); err != nil {
			return err
		}
		_, gap, err := c.once(ctx, c.group, from, to, c.s.switches)
		if err != nil {
			return fmt.Errorf("switch %d from %s to %s: %w", c.s.switches+1, from, to, err)
		}
		c.s.switches++
		c.s.pauses = append(c.s.pauses, ms(gap))
		from, to = to, from
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-stop:
			return nil
		case <-tick.C:
		}
	}
}
