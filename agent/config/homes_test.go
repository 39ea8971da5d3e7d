package config_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

const two = "clusters:\n  old: {brokers: [\"a:1\"]}\n  new: {brokers: [\"b:1\"]}\n"

func TestHomesAndLabels(t *testing.T) {
	c, err := parse(t, two+`homes:
  - {groups: ["pay-*"], cluster: new}
  - {labels: {sla: gold}, cluster: new}
  - {cluster: old}
labels:
  - {groups: ["ledger"], labels: {sla: gold, level: 3}}
`)
	require.NoError(t, err)
	require.Equal(t, control.HomeRule{Names: control.Names{Groups: []string{"pay-*"}}, Cluster: "new"}, c.Homes.Rules[0])
	home, why, err := c.Homes.OfGroup("ledger", nil, nil)
	require.NoError(t, err)
	require.Equal(t, starferry.ClusterName("new"), home)
	require.Equal(t, "rule 2, sla=gold", why)
	require.Equal(t, "3", c.Homes.LabelsOfGroup("ledger", nil)["level"], "a number is a text too")
	require.Len(t, c.All(), 2)
}

func TestHomesThatCannotHold(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"homes:\n  - {groups: [a]}\n", "f.yaml:5: homes[0]: no cluster: name the one that it lives on, such as `cluster: new`"},
		{"homes:\n  - {groups: [a], cluster: nwe}\n", `f.yaml:5: homes[0].cluster: no cluster "nwe" (did you mean "new"?); there are new, old`},
		{"homes:\n  - {cluster: old}\n  - {groups: [a], cluster: new}\n", `f.yaml:5: homes[0]: this rule is for the rest, so that those after it are never reached: put it last`},
		{"homes:\n  - {group: [a], cluster: new}\n", `f.yaml:5: homes[0].group: unknown key (did you mean "groups"?); known here: groups, topics, labels, cluster`},
		{"homes:\n  - {groups: a, cluster: new}\n", `f.yaml:5: homes[0].groups: want a list such as ["a", "b"], found a text`},
		{"homes: {cluster: old}\n", `homes: want a list`},
		{"homes:\n  - {groups: [\"\"], cluster: new}\n", `f.yaml:5: homes[0].groups[0]: an empty pattern matches nothing`},
		{"labels:\n  - {groups: [a]}\n", "f.yaml:5: labels[0]: no labels: give at least one"},
		{"labels:\n  - {groups: [a], labels: {dc: \"\"}}\n", `f.yaml:5: labels[0].labels: a label needs a name and a value`},
	} {
		_, err := parse(t, two+tc.text)
		require.ErrorContains(t, err, tc.want, tc.text)
	}
}

func TestAPlainMapOfTopics(t *testing.T) {
	c, err := parse(t, two)
	require.NoError(t, err)
	got, err := c.ParseHomeMap("homes.yaml", []byte("orders: old\naudit.log: new\n"))
	require.NoError(t, err)
	require.Equal(t, map[starferry.Topic]starferry.ClusterName{"orders": "old", "audit.log": "new"}, got)
	got, err = c.ParseHomeMap("homes.json", []byte(`{"orders": "old"}`))
	require.NoError(t, err)
	require.Len(t, got, 1)
	for _, tc := range []struct{ text, want string }{
		{"orders: old\npay.in: nwe\n", `homes.yaml:2: pay.in: no cluster "nwe" (did you mean "new"?); there are new, old`},
		{"- orders\n", `homes.yaml:1: want keys and values, found a list`},
		{"orders: [old]\n", `homes.yaml:1: orders: want a text, found a list`},
		{"orders: old\norders: new\n", `homes.yaml:2: orders: stands twice`},
		{"orders:\n", `homes.yaml:1: orders: no cluster ""`},
		{"", `homes.yaml: the file is empty`},
	} {
		_, err := c.ParseHomeMap("homes.yaml", []byte(tc.text))
		require.ErrorContains(t, err, tc.want, tc.text)
	}
}
