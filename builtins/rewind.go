package builtins

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

func rewindEntry(p Ports, t typeSet) *scripting.Builtin {
	r := rewind{p}
	return &scripting.Builtin{
		Name: "rewind", Class: scripting.Effect, Rev: 1, Returns: "struct(group, cluster, revision, instances, before, after)",
		Doc: "Takes partitions of a running group to another place: its records from there on are handled again. The partitions stand still " +
			"until their owners have committed the new place. To go ahead is refused unless forced: that passes records without a copy; see skip.",
		Example: `rewind("billing", to = "2026-01-31T18:00:00Z", topics = ["orders"], reason = "INC-4411")`,
		Params: []scripting.Param{
			{Name: "group", Type: t.group, Required: true, Doc: "the group", Complete: "groups"},
			{Name: "to", Type: backType(), Required: true, Doc: `a time, {"orders/7": 184223}, orders/7@184223, earliest or latest`, Complete: "positions"},
			{Name: "topics", Type: t.list, Doc: "with a time: only these topics; all that the group has committed positions of if left out", Complete: "topics"},
			{Name: "within", Type: t.duration, Default: "1m", Doc: "how long it may take; then it ends, and says which partitions are not there"},
			{Name: "force", Type: t.yes, Default: false, Doc: "True: also ahead of where the group stands"},
			{Name: "reason", Type: t.text, Required: true, Doc: "why, for the audit trail"},
		},
		Plan: r.plan, Run: r.run, Reconcile: r.reconcile, Inverse: noUndoYet, InverseOf: r.inverseOf, Summary: rewound,
	}
}

// backType is a place, or one record.
func backType() *scripting.Type {
	t := placeType("earliest, latest")
	parse := t.Parse
	t.Parse = func(v any) (any, error) {
		if text, ok := v.(string); ok {
			if at, err := starferry.ParsePosition(text); err == nil {
				return map[string]any{at.TopicPartition.String(): int64(at.Offset)}, nil
			}
		}
		return parse(v)
	}
	return t
}

type rewind struct{ p Ports }

// move is a rewind worked out: what changes, and what does not.
type move struct {
	cluster starferry.ClusterName
	from    map[starferry.TopicPartition]starferry.Offset
	to      map[starferry.TopicPartition]starferry.Offset
}

// work finds the places of a call.
func (r rewind) work(ctx context.Context, c scripting.Call) (move, error) {
	m := move{from: map[starferry.TopicPartition]starferry.Offset{}, to: map[starferry.TopicPartition]starferry.Offset{}}
	home, err := r.p.Hand.Home(ctx, groupArg(c))
	if err != nil {
		return m, fmt.Errorf("find home of group %s: %w", groupArg(c), err)
	}
	m.cluster = home.Cluster
	committed, err := r.p.Clusters.Committed(ctx, home.Cluster, groupArg(c))
	if err != nil {
		return m, fmt.Errorf("read committed positions of group %s on %s: %w", groupArg(c), home.Cluster, err)
	}
	places, err := r.places(ctx, c, m.cluster, committed)
	if err != nil {
		return m, err
	}
	var ahead []string
	for tp, to := range places {
		place, ok := committed[tp]
		if !ok {
			return m, fmt.Errorf("rewind: group %s has no committed position of %s on %s", groupArg(c), tp, m.cluster)
		}
		if to == place.Next && len(place.Handled) == 0 {
			continue
		}
		if to > place.Next {
			ahead = append(ahead, fmt.Sprintf("%s from %d to %d", tp, place.Next, to))
		}
		m.from[tp], m.to[tp] = place.Next, to
	}
	if len(ahead) > 0 && !c.Args.Bool("force") {
		slices.Sort(ahead)
		return m, scripting.Unmet("the group to go back, not ahead", strings.Join(ahead, ", ")+
			": that passes records without a copy; use skip, which keeps them, or say force = True")
	}
	return m, nil
}

func (r rewind) places(ctx context.Context, c scripting.Call, cluster starferry.ClusterName, committed starferry.Cut) (map[starferry.TopicPartition]starferry.Offset, error) {
	word, listed := placeOf(c.Args["to"])
	if listed != nil {
		return listed, nil
	}
	at := time.UnixMilli(0)
	switch word {
	case "earliest":
	case "latest":
		at = time.UnixMilli(everLater)
	default:
		var err error
		if at, err = time.Parse(time.RFC3339, word); err != nil {
			return nil, fmt.Errorf("rewind: to: %w", err)
		}
	}
	topics := committed.Topics()
	if only := topicsArg(c); len(only) > 0 {
		topics = only
	}
	if len(topics) == 0 {
		return nil, fmt.Errorf("rewind: group %s has no committed position on %s", groupArg(c), cluster)
	}
	cut, err := r.p.Times.OffsetsAt(ctx, cluster, topics, at)
	if err != nil {
		return nil, fmt.Errorf("rewind: find %s: %w", word, err)
	}
	out := map[starferry.TopicPartition]starferry.Offset{}
	for tp, place := range cut {
		if _, ok := committed[tp]; ok {
			out[tp] = place.Next
		}
	}
	return out, nil
}

func (r rewind) plan(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
	m, err := r.work(ctx, c)
	var unmet *scripting.UnmetError
	if asUnmet(err, &unmet) {
		return scripting.Prediction{Verdict: scripting.FailsNow, Text: unmet.Found}, nil
	}
	if err != nil {
		return scripting.Prediction{}, err
	}
	result := unknownFields("revision", "instances", "before", "after")
	result["group"], result["cluster"] = groupArg(c), typedCluster(m.cluster)
	if len(m.to) == 0 {
		return scripting.Prediction{Verdict: scripting.NoChange, Text: fmt.Sprintf("group %s stands there already", groupArg(c)), Result: result}, nil
	}
	return scripting.Prediction{Verdict: scripting.WillDo, Result: result, Text: fmt.Sprintf("group %s on %s: %s", groupArg(c), m.cluster, m.text())}, nil
}

// shownPlaces is how many partitions a plan names.
const shownPlaces = 12

func (m move) text() string {
	var parts []string
	var again int64
	for i, tp := range slices.SortedFunc(maps.Keys(m.to), starferry.TopicPartition.Compare) {
		again += max(0, int64(m.from[tp]-m.to[tp]))
		if i < shownPlaces {
			parts = append(parts, fmt.Sprintf("%s from %d to %d", tp, m.from[tp], m.to[tp]))
		}
	}
	if more := len(m.to) - shownPlaces; more > 0 {
		parts = append(parts, fmt.Sprintf("and %s more", count(more, "partition")))
	}
	return fmt.Sprintf("%s; up to %s handled again", strings.Join(parts, ", "), count(int(again), "offset"))
}

func (r rewind) run(ctx context.Context, c scripting.Call) (any, error) {
	m, err := r.work(ctx, c)
	if err != nil {
		return nil, err
	}
	if len(m.to) == 0 {
		return filledRewind(RewindReport{Group: groupArg(c), Cluster: m.cluster}), nil
	}
	c.Progress("group " + string(groupArg(c)) + ": " + m.text())
	return r.order(ctx, c, m)
}

func (r rewind) order(ctx context.Context, c scripting.Call, m move) (any, error) {
	done, err := r.p.Remote.Rewind(ctx, RewindRequest{Group: groupArg(c), Places: m.to, Within: c.Args.Duration("within"), By: c.By, Why: why(c), Token: c.Token})
	if err != nil {
		return nil, fmt.Errorf("rewind group %s: %w", groupArg(c), err)
	}
	return filledRewind(done), nil
}

func filledRewind(r RewindReport) RewindReport {
	if r.Instances = filledList(r.Instances); r.Before == nil {
		r.Before, r.After = map[starferry.TopicPartition]starferry.Offset{}, map[starferry.TopicPartition]starferry.Offset{}
	}
	return r
}

// reconcile leaves it to the order, which finds by its token what was done: the
// group has gone on from its new place since, and its positions say nothing.
func (r rewind) reconcile(ctx context.Context, c scripting.Call) (scripting.Finding, any, error) {
	m, err := r.work(ctx, c)
	var unmet *scripting.UnmetError
	if err != nil && !asUnmet(err, &unmet) {
		return scripting.Unclear, nil, err
	}
	done, err := r.order(ctx, c, m)
	if err != nil && len(m.to) == 0 {
		return scripting.DidNot, nil, nil // nothing to do, and nothing of this token on record
	}
	if err != nil {
		return scripting.Unclear, nil, err
	}
	return scripting.Happened, done, nil
}

func (r rewind) inverseOf(_ context.Context, c scripting.Call, result json.RawMessage) (*scripting.Undo, error) {
	var done RewindReport
	if err := json.Unmarshal(result, &done); err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	if len(done.Before) == 0 {
		return nil, nil
	}
	to := map[string]any{}
	for tp, o := range done.Before {
		to[tp.String()] = int64(o)
	}
	return &scripting.Undo{Builtin: "rewind", Args: scripting.Args{
		"group": string(done.Group), "to": to, "within": "1m", "force": true, "reason": "undo: " + c.Args.Text("reason"),
	}, Text: fmt.Sprintf("group %s: back to where it stood in %s", done.Group, count(len(done.Before), "partition"))}, nil
}

// rewound is a report in one line.
func rewound(result json.RawMessage) string {
	var r RewindReport
	if json.Unmarshal(result, &r) != nil {
		return ""
	}
	if len(r.After) == 0 {
		return "it stands there already"
	}
	return fmt.Sprintf("%s on %s, committed by %s", count(len(r.After), "partition"), r.Cluster, count(len(r.Instances), "instance"))
}
