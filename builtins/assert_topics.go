package builtins

import (
	"context"
	"fmt"
	"strings"

	"github.com/starferry/starferry/scripting"
)

func assertTopicsEntry(p Ports, t typeSet) *scripting.Builtin {
	return &scripting.Builtin{
		Name: "assert_topics", Class: scripting.Check, Returns: "struct(topics, partitions, missing)",
		Doc:     "Checks that topics exist on a cluster, with the partitions they have on another.",
		Example: `assert_topics(topics_of(old, "billing"), on = new, same_as = old, allow_missing = True)`,
		Params: []scripting.Param{
			{Name: "topics", Type: t.list, Required: true, Doc: "the topics", Complete: "topics"},
			{Name: "on", Type: t.cluster, Required: true, Doc: "where they must be", Complete: "clusters"},
			{Name: "same_as", Type: t.cluster, Doc: "the cluster whose partition counts they must have", Complete: "clusters"},
			{Name: "allow_missing", Type: t.yes, Default: false, Doc: "True: topics that are not there yet are fine; replicate makes them"},
		},
		Run: func(ctx context.Context, c scripting.Call) (any, error) { return checkTopics(ctx, p, c) },
	}
}

func checkTopics(ctx context.Context, p Ports, c scripting.Call) (any, error) {
	on, topics := clusterArg(c, "on"), topicsArg(c)
	there, err := p.Clusters.Topics(ctx, on, topics)
	if err != nil {
		return nil, fmt.Errorf("describe topics on %s: %w", on, err)
	}
	like, wanted := clusterArg(c, "same_as"), map[string]int{}
	if like != "" {
		infos, err := p.Clusters.Topics(ctx, like, topics)
		if err != nil {
			return nil, fmt.Errorf("describe topics on %s: %w", like, err)
		}
		for n, i := range infos {
			wanted[string(n)] = i.Partitions
		}
	}
	var wrong, missing []string
	partitions := 0
	for _, t := range topics {
		info, ok := there[t]
		n, known := wanted[string(t)]
		partitions += info.Partitions
		switch {
		case like != "" && !known:
			wrong = append(wrong, fmt.Sprintf("%s is not on %s", t, like))
		case !ok && c.Args.Bool("allow_missing"):
			missing = append(missing, string(t))
		case !ok:
			wrong = append(wrong, fmt.Sprintf("%s is not on %s", t, on))
		case known && n != info.Partitions:
			wrong = append(wrong, fmt.Sprintf("%s has %s on %s and %d on %s", t, count(info.Partitions, "partition"), on, n, like))
		}
	}
	if len(wrong) > 0 {
		expected := fmt.Sprintf("%s on %s", count(len(topics), "topic"), on)
		if like != "" {
			expected += fmt.Sprintf(" with the partitions they have on %s", like)
		}
		return nil, scripting.Unmet(expected, strings.Join(wrong, "; "))
	}
	return map[string]any{"topics": topics, "partitions": partitions, "missing": missing}, nil
}
