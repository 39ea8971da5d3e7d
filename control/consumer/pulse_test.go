package consumer

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Whoever looks first after a freeze sees that it was one, and all others then,
// also those that look after the next beat.
func TestAFreezeIsSeenByWhoeverLooksFirst(t *testing.T) {
	var p pulse
	require.Zero(t, p.awakeSince(), "it has not begun")
	p.beat()
	require.Zero(t, p.awakeSince())
	p.last.Add(-int64(frozenFor) - 1)
	asleep := p.last.Load()
	woke := p.awakeSince()
	require.Greater(t, woke, asleep+int64(frozenFor))
	p.beat()
	require.GreaterOrEqual(t, p.awakeSince(), woke, "a heartbeat that was sent before does not count")
	require.NotZero(t, p.awakeSince())

	p.last.Add(-int64(frozenFor) - 1)
	woke = p.awakeSince()
	p.last.Store(asleep + 2*int64(frozenFor)) // the loop's own look comes first
	p.beat()
	require.GreaterOrEqual(t, p.awakeSince(), woke)
}
