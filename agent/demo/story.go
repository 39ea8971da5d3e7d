package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent"
	"github.com/starferry/starferry/agent/api"
	"github.com/starferry/starferry/agent/journal"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/scripting"
	"github.com/starferry/starferry/scripts"

	"github.com/nats-io/nats.go/jetstream"
)

const poll = 20 * time.Millisecond

// story is what the demo is for: there, back by the run's own undo, and there
// again, while records flow.
func (s *stage) story(ctx context.Context) (*Report, error) {
	if err := s.arrive(ctx, s.n.source); err != nil {
		return nil, err
	}
	first, err := s.move(ctx)
	if err != nil {
		return nil, err
	}
	s.o.Say("rolling back run %s", first)
	err = s.perform(ctx, first, func(ctx context.Context) error { return s.client.Rollback(ctx, first, "demo") })
	if err != nil {
		return nil, err
	}
	if err := s.arrive(ctx, s.n.source); err != nil {
		return nil, err
	}
	second, err := s.move(ctx)
	if err != nil {
		return nil, err
	}
	s.lastRun = second
	if err := s.until(ctx, "enough records", s.o.enough(), func() bool { return s.producer.acked.Load() >= s.o.Records }); err != nil {
		return nil, err
	}
	if s.o.Keep {
		s.o.Say("%s", s.keepHelp(program()))
		<-ctx.Done()
		ctx = context.WithoutCancel(ctx) // the story has an end all the same
	}
	return s.finish(ctx, first, second)
}

// move runs the shipped script.
func (s *stage) move(ctx context.Context) (string, error) {
	r, err := agent.Pack(scripting.FS(scripts.Files), "move_group.star", map[string]string{
		"group": string(s.n.group), "source": string(s.n.source), "target": string(s.n.target),
	})
	if err != nil {
		return "", fmt.Errorf("load the shipped script: %w", err)
	}
	r.By, r.Run = "demo", api.NewRunName(r.File)
	s.o.Say("running move_group.star as %s: %s from %s to %s", r.Run, s.n.group, s.n.source, s.n.target)
	err = s.perform(ctx, r.Run, func(ctx context.Context) error {
		_, err := s.client.Start(ctx, r)
		return err
	})
	if err != nil {
		return r.Run, err
	}
	return r.Run, s.arrive(ctx, s.n.target)
}

// perform begins something on a run and follows it to its end.
func (s *stage) perform(ctx context.Context, run string, begin func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, phaseLimit)
	defer cancel()
	f, err := s.client.Follow(run)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // the connection closes with the stage
	if err := begin(ctx); err != nil {
		return err
	}
	end, err := f.Wait(ctx, s.o.Event)
	if err != nil {
		return err
	}
	if end.Exit != 0 {
		return &api.RemoteError{Text: end.Text, Exit: end.Exit}
	}
	return nil
}

// arrive waits until every partition hands out records of a cluster, and then
// lets the traffic flow for a while.
func (s *stage) arrive(ctx context.Context, on starferry.ClusterName) error {
	err := s.until(ctx, fmt.Sprintf("records of all partitions from %s", on), settle, func() bool { return s.recorder.everywhere(on) })
	if err != nil {
		return err
	}
	s.o.Say("all %d partitions are handled on %s; %d records so far", partitions, on, s.producer.acked.Load())
	t := time.NewTimer(s.o.dwell)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// until waits for a condition, and says what it waited for if it does not come.
func (s *stage) until(ctx context.Context, what string, within time.Duration, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-s.producer.done:
			if s.producer.err != nil {
				return fmt.Errorf("wait for %s: the producer stopped: %w", what, s.producer.err)
			}
			if ok() {
				return nil
			}
			<-tick.C
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: not within %v: %w", what, within, context.Cause(ctx))
		}
	}
	return nil
}

// finish stops the producer, lets everything come to rest, and counts.
func (s *stage) finish(ctx context.Context, runs ...string) (*Report, error) {
	ctx, cancel := context.WithTimeout(ctx, phaseLimit)
	defer cancel()
	produced, err := s.producer.finish(ctx)
	if err != nil {
		return nil, err
	}
	s.o.Say("the producer has stopped; waiting until everything is handled and copied")
	waited := s.until(ctx, "everything to be handled", settle, func() bool { return s.recorder.tally().lost(produced) == 0 })
	if ctx.Err() != nil {
		return nil, waited
	}
	r := s.count(produced)
	if r.Copied, err = s.copied(ctx, r.Produced); err != nil {
		return nil, err
	}
	reports, err := s.switchReports(ctx, runs)
	if err != nil {
		return nil, err
	}
	return r, s.checkPositions(ctx, r, reports)
}

func (s *stage) count(produced map[starferry.TopicPartition]int64) *Report {
	t := s.recorder.tally()
	r := &Report{
		Handled: t.handled, Lost: t.lost(produced), Twice: t.twice, OutOfOrder: t.disorder, Alien: t.alien,
		Pauses: s.recorder.switches(), Spacing: s.recorder.ordinary(),
	}
	for _, n := range produced {
		r.Produced += n
	}
	return r
}

// copied counts the records on the target, once the copy has caught up.
func (s *stage) copied(ctx context.Context, want int64) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	rd, err := newReader(ctx, s.target, s.n.topicNames())
	if err != nil {
		return 0, err
	}
	tick := time.NewTicker(10 * poll)
	defer tick.Stop()
	var n int64
	for {
		n = 0
		for _, t := range s.n.topics {
			for i := range t.partitions {
				c, err := rd.count(ctx, starferry.TopicPartition{Topic: t.name, Partition: starferry.Partition(i)})
				if err != nil {
					return 0, err
				}
				n += c
			}
		}
		if n >= want {
			return n, nil
		}
		select {
		case <-ctx.Done():
			return n, nil // the report says it
		case <-tick.C:
		}
	}
}

// switched is what a journal says of a switch, as far as the demo checks it.
type switched struct {
	Source scripting.Typed `json:"source"`
	Target scripting.Typed `json:"target"`
	Cut    starferry.Cut   `json:"cut"`
	Seeds  starferry.Cut   `json:"seeds"`
}

// switchReports reads from the journals what the switches of the runs reported,
// the way there and the way back.
func (s *stage) switchReports(ctx context.Context, runs []string) ([]switched, error) {
	js, err := jetstream.New(s.client.Conn)
	if err != nil {
		return nil, err
	}
	j, err := journal.Open(ctx, js)
	if err != nil {
		return nil, err
	}
	var out []switched
	for _, run := range runs {
		records, err := j.Read(ctx, run)
		if err != nil {
			return nil, err
		}
		for _, r := range records {
			var sr switched
			if r.Kind != scripting.Done || r.Builtin != "switch_consumer" || json.Unmarshal(r.Result, &sr) != nil || len(sr.Seeds) == 0 {
				continue
			}
			out = append(out, sr)
		}
	}
	return out, nil
}

// checkPositions reads, for every partition of every switch, the record at the
// place the group left and the one at the place it was put, and compares their
// numbers.
func (s *stage) checkPositions(ctx context.Context, r *Report, reports []switched) error {
	readers := map[starferry.ClusterName]*reader{}
	for _, c := range []*wire.Cluster{s.source, s.target} {
		rd, err := newReader(ctx, c, s.n.topicNames())
		if err != nil {
			return err
		}
		readers[c.Name()] = rd
	}
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	r.Switches = len(reports)
	for _, sr := range reports {
		from, to := readers[starferry.ClusterName(sr.Source.Text)], readers[starferry.ClusterName(sr.Target.Text)]
		if from == nil || to == nil {
			return fmt.Errorf("check positions: the journal tells of a switch from %s to %s, which is not the demo's", sr.Source.Text, sr.Target.Text)
		}
		for tp, place := range sr.Cut {
			seed, ok := sr.Seeds[tp]
			if !ok {
				return fmt.Errorf("check positions: %s was not translated", tp)
			}
			same, err := sameRecord(ctx, from, to, tp, place.Next, seed.Next)
			if err != nil {
				return err
			}
			r.Positions++
			if same {
				r.ExactPositions++
			}
		}
	}
	r.Exact = r.Positions > 0 && r.Positions == r.ExactPositions
	return nil
}

// sameRecord compares the records at two places. A place at the end of a log,
// which nothing was written to after, is compared by the record's absence.
func sameRecord(ctx context.Context, from, to *reader, tp starferry.TopicPartition, a, b starferry.Offset) (bool, error) {
	var numbers [2]int64
	var g errgroup.Group
	for i, side := range []struct {
		r  *reader
		at starferry.Offset
	}{{from, a}, {to, b}} {
		g.Go(func() (err error) {
			numbers[i], err = side.r.number(ctx, tp, side.at)
			if errors.Is(err, errAtEnd) {
				numbers[i], err = -1, nil
			}
			return err
		})
	}
	err := g.Wait()
	return numbers[0] == numbers[1], err
}
