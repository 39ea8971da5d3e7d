package builtins

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

// Census lists groups. It changes nothing.
type Census interface {
	// Groups lists the groups that live on a cluster and fit a pattern (* any
	// text, ? one character), in order of their names. Those that cannot be read
	// are listed as unknown.
	Groups(ctx context.Context, c starferry.ClusterName, pattern string) ([]GroupInfo, error)
}

// GroupInfo is one group as scripts that move many see it.
type GroupInfo struct {
	Name       starferry.Group   `json:"name"`
	Topics     []starferry.Topic `json:"topics"`
	Partitions int               `json:"partitions"` // of all its topics
	Labels     map[string]string `json:"labels"`
	Instances  int               `json:"instances"` // that use the library
	// Unknown, if not empty, is why nobody can tell whether it lives there. No
	// script sees such a group.
	Unknown string `json:"unknown,omitempty"`
}

// label is a label's value; size is one that every group has.
func (g GroupInfo) label(name string) string {
	if v, ok := g.Labels[name]; ok || name != "size" {
		return v
	}
	switch {
	case g.Partitions <= 12:
		return "small"
	case g.Partitions <= 100:
		return "medium"
	}
	return "large"
}

func groupsOfEntry(p Ports, t typeSet) *scripting.Builtin {
	return &scripting.Builtin{
		Name: "groups_of", Class: scripting.Read, Returns: "list of struct(name, topics, partitions, labels, instances)",
		Doc: `Lists the groups that live on a cluster, with what they read and their labels: those that services give themselves, and those of the configuration.
A label size (small up to 12 partitions, medium up to 100, large) is there for every group.
Groups that do not answer are asked again with patience; one that cannot be read even so is refused by name, since whether it belongs to the list is not known.`,
		Example: `pay = groups_of(old, match = "pay-*", labels = {"sla": "bronze"})`,
		Params: []scripting.Param{
			{Name: "cluster", Type: t.cluster, Required: true, Doc: "where to look", Complete: "clusters"},
			{Name: "match", Type: t.list, Default: "*", Doc: "names: * stands for any text, ? for one character", Complete: "groups"},
			{Name: "labels", Type: labelsType(), Doc: `only groups with all of these labels: {"dc": "dc1"}, or "dc=dc1,sla=gold"`},
			{Name: "except_", Type: t.list, Doc: "names that are left out"},
		},
		Run: func(ctx context.Context, c scripting.Call) (any, error) {
			groups, err := groupsOf(ctx, p, c)
			if err != nil {
				return nil, err
			}
			if len(groups) == 0 {
				return nil, scripting.Unmet(fmt.Sprintf("groups on %s that fit %s", clusterArg(c, "cluster"), describeChoice(c)), "none lives there; are they moved already, or is the pattern wrong?")
			}
			return groups, nil
		},
	}
}

func describeChoice(c scripting.Call) string {
	text := strings.Join(c.Args.Strings("match"), ", ")
	if l := c.Args.Text("labels"); l != "" {
		text += " with " + l
	}
	return text
}

func groupsOf(ctx context.Context, p Ports, c scripting.Call) ([]GroupInfo, error) {
	cluster, wanted := clusterArg(c, "cluster"), parseLabels(c.Args.Text("labels"))
	found := map[starferry.Group]GroupInfo{}
	unknown := map[starferry.Group]string{}
	for _, pattern := range c.Args.Strings("match") {
		groups, err := p.Census.Groups(ctx, cluster, pattern)
		if err != nil {
			return nil, fmt.Errorf("list groups of %s: %w", cluster, err)
		}
		for _, g := range groups {
			fits := !slices.Contains(c.Args.Strings("except_"), string(g.Name))
			if fits && g.Unknown != "" {
				unknown[g.Name] = g.Unknown
				continue
			}
			for k, v := range wanted {
				fits = fits && g.label(k) == v
			}
			if fits {
				found[g.Name] = g
			}
		}
	}
	if len(unknown) > 0 {
		return nil, unreadGroups(cluster, unknown, len(found))
	}
	out := []GroupInfo{}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		out = append(out, found[name])
	}
	return out, nil
}

// unreadGroups refuses a list that would silently lack some groups.
func unreadGroups(c starferry.ClusterName, unknown map[starferry.Group]string, read int) error {
	e := &scripting.RefusedError{
		Op: fmt.Sprintf("groups_of %s", c), Expected: "every group that fits can be read",
		Stands: fmt.Sprintf("nothing was changed; %s can be read", count(read, "other group")),
		Do:     "try again when they answer, or leave them out with except_",
	}
	for _, g := range slices.Sorted(maps.Keys(unknown)) {
		e.Rows = append(e.Rows, scripting.Row{Subject: string(g), What: "cannot be read", Why: unknown[g]})
	}
	e.Err = scripting.Unmet(e.Expected, e.Error())
	return e
}

// labelsType is labels as text: dc=dc1,sla=gold. A dict is taken too.
func labelsType() *scripting.Type {
	const example = "dc=dc1,sla=gold"
	bad := func(v any) error { return fmt.Errorf(`want labels such as {"dc": "dc1"} or %q, got %v`, example, v) }
	return &scripting.Type{Name: "labels", Doc: "labels: name=value, comma separated", Example: example, Parse: func(v any) (any, error) {
		labels := map[string]string{}
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				s, ok := x.(string)
				if !ok || k == "" || s == "" || strings.ContainsAny(k+s, "=,") {
					return nil, bad(v)
				}
				labels[k] = s
			}
		case string:
			for part := range strings.SplitSeq(v, ",") {
				if part = strings.TrimSpace(part); part == "" {
					continue
				}
				k, x, ok := strings.Cut(part, "=")
				if !ok || k == "" || x == "" {
					return nil, bad(v)
				}
				labels[strings.TrimSpace(k)] = strings.TrimSpace(x)
			}
		default:
			return nil, bad(v)
		}
		return formatLabels(labels), nil
	}}
}

func formatLabels(labels map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, k+"="+labels[k])
	}
	return strings.Join(parts, ",")
}

func parseLabels(text string) map[string]string {
	out := map[string]string{}
	for part := range strings.SplitSeq(text, ",") {
		if k, v, ok := strings.Cut(part, "="); ok {
			out[k] = v
		}
	}
	return out
}
