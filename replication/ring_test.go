package replication

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
)

// There and back is no ring; over a third topic it is one, and is refused.
func TestRingsAreRefused(t *testing.T) {
	link := func(from, to starferry.ClusterName, r Rename, topics ...starferry.Topic) LinkSpec {
		return LinkSpec{Name: starferry.LinkName(from + "-" + to), Source: from, Target: to, Topics: topics, Rename: r}
	}
	chain := []LinkSpec{link("a", "b", nil, "t"), link("b", "a", nil, "t"), link("b", "c", nil, "t"), link("c", "b", nil, "t")}
	for name, c := range map[string]struct {
		specs []LinkSpec
		want  LinkSpec
		ring  string
	}{
		"there and back":  {chain[:1], chain[1], ""},
		"a chain":         {chain[:3], chain[3], ""},
		"asked for again": {chain, chain[0], ""},
		"three clusters":  {chain, link("c", "a", nil, "t"), "c/t → a/t → b/t → c/t"},
		"another topic":   {chain, link("c", "a", nil, "u"), ""},
		"another name":    {chain, link("c", "a", Rename{"t": "x"}, "t"), ""},
		"two names": {[]LinkSpec{link("a", "b", Rename{"t": "x"}, "t"), link("c", "b", nil, "x")},
			LinkSpec{Name: "again", Source: "b", Target: "a", Topics: []starferry.Topic{"x"}, Rename: Rename{"x": "t"}}, ""},
		"back to another": {[]LinkSpec{link("a", "b", Rename{"t": "x", "y": "z"}, "t", "y")},
			LinkSpec{Name: "back", Source: "b", Target: "a", Topics: []starferry.Topic{"x", "z"}, Rename: Rename{"x": "y", "z": "t"}},
			"b/x → a/y → b/z → a/t → b/x"},
	} {
		t.Run(name, func(t *testing.T) {
			err := ring(c.specs, c.want)
			if c.ring == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.ring)
		})
	}
}
