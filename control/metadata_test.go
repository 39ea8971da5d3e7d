package control

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
)

func TestMarksReadBackWhatTheyWrite(t *testing.T) {
	for _, tc := range []struct {
		text string
		mark Mark
	}{
		{"starferry/1 home e=7", Mark{State: Home, Epoch: 7}},
		{"starferry/1 draining e=8", Mark{State: Draining, Epoch: 8}},
		{"starferry/1 seeded e=8 c=dc1", Mark{State: Seeded, Epoch: 8, Cluster: "dc1"}},
		{"starferry/1 moved e=8 c=dc2", Mark{State: Moved, Epoch: 8, Cluster: "dc2"}},
		{"starferry/1 draining e=8 w=eCB5IPCfkqk", Mark{State: Draining, Epoch: 8, Was: "x y 💩"}},
		{"starferry/1 home e=9 h=12-14,20-21", Mark{State: Home, Epoch: 9, Handled: []starferry.Range{{From: 12, To: 14}, {From: 20, To: 21}}}},
	} {
		require.Equal(t, tc.text, tc.mark.String())
		got, err := ParseMark(tc.text)
		require.NoError(t, err)
		require.Equal(t, tc.mark, got)
	}
}

func TestForeignMetadataIsToldFromBroken(t *testing.T) {
	for _, s := range []string{"", "hello", "starferry"} {
		_, err := ParseMark(s)
		require.ErrorIs(t, err, ErrForeign, s)
	}
	for s, want := range map[string]string{
		"starferry/2 home e=1":            "newer protocol",
		"starferry/1 home":                "want a state and an epoch",
		"starferry/1 gone e=1":            `unknown state "gone"`,
		"starferry/1 home e=-1":           "no number",
		"starferry/1 moved e=1":           "moved without a cluster",
		"starferry/1 seeded e=1":          "seeded without a cluster",
		"starferry/1 home e=1 h=5-5":      "no range",
		"starferry/1 home e=1 h=9-5":      "no range",
		"starferry/1 draining e=1 w=!":    "not in base64",
		"starferry/1 home e=1 colour=red": `unknown field "colour=red"`,
	} {
		_, err := ParseMark(s)
		require.ErrorContains(t, err, want, s)
		require.NotErrorIs(t, err, ErrForeign, s)
	}
}

func FuzzParseMark(f *testing.F) {
	f.Add("starferry/1 home e=9 h=12-14,20-21")
	f.Add("starferry/1 moved e=8 c=dc2")
	f.Add("starferry/1 draining e=8 w=eCB5IPCfkqk")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMark(s)
		if err != nil {
			return
		}
		again, err := ParseMark(m.String())
		require.NoError(t, err)
		require.Equal(t, m, again)
	})
}
