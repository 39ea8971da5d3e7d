package builtins

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

func asUnmet(err error, into **scripting.UnmetError) bool { return errors.As(err, into) }

func stateEntry(p Ports, t typeSet) *scripting.Builtin {
	return &scripting.Builtin{
		Name: "state", Class: scripting.Read, Rev: 1, Returns: "struct(group, home, epoch, phase, lag, settings, instances, partitions)",
		Doc:     "How a group stands: its home, what is set for it, its instances, and each partition with its position, its lag, and the record that is blocked.",
		Example: `[p.partition for p in state("billing").partitions if p.blocked >= 0]`,
		Params:  []scripting.Param{{Name: "group", Type: t.group, Required: true, Doc: "the group", Complete: "groups"}},
		Run: func(ctx context.Context, c scripting.Call) (any, error) {
			s, err := p.Remote.State(ctx, groupArg(c))
			if err != nil {
				return nil, fmt.Errorf("state of group %s: %w", groupArg(c), err)
			}
			s.Instances, s.Partitions = filledList(s.Instances), filledList(s.Partitions)
			s.Settings.Skips, s.Settings.Holds = filledList(s.Settings.Skips), filledList(s.Settings.Holds)
			return s, nil
		},
	}
}

// peekMost is how many records one look shows at most.
const peekMost = 1000

func peekEntry(p Ports, t typeSet) *scripting.Builtin {
	k := peek{p}
	return &scripting.Builtin{
		Name: "peek", Class: scripting.Read, Rev: 1, Returns: "list of struct(position, time, key, value, headers, bytes, binary, digest, blocks)",
		Doc: "Shows records of a partition at an offset and after it, as consumers see them, or those that block a group now. It changes nothing. " +
			"What it shows is in the run's journal.",
		Example: `peek(group = "billing")[0].value`,
		Params: []scripting.Param{
			{Name: "at", Type: t.position, Doc: "the first record, topic/partition@offset", Complete: "positions"},
			{Name: "group", Type: t.group, Doc: "whose home is looked at; without at: the records that its handlers are busy with for over a second", Complete: "groups"},
			{Name: "on", Type: t.cluster, Doc: "the cluster; the group's home if left out", Complete: "clusters"},
			{Name: "count", Type: t.whole, Default: 1, Doc: "how many records to show, 1,000 at most"},
			{Name: "before", Type: t.whole, Default: 0, Doc: "and how many offsets before that"},
		},
		Run: func(ctx context.Context, c scripting.Call) (any, error) { return k.run(ctx, c) },
	}
}

type peek struct{ p Ports }

func (k peek) run(ctx context.Context, c scripting.Call) ([]PeekedRecord, error) {
	n, before := c.Args.Int("count"), c.Args.Int("before")
	if n < 1 || before < 0 || n > peekMost || before > peekMost {
		return nil, fmt.Errorf("peek: %d records and %d before: want 1 to %d", n, before, peekMost)
	}
	cluster := clusterArg(c, "on")
	if cluster == "" {
		if !c.Args.Has("group") {
			return nil, fmt.Errorf("peek: say on which cluster to look, or for which group")
		}
		home, err := k.p.Hand.Home(ctx, groupArg(c))
		if err != nil {
			return nil, fmt.Errorf("find home of group %s: %w", groupArg(c), err)
		}
		cluster = home.Cluster
	}
	if !c.Args.Has("at") {
		return k.blocked(ctx, c, cluster, n)
	}
	at, err := starferry.ParsePosition(c.Args.Text("at"))
	if err != nil {
		return nil, fmt.Errorf("peek: %w", err)
	}
	from := max(0, at.Offset-starferry.Offset(before))
	got, err := k.p.Remote.Peek(ctx, PeekRequest{Cluster: cluster, Partition: at.TopicPartition, From: from, Most: int(n + int64(at.Offset-from))})
	return filledList(got), err
}

// blocked looks at the records that handlers are busy with.
func (k peek) blocked(ctx context.Context, c scripting.Call, cluster starferry.ClusterName, n int64) ([]PeekedRecord, error) {
	if !c.Args.Has("group") {
		return nil, fmt.Errorf("peek: say where to look with at, or whose blocked records with group")
	}
	state, err := k.p.Remote.State(ctx, groupArg(c))
	if err != nil {
		return nil, fmt.Errorf("state of group %s: %w", groupArg(c), err)
	}
	out := []PeekedRecord{}
	for _, p := range state.Partitions {
		tp, err := starferry.ParseTopicPartition(p.Partition)
		if err != nil || p.Blocked < 0 {
			continue
		}
		got, err := k.p.Remote.Peek(ctx, PeekRequest{Cluster: cluster, Partition: tp, From: p.Blocked, Most: int(n)})
		if err != nil {
			return nil, err
		}
		for i := range got {
			if got[i].Position == (starferry.Position{TopicPartition: tp, Offset: p.Blocked}).String() {
				got[i].Blocks = p.Instance
			}
		}
		out = append(out, got...)
	}
	return out, nil
}

func replayEntry(p Ports, t typeSet) *scripting.Builtin {
	request := func(c scripting.Call) ReplayRequest {
		return ReplayRequest{Group: groupArg(c), Skip: c.Args.Text("skip"), From: starferry.Topic(c.Args.Text("from_")), To: starferry.Topic(c.Args.Text("to")),
			Again: c.Args.Bool("again"), By: c.By, Why: why(c), Token: c.Token}
	}
	run := func(ctx context.Context, c scripting.Call) (any, error) {
		r, err := p.Remote.Replay(ctx, request(c))
		if err != nil {
			return nil, fmt.Errorf("replay for group %s: %w", groupArg(c), err)
		}
		return r, nil
	}
	return &scripting.Builtin{
		Name: "replay", Class: scripting.Effect, Rev: 1, Returns: "struct(group, cluster, from, to, records, repeated, before)",
		Doc: "Puts records back that a group was spared: those that skips have kept, or that were given up. They go to the group's own retry topic, " +
			"where handlers see them as they were and no other group sees them at all. There is no undo: what is handled is handled.",
		Example: `replay("billing", skip = "skip-3f9a1c", reason = "INC-4411 is fixed")`,
		Params: []scripting.Param{
			{Name: "group", Type: t.group, Required: true, Doc: "the group", Complete: "groups"},
			{Name: "skip", Type: t.text, Doc: "only what this skip has kept, by its id; all that is kept of the group if left out"},
			{Name: "from_", Type: t.text, Doc: "the topic with the copies; the group's dead-letter topic, or GROUP.skipped, if left out", Complete: "topics"},
			{Name: "to", Type: t.text, Doc: "the topic they came from, instead of the group's retry topic: every group that reads it sees them again", Complete: "topics"},
			{Name: "again", Type: t.yes, Default: false, Doc: "True: also what was put back before"},
			{Name: "reason", Type: t.text, Required: true, Doc: "why, for the audit trail"},
		},
		Plan: func(_ context.Context, c scripting.Call) (scripting.Prediction, error) {
			q := request(c)
			to := "the group's retry topic"
			if q.To != "" {
				to = fmt.Sprintf("topic %s, where every group sees them", q.To)
			}
			result := unknownFields("cluster", "from", "to", "records", "repeated", "before")
			result["group"] = q.Group
			return scripting.Prediction{Verdict: scripting.WillDo, Text: fmt.Sprintf("put what group %s was spared back into %s", q.Group, to), Result: result}, nil
		},
		Run: run,
		// A replay is known by its token: what was done is not done again.
		Reconcile: func(ctx context.Context, c scripting.Call) (scripting.Finding, any, error) {
			r, err := run(ctx, c)
			if err != nil {
				return scripting.Unclear, nil, err
			}
			return scripting.Happened, r, nil
		},
		Inverse: noUndoYet,
		Summary: func(result json.RawMessage) string {
			var r ReplayReport
			if json.Unmarshal(result, &r) != nil {
				return ""
			}
			return fmt.Sprintf("%s put back into %s", count(r.Records, "record"), r.To)
		},
	}
}
