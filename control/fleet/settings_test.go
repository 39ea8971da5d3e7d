package fleet

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// An order that thousands have not acknowledged says so in a few lines.
func TestFewOfManyMissingAreNamed(t *testing.T) {
	var e missingError
	for i := range namedMissing {
		e.what = append(e.what, fmt.Sprintf("i%04d on here", i))
	}
	require.NotContains(t, e.Error(), "others")
	e.what = append(e.what, "z1 on here", "z2 on here")
	require.Contains(t, e.Error(), fmt.Sprintf("i%04d on here and 2 others", namedMissing-1))
	require.Equal(t, namedMissing, strings.Count(e.Error(), "on here"))
}
