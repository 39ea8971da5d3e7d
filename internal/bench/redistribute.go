package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/estate"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/batch"
)

// The backlog that is spread.
const (
	spreadRecords   = 300_000
	spreadInstances = 10
	// slowly is how long a handler takes for a record before the backlog is moved.
	slowly      = 20 * time.Millisecond
	spreadGroup = starferry.Group("spread")
	spreadTopic = starferry.Topic("hot")
)

// redistributeFigures are the part's figures.
func redistributeFigures() []Figure {
	return []Figure{
		{Name: "redistribute_rps", Text: "records/s of a hot partition moved to all instances of its group", Unit: "records/s"},
		{Name: "redistribute_copy_rps", Text: "records/s of a link that copies the same partition", Unit: "records/s"},
		{Name: "redistribute_ratio_copy", Text: "records/s moved beside that copy", Unit: "ratio"},
		{Name: "redistribute_s", Text: "from the order until all of it is handled and the overflow deleted", Unit: "s"},
		{Name: "redistribute_lost", Text: "records nobody was handed", Unit: "records", Bar: most(0)},
		{Name: "redistribute_twice", Text: "records handed out twice", Unit: "records", Bar: most(0)},
	}
}

// redistribute measures how fast the backlog of one partition is spread over ten
// instances. The handler is slow until the first of it is moved, so that there is
// a backlog, and does nothing from then on, so that moving is what is measured: of
// what is moved, from when the first was seen in the overflow to the last. The
// same partition is copied by a link before, alone. Every record must be handed
// out once, or nothing is told.
func redistribute(b *bench, ctx context.Context, dir string) (_ Values, err error) {
	p, err := b.pair(ctx)
	if err != nil {
		return nil, err
	}
	l := Load{Topic: spreadTopic, Partitions: 1, Records: b.sized(spreadRecords, 10_000), Size: 1000, Batch: 100, Codec: batch.None}
	r, err := b.openFleetRun(ctx, dir, p, plan{name: "spread", partitions: 1})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	warm := l
	warm.Topic, warm.Records = "warm", l.Records/3
	var plain Copy
	for _, l := range []Load{warm, l} {
		if plain, err = r.plainly(ctx, l); err != nil {
			return nil, err
		}
	}
	s := &spread{fleetRun: r, load: l, seen: make([]atomic.Int32, l.Records)}
	if err := s.measure(ctx); err != nil {
		return nil, err
	}
	out := Values{"redistribute_copy_rps": plain.PerSecond(), "redistribute_rps": s.rps, "redistribute_ratio_copy": s.rps / plain.PerSecond(), "redistribute_s": s.took.Seconds()}
	return out, s.account(out)
}

// plainly fills a topic and has a link copy it.
func (r *fleetRun) plainly(ctx context.Context, l Load) (Copy, error) {
	if err := l.Fill(ctx, r.pair.source.cluster); err != nil {
		return Copy{}, err
	}
	got, err := measureCopy(ctx, r.pair.target, l, r.shard, func(ctx context.Context) error {
		_, err := r.ports.Copier.Replicate(ctx, builtins.ReplicateRequest{Link: bulk, Source: estate.Old, Target: estate.New,
			Topics: []starferry.Topic{l.Topic}, Token: string(l.Topic)})
		return err
	})
	if err == nil {
		r.b.say("%s copied: %.0f records/s", l.Topic, got.PerSecond())
	}
	return got, err
}

// spread is a backlog that is spread.
type spread struct {
	*fleetRun
	load  Load
	seen  []atomic.Int32 // how often each record was handled
	moves atomic.Bool    // handlers need not be slow any more
	rps   float64
	took  time.Duration
}

// handle is the service's handler.
func (s *spread) handle(ctx context.Context, rec consumer.Record) error {
	if !s.moves.Load() {
		if err := rest(ctx, slowly); err != nil {
			return err
		}
	}
	if rec.Offset < 0 || int(rec.Offset) >= len(s.seen) || rec.Topic != spreadTopic {
		return fmt.Errorf("%s@%d, which nobody wrote", rec.Topic, rec.Offset)
	}
	s.seen[rec.Offset].Add(1)
	return nil
}

// measure starts the group, has the backlog moved, and looks on.
func (s *spread) measure(ctx context.Context) (err error) {
	g := &group{all: make([]*consumer.Consumer, spreadInstances), conns: make([]*nats.Conn, spreadInstances)}
	defer func() { err = errors.Join(err, g.Close()) }()
	for i := range g.all {
		if g.conns[i], err = nats.Connect(s.natsURL); err != nil {
			return err
		}
		if g.all[i], err = consumer.Open(ctx, consumer.Config{
			Group: spreadGroup, Topics: []starferry.Topic{spreadTopic}, Instance: starferry.InstanceID(fmt.Sprintf("i%02d", i)),
			Clusters: []starferry.Cluster{s.ours[estate.Old]}, Home: estate.Old, Start: consumer.Earliest, NATS: g.conns[i],
		}, s.handle); err != nil {
			return err
		}
	}
	if err := s.begun(ctx); err != nil {
		return err
	}
	began := time.Now()
	watched, stop := context.WithCancel(ctx)
	defer stop()
	var wg errgroup.Group
	wg.Go(func() error { return s.watch(watched) })
	rep, err := s.ports.Spreader.Redistribute(ctx, builtins.RedistributeRequest{Group: spreadGroup, Partition: starferry.TopicPartition{Topic: spreadTopic},
		Order: string(control.KeyOrder), By: "bench", Why: "to measure it", Token: s.name, Progress: func(said string) { s.b.say("%s", said) }})
	s.took = time.Since(began)
	stop()
	if err = errors.Join(err, wg.Wait()); err != nil {
		return err
	}
	s.b.say("%d records of %s spread in %.1f s, %.0f records/s moved", rep.Next-rep.First, rep.Partition, s.took.Seconds(), s.rps)
	return nil
}

// begun waits until the group has a place in the partition and all instances are
// its members.
func (s *spread) begun(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pauseWithin)
	defer cancel()
	c := s.pair.source.cluster
	for {
		at, err := c.Committed(ctx, spreadGroup, []starferry.TopicPartition{{Topic: spreadTopic}})
		d, derr := c.DescribeGroup(ctx, spreadGroup)
		if errors.Join(err, derr) == nil && len(at) == 1 && len(d.Members) == spreadInstances && d.State == "Stable" {
			return nil
		}
		if rest(ctx, 100*time.Millisecond) != nil {
			return fmt.Errorf("group %s does not begin: %w", spreadGroup, errors.Join(err, derr, context.Cause(ctx)))
		}
	}
}

// watch measures how fast the overflow grows, until ctx ends. What it holds are
// records and, evenly among them, the markers of the transactions.
func (s *spread) watch(ctx context.Context) error {
	c := s.pair.source.cluster
	var lanes []starferry.TopicPartition
	var first, last int64
	var began, ended time.Time
	for rest(ctx, pollEvery) == nil {
		if len(lanes) == 0 {
			var err error
			if lanes, err = overflowOf(ctx, c); err != nil && ctx.Err() == nil {
				return err
			}
			continue
		}
		sum, err := ends(ctx, c, lanes)
		if err != nil || sum == last {
			continue // it may be deleted by now
		}
		if last, ended = sum, time.Now(); began.IsZero() {
			first, began = sum, ended
			s.moves.Store(true)
		}
	}
	if last <= first {
		return fmt.Errorf("the overflow was not seen to grow: it held %d offsets", last)
	}
	s.rps = float64(s.load.Records) * float64(last-first) / float64(last) / ended.Sub(began).Seconds()
	return nil
}

// overflowOf finds the partitions of the group's overflow; none if there is none
// yet.
func overflowOf(ctx context.Context, c *wire.Cluster) ([]starferry.TopicPartition, error) {
	r, err := c.Do(ctx, kmsg.NewPtrMetadataRequest()) // no topics given: all
	if err != nil {
		return nil, fmt.Errorf("find the overflow: %w", err)
	}
	var out []starferry.TopicPartition
	for _, t := range r.(*kmsg.MetadataResponse).Topics {
		if t.Topic == nil || !strings.HasPrefix(*t.Topic, string(control.OverflowTopic(spreadGroup, ""))) {
			continue
		}
		for _, p := range t.Partitions {
			out = append(out, starferry.TopicPartition{Topic: starferry.Topic(*t.Topic), Partition: starferry.Partition(p.Partition)})
		}
	}
	return out, nil
}

// account says what was lost or handed out twice.
func (s *spread) account(out Values) error {
	var lost, twice float64
	for i := range s.seen {
		switch n := s.seen[i].Load(); {
		case n == 0:
			lost++
		case n > 1:
			twice++
		}
	}
	out["redistribute_lost"], out["redistribute_twice"] = lost, twice
	if lost+twice > 0 {
		return fmt.Errorf("of %d records %.0f were lost and %.0f handed out twice: the figures of this run are void", len(s.seen), lost, twice)
	}
	return nil
}
