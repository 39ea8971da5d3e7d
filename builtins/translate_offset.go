package builtins

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

func translateOffsetEntry(p Ports, t typeSet) *scripting.Builtin {
	run := func(ctx context.Context, c scripting.Call) (any, error) {
		return translate(ctx, p, c)
	}
	return &scripting.Builtin{
		Name: "translate_offset", Class: scripting.Read, Returns: "struct(cut, answers, missing, behind, exact, inexact)",
		Doc: "Translates a group's committed place over a link. exact is True if every partition has a place that will not move; inexact names the others and why.",
		Example: `at = translate_offset(m.out.copy.link, "billing")
expect(at.exact, "exact places", found = at.inexact)`,
		Params: []scripting.Param{
			{Name: "link", Type: t.link, Required: true, Doc: "the link", Complete: "links"},
			{Name: "group", Type: t.group, Required: true, Doc: "the group", Complete: "groups"},
			{Name: "back", Type: t.yes, Default: false, Doc: "True: from the link's target to its source"},
		},
		Run: run,
		Plan: func(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
			v, err := run(ctx, c)
			if errors.Is(err, ErrNotFound) && len(c.Earlier) > 0 {
				return scripting.Prediction{Verdict: scripting.UnknownUntilRun, Result: unknownFields("cut", "answers", "missing", "behind", "exact", "inexact")}, nil
			}
			return scripting.Prediction{Verdict: scripting.HoldsNow, Result: v}, err
		},
	}
}

func translate(ctx context.Context, p Ports, c scripting.Call) (any, error) {
	name := starferry.LinkName(c.Args.Text("link"))
	info, err := p.Copier.Link(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("look at link %s: %w", name, err)
	}
	from, direction := info.Source, starferry.Forward
	if c.Args.Bool("back") {
		from, direction = info.Target, starferry.Back
	}
	cut, err := p.Clusters.Committed(ctx, from, groupArg(c))
	if err != nil {
		return nil, fmt.Errorf("read place of group %s on %s: %w", groupArg(c), from, err)
	}
	tr, err := p.Copier.Translate(ctx, name, direction, cut)
	if err != nil {
		return nil, fmt.Errorf("translate place of group %s over link %s: %w", groupArg(c), name, err)
	}
	inexact := inexactPlaces(tr)
	return fields(tr, map[string]any{"exact": len(cut) > 0 && len(inexact) == 0, "inexact": inexact})
}

// inexactPlaces says for each partition without a final place why not.
func inexactPlaces(tr starferry.Translation) []string {
	out := []string{}
	for _, tp := range slices.SortedFunc(maps.Keys(tr.Missing), starferry.TopicPartition.Compare) {
		out = append(out, fmt.Sprintf("%s: %s", tp, tr.Missing[tp]))
	}
	for _, tp := range slices.SortedFunc(maps.Keys(tr.Behind), starferry.TopicPartition.Compare) {
		out = append(out, fmt.Sprintf("%s: the copy is %d offsets short of it", tp, tr.Behind[tp]))
	}
	return out
}
