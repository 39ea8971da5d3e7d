package scripting

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// What a plan does not know raises however a script gets at it: a plan that goes
// on with it would predict another run.
func TestAPlanRaisesWhateverWayTheUnknownIsTaken(t *testing.T) {
	for _, taken := range []string{"r.n", `r["n"]`, "[v for v in r.values() if v]", "[v for k, v in r.items() if v]"} {
		b := open(t)
		plan, err := b.runner.Plan(context.Background(), b.load("def main(m):\n    r = put('a')\n    x = "+taken+"\n    put('b')\n"), nil)
		require.NoError(t, err, taken)
		require.Equal(t, map[Verdict]int{WillDo: 1, UnknownUntilRun: 1}, plan.Counts, taken)
	}
}
