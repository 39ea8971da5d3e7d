package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/internal/estate"
	"github.com/starferry/starferry/internal/wire"
)

// The size of the group that is switched, and how often.
const (
	switchInstances  = 10
	switchPartitions = 48
	switchRate       = 2000 // records per second
	switchTimes      = 120  // there and back counted separately
	switchWarm       = 120  // made before those, not counted: brokers compile what they do often
	switchSyncTimes  = 24
	switchDelayTimes = 24
	leaveJoinTimes   = 4
	spacings         = 60 // measurements of the records' own spacing
	// addedTrip is added to every round trip in one of the runs.
	addedTrip = 5 * time.Millisecond
)

// pauseWithin is how long a group may take to come back.
const pauseWithin = time.Minute

// switching is what switches of one run have shown, milliseconds.
type switching struct {
	pauses   []float64 // of the group: its slowest partition, from record to record
	back     []float64 // the same, only those back to where it came from
	control  []float64 // from the order to drain to the decision
	spacing  []float64 // the same as pauses, without a switch
	switches int
}

// above is a percentile of the pauses above what the records' spacing makes
// without a switch.
func (s *switching) above(pauses []float64, percent int) float64 {
	return max(0, percentile(pauses, percent)-percentile(s.spacing, 50))
}

// switches measures the pause of a group that changes cluster there and back
// while records flow, and the pause of the same group when its instances leave
// one cluster and join the other.
//
// A pause is that of the partition that stood still longest: from its last
// record handled on the one cluster to its first on the other. What the group
// does without any switch is measured in the same way in the same run, and
// subtracted: with few records a second most of a pause is waiting for the next
// one. Every record is accounted for, and nothing is told of a run in which one
// was lost, handled twice or out of order.
func switches(b *bench, ctx context.Context, dir string) (Values, error) {
	p, err := b.pair(ctx)
	if err != nil {
		return nil, err
	}
	usual := plan{name: "switch", instances: switchInstances, partitions: switchPartitions, rate: switchRate}
	out := Values{}
	usual.warm = b.sized(switchWarm, 2)
	main, err := b.switching(ctx, dir, p, usual, b.sized(switchTimes, 4), b.sized(leaveJoinTimes, 1), out)
	if err != nil {
		return nil, err
	}
	pause := main.above(main.pauses, 50)
	out["switch_spacing_ms"] = percentile(main.spacing, 50)
	out["switch_pause_p50_ms"], out["switch_pause_p99_ms"] = pause, main.above(main.pauses, 99)
	out["switch_back_standby_p50_ms"] = main.above(main.back, 50)
	out["switch_control_p50_ms"], out["switch_control_p99_ms"] = percentile(main.control, 50), percentile(main.control, 99)
	out["leave_join_ratio"] = out["leave_join_pause_p50_ms"] / max(pause, 1)

	durable := usual
	durable.name, durable.sync, durable.warm = "durable", true, 1
	s, err := b.switching(ctx, dir, p, durable, b.sized(switchSyncTimes, 4), 0, out)
	if err != nil {
		return out, err
	}
	out["switch_control_sync_p50_ms"] = percentile(s.control, 50)

	far := usual
	far.name, far.added, far.warm = "far", addedTrip, 1
	s, err = b.switching(ctx, dir, p, far, b.sized(switchDelayTimes, 4), 0, out)
	if err != nil {
		return out, err
	}
	out["switch_round_trips"] = (s.above(s.pauses, 50) - pause) / ms(addedTrip)
	return out, nil
}

// switching runs one plan: so many switches, and so many times leave and join.
// What was lost, doubled or late is added to the figures.
func (b *bench) switching(ctx context.Context, dir string, p *pair, pl plan, times, leaves int, out Values) (_ *switching, err error) {
	r, err := b.openFleetRun(ctx, dir, p, pl)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pl.name, err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	g := starferry.Group("switched-" + pl.name)
	if err := r.start(ctx, g, estate.Old, true); err != nil {
		return nil, err
	}
	s := &switching{}
	err = r.there(ctx, g, s, times)
	if err == nil && leaves > 0 {
		var took []float64
		took, err = r.leaveAndJoin(ctx, g, leaves)
		out["leave_join_pause_p50_ms"] = percentile(took, 50)
	}
	if err == nil {
		err = r.account(ctx, s, out)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w; the shard said:\n%s", pl.name, err, r.shard.Tail())
	}
	return s, nil
}

// settle waits until every partition hands out records of a cluster, and the
// group has caught up with the flow.
func (r *fleetRun) settle(ctx context.Context, on starferry.ClusterName) error {
	ctx, cancel := context.WithTimeout(ctx, pauseWithin)
	defer cancel()
	for range 3 { // records in a row from everywhere: what had piled up is handled
		if err := r.closed(ctx, r.ledger.watch(on)); err != nil {
			return fmt.Errorf("wait for records of all %d partitions from %s: %w", r.partitions, on, err)
		}
	}
	return nil
}

func (r *fleetRun) closed(ctx context.Context, all <-chan struct{}) error {
	select {
	case <-all:
		return nil
	case <-r.flow.done:
		return fmt.Errorf("the flow ended: %w", r.flow.err)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// there switches the group to and fro, and measures its spacing in between.
func (r *fleetRun) there(ctx context.Context, g starferry.Group, s *switching, times int) error {
	from, to := starferry.ClusterName(estate.Old), starferry.ClusterName(estate.New)
	for i := range r.warm + times {
		if err := r.settle(ctx, from); err != nil {
			return err
		}
		if i >= r.warm && len(s.spacing) < min(spacings, 2*times) {
			if err := r.closed(ctx, r.ledger.watch(from)); err != nil {
				return err
			}
			s.spacing = append(s.spacing, ms(r.ledger.gap()))
		}
		rep, gap, err := r.once(ctx, g, from, to, i)
		if err != nil {
			return fmt.Errorf("switch %d from %s to %s: %w", i+1, from, to, err)
		}
		r.b.say("%s %d: to %s, %.1f ms (drain to decision %.1f; %s)", r.name, i+1, to, ms(gap), rep.ControlMS, r.steps)
		if s.switches++; i >= max(1, r.warm) { // the first one joins; all others find the standby
			s.pauses, s.control = append(s.pauses, ms(gap)), append(s.control, rep.ControlMS)
			if to == estate.Old {
				s.back = append(s.back, ms(gap))
			}
		}
		from, to = to, from
	}
	return nil
}

// steps are how long the phases of one switch took.
type steps struct {
	now   string
	since time.Time
	text  []string
}

func (s *steps) note(p builtins.SwitchProgress) { s.enter(p.Phase) }

func (s *steps) enter(phase string) {
	if phase == s.now {
		return
	}
	at := time.Now()
	if s.now != "" {
		s.text = append(s.text, fmt.Sprintf("%s %.1f", s.now, ms(at.Sub(s.since))))
	}
	s.now, s.since = phase, at
}

func (s steps) String() string { return strings.Join(s.text, ", ") }

// once makes one switch and returns the group's pause.
func (r *fleetRun) once(ctx context.Context, g starferry.Group, from, to starferry.ClusterName, i int) (builtins.SwitchReport, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, pauseWithin)
	defer cancel()
	all := r.ledger.watch(to)
	r.steps = steps{}
	rep, err := r.ports.Hand.Switch(ctx, builtins.SwitchRequest{Group: g, Source: from, Target: to, Link: link,
		Within: pauseWithin / 2, Standby: time.Hour, By: "bench", Token: fmt.Sprintf("%s-%d", r.name, i), Progress: r.steps.note})
	r.steps.enter("")
	if err == nil {
		err = r.closed(ctx, all)
	}
	return rep, r.ledger.gap(), err
}

// leaveAndJoin moves the group the usual way: its instances stop and leave, its
// places are translated and committed, and they start and join on the other
// cluster, which waits for more members as Kafka does by default.
func (r *fleetRun) leaveAndJoin(ctx context.Context, g starferry.Group, times int) (took []float64, err error) {
	from, to := starferry.ClusterName(estate.Old), starferry.ClusterName(estate.New)
	if err := r.restart(ctx, g, from); err != nil {
		return nil, err
	}
	for range times {
		if err := r.settle(ctx, from); err != nil {
			return nil, err
		}
		all := r.ledger.watch(to)
		if err := r.group.Close(); err != nil {
			return nil, err
		}
		if err := r.carry(ctx, g, from, to); err != nil {
			return nil, err
		}
		if err := r.start(ctx, g, to, false); err != nil {
			return nil, err
		}
		if err := r.closed(ctx, all); err != nil {
			return nil, err
		}
		r.b.say("left and joined %s: %.0f ms", to, ms(r.ledger.gap()))
		took = append(took, ms(r.ledger.gap()))
		from, to = to, from
	}
	return took, nil
}

// restart closes the group and starts it again as one that knows one cluster
// alone.
func (r *fleetRun) restart(ctx context.Context, g starferry.Group, on starferry.ClusterName) error {
	if err := r.group.Close(); err != nil {
		return err
	}
	return r.start(ctx, g, on, false)
}

// carry commits the places of a stopped group on the other cluster, as whoever
// moves groups by hand would.
func (r *fleetRun) carry(ctx context.Context, g starferry.Group, from, to starferry.ClusterName) error {
	d, source, target := starferry.Forward, r.pair.source.cluster, r.pair.target.cluster
	if from == estate.New {
		d, source, target = starferry.Back, target, source
	}
	had, err := source.Committed(ctx, g, nil)
	if err != nil {
		return err
	}
	cut := starferry.Cut{}
	for tp, c := range had {
		cut[tp] = starferry.Place{Next: c.Offset}
	}
	for {
		t, err := r.ports.Copier.Translate(ctx, link, d, cut)
		if err != nil {
			return err
		}
		if !t.Final() {
			continue // the copy passes it soon
		}
		com := wire.Commit{Group: g, Generation: -1, Offsets: map[starferry.TopicPartition]wire.Committed{}}
		for tp, place := range t.Cut {
			com.Offsets[tp] = wire.Committed{Offset: place.Next, LeaderEpoch: -1}
		}
		return target.Commit(ctx, com)
	}
}

// account stops the flow, waits until everything is handled and adds what was
// not as it should be.
func (r *fleetRun) account(ctx context.Context, s *switching, out Values) error {
	written, err := r.flow.Stop()
	if err != nil {
		return err
	}
	var want int64
	for _, n := range written {
		want += n
	}
	deadline := time.Now().Add(pauseWithin / 2)
	for r.ledger.total() < want && time.Now().Before(deadline) && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	got := r.ledger.sums(written)
	r.b.say("%s: %d switches, %d records: %d lost, %d handled twice, %d out of order", r.name, s.switches, want, got.lost, got.twice, got.late)
	out["switches"] += float64(s.switches)
	out["switch_lost"] += float64(got.lost)
	out["switch_twice"] += float64(got.twice)
	out["switch_out_of_order"] += float64(got.late)
	if got.lost+got.twice+got.late > 0 {
		return fmt.Errorf("of %d records %d were lost, %d handled twice and %d out of order: the figures of this run are void", want, got.lost, got.twice, got.late)
	}
	return nil
}
