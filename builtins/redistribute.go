package builtins

import (
	"context"
	"errors"

	"github.com/starferry/starferry/scripting"
)

func redistributeEntry(t typeSet) *scripting.Builtin {
	refuse := errors.New("redistribute spreads the backlog of one hot partition over all instances of a group, through a topic of the group's own; " +
		"this version does not carry it out, and nothing was changed. " +
		"Until it does: add instances, lift a throttle (throttle(group, rate = \"0/s\")), or pass records that need no handling with skip")
	return &scripting.Builtin{
		Name: "redistribute", Class: scripting.Effect, Returns: "never",
		Doc:     "Spreads a hot partition's backlog over all instances of its group. This version refuses it.",
		Example: `redistribute("billing", partition = "orders/7")`,
		Params: []scripting.Param{
			{Name: "group", Type: t.group, Required: true, Doc: "the group", Complete: "groups"},
			{Name: "partition", Type: t.text, Required: true, Doc: "the hot partition, such as orders/7", Complete: "partitions"},
			{Name: "order", Type: t.text, Default: "key", Doc: "key keeps the order of each key, none keeps none"},
		},
		Plan: func(context.Context, scripting.Call) (scripting.Prediction, error) {
			return scripting.Prediction{Verdict: scripting.FailsNow, Text: refuse.Error()}, nil
		},
		Run: func(context.Context, scripting.Call) (any, error) { return nil, refuse },
		Reconcile: func(context.Context, scripting.Call) (scripting.Finding, any, error) {
			return scripting.DidNot, nil, nil
		},
		Inverse: func(context.Context, scripting.Call) (*scripting.Undo, error) { return nil, nil },
	}
}
