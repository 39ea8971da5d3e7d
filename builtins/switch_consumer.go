package builtins

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

func switchConsumerEntry(p Ports, t typeSet) *scripting.Builtin {
	s := switchConsumer{p}
	return &scripting.Builtin{
		Name: "switch_consumer", Class: scripting.Effect, Rev: 1,
		Returns: "struct(group, source, target, epoch, cut, seeds, exact, exact_partitions, partitions, changed, pauses_ms, control_ms, instances, repeats, attempts, pause_p50_ms, pause_max_ms, behind, began, ended, phases, members, evicted, notes, by, why, fenced)",
		Doc:     "Moves a consumer group to another cluster, to exactly the same place, while it is running. Before the decision every failure leaves it where it was.",
		Example: `report = switch_consumer("billing", source = old, target = new, link = m.out.copy.link)`,
		Params: append([]scripting.Param{
			{Name: "group", Type: t.group, Required: true, Doc: "the group to move", Complete: "groups"},
			{Name: "source", Type: t.cluster, Required: true, Doc: "cluster it lives on", Complete: "clusters"},
			{Name: "target", Type: t.cluster, Required: true, Doc: "cluster to move it to", Complete: "clusters"},
			{Name: "link", Type: t.link, Required: true, Doc: "link whose offset map translates its place, in either direction", Complete: "links"},
			{Name: "within", Type: t.duration, Default: "2m", Doc: "time from the first order to the decision; then it stays where it was"},
			{Name: "standby", Type: t.duration, Default: "10m", Doc: "how long its members stay on the old cluster, so that switching back is quick"},
			{Name: "patience", Type: t.duration, Doc: "how long a member that nobody knows, or a missing one, is waited for; then it stays where it was"},
			{Name: "on_straggler", Type: stragglerType(), Default: "abort", Doc: "what becomes of a frozen instance: \"abort\" leaves the group where it is, \"evict\" removes it from the group"},
		}, externalParams(t)...),
		Plan: s.plan, Run: s.run, Reconcile: s.reconcile, Inverse: s.inverse, InverseOf: s.inverseOf, Summary: s.summary,
	}
}

type switchConsumer struct{ p Ports }

func (s switchConsumer) plan(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
	g, source, target := groupArg(c), clusterArg(c, "source"), clusterArg(c, "target")
	if source == target {
		return scripting.Prediction{}, fmt.Errorf("switch_consumer: source and target are both %s; name two clusters", source)
	}
	x, err := s.external(c)
	if err != nil {
		return scripting.Prediction{}, err
	}
	home, err := s.p.Hand.Home(ctx, g)
	if err != nil {
		return scripting.Prediction{}, fmt.Errorf("find home of group %s: %w", g, err)
	}
	result := unknownFields("epoch", "cut", "seeds", "exact", "exact_partitions", "partitions", "changed", "pauses_ms", "control_ms", "instances", "repeats", "attempts",
		"pause_p50_ms", "pause_max_ms", "behind", "began", "ended", "phases", "members", "evicted", "notes", "by", "why", "fenced")
	result["group"], result["source"], result["target"] = g, typedCluster(source), typedCluster(target)
	pred := scripting.Prediction{Result: result, AtMost: c.Args.Duration("within")}
	switch {
	case planned(c, "switch_consumer", "group", string(g)):
		pred.Verdict, pred.Text = scripting.WillDo, fmt.Sprintf("move group %s from %s to %s", g, source, target)
	case home.Cluster == target:
		report, err := s.unchanged(c)
		if err != nil {
			return pred, err
		}
		pred.Verdict, pred.Text, pred.Result, pred.AtMost = scripting.NoChange, fmt.Sprintf("group %s lives on %s already", g, target), report, 0
	case home.Cluster != source:
		pred.Verdict, pred.Text = scripting.FailsNow, fmt.Sprintf("group %s lives on %s, not on %s", g, home.Cluster, source)
	case x != nil:
		pred.Verdict, pred.Text = scripting.WillDo, externalText(g, source, target, c.Args.Text("link"), x)
	default:
		pred.Verdict, pred.Text = scripting.WillDo, fmt.Sprintf("move group %s from %s (epoch %d) to %s over link %s", g, source, home.Epoch, target, c.Args.Text("link"))
	}
	return pred, nil
}

func (s switchConsumer) request(c scripting.Call) SwitchRequest {
	x, _ := s.external(c) // run has refused what cannot be read
	return SwitchRequest{External: x, Fence: c.Args.Bool("fence"), Group: groupArg(c), Source: clusterArg(c, "source"), Target: clusterArg(c, "target"), Link: starferry.LinkName(c.Args.Text("link")),
		Within: c.Args.Duration("within"), Patience: c.Args.Duration("patience"), Standby: c.Args.Duration("standby"), OnStraggler: c.Args.Text("on_straggler"), By: c.By, Why: c.Why(), Token: c.Token,
		Progress: func(p SwitchProgress) { c.Tell(p.Line(), p) }}
}

func (s switchConsumer) run(ctx context.Context, c scripting.Call) (any, error) {
	if _, err := s.external(c); err != nil {
		return nil, err
	}
	q := s.request(c)
	if q.Source == q.Target {
		return nil, fmt.Errorf("switch_consumer: source and target are both %s; name two clusters", q.Source)
	}
	home, err := s.p.Hand.Home(ctx, q.Group)
	if err != nil && q.External == nil { // without the library, the switch itself names what is in the way
		return nil, fmt.Errorf("find home of group %s: %w", q.Group, err)
	}
	if home.Cluster == q.Target && home.Token != c.Token && !open(home) {
		if home.Phase == "announce" { // decided, and perhaps whoever decided it has died before all knew
			if _, err := s.p.Hand.Switch(ctx, q); err != nil {
				return nil, fmt.Errorf("finish the switch that brought group %s to %s: %w", q.Group, q.Target, err)
			}
		}
		return s.unchanged(c)
	}
	report, err := s.p.Hand.Switch(ctx, q)
	var refused *scripting.RefusedError
	switch {
	case errors.As(err, &refused):
		return nil, refused // which says what, from where and why
	case err != nil:
		return nil, fmt.Errorf("switch group %s from %s to %s: %w", q.Group, q.Source, q.Target, err)
	}
	return s.result(report, true)
}

// result is the report as scripts see it. exact is True if every partition of
// the cut went on at a place of the target; exact_partitions counts those whose
// next record is copied itself, the others stood before a hole, such as a
// transaction's marker, and went on behind it. No switch is decided before every
// place is committed on the target and read back, so a report of which all
// places are lost is none of an inexact switch.
func (s switchConsumer) result(r SwitchReport, changed bool) (any, error) {
	r = r.filled()
	exact := true
	for tp := range r.Cut {
		_, seeded := r.Seeds[tp]
		exact = exact && (seeded || len(r.Seeds) == 0)
	}
	return fields(r, map[string]any{"exact": exact, "exact_partitions": r.Exact, "partitions": len(r.Cut), "changed": changed})
}

// summary is the report in one line, such as "6 of 6 positions exact, 12 ms from
// drain to decision, 23 ms (p50) and 41 ms (worst) between a partition's records,
// 3 instances". What a partition saw includes its records' own spacing.
func (s switchConsumer) summary(result json.RawMessage) string {
	var r struct {
		Cut       map[string]json.RawMessage `json:"cut"`
		Seeds     map[string]json.RawMessage `json:"seeds"`
		Changed   bool                       `json:"changed"`
		Pauses    map[string]float64         `json:"pauses_ms"`
		ControlMS float64                    `json:"control_ms"`
		Instances []string                   `json:"instances"`
		Repeats   []string                   `json:"repeats"`
	}
	if json.Unmarshal(result, &r) != nil {
		return ""
	}
	if !r.Changed {
		return "nothing to do, the group lived there already"
	}
	exact := 0
	for tp := range r.Cut {
		if _, seeded := r.Seeds[tp]; seeded {
			exact++
		}
	}
	text := fmt.Sprintf("%d of %s exact, %.0f ms from drain to decision", exact, count(len(r.Cut), "position"), r.ControlMS)
	if pauses := slices.Sorted(maps.Values(r.Pauses)); len(pauses) > 0 {
		text += fmt.Sprintf(", %.0f ms (p50) and %.0f ms (worst) between a partition's records", pauses[(len(pauses)-1)/2], pauses[len(pauses)-1])
	}
	text += ", " + count(len(r.Instances), "instance")
	if len(r.Repeats) > 0 {
		text += fmt.Sprintf("; %s may have been handled twice", count(len(r.Repeats), "range"))
	}
	return text
}

// unchanged is the report of a group that lived on the target already.
func (s switchConsumer) unchanged(c scripting.Call) (any, error) {
	return s.result(SwitchReport{Group: groupArg(c), Source: clusterArg(c, "source"), Target: clusterArg(c, "target"), Cut: starferry.Cut{}, Seeds: starferry.Cut{},
		Pauses: map[starferry.TopicPartition]float64{}, Instances: []string{}, Notes: []string{}}, false)
}

// open reports whether a switch of the group is under way and undecided.
func open(h GroupHome) bool {
	return slices.Contains([]string{"prepare", "drain", "seed", "decide"}, h.Phase)
}

// reconcile reads where the group lives. A switch that is under way is brought
// to its end with the same token: leaving it half way is no state to reason from.
func (s switchConsumer) reconcile(ctx context.Context, c scripting.Call) (scripting.Finding, any, error) {
	home, err := s.p.Hand.Home(ctx, groupArg(c))
	if err != nil {
		return scripting.Unclear, nil, fmt.Errorf("find home of group %s: %w", groupArg(c), err)
	}
	target := clusterArg(c, "target")
	switch {
	case (home.Cluster == target && home.Token == c.Token) || open(home):
		report, err := s.p.Hand.Switch(ctx, s.request(c))
		if err == nil {
			v, err := s.result(report, true)
			return scripting.Happened, v, err
		}
		after, herr := s.p.Hand.Home(ctx, groupArg(c))
		if herr == nil && after.Cluster == clusterArg(c, "source") && !open(after) {
			return scripting.DidNot, nil, nil
		}
		return scripting.Unclear, nil, err
	case home.Cluster == target:
		return scripting.Unclear, nil, fmt.Errorf("group %s lives on %s since epoch %d, but another switch brought it there", groupArg(c), target, home.Epoch)
	}
	return scripting.DidNot, nil, nil
}

func (s switchConsumer) inverse(_ context.Context, c scripting.Call) (*scripting.Undo, error) {
	source, target := c.Args.Text("source"), c.Args.Text("target")
	args := scripting.Args{"group": c.Args.Text("group"), "source": target, "target": source, "link": c.Args.Text("link"),
		"within": c.Args.Text("within"), "standby": c.Args.Text("standby"), "on_straggler": c.Args.Text("on_straggler")}
	maps.Copy(args, kept(c))
	return &scripting.Undo{Builtin: "switch_consumer", Args: args, Text: fmt.Sprintf("move group %s back from %s to %s", c.Args.Text("group"), target, source)}, nil
}

func (s switchConsumer) inverseOf(ctx context.Context, c scripting.Call, result json.RawMessage) (*scripting.Undo, error) {
	var r struct {
		Changed bool `json:"changed"`
	}
	if err := json.Unmarshal(result, &r); err != nil || !r.Changed {
		return nil, err
	}
	return s.inverse(ctx, c)
}

// stragglerType takes the policies for instances that are frozen.
func stragglerType() *scripting.Type {
	t := scripting.StringType()
	t.Name = "policy"
	t.Check = func(v any) error {
		if s, _ := v.(string); s != "abort" && s != "evict" {
			return fmt.Errorf("%q is no policy; want \"abort\" or \"evict\"", s)
		}
		return nil
	}
	return t
}
