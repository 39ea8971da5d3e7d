package builtins_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/scripting"
)

func TestRegistryNeedsNoWorldToDocumentItself(t *testing.T) {
	reg, err := builtins.Registry(builtins.Ports{})
	require.NoError(t, err)
	for _, b := range reg.Builtins() {
		require.Contains(t, reg.Doc(), b.Name)
		require.NotEmpty(t, b.Example, b.Name)
		require.NotEmpty(t, b.Returns, b.Name)
		require.Contains(t, b.Text(), b.Example[:5])
		if _, err := scripting.LoadExec(b.Example, reg); b.Class != scripting.Declare {
			// Examples use names of their script (old, new, m.out); what they call
			// must exist.
			if err != nil {
				require.NotContains(t, err.Error(), "undefined: "+b.Name)
			}
		}
	}
}
