package replication

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/starferry/starferry"
)

// Passed lets the shards wait, at most for within, until the copy of a link has
// passed the given offsets of its source, and returns how many it lacks, by
// partition; those it lacks nothing of are left out. It is a smaller question than
// Translate: it says nothing of places on the target, and asks no link back. A
// partition of which it cannot be told until time is up is an error, and so is a
// topic that has another name on the target.
func (c *Client) Passed(ctx context.Context, link starferry.LinkName, ends map[starferry.TopicPartition]starferry.Offset, within time.Duration) (behind map[starferry.TopicPartition]int64, err error) {
	fail := func(err error) (map[starferry.TopicPartition]int64, error) {
		return nil, fmt.Errorf("ask whether link %s has passed the ends: %w", link, err)
	}
	deadline := time.Now().Add(within)
	for {
		spec, table, err := c.linkAndTable(ctx, link)
		if err != nil {
			return fail(err)
		}
		var unknown error
		behind, unknown = c.behind(ctx, spec, table, ends, time.Until(deadline))
		if unknown == nil {
			return behind, nil
		}
		if time.Until(deadline) <= 0 {
			return fail(unknown)
		}
		if wait(ctx, 20*time.Millisecond) != nil {
			return fail(context.Cause(ctx))
		}
	}
}

// behind asks each lane's owner once. The error names a partition of which it
// cannot be told.
func (c *Client) behind(ctx context.Context, spec LinkSpec, table Table, ends map[starferry.TopicPartition]starferry.Offset, within time.Duration) (map[starferry.TopicPartition]int64, error) {
	r := &crossRound{c: c, tables: map[starferry.LinkName]Table{spec.Name: table}, within: within, out: newCrossReply(), in: newCrossReply()}
	for tp, end := range ends {
		if lane, ok := spec.laneOf(starferry.Forward, tp); !ok || !spec.has(tp.Topic) {
			return nil, fmt.Errorf("it does not copy topic %s", tp.Topic)
		} else if to := spec.answerOf(starferry.Forward, lane); to != tp {
			return nil, fmt.Errorf("it copies %s under another name (%s), where nobody would look for it; replicate it without rename", tp, to)
		}
		r.put(&r.out, spec, starferry.Forward, tp, crossingQuestion{Place: starferry.Place{Next: end}})
	}
	r.ask(ctx)
	behind := map[starferry.TopicPartition]int64{}
	for tp, end := range ends {
		a, ok := r.out.Answers[tp]
		why := cmp.Or(r.out.Missing[tp], a.Error)
		if !ok {
			why = cmp.Or(why, "a shard left it out of its answer")
		}
		if a.Behind > 0 {
			behind[tp] = a.Behind
			why = cmp.Or(why, r.out.Rested[tp])
		}
		if why != "" {
			return nil, fmt.Errorf("%s@%d: %s", tp, end, why)
		}
	}
	return behind, nil
}
