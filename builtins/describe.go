package builtins

import (
	"context"
	"fmt"

	"github.com/starferry/starferry/scripting"
)

func describeEntry(p Ports, t typeSet) *scripting.Builtin {
	return &scripting.Builtin{
		Name: "describe", Class: scripting.Read, Returns: "struct(name, id, brokers, version)",
		Doc:     "Reaches a cluster and says what it is.",
		Example: `expect(describe(old).id != describe(new).id, "old and new are one cluster")`,
		Params:  []scripting.Param{{Name: "cluster", Type: t.cluster, Required: true, Doc: "the cluster to ask", Complete: "clusters"}},
		Run: func(ctx context.Context, c scripting.Call) (any, error) {
			name := clusterArg(c, "cluster")
			info, err := p.Clusters.Describe(ctx, name)
			if err != nil {
				return nil, fmt.Errorf("describe cluster %s: %w", name, err)
			}
			return info, nil
		},
	}
}
