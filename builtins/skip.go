package builtins

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

// skipLimit is how many records a skip may pass without force.
const skipLimit = 10_000

func skipEntry(p Ports, t typeSet) *scripting.Builtin {
	s := skip{p}
	return &scripting.Builtin{
		Name: "skip", Class: scripting.Effect, Rev: 1, Returns: "struct(group, revision, id, instances)",
		Doc:     "Passes records of one partition without handing them to the group, also one that blocks it now. Refused if the group is past all of them.",
		Example: `skip(group = "billing", at = "orders/7@184223", reason = "INC-4411")`,
		Params: []scripting.Param{
			{Name: "group", Type: t.group, Required: true, Doc: "the group", Complete: "groups"},
			{Name: "at", Type: t.position, Required: true, Doc: "the first record to pass, topic/partition@offset", Complete: "partitions"},
			{Name: "reason", Type: t.text, Required: true, Doc: "why, for the audit trail"},
			{Name: "count", Type: t.whole, Doc: "how many offsets to pass; 1 if left out"},
			{Name: "to", Type: t.whole, Doc: "instead of count: the first offset that is read again"},
			{Name: "on", Type: t.cluster, Doc: "the cluster whose offsets these are; the group's home if left out", Complete: "clusters"},
			{Name: "force", Type: t.yes, Default: false, Doc: "True: pass more than 10,000 offsets, or such as the group has passed already"},
		},
		Plan: s.plan, Run: s.run, Reconcile: s.reconcile, Inverse: noUndoYet, InverseOf: s.inverseOf, Summary: acknowledged,
	}
}

// noUndoYet is the inverse of effects whose undo only the result tells.
func noUndoYet(context.Context, scripting.Call) (*scripting.Undo, error) { return nil, nil }

type skip struct{ p Ports }

func (s skip) request(ctx context.Context, c scripting.Call) (SkipRequest, error) {
	at, err := starferry.ParsePosition(c.Args.Text("at"))
	if err != nil {
		return SkipRequest{}, fmt.Errorf("skip: %w", err)
	}
	to := at.Offset + 1
	switch {
	case c.Args.Has("count") && c.Args.Has("to"):
		return SkipRequest{}, fmt.Errorf("skip: count and to exclude each other")
	case c.Args.Has("count"):
		to = at.Offset + starferry.Offset(c.Args.Int("count"))
	case c.Args.Has("to"):
		to = starferry.Offset(c.Args.Int("to"))
	}
	if to <= at.Offset { // also if the sum has overflown
		return SkipRequest{}, fmt.Errorf("skip: from offset %d to %d there is nothing to pass", at.Offset, to)
	}
	if n := to - at.Offset; n > skipLimit && !c.Args.Bool("force") {
		return SkipRequest{}, fmt.Errorf("skip: %d offsets are more than %d; if that is meant, say force = True", n, skipLimit)
	}
	q := SkipRequest{Group: groupArg(c), Cluster: clusterArg(c, "on"), Partition: at.TopicPartition,
		Range: starferry.Range{From: at.Offset, To: to}, By: c.By, Why: why(c), Token: c.Token}
	if q.Cluster == "" {
		home, err := s.p.Hand.Home(ctx, q.Group)
		if err != nil {
			return q, fmt.Errorf("find home of group %s: %w", q.Group, err)
		}
		q.Cluster = home.Cluster
	}
	return q, nil
}

// ahead refuses a range that the group has passed: such a skip would do nothing.
// Of a range that still lies ahead in part it says so.
func (s skip) ahead(ctx context.Context, c scripting.Call, q SkipRequest) (note string, err error) {
	if c.Args.Bool("force") {
		return "", nil
	}
	committed, err := s.p.Clusters.Committed(ctx, q.Cluster, q.Group)
	if err != nil {
		return "", fmt.Errorf("read committed positions of group %s on %s: %w", q.Group, q.Cluster, err)
	}
	place, known := committed[q.Partition]
	switch {
	case known && passed(place, q.Range):
		return "", scripting.Unmet(
			fmt.Sprintf("offsets [%d, %d) of %s to lie ahead of group %s, at least in part", q.Range.From, q.Range.To, q.Partition, q.Group),
			fmt.Sprintf("already passed: the group's committed position on %s is %d; nothing of it can be skipped any more", q.Cluster, place.Next))
	case known && q.Range.From < place.Next:
		return fmt.Sprintf("the group is at %d already and passes the rest, [%d, %d)", place.Next, place.Next, q.Range.To), nil
	}
	return "", nil
}

// passed reports whether a group at a place has handled all of a range.
func passed(at starferry.Place, r starferry.Range) bool {
	next := max(r.From, at.Next)
	for _, h := range at.Handled { // in order
		if h.From <= next {
			next = max(next, h.To)
		}
	}
	return next >= r.To
}

// find looks for the skip in what is set now.
func (s skip) find(ctx context.Context, q SkipRequest) (GroupSettings, *GroupSkip, error) {
	set, err := s.p.Hand.Settings(ctx, q.Group)
	if err != nil {
		return set, nil, fmt.Errorf("read settings of group %s: %w", q.Group, err)
	}
	for i, k := range set.Skips {
		if k.Cluster == q.Cluster && k.Partition == q.Partition && k.Range == q.Range {
			return set, &set.Skips[i], nil
		}
	}
	return set, nil, nil
}

func (s skip) plan(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
	q, err := s.request(ctx, c)
	if err != nil {
		return scripting.Prediction{}, err
	}
	note, err := s.ahead(ctx, c, q)
	var unmet *scripting.UnmetError
	if errors.As(err, &unmet) {
		return scripting.Prediction{Verdict: scripting.FailsNow, Text: unmet.Found}, nil
	}
	if err != nil {
		return scripting.Prediction{}, err
	}
	set, there, err := s.find(ctx, q)
	if err != nil {
		return scripting.Prediction{}, err
	}
	result := unknownFields("revision", "id", "instances", "before")
	result["group"] = q.Group
	if there != nil {
		result["id"], result["revision"] = there.ID, set.Revision
		return scripting.Prediction{Verdict: scripting.NoChange, Text: fmt.Sprintf("group %s passes %s [%d, %d) already", q.Group, q.Partition, q.Range.From, q.Range.To), Result: result}, nil
	}
	text := fmt.Sprintf("group %s passes %s of %s on %s, offsets [%d, %d)", q.Group, count(int(q.Range.To-q.Range.From), "offset"), q.Partition, q.Cluster, q.Range.From, q.Range.To)
	if note != "" {
		text += "; " + note
	}
	return scripting.Prediction{Verdict: scripting.WillDo, Result: result, Text: text}, nil
}

func (s skip) run(ctx context.Context, c scripting.Call) (any, error) {
	q, err := s.request(ctx, c)
	if err != nil {
		return nil, err
	}
	note, err := s.ahead(ctx, c, q)
	if err != nil {
		return nil, err
	}
	if note != "" {
		c.Progress(note)
	}
	r, err := s.p.Hand.Skip(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("skip %s of group %s: %w", c.Args.Text("at"), q.Group, err)
	}
	return r, nil
}

func (s skip) reconcile(ctx context.Context, c scripting.Call) (scripting.Finding, any, error) {
	q, err := s.request(ctx, c)
	if err != nil {
		return scripting.Unclear, nil, err
	}
	set, there, err := s.find(ctx, q)
	if err != nil {
		return scripting.Unclear, nil, err
	}
	if there == nil {
		return scripting.DidNot, nil, nil
	}
	return scripting.Happened, Receipt{Group: q.Group, Revision: set.Revision, ID: there.ID, Instances: []string{}}, nil
}

func (s skip) inverseOf(_ context.Context, c scripting.Call, result json.RawMessage) (*scripting.Undo, error) {
	var r Receipt
	if err := json.Unmarshal(result, &r); err != nil {
		return nil, fmt.Errorf("read receipt: %w", err)
	}
	for _, k := range r.Before.Skips {
		if k.ID == r.ID {
			return nil, nil // it was set before; not ours to take away
		}
	}
	return &scripting.Undo{Builtin: "unskip", Args: scripting.Args{"group": string(r.Group), "id": r.ID, "reason": "undo: " + c.Args.Text("reason")},
		Text: fmt.Sprintf("take the skip of %s back; records already passed stay passed", c.Args.Text("at"))}, nil
}

// acknowledged is a receipt in one line.
func acknowledged(result json.RawMessage) string {
	var r struct {
		Revision  uint64   `json:"revision"`
		ID        string   `json:"id"`
		Instances []string `json:"instances"`
	}
	if json.Unmarshal(result, &r) != nil {
		return ""
	}
	text := fmt.Sprintf("revision %d", r.Revision)
	if r.ID != "" {
		text = r.ID + ", " + text
	}
	if len(r.Instances) == 0 { // found in force, or no instance lives
		return text
	}
	shown := slices.Clone(r.Instances[:min(5, len(r.Instances))])
	if more := len(r.Instances) - len(shown); more > 0 {
		shown = append(shown, fmt.Sprintf("and %d more", more))
	}
	return fmt.Sprintf("%s, acknowledged by %s: %s", text, count(len(r.Instances), "instance"), strings.Join(shown, ", "))
}
