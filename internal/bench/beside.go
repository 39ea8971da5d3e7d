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
	// besideInstances and besidePartitions are the group of `starferry demo`,
	// besideEvery about the time that it stays after each move.
	besideInstances  = 3
	besidePartitions = 12
	besideEvery      = 2 * time.Second
	// besideLoads is how many times the usual load is copied: enough for half a
	// dozen switches.
	besideLoads = 5
)

// beside measures whether a copy keeps its throughput while a live group on the
// same clusters is switched to and fro, as in the demo. One shard carries both
// links. The group stands still for besideEvery and is switched in the next, all
// during one long copy, so that what the brokers do by themselves (and what the
// group and its records cost them) falls on both kinds of spells alike.
//
// The group is checked as in the part switch: a run that lost a record, handled
// one twice or out of order tells nothing.
func beside(b *bench, ctx context.Context, dir string) (_ Values, err error) {
	p, err := b.pair(ctx)
	if err != nil {
		return nil, err
	}
	load := b.Load
	load.Topic, load.Codec, load.Records = "bulk", batch.None, b.sized(besideLoads*load.Records, 2_000_000)
	if err := load.Fill(ctx, p.source.cluster); err != nil {
		return nil, err
	}
	r, err := b.openFleetRun(ctx, dir, p, plan{name: "beside", instances: besideInstances, partitions: besidePartitions, rate: switchRate})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	c := &companion{fleetRun: r, group: "switched-beside", from: estate.Old, to: estate.New, load: load}
	if err := c.start(ctx, c.group, c.from, true); err != nil {
		return nil, err
	}
	// The first switch joins, all others find the standby.
	if err := c.turn(ctx); err != nil {
		return nil, err
	}
	out := Values{}
	if err = c.copy(ctx); err == nil {
		err = c.account(ctx, &c.s, out)
	}
	if err != nil {
		return nil, fmt.Errorf("%w; the shard said:\n%s", err, r.shard.Tail())
	}
	if len(c.s.pauses) == 0 {
		return nil, fmt.Errorf("measure a copy beside switches: %d records were copied before one switch was made; take more with -records", load.Records)
	}
	return Values{
		"copy_rps_with_group":             c.still.perSecond(),
		"copy_rps_with_switch":            c.switched.perSecond(),
		"copy_rps_with_switch_ratio":      c.switched.perSecond() / c.still.perSecond(),
		"switches_beside_copy":            float64(len(c.s.pauses)),
		"switch_pause_beside_copy_p50_ms": percentile(c.s.pauses, 50),
	}, nil
}

// companion is a group beside the copy that is measured.
type companion struct {
	*fleetRun
	group           starferry.Group
	from, to        starferry.ClusterName
	load            Load
	s               switching
	still, switched spell
}

// spell is what was copied in spells of one kind.
type spell struct {
	records int64
	took    time.Duration
}

func (s spell) perSecond() float64 { return float64(s.records) / s.took.Seconds() }

// copy copies the load, and lets spells of both kinds take turns until it is
// copied. A spell in which the copy ended is not counted.
func (c *companion) copy(ctx context.Context) error {
	if _, err := c.ports.Copier.Replicate(ctx, builtins.ReplicateRequest{Link: bulk, Source: estate.Old, Target: estate.New,
		Topics: []starferry.Topic{c.load.Topic}, Token: "bulk"}); err != nil {
		return err
	}
	if err := c.sleep(ctx, 2*besideEvery); err != nil { // it gathers speed
		return err
	}
	for {
		done, err := c.spend(ctx, &c.still, nil)
		if done || err != nil {
			return err
		}
		done, err = c.spend(ctx, &c.switched, c.turn)
		if done || err != nil {
			return err
		}
	}
}

// spend does what a spell is for, if anything, lets the rest of its time pass and adds what
// was copied meanwhile; done says that the copy is.
func (c *companion) spend(ctx context.Context, s *spell, do func(context.Context) error) (done bool, err error) {
	lanes, target := c.load.lanes(c.load.Topic), c.pair.target.cluster
	before, err := ends(ctx, target, lanes)
	if err != nil {
		return false, err
	}
	began := time.Now()
	if do != nil {
		if err := do(ctx); err != nil {
			return false, err
		}
	}
	if err := c.sleep(ctx, besideEvery-time.Since(began)); err != nil {
		return false, err
	}
	after, err := ends(ctx, target, lanes)
	if err != nil || after >= int64(c.load.Records) {
		return true, err
	}
	took := time.Since(began)
	c.b.say("%.0f records/s", float64(after-before)/took.Seconds())
	s.records, s.took = s.records+after-before, s.took+took
	return false, nil
}

// turn switches the group to where it is not.
func (c *companion) turn(ctx context.Context) error {
	if err := c.settle(ctx, c.from); err != nil {
		return err
	}
	rep, gap, err := c.once(ctx, c.group, c.from, c.to, c.s.switches)
	if err != nil {
		return fmt.Errorf("switch %d from %s to %s: %w", c.s.switches+1, c.from, c.to, err)
	}
	c.b.say("to %s, %.1f ms (drain to decision %.1f; %s)", c.to, ms(gap), rep.ControlMS, c.steps)
	if c.s.switches++; c.s.switches > 1 {
		c.s.pauses = append(c.s.pauses, ms(gap))
	}
	c.from, c.to = c.to, c.from
	return nil
}

func (c *companion) sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(max(0, d)):
		return nil
	}
}
