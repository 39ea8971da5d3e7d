package builtins

import (
	"context"
	"fmt"

	"github.com/starferry/starferry/scripting"
)

func topicsOfEntry(p Ports, t typeSet) *scripting.Builtin {
	return &scripting.Builtin{
		Name: "topics_of", Class: scripting.Read, Returns: "list of topic names",
		Doc:     "Lists the topics a group reads: those its members subscribe to and those it has commits for.",
		Example: `topics_of(old, "billing")`,
		Params: []scripting.Param{
			{Name: "cluster", Type: t.cluster, Required: true, Doc: "where to look", Complete: "clusters"},
			{Name: "group", Type: t.group, Required: true, Doc: "the group", Complete: "groups"},
		},
		Run: func(ctx context.Context, c scripting.Call) (any, error) {
			topics, err := p.Clusters.TopicsOf(ctx, clusterArg(c, "cluster"), groupArg(c))
			if err != nil {
				return nil, fmt.Errorf("list topics of group %s on %s: %w", groupArg(c), clusterArg(c, "cluster"), err)
			}
			if len(topics) == 0 {
				return nil, scripting.Unmet(fmt.Sprintf("group %s reads topics on %s", groupArg(c), clusterArg(c, "cluster")),
					"it has neither members nor commits there; is the group's name right?")
			}
			return topics, nil
		},
	}
}
