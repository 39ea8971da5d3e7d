package builtins

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

// skipLimit is how many records a skip may pass without force.
const skipLimit = 10_000

func skipEntry(p Ports, t typeSet) *scripting.Builtin {
	s := skip{p}
	return &scripting.Builtin{
		Name: "skip", Class: scripting.Effect, Rev: 2, Returns: "struct(group, revision, id, keep, instances)",
		Doc: "Passes records of one partition without handing them to the group, also one that blocks it now. A copy of each is kept first; " +
			"replay puts them back. Refused if the group is past all of them.",
		Example: `skip(group = "billing", at = "orders/7@184223", reason = "INC-4411")`,
		Params: []scripting.Param{
			{Name: "group", Type: t.group, Required: true, Doc: "the group", Complete: "groups"},
			{Name: "at", Type: t.position, Doc: "the first record to pass, topic/partition@offset", Complete: "positions"},
			{Name: "partition", Type: t.text, Doc: "instead of at: from where the group stands in topic/partition", Complete: "partitions"},
			{Name: "reason", Type: t.text, Required: true, Doc: "why, for the audit trail"},
			{Name: "count", Type: t.whole, Doc: "how many offsets to pass; 1 if left out"},
			{Name: "to", Type: endType(), Doc: "instead of count: the first offset that is read again, end (of what is there now), or a time: what is older is passed"},
			{Name: "on", Type: t.cluster, Doc: "the cluster whose offsets these are; the group's home if left out", Complete: "clusters"},
			{Name: "keep", Type: t.text, Doc: "the topic for the copies, or none; the group's dead-letter topic, or GROUP.skipped, if left out", Complete: "topics"},
			{Name: "expect", Type: t.text, Doc: "only if the first record is this one, by the digest that peek shows"},
			{Name: "if_next", Type: t.yes, Default: false, Doc: "True: only if the first record is the next one that the group has to handle"},
			{Name: "force", Type: t.yes, Default: false, Doc: "True: pass more than 10,000 offsets, or such as the group has passed already"},
		},
		Plan: s.plan, Run: s.run, Reconcile: s.reconcile, Inverse: noUndoYet, InverseOf: s.inverseOf, Summary: acknowledged,
	}
}

// endType takes an offset, a time, or the end.
func endType() *scripting.Type {
	return &scripting.Type{Name: "end", Doc: "an offset, a time, or end", Example: "end", Parse: func(v any) (any, error) {
		if n, ok := whole(v); ok {
			return n, nil
		}
		if text, ok := v.(string); ok {
			if n, err := strconv.ParseInt(text, 10, 64); err == nil {
				return n, nil
			}
			if _, err := time.Parse(time.RFC3339, text); err == nil || text == "end" {
				return text, nil
			}
		}
		return nil, fmt.Errorf("want an offset, a time such as 2026-01-31T18:00:00Z, or end")
	}}
}

// noUndoYet is the inverse of effects whose undo only the result tells.
func noUndoYet(context.Context, scripting.Call) (*scripting.Undo, error) { return nil, nil }

type skip struct{ p Ports }

func (s skip) request(ctx context.Context, c scripting.Call) (SkipRequest, error) {
	q := SkipRequest{Group: groupArg(c), Cluster: clusterArg(c, "on"), By: c.By, Why: why(c), Token: c.Token}
	switch keep := c.Args.Text("keep"); keep {
	case "none":
		q.Drop = true
	default:
		q.Keep = starferry.Topic(keep)
	}
	if q.Cluster == "" {
		home, err := s.p.Hand.Home(ctx, q.Group)
		if err != nil {
			return q, fmt.Errorf("find home of group %s: %w", q.Group, err)
		}
		q.Cluster = home.Cluster
	}
	if err := s.begins(ctx, c, &q); err != nil {
		return q, err
	}
	if err := s.ends(ctx, c, &q); err != nil {
		return q, err
	}
	if q.Range.To <= q.Range.From { // also if the sum has overflown
		return q, fmt.Errorf("skip: from offset %d to %d there is nothing to pass", q.Range.From, q.Range.To)
	}
	if n := q.Range.To - q.Range.From; n > skipLimit && !c.Args.Bool("force") {
		return q, fmt.Errorf("skip: %d offsets are more than %d; if that is meant, say force = True", n, skipLimit)
	}
	return q, nil
}

// begins finds the first record to pass.
func (s skip) begins(ctx context.Context, c scripting.Call, q *SkipRequest) error {
	if c.Args.Has("at") == c.Args.Has("partition") {
		return fmt.Errorf("skip: give one of at, such as orders/7@184223, and partition, such as orders/7")
	}
	if c.Args.Has("at") {
		at, err := starferry.ParsePosition(c.Args.Text("at"))
		if err != nil {
			return fmt.Errorf("skip: %w", err)
		}
		q.Partition, q.Range.From = at.TopicPartition, at.Offset
		return nil
	}
	tp, err := starferry.ParseTopicPartition(c.Args.Text("partition"))
	if err != nil {
		return fmt.Errorf("skip: partition: %w", err)
	}
	committed, err := s.p.Clusters.Committed(ctx, q.Cluster, q.Group)
	if err != nil {
		return fmt.Errorf("read committed positions of group %s on %s: %w", q.Group, q.Cluster, err)
	}
	place, ok := committed[tp]
	if !ok {
		return fmt.Errorf("skip: group %s has no committed position of %s on %s; say where to begin with at", q.Group, tp, q.Cluster)
	}
	q.Partition, q.Range.From = tp, place.Next
	return nil
}

// everLater is later than any record.
const everLater = 1 << 53

// ends finds the first record that is read again.
func (s skip) ends(ctx context.Context, c scripting.Call, q *SkipRequest) error {
	q.Range.To = q.Range.From + 1
	switch to := c.Args["to"].(type) {
	case nil:
		if c.Args.Has("count") {
			q.Range.To = q.Range.From + starferry.Offset(c.Args.Int("count"))
		}
		return nil
	case string:
		at := time.UnixMilli(everLater)
		if to != "end" {
			var err error
			if at, err = time.Parse(time.RFC3339, to); err != nil {
				return fmt.Errorf("skip: to: %w", err)
			}
		}
		cut, err := s.p.Times.OffsetsAt(ctx, q.Cluster, []starferry.Topic{q.Partition.Topic}, at)
		if err != nil {
			return fmt.Errorf("skip: find %s in %s: %w", to, q.Partition.Topic, err)
		}
		place, ok := cut[q.Partition]
		if !ok {
			return fmt.Errorf("skip: %s has no partition %d on %s", q.Partition.Topic, q.Partition.Partition, q.Cluster)
		}
		q.Range.To = place.Next
	default:
		n, _ := whole(to)
		q.Range.To = starferry.Offset(n)
	}
	if c.Args.Has("count") {
		return fmt.Errorf("skip: count and to exclude each other")
	}
	return nil
}

// compare refuses a skip whose first record is not the one that is meant.
func (s skip) compare(ctx context.Context, c scripting.Call, q SkipRequest) error {
	if want := c.Args.Text("expect"); want != "" {
		got, err := s.p.Remote.Peek(ctx, PeekRequest{Cluster: q.Cluster, Partition: q.Partition, From: q.Range.From, Below: q.Range.From + 1, Most: 1})
		if err != nil {
			return err
		}
		found := "there is no record at that offset"
		if len(got) == 1 {
			found = got[0].Digest
		}
		if found != want {
			return scripting.Unmet(fmt.Sprintf("the record at %s@%d to be %s", q.Partition, q.Range.From, want), found)
		}
	}
	if !c.Args.Bool("if_next") {
		return nil
	}
	state, err := s.p.Remote.State(ctx, q.Group)
	if err != nil {
		return err
	}
	for _, p := range state.Partitions {
		if p.Partition != q.Partition.String() {
			continue
		}
		if p.Blocked == q.Range.From || p.Committed == q.Range.From {
			return nil
		}
		return scripting.Unmet(fmt.Sprintf("%s@%d to be the next record that group %s has to handle", q.Partition, q.Range.From, q.Group),
			fmt.Sprintf("the group stands at %d", p.Committed))
	}
	return scripting.Unmet(fmt.Sprintf("group %s to stand at %s@%d", q.Group, q.Partition, q.Range.From), "it does not read "+q.Partition.String())
}

// ahead refuses a range that the group has passed: such a skip would do nothing.
// Of a range that still lies ahead in part it says so.
func (s skip) ahead(ctx context.Context, c scripting.Call, q SkipRequest) (note string, err error) {
	if err := s.compare(ctx, c, q); err != nil {
		return "", err
	}
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

// find looks for the skip in what is set now: by its id, since a range that ends
// at a time or at the end may be another one by now.
func (s skip) find(ctx context.Context, q SkipRequest) (GroupSettings, *GroupSkip, error) {
	set, err := s.p.Hand.Settings(ctx, q.Group)
	if err != nil {
		return set, nil, fmt.Errorf("read settings of group %s: %w", q.Group, err)
	}
	for i, k := range set.Skips {
		if q.Token != "" && k.ID == "skip-"+q.Token || k.Cluster == q.Cluster && k.Partition == q.Partition && k.Range == q.Range {
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
	result := unknownFields("revision", "id", "instances", "before", "keep")
	result["group"] = q.Group
	if there != nil {
		result["id"], result["revision"] = there.ID, set.Revision
		return scripting.Prediction{Verdict: scripting.NoChange, Text: fmt.Sprintf("group %s passes %s [%d, %d) already", q.Group, q.Partition, q.Range.From, q.Range.To), Result: result}, nil
	}
	text := fmt.Sprintf("group %s passes %s of %s on %s, offsets [%d, %d)", q.Group, count(int(q.Range.To-q.Range.From), "offset"), q.Partition, q.Cluster, q.Range.From, q.Range.To)
	switch {
	case q.Drop:
		text += ", without keeping them"
	case q.Keep != "":
		text += ", kept in " + string(q.Keep)
	default:
		text += ", kept in the group's dead-letter topic"
	}
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
		return nil, fmt.Errorf("skip %s@%d of group %s: %w", q.Partition, q.Range.From, q.Group, err)
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
	return scripting.Happened, Receipt{Group: q.Group, Revision: set.Revision, ID: there.ID, Keep: there.Keep, Instances: []string{}}, nil
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
		Text: fmt.Sprintf("take the skip of %s back; records already passed stay passed", c.Args.Text("at")+c.Args.Text("partition"))}, nil
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
