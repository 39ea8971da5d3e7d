package builtins

import (
	"context"

	"github.com/starferry/starferry/scripting"
)

func clusterEntry(t typeSet) *scripting.Builtin {
	return &scripting.Builtin{
		Name: "cluster", Class: scripting.Pure, Returns: "cluster",
		Doc:     "Names a cluster of the configuration. It makes no connection.",
		Example: `old = cluster("old")`,
		Params:  []scripting.Param{{Name: "name", Type: t.cluster, Required: true, Doc: "its name in the configuration", Complete: "clusters"}},
		Run: func(_ context.Context, c scripting.Call) (any, error) {
			return typedCluster(clusterArg(c, "name")), nil
		},
	}
}
