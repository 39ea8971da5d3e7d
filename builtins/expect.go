package builtins

import (
	"context"

	"github.com/starferry/starferry/scripting"
)

func expectEntry() *scripting.Builtin {
	return &scripting.Builtin{
		Name: "expect", Class: scripting.Check, Returns: "None",
		Doc:     "Stops the run unless the condition holds.",
		Example: `expect(report.exact, "every partition went on at its place")`,
		Params: []scripting.Param{
			{Name: "condition", Type: scripting.BoolType(), Required: true, Doc: "what must be True"},
			{Name: "message", Type: scripting.StringType(), Required: true, Doc: "what is expected, in words"},
			{Name: "found", Type: scripting.AnyType(), Doc: "what was found instead, shown if it does not hold"},
		},
		Plan: func(_ context.Context, c scripting.Call) (scripting.Prediction, error) {
			if c.Args.Bool("condition") {
				return scripting.Prediction{Verdict: scripting.HoldsNow, Text: c.Args.Text("message")}, nil
			}
			return scripting.Prediction{Verdict: scripting.FailsNow, Text: c.Args.Text("message")}, nil
		},
		Run: func(_ context.Context, c scripting.Call) (any, error) {
			if c.Args.Bool("condition") {
				return nil, nil
			}
			found := "the condition is False at " + c.Where
			if c.Args.Has("found") {
				found = scripting.Literal(c.Args["found"])
			}
			return nil, scripting.Unmet(c.Args.Text("message"), found)
		},
	}
}
