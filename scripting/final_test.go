package scripting

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// A phase that says there is no way back is not taken back by a later one that
// fails, as it is not by the command.
func TestNoRollbackBehindThePointOfNoReturn(t *testing.T) {
	b := open(t)
	err := b.run(`
def one(m):
    put("a")
def drop(m):
    put("b")
def last(m):
    put("c")
    must(False)
x = migration(name = "x", phases = [phase("one", do = one), phase("drop", do = drop, irreversible = True), phase("last", do = last, on_fail = "rollback")])
`)
	require.Equal(t, ExitUnmet, ExitCode(err), err)
	require.Equal(t, map[string]bool{"a": true, "b": true, "c": false}, b.shop.shelf, "only the phase that failed is undone")
	status, err := b.runner.Status(context.Background(), "r")
	require.NoError(t, err)
	require.Equal(t, StateFailed, status.State)
	_, err = b.runner.Rollback(context.Background(), "r")
	require.ErrorContains(t, err, "no way back")
}
