package builtins

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/starferry/starferry/scripting"
)

// wave is one step of a move of many groups.
type wave struct {
	Name       string      `json:"name"`
	Groups     []GroupInfo `json:"groups"`
	Partitions int         `json:"partitions"`
}

func wavesEntry(t typeSet) *scripting.Builtin {
	run := func(_ context.Context, c scripting.Call) (any, error) { return splitIntoWaves(c) }
	return &scripting.Builtin{
		Name: "waves", Class: scripting.Read, Rev: 1, Returns: "list of struct(name, groups, partitions)",
		Doc: `Divides groups into waves: first the canary, the smallest groups of the first kind; then wave after wave of groups with the same labels, small ones first.
It touches nothing: hand each wave's groups to parallel.`,
		Example: `for w in waves(groups, canary = 1, by = ["sla", "dc"], order = ["bronze", "gold"], size = 50): parallel(move, w.groups, max = 20, title = w.name)`,
		Params: []scripting.Param{
			{Name: "groups", Type: scripting.AnyType(), Required: true, Doc: "what groups_of returned"},
			{Name: "canary", Type: t.whole, Default: 1, Doc: "how many groups go first, alone; 0: none"},
			{Name: "by", Type: t.list, Doc: "labels whose values make waves of their own, the first counts most: dc, sla, size, …"},
			{Name: "order", Type: t.list, Doc: "values of these labels that go first, in this order; the others follow by name, groups without the label last"},
			{Name: "size", Type: t.whole, Default: 50, Doc: "groups in a wave at most"},
		},
		Run: run,
		Plan: func(ctx context.Context, c scripting.Call) (scripting.Prediction, error) {
			ws, err := splitIntoWaves(c)
			if err != nil {
				return scripting.Prediction{}, err
			}
			n := 0
			table := [][]string{{"WAVE", "GROUPS", "PARTITIONS", "WHICH"}}
			for _, w := range ws {
				n += len(w.Groups)
				table = append(table, []string{w.Name, fmt.Sprint(len(w.Groups)), fmt.Sprint(w.Partitions), w.which()})
			}
			return scripting.Prediction{Verdict: scripting.HoldsNow, Text: fmt.Sprintf("%s in %s", count(n, "group"), count(len(ws), "wave")), Result: ws, Table: table}, nil
		},
	}
}

// which names the first few of its groups.
func (w wave) which() string {
	const show = 4
	var names []string
	for i, g := range w.Groups {
		if i == show {
			names = append(names, fmt.Sprintf("… %d more", len(w.Groups)-show))
			break
		}
		names = append(names, string(g.Name))
	}
	return strings.Join(names, ", ")
}

func splitIntoWaves(c scripting.Call) ([]wave, error) {
	groups, err := groupInfos(c.Args["groups"])
	if err != nil {
		return nil, err
	}
	canary, size := int(c.Args.Int("canary")), int(c.Args.Int("size"))
	if canary < 0 || size < 1 {
		return nil, fmt.Errorf("waves: canary %d and size %d: want a canary of 0 or more and waves of at least one group", canary, size)
	}
	by, order := c.Args.Strings("by"), c.Args.Strings("order")
	slices.SortStableFunc(groups, func(a, b GroupInfo) int {
		for _, label := range by {
			if d := compareLabels(a.label(label), b.label(label), order); d != 0 {
				return d
			}
		}
		return cmp.Or(cmp.Compare(a.Partitions, b.Partitions), cmp.Compare(a.Name, b.Name))
	})
	var out []wave
	if canary = min(canary, len(groups)); canary > 0 {
		out = append(out, newWave("canary", groups[:canary]))
	}
	rest, n := groups[canary:], 0
	for len(rest) > 0 {
		end := 1
		for end < len(rest) && end < size && kindOf(rest[end], by) == kindOf(rest[0], by) {
			end++
		}
		n++
		name := fmt.Sprintf("wave %d", n)
		if kind := kindOf(rest[0], by); kind != "" {
			name += " (" + kind + ")"
		}
		out = append(out, newWave(name, rest[:end]))
		rest = rest[end:]
	}
	return out, nil
}

func newWave(name string, groups []GroupInfo) wave {
	w := wave{Name: name, Groups: groups}
	for _, g := range groups {
		w.Partitions += g.Partitions
	}
	return w
}

// kindOf tells what the groups of a wave have in common.
func kindOf(g GroupInfo, by []string) string {
	var parts []string
	for _, label := range by {
		v := g.label(label)
		if v == "" {
			v = "none"
		}
		parts = append(parts, label+"="+v)
	}
	return strings.Join(parts, ", ")
}

// compareLabels puts the values of order first, those without a value last.
func compareLabels(a, b string, order []string) int {
	rank := func(v string) int {
		if i := slices.Index(order, v); i >= 0 {
			return i
		}
		if v == "" {
			return len(order) + 1
		}
		return len(order)
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
}

// groupInfos reads groups back from a script; names alone are groups without labels.
func groupInfos(v any) ([]GroupInfo, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("waves: argument groups: want a list of groups, such as groups_of returns")
	}
	out := make([]GroupInfo, len(list))
	seen := map[string]bool{}
	for i, e := range list {
		raw, err := json.Marshal(e)
		if err == nil {
			if _, name := e.(string); name {
				err = json.Unmarshal(raw, &out[i].Name)
			} else {
				err = json.Unmarshal(raw, &out[i])
			}
		}
		if err != nil || out[i].Name == "" {
			return nil, fmt.Errorf("waves: groups[%d] is no group; give what groups_of returned, or names", i)
		}
		if seen[string(out[i].Name)] {
			return nil, fmt.Errorf("waves: group %s is given twice", out[i].Name)
		}
		seen[string(out[i].Name)] = true
	}
	return out, nil
}

func sleepEntry(t typeSet) *scripting.Builtin {
	return &scripting.Builtin{
		Name: "sleep", Class: scripting.Wait, Returns: "None",
		Doc:     "Waits, such as between two waves. A run that is resumed in the middle of it waits anew.",
		Example: `sleep("5m")`,
		Params:  []scripting.Param{{Name: "for_", Type: t.duration, Required: true, Doc: "how long"}},
		Run: func(ctx context.Context, c scripting.Call) (any, error) {
			c.Progress("waiting for " + c.Args.Text("for_"))
			return nil, c.Clock.Sleep(ctx, c.Args.Duration("for_"))
		},
		Plan: func(_ context.Context, c scripting.Call) (scripting.Prediction, error) {
			return scripting.Prediction{Verdict: scripting.UnknownUntilRun, Text: "wait for " + c.Args.Text("for_"), AtMost: c.Args.Duration("for_")}, nil
		},
	}
}
