package builtins

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

// Spreader spreads the backlog of a hot partition over the instances of its
// group.
type Spreader interface {
	// Redistribute returns when the backlog is handled. If ctx ends before, it
	// goes on with nobody waiting. Token makes it repeatable.
	Redistribute(ctx context.Context, r RedistributeRequest) (RedistributeReport, error)
	// Redistributed finds what the request with a token has done; false if it has
	// not ended, or never begun.
	Redistributed(ctx context.Context, g starferry.Group, token string) (RedistributeReport, bool, error)
}

// RedistributeRequest asks for a backlog to be spread.
type RedistributeRequest struct {
	Group     starferry.Group          `json:"group"`
	Partition starferry.TopicPartition `json:"partition"`
	To        []starferry.InstanceID   `json:"to"`    // empty: all
	Order     string                   `json:"order"` // "key" or "none"
	// Stop ends one under way: what is moved is handled, the rest stays.
	Stop     bool         `json:"stop,omitempty"`
	By       string       `json:"by"`
	Why      string       `json:"why"`
	Token    string       `json:"token"`
	Progress func(string) `json:"-"`
}

// RedistributeReport is what was spread.
type RedistributeReport struct {
	Group     starferry.Group          `json:"group"`
	Partition starferry.TopicPartition `json:"partition"`
	First     starferry.Offset         `json:"first"` // the offsets [First, Next)
	Next      starferry.Offset         `json:"next"`
	// Stopped: not all of that was moved; the rest stayed where it was.
	Stopped   bool     `json:"stopped"`
	Revision  uint64   `json:"revision"`
	Instances []string `json:"instances"`
}

// GroupSpread is a redistribution under way.
type GroupSpread struct {
	Partition starferry.TopicPartition `json:"partition"`
	Topic     starferry.Topic          `json:"topic"` // the overflow
	Order     string                   `json:"order"`
	Phase     string                   `json:"phase"` // prepare, move or close
	// Until is where the backlog ends that is moved; 0 once it is to be stopped.
	Until starferry.Offset `json:"until"`
	By    string           `json:"by"`
	Why   string           `json:"why"`
}

// String is it in a table.
func (s *GroupSpread) String() string {
	switch {
	case s == nil:
		return "-"
	case s.Phase == "move" && s.Until == 0:
		return fmt.Sprintf("%s (stopping) by %s", s.Partition, s.Topic)
	}
	return fmt.Sprintf("%s (%s) by %s", s.Partition, s.Phase, s.Topic)
}

func redistributeEntry(p Ports, t typeSet) *scripting.Builtin {
	r := redistribute{p}
	return &scripting.Builtin{
		Name: "redistribute", Class: scripting.Effect, Rev: 1, Returns: "struct(group, partition, first, next, stopped, revision, instances)",
		Doc:     "Spreads a hot partition's backlog over the instances of its group, through a topic of the group's own, and waits until it is handled. It goes on if whoever asked ends; asked again, it is waited for.",
		Example: `redistribute("billing", partition = "orders/7", order = "key", reason = "INC-4411")`,
		Params: []scripting.Param{
			{Name: "group", Type: t.group, Required: true, Doc: "the group", Complete: "groups"},
			{Name: "partition", Type: t.text, Required: true, Doc: "the hot partition, such as orders/7", Complete: "partitions"},
			{Name: "to", Type: t.list, Doc: "the instances that get it; all if left out"},
			{Name: "order", Type: t.text, Default: "key", Doc: "key: each key stays in order, and later records of the partition wait for the backlog; none: they go on at once"},
			{Name: "stop", Type: t.yes, Default: false, Doc: "True: move no more of one under way; what is moved is handled, the rest stays where it is"},
			{Name: "within", Type: t.duration, Default: "1h", Doc: "how long it is waited for; it goes on by itself afterwards"},
			{Name: "reason", Type: t.text, Doc: "why, for the audit trail"},
		},
		Plan: r.plan, Run: r.run, Reconcile: r.reconcile, Inverse: noUndoYet, Summary: redistributed,
	}
}

type redistribute struct{ p Ports }

func (r redistribute) request(c scripting.Call) (RedistributeRequest, error) {
	tp, err := starferry.ParseTopicPartition(c.Args.Text("partition"))
	if err != nil {
		return RedistributeRequest{}, fmt.Errorf("redistribute: %w", err)
	}
	q := RedistributeRequest{Group: groupArg(c), Partition: tp, Order: c.Args.Text("order"), Stop: c.Args.Bool("stop"), By: c.By, Why: why(c), Token: c.Token, Progress: c.Progress}
	if q.Order != "key" && q.Order != "none" {
		return q, fmt.Errorf("redistribute: order %q: want \"key\" or \"none\"", q.Order)
	}
	if to := c.Args.Strings("to"); !slices.Equal(to, []string{"all"}) {
		for _, i := range to {
			q.To = append(q.To, starferry.InstanceID(i))
		}
	}
	return q, nil
}

func (r redistribute) plan(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
	q, err := r.request(c)
	if err != nil {
		return scripting.Prediction{}, err
	}
	if q.Stop {
		result := unknownFields("first", "next", "stopped", "revision", "instances")
		result["group"], result["partition"] = q.Group, q.Partition.String()
		return scripting.Prediction{Verdict: scripting.WillDo, Result: result, Text: fmt.Sprintf("group %s: no more of %s is moved; what is moved is handled", q.Group, q.Partition)}, nil
	}
	home, err := r.p.Hand.Home(ctx, q.Group)
	if err != nil {
		return scripting.Prediction{}, fmt.Errorf("find home of group %s: %w", q.Group, err)
	}
	lag, err := r.p.Clusters.GroupLag(ctx, home.Cluster, q.Group)
	if err != nil {
		return scripting.Prediction{}, fmt.Errorf("measure group %s on %s: %w", q.Group, home.Cluster, err)
	}
	n, known := lag.Records[q.Partition]
	result := unknownFields("first", "next", "stopped", "revision", "instances")
	result["group"], result["partition"] = q.Group, q.Partition.String()
	switch {
	case !known:
		return scripting.Prediction{Verdict: scripting.FailsNow, Text: fmt.Sprintf("group %s has no position in %s on %s", q.Group, q.Partition, home.Cluster)}, nil
	case n == 0:
		return scripting.Prediction{Verdict: scripting.NoChange, Text: fmt.Sprintf("group %s has no backlog in %s now", q.Group, q.Partition), Result: result}, nil
	}
	over, order := "all instances", "later records go on at once, and no order is kept"
	if len(q.To) > 0 {
		over = count(len(q.To), "instance")
	}
	if q.Order == "key" {
		order = "each key stays in order, and later records wait for it"
	}
	return scripting.Prediction{Verdict: scripting.WillDo, Result: result,
		Text: fmt.Sprintf("group %s on %s: the backlog of %s, %s now, is spread over %s; %s", q.Group, home.Cluster, q.Partition, count(int(n), "record"), over, order)}, nil
}

func (r redistribute) run(ctx context.Context, c scripting.Call) (any, error) {
	q, err := r.request(c)
	if err != nil {
		return nil, err
	}
	within := c.Args.Duration("within")
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("not over within %s", within.Round(time.Second)))
	defer cancel()
	rep, err := r.p.Spreader.Redistribute(ctx, q)
	if err != nil {
		return nil, err
	}
	rep.Instances = filledList(rep.Instances)
	return rep, nil
}

func (r redistribute) reconcile(ctx context.Context, c scripting.Call) (scripting.Finding, any, error) {
	rep, done, err := r.p.Spreader.Redistributed(ctx, groupArg(c), c.Token)
	switch {
	case err != nil:
		return scripting.Unclear, nil, err
	case !done: // one that has begun is gone on with
		return scripting.DidNot, nil, nil
	}
	rep.Instances = filledList(rep.Instances)
	return scripting.Happened, rep, nil
}

func redistributed(result json.RawMessage) string {
	var r RedistributeReport
	if json.Unmarshal(result, &r) != nil {
		return ""
	}
	if r.Stopped {
		return fmt.Sprintf("stopped: what was moved of %s is handled, the rest stayed in the partition", r.Partition)
	}
	if r.Next <= r.First {
		return fmt.Sprintf("%s has no backlog", r.Partition)
	}
	return fmt.Sprintf("offsets [%d, %d) of %s are handled by %s", r.First, r.Next, r.Partition, count(len(r.Instances), "instance"))
}
