package builtins

import (
	"cmp"
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
		Doc: `Copies topics from one cluster to another, from now until it is stopped. A second link may lead back between the same topics: each leaves out what the other copied.
Returns once the copy has begun; assert_lag waits for it. What rename, from_, until, sample and scrub say is fixed when the link is made: its map counts.`,
		Example: `link = replicate(topics_of(old, "billing"), source = old, target = new)`,
		Params: append([]scripting.Param{
			{Name: "topics", Type: t.list, Doc: "topics to copy; may be left out with match", Complete: "topics"},
			{Name: "source", Type: t.cluster, Required: true, Doc: "cluster to copy from", Complete: "clusters"},
			{Name: "target", Type: t.cluster, Required: true, Doc: "cluster to copy to", Complete: "clusters"},
			{Name: "rate", Type: t.rate, Doc: "limit of the copy in bytes, such as 40MB/s; none if left out"},
			{Name: "rate_records", Type: t.rate, Doc: "limit of the copy in records, such as 5000/s; both limits hold"},
			{Name: "verify", Type: t.rate, Doc: "compare the copies with their source all the time, reading so many bytes, such as 1MB/s; not if left out"},
			{Name: "link", Type: t.link, Doc: "name of the link; source-target if left out; one that exists is widened", Complete: "links"},
		}, settingParams(t)...),
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
	var err error
	if q.Settings, err = settingsOf(c); err != nil {
		return q, err
	}
	if len(q.Topics) == 0 && len(q.Settings.Match) == 0 {
		return q, fmt.Errorf("replicate: the list of topics is empty; topics_of(cluster, group) lists those of a group")
	}
	q.Link = cmp.Or(q.Link, starferry.LinkBetween(q.Source, q.Target))
	if c.Args.Has("rate") {
		rate := c.Args.Rate("rate")
		if !rate.Bytes {
			return q, fmt.Errorf("replicate: rate %s counts records; a copy is limited in bytes, such as 40MB/s", rate)
		}
		if q.Rate = int64(rate.PerSecond); q.Rate < 1 { // 0 asks for no limit
			return q, fmt.Errorf("replicate: the rate is less than a byte per second; leave it out for no limit, or stop the copy with stop_replication")
		}
	}
	if c.Args.Has("rate_records") {
		rate := c.Args.Rate("rate_records")
		if q.RateRecords = int64(rate.PerSecond); rate.Bytes || q.RateRecords < 1 {
			return q, fmt.Errorf("replicate: rate_records %s: want at least one record per second, such as 5000/s; bytes are limited with rate", rate)
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
	if errors.Is(err, ErrNotFound) {
		return LinkInfo{}, q.Topics, false, nil
	}
	if err != nil {
		return info, nil, false, fmt.Errorf("look at link %s: %w", q.Link, err)
	}
	if info.Source != q.Source || info.Target != q.Target {
		return info, nil, true, fmt.Errorf("replicate: link %s copies %s to %s, not %s to %s; give another link = name", q.Link, info.Source, info.Target, q.Source, q.Target)
	}
	if err := info.Settings.differs(q.Settings); err != nil {
		return info, nil, true, fmt.Errorf("replicate: link %s: %w", q.Link, err)
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
	patterns := unmatched(info, q)
	if exists && len(missing) == 0 && len(patterns) == 0 {
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
			if d, ok, err = r.madeBefore(ctx, c, q.Source, t); err != nil {
				return scripting.Prediction{}, err
			}
		}
		if !ok {
			return scripting.Prediction{Verdict: scripting.FailsNow, Text: fmt.Sprintf("topic %s is not on %s", t, q.Source), Result: nil}, nil
		}
		partitions += d.Partitions
	}
	text := fmt.Sprintf("make link %s: copy %s (%s) from %s to %s", q.Link, count(len(missing), "topic"), count(partitions, "partition"), q.Source, q.Target)
	if exists {
		text = fmt.Sprintf("widen link %s by %s (%s): %s", q.Link, count(len(missing), "topic"), count(partitions, "partition"), topicNames(missing))
	}
	text += q.Settings.words() + r.matching(ctx, q)
	return scripting.Prediction{Verdict: scripting.WillDo, Text: text, Result: map[string]any{
		"name": q.Link, "source": typedCluster(q.Source), "target": typedCluster(q.Target), "topics": q.Topics,
		"created": !exists, "added": missing, "lanes": scripting.Unknown{}, "state": scripting.Unknown{},
	}}, nil
}

// madeBefore describes a topic that is not there yet and that an earlier call of
// the plan copies there, for the link that leads back.
func (r replicate) madeBefore(ctx context.Context, c scripting.Call, on starferry.ClusterName, t starferry.Topic) (TopicInfo, bool, error) {
	for _, e := range c.Earlier {
		if e.Builtin != "replicate" || e.Verdict != scripting.WillDo || starferry.ClusterName(e.Args.Text("target")) != on || e.Args.Has("rename") ||
			!slices.Contains(e.Args.Strings("topics"), string(t)) {
			continue
		}
		from := starferry.ClusterName(e.Args.Text("source"))
		d, err := r.p.Clusters.Topics(ctx, from, []starferry.Topic{t})
		if err != nil {
			return TopicInfo{}, false, fmt.Errorf("describe topics on %s: %w", from, err)
		}
		info, ok := d[t]
		return info, ok, nil
	}
	return TopicInfo{}, false, nil
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
	case len(missing) > 0 || len(unmatched(info, q)) > 0 || info.State == "starting":
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
	info, missing, exists, err := r.missing(ctx, q)
	patterns := unmatched(info, q)
	if err != nil || (exists && len(missing) == 0 && len(patterns) == 0) {
		return nil, err
	}
	if !exists {
		// Others may put topics of theirs on it, and need it then.
		args := scripting.Args{"link": string(q.Link), "unless_shared": true}
		if len(q.Topics) > 0 {
			args["topics"] = names(q.Topics)
		}
		if len(q.Settings.Match) > 0 {
			args["match"] = texts(q.Settings.Match)
		}
		return &scripting.Undo{Builtin: "stop_replication", Args: args,
			Text: fmt.Sprintf("stop link %s; its topics stay on %s", q.Link, q.Target)}, nil
	}
	args := scripting.Args{"link": string(q.Link), "unless_shared": true}
	if len(missing) > 0 {
		args["topics"] = names(missing)
	}
	if len(patterns) > 0 {
		args["match"] = texts(patterns)
	}
	return &scripting.Undo{Builtin: "stop_replication", Args: args, Text: fmt.Sprintf("take %s off link %s", things(missing, patterns), q.Link)}, nil
}

// unmatched are the patterns that a link does not have yet.
func unmatched(info LinkInfo, q ReplicateRequest) []string {
	return slices.DeleteFunc(slices.Clone(q.Settings.Match), func(p string) bool { return slices.Contains(info.Settings.Match, p) })
}

// matching says how many topics match now, if somebody can tell.
func (r replicate) matching(ctx context.Context, q ReplicateRequest) string {
	m, ok := r.p.Copier.(Matcher)
	if !ok || len(q.Settings.Match) == 0 {
		return ""
	}
	topics, err := m.Matching(ctx, q.Source, q.Settings.Match)
	switch {
	case err != nil:
		return "; what matches now cannot be told: " + err.Error()
	case len(topics) == 0:
		return fmt.Sprintf("; nothing on %s matches now", q.Source)
	}
	return fmt.Sprintf("; %s matching now: %s", count(len(topics), "topic"), topicNames(topics))
}

// things lists topics and patterns.
func things(topics []starferry.Topic, patterns []string) string {
	var out []string
	if len(topics) > 0 {
		out = append(out, topicNames(topics))
	}
	if len(patterns) > 0 {
		out = append(out, "what matches "+strings.Join(patterns, " or "))
	}
	return strings.Join(out, " and ")
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
