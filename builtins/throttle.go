package builtins

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

func throttleEntry(p Ports, t typeSet) *scripting.Builtin {
	th := throttle{p}
	return &scripting.Builtin{
		Name: "throttle", Class: scripting.Hold, Rev: 1, Returns: "struct(group, revision, instances)",
		Doc: "Limits how many records per second a whole group handles, or one partition of it, and how; it follows rebalances by itself. " +
			"Each call replaces what the one before has set for the same group or partition.",
		Example: `throttle("billing", rate = "500/s", for_ = "30m", reason = "INC-4411")`,
		Params: []scripting.Param{
			{Name: "group", Type: t.group, Required: true, Doc: "the group", Complete: "groups"},
			{Name: "rate", Type: t.rate, Doc: "records per second for the whole group, or the partition; 0/s alone lifts the limit"},
			{Name: "partition", Type: t.text, Doc: "limit this partition, topic/partition, beside the group", Complete: "partitions"},
			{Name: "parallelism", Type: t.whole, Doc: "how many records of a partition are handled at once, more or fewer than the service has configured; keys stay in order"},
			{Name: "delay", Type: t.duration, Doc: "a pause before each record that a worker is handed"},
			{Name: "queue_high", Type: t.whole, Doc: "fetch no more of a partition while so many of its records wait"},
			{Name: "queue_low", Type: t.whole, Doc: "fetch again when only so many wait; half of queue_high if left out"},
			{Name: "for_", Type: t.duration, Doc: "ends by itself after this, whether an agent lives or not; until changed if left out"},
			{Name: "reason", Type: t.text, Doc: "why, for the audit trail"},
		},
		Plan: th.plan, Run: th.run, Reconcile: th.reconcile, Inverse: th.inverse, Summary: acknowledged,
	}
}

type throttle struct{ p Ports }

func (t throttle) request(c scripting.Call) (ThrottleRequest, error) {
	rate := c.Args.Rate("rate")
	if rate.Bytes {
		return ThrottleRequest{}, fmt.Errorf("throttle: rate %s counts bytes; a group is limited in records, such as 500/s", rate)
	}
	q := ThrottleRequest{Group: groupArg(c), For: c.Args.Duration("for_"), By: c.By, Why: why(c), Token: c.Token}
	q.Limit = Limit{
		Rate: rate.PerSecond, Parallelism: int(c.Args.Int("parallelism")), DelayMS: c.Args.Duration("delay").Milliseconds(),
		QueueHigh: int(c.Args.Int("queue_high")), QueueLow: int(c.Args.Int("queue_low")),
	}
	given := false
	for _, name := range []string{"rate", "parallelism", "delay", "queue_high", "queue_low"} {
		given = given || c.Args.Has(name)
	}
	switch {
	case !given:
		return q, fmt.Errorf("throttle: nothing is limited; give a rate such as 500/s, parallelism, delay or queue_high, or rate = \"0/s\" to lift the limit")
	case q.Limit.Parallelism < 0 || q.Limit.QueueHigh < 0 || q.Limit.QueueLow < 0 || q.Limit.DelayMS < 0:
		return q, fmt.Errorf("throttle: nothing of a limit is below 0")
	case q.Limit.QueueHigh > 0 && q.Limit.QueueLow >= q.Limit.QueueHigh:
		return q, fmt.Errorf("throttle: queue_low %d is not below queue_high %d", q.Limit.QueueLow, q.Limit.QueueHigh)
	}
	if c.Args.Has("partition") {
		tp, err := starferry.ParseTopicPartition(c.Args.Text("partition"))
		if err != nil {
			return q, fmt.Errorf("throttle: partition: %w", err)
		}
		q.Partition = &tp
	}
	return q, nil
}

// now is the limit that is set for what a request is about. One that has ended
// is none.
func (t throttle) now(ctx context.Context, c scripting.Call, q ThrottleRequest) (Limit, uint64, error) {
	set, err := t.p.Hand.Settings(ctx, q.Group)
	if err != nil {
		return Limit{}, 0, fmt.Errorf("read settings of group %s: %w", q.Group, err)
	}
	l := set.Limit
	if q.Partition != nil {
		l = set.Limits[*q.Partition]
	}
	if l.Until > 0 && l.Until <= c.Clock.Now().UnixMilli() {
		l = Limit{}
	}
	return l, set.Revision, nil
}

func (q ThrottleRequest) what() string {
	if q.Partition != nil {
		return fmt.Sprintf("group %s, %s", q.Group, q.Partition)
	}
	return fmt.Sprintf("group %s", q.Group)
}

func (t throttle) plan(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
	q, err := t.request(c)
	if err != nil {
		return scripting.Prediction{}, err
	}
	l, _, err := t.now(ctx, c, q)
	if err != nil {
		return scripting.Prediction{}, err
	}
	result := unknownFields("revision", "instances", "before", "keep")
	result["group"] = q.Group
	if l == q.Limit && q.For == 0 {
		return scripting.Prediction{Verdict: scripting.NoChange, Text: fmt.Sprintf("%s: %s already", q.what(), l), Result: result}, nil
	}
	text := fmt.Sprintf("%s: from %s to %s", q.what(), l, q.Limit)
	if q.For > 0 {
		text += " for " + scripting.FormatDuration(q.For)
	}
	return scripting.Prediction{Verdict: scripting.WillDo, Text: text, Result: result}, nil
}

// String is the limit in words.
func (l Limit) String() string {
	var parts []string
	add := func(set bool, format string, a ...any) {
		if set {
			parts = append(parts, fmt.Sprintf(format, a...))
		}
	}
	add(l.Rate > 0, "%s", scripting.Rate{PerSecond: l.Rate})
	add(l.Parallelism > 0, "%d at once", l.Parallelism)
	add(l.DelayMS > 0, "%s before each", scripting.FormatDuration(time.Duration(l.DelayMS)*time.Millisecond))
	add(l.QueueHigh > 0, "at most %d queued", l.QueueHigh)
	add(l.QueueLow > 0, "fetched again at %d queued", l.QueueLow)
	if len(parts) == 0 {
		return "no limit"
	}
	return strings.Join(parts, ", ")
}

func (t throttle) run(ctx context.Context, c scripting.Call) (any, error) {
	q, err := t.request(c)
	if err != nil {
		return nil, err
	}
	r, err := t.p.Hand.Throttle(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("throttle %s: %w", q.what(), err)
	}
	return r, nil
}

func (t throttle) reconcile(ctx context.Context, c scripting.Call) (scripting.Finding, any, error) {
	q, err := t.request(c)
	if err != nil {
		return scripting.Unclear, nil, err
	}
	set, err := t.p.Hand.Settings(ctx, q.Group)
	if err != nil {
		return scripting.Unclear, nil, fmt.Errorf("read settings of group %s: %w", q.Group, err)
	}
	l := set.Limit
	if q.Partition != nil {
		l = set.Limits[*q.Partition]
	}
	timed := l.Until > 0
	if l.Until = 0; l != q.Limit || timed != (q.For > 0) {
		return scripting.DidNot, nil, nil
	}
	return scripting.Happened, Receipt{Group: q.Group, Revision: set.Revision, Instances: []string{}}, nil
}

// inverse reads the limit that was, and what is left of its time.
func (t throttle) inverse(ctx context.Context, c scripting.Call) (*scripting.Undo, error) {
	q, err := t.request(c)
	if err != nil {
		return nil, err
	}
	l, _, err := t.now(ctx, c, q)
	if err != nil {
		return nil, err
	}
	args := scripting.Args{"group": c.Args.Text("group"), "rate": scripting.Rate{PerSecond: l.Rate}.String(), "reason": "undo: " + c.Args.Text("reason")}
	if q.Partition != nil {
		args["partition"] = q.Partition.String()
	}
	for name, n := range map[string]int{"parallelism": l.Parallelism, "queue_high": l.QueueHigh, "queue_low": l.QueueLow} {
		if n > 0 {
			args[name] = int64(n)
		}
	}
	if l.DelayMS > 0 {
		args["delay"] = scripting.FormatDuration(time.Duration(l.DelayMS) * time.Millisecond)
	}
	if l.Until > 0 {
		left := time.UnixMilli(l.Until).Sub(c.Clock.Now()).Round(time.Second)
		args["for_"] = scripting.FormatDuration(max(left, time.Second))
	}
	l.Until = 0
	return &scripting.Undo{Builtin: "throttle", Args: args, Text: fmt.Sprintf("%s: back to %s", q.what(), l)}, nil
}
