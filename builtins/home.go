package builtins

import (
	"context"
	"fmt"

	"github.com/starferry/starferry/scripting"
)

func homeEntry(p Ports, t typeSet) *scripting.Builtin {
	run := func(ctx context.Context, c scripting.Call) (any, error) {
		h, err := p.Hand.Home(ctx, groupArg(c))
		if err != nil {
			return nil, fmt.Errorf("find home of group %s: %w", groupArg(c), err)
		}
		return fields(h, nil)
	}
	return &scripting.Builtin{
		Name: "home", Class: scripting.Read, Returns: "struct(group, cluster, epoch, phase)",
		Doc:     "Says on which cluster a group lives now.",
		Example: `expect(home("billing").cluster == old, "billing has moved already")`,
		Params:  []scripting.Param{{Name: "group", Type: t.group, Required: true, Doc: "the group", Complete: "groups"}},
		Run:     run,
		Plan: func(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
			if planned(c, "switch_consumer", "group", c.Args.Text("group")) {
				return scripting.Prediction{Verdict: scripting.UnknownUntilRun, Result: unknownFields("cluster", "epoch", "phase", "token")}, nil
			}
			v, err := run(ctx, c)
			return scripting.Prediction{Verdict: scripting.HoldsNow, Result: v}, err
		},
	}
}

// unknownFields is a result of which only the run will know the fields.
func unknownFields(names ...string) map[string]any {
	out := map[string]any{}
	for _, n := range names {
		out[n] = scripting.Unknown{}
	}
	return out
}
