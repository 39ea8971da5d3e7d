package scripting

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A value that holds itself, or is nested without end, must not take the agent
// down with it.
func TestValuesNestedWithoutEndAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"a list that holds itself, returned": `
def main(m):
    l = []
    l.append(l)
    return l
`,
		"a dict that holds itself, given to a builtin": `
def main(m):
    d = {}
    d["d"] = struct(d = [d])
    put(d)
`,
		"a tower of tuples": `
def main(m):
    x = ()
    for i in range(100000):
        x = (x,)
    return x
`,
	} {
		t.Run(name, func(t *testing.T) {
			err := open(t).run(text)
			require.ErrorContains(t, err, "nested more than 100 deep")
			require.Equal(t, ExitScript, ExitCode(err))
		})
	}
}
