package control

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/starferry/starferry"
)

func estate() Homes {
	return Homes{
		Topics: map[starferry.Topic]starferry.ClusterName{"orders": "dc1", "refunds": "dc1"},
		Labels: []LabelRule{
			{Names{Groups: []string{"pay-*"}, Topics: []string{"pay-*"}}, map[string]string{"sla": "gold"}},
			{Names{Groups: []string{"*"}}, map[string]string{"sla": "bronze"}},
		},
		Rules: []HomeRule{
			{Names{Groups: []string{"billing"}}, nil, "dc1"},
			{Names{}, map[string]string{"sla": "gold"}, "dc2"},
			{Names{Topics: []string{"audit.*"}}, nil, "dc3"},
			{Names{}, map[string]string{"dc": "four"}, "dc4"},
			{Names{}, nil, "dc5"},
		},
	}
}

func TestTheFirstRuleThatFitsSaysWhereAGroupLives(t *testing.T) {
	type topics = []starferry.Topic
	for _, tc := range []struct {
		name   string
		group  starferry.Group
		topics topics
		labels map[string]string
		want   starferry.ClusterName
		why    string
	}{
		{"by name", "billing", topics{"orders"}, nil, "dc1", "rule 1, groups billing"},
		{"by a label that the configuration gives", "pay-out", nil, nil, "dc2", "rule 2, sla=gold"},
		{"the configuration's label counts, not the instances'", "pay-out", nil, map[string]string{"sla": "tin"}, "dc2", "rule 2, sla=gold"},
		{"by a label of the instances", "clicks", topics{"other"}, map[string]string{"dc": "four"}, "dc4", "rule 4, dc=four"},
		{"where its topics live, by their names", "auditor", topics{"audit.a", "audit.b"}, nil, "dc3", "its topic audit.a: rule 3, topics audit.*"},
		{"where its topics live, by import", "shop", topics{"other", "refunds"}, nil, "dc1", "its topic refunds: imported"},
		{"the rest", "clicks", topics{"other"}, nil, "dc5", "rule 5, for the rest"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, why, err := estate().OfGroup(tc.group, tc.topics, tc.labels)
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
			require.Equal(t, tc.why, why)
		})
	}
	c, why := estate().OfTopic("orders")
	require.Equal(t, starferry.ClusterName("dc1"), c)
	require.Equal(t, "imported", why)
	c, _ = estate().OfTopic("pay-ins")
	require.Equal(t, starferry.ClusterName("dc2"), c)
	c, _, err := Homes{}.OfGroup("g", topics{"t"}, nil)
	require.NoError(t, err)
	require.Empty(t, c, "nothing is said of it")
}

func TestAGroupHasOneHome(t *testing.T) {
	_, _, err := estate().OfGroup("shop", []starferry.Topic{"orders", "audit.a", "refunds", "other"}, nil)
	var mixed *MixedHomesError
	require.ErrorAs(t, err, &mixed)
	require.Equal(t, map[starferry.ClusterName][]starferry.Topic{"dc1": {"orders", "refunds"}, "dc3": {"audit.a"}}, mixed.On)
	require.ErrorContains(t, err, "group shop reads topics that live on different clusters (on dc1: orders, refunds; on dc3: audit.a)")

	_, _, err = estate().OfGroup("pay-out", []starferry.Topic{"orders"}, nil)
	require.ErrorContains(t, err, "group pay-out is said to live on dc2 (rule 2, sla=gold), and its topics do not (on dc1: orders)")
}

func TestHomesAsText(t *testing.T) {
	text, err := json.Marshal(estate())
	require.NoError(t, err)
	got, err := ParseHomes(text)
	require.NoError(t, err)
	require.Equal(t, estate(), got)
	for _, tc := range []struct{ text, want string }{
		{`{"rule": []}`, `unknown field "rule"`},
		{`hello`, `read homes`},
		{`{} {}`, `more text after`},
		{`{"v": 99}`, `upgrade it`},
		{`{"rules": [{"groups": ["a"]}]}`, `rule 1 (groups a): no cluster`},
		{`{"rules": [{"cluster": "a"}, {"cluster": "b"}]}`, `rule 1 is for the rest, so that rule 2 is never reached`},
		{`{"topics": {"orders": ""}}`, `topic orders: no cluster`},
	} {
		_, err := ParseHomes([]byte(tc.text))
		require.ErrorContains(t, err, tc.want, tc.text)
	}
	require.ErrorContains(t, estate().Check([]starferry.ClusterName{"dc1", "dc2", "dc3", "dc4"}), `rule 5 (for the rest): cluster "dc5" is none of [dc1 dc2 dc3 dc4]`)
}

func TestMatch(t *testing.T) {
	for _, tc := range []struct {
		pattern, name string
		want          bool
	}{
		{"a*c", "abc", true}, {"a*c", "ac", true}, {"a*c", "abcd", false}, {"*", "", true}, {"", "", true}, {"", "a", false},
		{"a?c", "abc", true}, {"a?c", "ac", false}, {"*b*b*", "abab", true}, {"pay.*", "payxin", false}, {"[a]", "a", false}, {"a/*", "a/b/c", true},
	} {
		require.Equal(t, tc.want, Match(tc.pattern, tc.name), "%s %s", tc.pattern, tc.name)
	}
	rapid.Check(t, func(t *rapid.T) { // a pattern made of a name by putting in stars fits it
		name := []rune(rapid.StringOf(rapid.RuneFrom([]rune("ab"))).Draw(t, "name"))
		var pattern []rune
		for _, r := range name {
			switch rapid.IntRange(0, 3).Draw(t, "as") {
			case 0:
				pattern = append(pattern, '*')
			case 1:
				pattern = append(pattern, '?')
			case 2:
				pattern = append(pattern, '*', r)
			default:
				pattern = append(pattern, r)
			}
		}
		if !Match(string(pattern), string(name)) {
			t.Fatalf("%q does not match %q", string(pattern), string(name))
		}
	})
}
