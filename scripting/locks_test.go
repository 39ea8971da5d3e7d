package scripting

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// A failed run that holds nothing lets go of its locks. It must ask for them
// again when it is resumed: another run may hold them by now.
func TestALockLetGoIsAskedForAgain(t *testing.T) {
	const header = `x = migration(name = "x", lock = ["l"], phases = [phase("one", do = one)])`
	b := open(t)
	require.Error(t, b.run("def one(m):\n    must(False)\n"+header))

	ctx, kill := context.WithCancelCause(context.Background())
	b.shop.hook = func() { kill(errors.New("the agent died")) }
	_, err := b.runner.Run(ctx, b.load("def one(m):\n    put(\"b\")\n    put(\"d\")\n"+header), nil, "other")
	require.ErrorContains(t, err, "the agent died")
	b.shop.hook = nil

	var locked *LockedError
	_, err = b.runner.Resume(context.Background(), "r")
	require.ErrorAs(t, err, &locked)
	require.Equal(t, &LockedError{"l", "other"}, locked)

	_, err = b.runner.Resume(context.Background(), "other")
	require.NoError(t, err, "who holds a lock is not kept out by it")
	_, err = b.runner.Resume(context.Background(), "r")
	require.ErrorContains(t, err, "not ok", "the lock is free again")
}
