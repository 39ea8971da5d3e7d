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

func replicateEntry(p Ports, t typeSet) *scripting.Builtin {
	r := replicate{p}
	return &scripting.Builtin{
		Name: "replicate", Class: scripting.Effect, Rev: 1, Returns: "struct(name, source, target, topics, lanes, state, created, added)",
		Doc:     "Copies topics from one cluster to another, from now until it is stopped. A second link may lead back between the same topics: each leaves out what the other copied. Returns once the copy has begun; assert_lag waits for it.",
		Example: `link = replicate(topics_of(old, "billing"), source = old, target = new)`,
		Params: []scripting.Param{
			{Name: "topics", Type: t.list, Required: true, Doc: "topics to copy", Complete: "topics"},
			{Name: "source", Type: t.cluster, Required: true, Doc: "cluster to copy from", Complete: "clusters"},
			{Name: "target", Type: t.cluster, Required: true, Doc: "cluster to copy to", Complete: "clusters"},
			{Name: "rate", Type: t.rate, Doc: "limit of the copy in bytes, such as 40MB/s; none if left out"},
			{Name: "verify", Type: t.rate, Doc: "compare the copies with their source all the time, reading so many bytes, such as 1MB/s; not if left out"},
			{Name: "link", Type: t.link, Doc: "name of the link; source-target if left out; one that exists is widened", Complete: "links"},
		},
		Plan: r.plan, Run: r.run, Reconcile: r.reconcile, Inverse: r.inverse, Summary: r.summary,
	}
}

type replicate struct{ p Ports }

func (r replicate) request(c scripting.Call) (ReplicateRequest, error) {
	q := ReplicateRequest{Link: starferry.LinkName(c.Args.Text("link")), Source: clusterArg(c, "source"), Target: clusterArg(c, "target"),
		Topics: topicsArg(c), Token: c.Token}
	if q.Source == q.Target {
		return q, fmt.Errorf("replicate: source and target are both %s; name two clusters", q.Source)
	}
	if len(q.Topics) == 0 {
		return q, fmt.Errorf("replicate: the list of topics is empty; topics_of(cluster, group) lists those of a group")
	}
	if q.Link == "" {
		q.Link = starferry.LinkName(string(q.Source) + "-" + string(q.Target))
	}
	if c.Args.Has("rate") {
		rate := c.Args.Rate("rate")
		if !rate.Bytes {
			return q, fmt.Errorf("replicate: rate %s counts records; a copy is limited in bytes, such as 40MB/s", rate)
		}
		if q.Rate = int64(rate.PerSecond); q.Rate < 1 { // 0 asks for no limit
			return q, fmt.Errorf("replicate: the rate is less than a byte per second; leave it out for no limit, or stop the copy with stop_replication")
		}
	}
	if c.Args.Has("verify") {
		rate := c.Args.Rate("verify")
		if q.Verify = int64(rate.PerSecond); !rate.Bytes || q.Verify < 1 {
			return q, fmt.Errorf("replicate: verify %s: a comparison is limited in bytes, such as 1MB/s", rate)
		}
	}
	return q, nil
}

// missing tells which of the topics the link does not copy; exists is false if
// there is no such link, or it is stopped.
func (r replicate) missing(ctx context.Context, q ReplicateRequest) (info LinkInfo, missing []starferry.Topic, exists bool, err error) {
	info, err = r.p.Copier.Link(ctx, q.Link)
	if errors.Is(err, ErrNotFound) || (err == nil && info.State == "stopped") {
		return LinkInfo{}, q.Topics, false, nil
	}
	if err != nil {
		return info, nil, false, fmt.Errorf("look at link %s: %w", q.Link, err)
	}
	if info.Source != q.Source || info.Target != q.Target {
		return info, nil, true, fmt.Errorf("replicate: link %s copies %s to %s, not %s to %s; give another link = name", q.Link, info.Source, info.Target, q.Source, q.Target)
	}
	for _, t := range q.Topics {
		if !slices.Contains(info.Topics, t) {
			missing = append(missing, t)
		}
	}
	return info, missing, true, nil
}

func (r replicate) plan(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
	q, err := r.request(c)
	if err != nil {
		return scripting.Prediction{}, err
	}
	info, missing, exists, err := r.missing(ctx, q)
	if err != nil {
		return scripting.Prediction{}, err
	}
	if exists && len(missing) == 0 {
		v, err := fields(info, map[string]any{"created": false, "added": []any{}})
		return scripting.Prediction{Verdict: scripting.NoChange, Text: fmt.Sprintf("link %s copies all %s already", q.Link, count(len(q.Topics), "topic")), Result: v}, err
	}
	there, err := r.p.Clusters.Topics(ctx, q.Source, missing)
	if err != nil {
		return scripting.Prediction{}, fmt.Errorf("describe topics on %s: %w", q.Source, err)
	}
	partitions := 0
	for _, t := range missing {
		d, ok := there[t]
		if !ok {
			return scripting.Prediction{Verdict: scripting.FailsNow, Text: fmt.Sprintf("topic %s is not on %s", t, q.Source), Result: nil}, nil
		}
		partitions += d.Partitions
	}
	text := fmt.Sprintf("make link %s: copy %s (%s) from %s to %s", q.Link, count(len(missing), "topic"), count(partitions, "partition"), q.Source, q.Target)
	if exists {
		text = fmt.Sprintf("widen link %s by %s (%s): %s", q.Link, count(len(missing), "topic"), count(partitions, "partition"), topicNames(missing))
	}
	return scripting.Prediction{Verdict: scripting.WillDo, Text: text, Result: map[string]any{
		"name": q.Link, "source": typedCluster(q.Source), "target": typedCluster(q.Target), "topics": q.Topics,
		"created": !exists, "added": missing, "lanes": scripting.Unknown{}, "state": scripting.Unknown{},
	}}, nil
}

func (r replicate) run(ctx context.Context, c scripting.Call) (any, error) {
	q, err := r.request(c)
	if err != nil {
		return nil, err
	}
	c.Progress(fmt.Sprintf("link %s: taking up %s", q.Link, count(len(q.Topics), "topic")))
	info, err := r.p.Copier.Replicate(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("replicate %s: %w", q.Link, err)
	}
	return r.result(info)
}

func (r replicate) result(info LinkInfo) (any, error) {
	return fields(info, map[string]any{"created": info.Created, "added": info.Added})
}

// summary is the link in one line.
func (r replicate) summary(result json.RawMessage) string {
	var l struct {
		Name   string   `json:"name"`
		Topics []string `json:"topics"`
		Lanes  int      `json:"lanes"`
		State  string   `json:"state"`
	}
	if json.Unmarshal(result, &l) != nil || l.Name == "" {
		return ""
	}
	return fmt.Sprintf("link %s, %s, %s, %s", l.Name, count(len(l.Topics), "topic"), count(l.Lanes, "lane"), l.State)
}

func (r replicate) reconcile(ctx context.Context, c scripting.Call) (scripting.Finding, any, error) {
	q, err := r.request(c)
	if err != nil {
		return scripting.DidNot, nil, nil
	}
	info, missing, exists, err := r.missing(ctx, q)
	switch {
	case err != nil:
		return scripting.Unclear, nil, err
	case !exists:
		return scripting.DidNot, nil, nil
	case len(missing) > 0 || info.State == "starting":
		// Begun and not taken up: the same token finishes it.
		v, err := r.run(ctx, c)
		if err != nil {
			return scripting.Unclear, nil, err
		}
		return scripting.Happened, v, nil
	}
	v, err := r.result(info)
	return scripting.Happened, v, err
}

// inverse is read before the link is made: afterwards nobody could tell what
// was there.
func (r replicate) inverse(ctx context.Context, c scripting.Call) (*scripting.Undo, error) {
	q, err := r.request(c)
	if err != nil {
		return nil, err
	}
	_, missing, exists, err := r.missing(ctx, q)
	if err != nil || (exists && len(missing) == 0) {
		return nil, err
	}
	if !exists {
		return &scripting.Undo{Builtin: "stop_replication", Args: scripting.Args{"link": string(q.Link)},
			Text: fmt.Sprintf("stop link %s; its topics stay on %s", q.Link, q.Target)}, nil
	}
	return &scripting.Undo{Builtin: "stop_replication", Args: scripting.Args{"link": string(q.Link), "topics": names(missing)},
		Text: fmt.Sprintf("take %s off link %s", topicNames(missing), q.Link)}, nil
}

func names(topics []starferry.Topic) []any {
	out := make([]any, len(topics))
	for i, t := range topics {
		out[i] = string(t)
	}
	return out
}

// topicNames lists at most five names.
func topicNames(topics []starferry.Topic) string {
	var parts []string
	for i, t := range topics {
		if i == 5 {
			parts = append(parts, fmt.Sprintf("and %d more", len(topics)-5))
			break
		}
		parts = append(parts, string(t))
	}
	return strings.Join(parts, ", ")
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
