package crossing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/chaos/checker"
	"github.com/starferry/starferry/internal/chaos/ground"
)

// askers is how many cuts are under way at a time.
const askers = 8

// ask asks the map, as others do over NATS, for every offset that was not asked
// for before: cuts with one offset of each lane.
func (w *World) ask(ctx context.Context) (forward, back map[starferry.TopicPartition]checker.Answers, err error) {
	ways := [2]map[starferry.TopicPartition]checker.Answers{{}, {}}
	for way, d := range []starferry.Direction{starferry.Forward, starferry.Back} {
		ends := w.source.next
		if d == starferry.Back {
			ends = w.target.next
		}
		rounds := 0
		for _, tp := range w.lanes {
			first, end := w.asked[tp][way], starferry.Offset(ends[tp])
			n := max(0, int(end-first))
			ways[way][tp] = checker.Answers{First: first, Given: make([]starferry.Answer, n)}
			rounds = max(rounds, n)
		}
		within := settleWithin * time.Duration(1+rounds/roundsWithin)
		limit, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("%d places of a lane were not answered within %s", rounds, within))
		defer cancel()
		group, inner := errgroup.WithContext(limit)
		group.SetLimit(askers)
		for i := range rounds {
			group.Go(func() error { return w.askOne(inner, d, ways[way], i) })
		}
		if err := group.Wait(); err != nil {
			return nil, nil, fmt.Errorf("ask the map %s: %w", d, err)
		}
	}
	for _, tp := range w.lanes {
		w.asked[tp] = [2]starferry.Offset{starferry.Offset(w.source.next[tp]), starferry.Offset(w.target.next[tp])}
	}
	return ways[0], ways[1], nil
}

// askOne asks for the i-th offset of each lane. Different calls write different
// answers.
func (w *World) askOne(ctx context.Context, d starferry.Direction, into map[starferry.TopicPartition]checker.Answers, i int) error {
	left := starferry.Cut{}
	for tp, a := range into {
		if i < len(a.Given) {
			left[tp] = starferry.Place{Next: a.First + starferry.Offset(i)}
		}
	}
	var why any
	err := ground.Until(ctx, askWithin, ground.Rare, func() (bool, error) {
		t, err := w.client.Translate(ctx, link, d, left)
		if err != nil {
			why = err
			return false, nil
		}
		for tp, a := range t.Answers {
			into[tp].Given[i] = a
			delete(left, tp)
		}
		why = t.Missing
		return len(left) == 0, nil
	})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		w.Say("the map does not answer: %v", why)
		return nil // no answer is for the checker to judge
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// roundsWithin is how many cuts are answered within settleWithin on a machine
// that is busy with something else. The whole map of a long campaign has many.
const roundsWithin = 20_000

// askWithin is how long a lane may be busy with itself.
const askWithin = 30 * time.Second
