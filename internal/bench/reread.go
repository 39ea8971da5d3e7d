package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/process"
	"github.com/starferry/starferry/internal/records"
	"github.com/starferry/starferry/internal/wire"
)

const (
	rereadPartitions = 20
	rereadRecords    = 30_000 // of each partition before the flow
	rereadBehind     = 10_000
	// The flow: so many records of each partition, and up to 99 more, a few at a
	// time, as a topic grows that is followed closely.
	flowRecords = 300
	flowBatch   = 10
	flowEvery   = 100 * time.Millisecond
	// checkpointEvery is how often MirrorMaker 2 translates offsets and writes
	// them into the target's groups. Its default is a minute; what it writes
	// does not depend on it.
	checkpointEvery = 5 * time.Second
	// settled is after how long without a change its commits count as final.
	settled = 4 * checkpointEvery
)

// The groups that are moved.
const (
	caughtUp = starferry.Group("caught-up")
	behind   = starferry.Group("behind")
)

// reread moves two groups to a copied topic: one that has read everything, and
// one that is 10,000 records behind in every partition. A reader then starts
// where each group was put on the target, and what it meets that the group had
// handled already is counted, by the numbers in the records. A record left out
// fails the part.
//
// The topic is full when MirrorMaker 2 starts, and then grows slowly, so that the
// caught-up group is one of a copy that follows closely.
//
// MirrorMaker 2 has its defaults for offsets (offset.lag.max, checkpoints,
// sync.group.offsets.enabled) and puts the groups' commits on the target by
// itself; a partition it commits nothing for is read from its start. Ours are
// translated by what stands behind the script's word translate_offset. The figures are means over the
// partitions.
func reread(b *bench, ctx context.Context, dir string) (Values, error) {
	p, err := b.pair(ctx)
	if err != nil {
		return nil, err
	}
	m := &move{b: b, p: p, load: Load{Topic: "reread", Partitions: rereadPartitions, Size: 100, Batch: 100}}
	if err := m.prepare(ctx); err != nil {
		return nil, err
	}
	values := Values{}
	if err := m.byMM2(ctx, dir, values); err != nil {
		return values, err
	}
	return values, m.byUs(ctx, dir, values)
}

// move is the topic and the groups that are moved.
type move struct {
	b      *bench
	p      *pair
	load   Load
	places map[starferry.Group]starferry.Cut // on the source
}

// prepare fills the topic, says where it will end after the flow, at multiples of
// nothing, and puts both groups on its start, so that they are there when
// MirrorMaker 2 looks.
func (m *move) prepare(ctx context.Context) error {
	if err := m.load.Make(ctx, m.p.source.cluster); err != nil {
		return err
	}
	m.load.Records = rereadPartitions * rereadRecords
	if err := m.load.Write(ctx, m.p.source.cluster, 0); err != nil {
		return err
	}
	m.places = map[starferry.Group]starferry.Cut{caughtUp: {}, behind: {}}
	random := rand.New(rand.NewPCG(3, 4))
	for _, tp := range m.load.lanes(m.load.Topic) {
		end := starferry.Offset(rereadRecords + flowRecords + random.IntN(100))
		m.places[caughtUp][tp] = starferry.Place{Next: end}
		m.places[behind][tp] = starferry.Place{Next: end - rereadBehind}
	}
	return m.commit(ctx, func(starferry.Place) starferry.Offset { return 0 })
}

// flow writes the rest of the topic slowly and waits until MirrorMaker 2 has it.
func (m *move) flow(ctx context.Context, mm2 *process.Process) (err error) {
	f, err := newFeed(ctx, m.p.source.cluster)
	if err != nil {
		return err
	}
	tick := time.NewTicker(flowEvery)
	defer tick.Stop()
	var all int64
	for at, more := starferry.Offset(rereadRecords), true; more; at += flowBatch {
		more, all = false, 0
		for tp, place := range m.places[caughtUp] {
			all += int64(place.Next)
			n := min(flowBatch, int(place.Next-at))
			if n <= 0 {
				continue
			}
			more = true
			b, err := m.load.maker(tp.Partition).batch(int64(at), n, 0)
			if err == nil {
				err = f.Send(ctx, tp, b, nil)
			}
			if err != nil {
				return errors.Join(err, f.Close(ctx))
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), f.Close(ctx))
		case <-tick.C:
		}
	}
	if err := f.Close(ctx); err != nil {
		return err
	}
	for {
		if sum, err := ends(ctx, m.p.target.cluster, mirrored(m.load)); err == nil && sum >= all {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-mm2.Done():
			return fmt.Errorf("MirrorMaker 2 ended; it said:\n%s", mm2.Tail())
		case <-tick.C:
		}
	}
}

// commit puts the groups somewhere on the source.
func (m *move) commit(ctx context.Context, at func(starferry.Place) starferry.Offset) error {
	for g, cut := range m.places {
		offsets := map[starferry.TopicPartition]wire.Committed{}
		for tp, place := range cut {
			offsets[tp] = wire.Committed{Offset: at(place), LeaderEpoch: -1}
		}
		if err := m.p.source.cluster.Commit(ctx, wire.Commit{Group: g, Generation: -1, Offsets: offsets}); err != nil {
			return fmt.Errorf("put group %s: %w", g, err)
		}
	}
	return nil
}

func (m *move) byMM2(ctx context.Context, dir string, values Values) error {
	every := fmt.Sprint(int(checkpointEvery.Seconds()))
	mm2, err := m.b.startMM2(dir, mm2Properties(m.p, []starferry.Topic{m.load.Topic}, m.load, map[string]string{
		"emit.checkpoints.enabled":            "true",
		"emit.checkpoints.interval.seconds":   every,
		"sync.group.offsets.enabled":          "true",
		"sync.group.offsets.interval.seconds": every,
		"groups":                              string(caughtUp) + "," + string(behind),
	}))
	if err != nil {
		return err
	}
	defer mm2.Stop()
	m.b.say("MirrorMaker 2 copies and translates")
	if _, err := watch(ctx, "MirrorMaker 2", m.p.target, mirrored(m.load), m.load, mm2); err != nil {
		return err
	}
	if err := m.flow(ctx, mm2); err != nil {
		return err
	}
	if err := m.commit(ctx, func(p starferry.Place) starferry.Offset { return p.Next }); err != nil {
		return err
	}
	m.b.say("waiting for MirrorMaker 2's commits to come to rest")
	for g, name := range map[starferry.Group]string{caughtUp: "reread_after_translation_records_mm2", behind: "reread_after_translation_records_mm2_behind"} {
		at, err := m.restingPlace(ctx, g, mm2)
		if err != nil {
			return err
		}
		if values[name], err = m.readAgain(ctx, g, at, "src."+m.load.Topic); err != nil {
			return err
		}
	}
	return nil
}

// restingPlace is what MirrorMaker 2 has committed for a group on the target once
// that does not change any more.
func (m *move) restingPlace(ctx context.Context, g starferry.Group, mm2 *process.Process) (map[starferry.TopicPartition]starferry.Offset, error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var last int64
	since := time.Now()
	for {
		at := map[starferry.TopicPartition]starferry.Offset{}
		for _, tp := range mirrored(m.load) {
			at[tp] = 0
		}
		got, err := m.p.target.cluster.Committed(ctx, g, mirrored(m.load))
		if err != nil {
			return nil, fmt.Errorf("read group %s on the target: %w", g, err)
		}
		sum := int64(len(got))
		for tp, c := range got {
			at[tp] = c.Offset
			sum += int64(c.Offset)
		}
		if sum != last {
			last, since = sum, time.Now()
		}
		if time.Since(since) >= settled {
			return at, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-mm2.Done():
			return nil, fmt.Errorf("MirrorMaker 2 ended; it said:\n%s", mm2.Tail())
		case <-tick.C:
		}
	}
}

func (m *move) byUs(ctx context.Context, dir string, values Values) (err error) {
	f, err := m.b.ferry(ctx, dir, m.p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	shard, err := f.Shard("bench")
	if err != nil {
		return err
	}
	defer shard.Stop()
	if err := f.replicate(ctx, m.load.Topic); err != nil {
		return err
	}
	if _, err := f.awaitCopied(ctx, m.load.Partitions, shard); err != nil {
		return err
	}
	for g, name := range map[starferry.Group]string{caughtUp: "reread_after_translation_records", behind: "reread_after_translation_records_behind"} {
		t, err := f.client.Translate(ctx, link, starferry.Forward, m.places[g])
		if err != nil {
			return err
		}
		if !t.Final() {
			return fmt.Errorf("translate group %s: missing %v, behind %v", g, t.Missing, t.Behind)
		}
		at := map[starferry.TopicPartition]starferry.Offset{}
		for tp, place := range t.Cut {
			at[tp] = place.Next
		}
		if values[name], err = m.readAgain(ctx, g, at, m.load.Topic); err != nil {
			return err
		}
	}
	return nil
}

// readAgain reads on the target from where the group was put, and returns how
// many records a partition, on average, it had handled before.
func (m *move) readAgain(ctx context.Context, g starferry.Group, at map[starferry.TopicPartition]starferry.Offset, topic starferry.Topic) (float64, error) {
	if len(at) != m.load.Partitions {
		return 0, fmt.Errorf("group %s was put on %d partitions of %d", g, len(at), m.load.Partitions)
	}
	again := 0
	seen := map[starferry.Partition]int64{} // the lowest number met
	err := readAll(ctx, m.p.target.cluster, at, func(tp starferry.TopicPartition, rec records.Record) error {
		n, _, ok := stampOf(rec.Value)
		if !ok {
			return fmt.Errorf("%s has a record at %d that nobody wrote", tp, rec.Offset)
		}
		if low, met := seen[tp.Partition]; !met || n < low {
			seen[tp.Partition] = n
		}
		if n < int64(m.places[g][starferry.TopicPartition{Topic: m.load.Topic, Partition: tp.Partition}].Next) {
			again++
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for tp, place := range m.places[g] {
		end := int64(m.places[caughtUp][tp].Next)
		if low, met := seen[tp.Partition]; met && low > int64(place.Next) || !met && int64(place.Next) < end {
			return 0, fmt.Errorf("group %s was put behind record %d of %s/%d, which it has not handled", g, place.Next, topic, tp.Partition)
		}
	}
	return float64(again) / float64(m.load.Partitions), nil
}
