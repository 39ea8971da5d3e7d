package consumer

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// An instance that closes waits for every membership it has told to leave. One
// that is told to stay before it went must not be waited for.
func TestAMembershipThatIsToldToStayIsNotWaitedFor(t *testing.T) {
	c := &Consumer{waiting: 1}
	c.mail.ready = make(chan struct{}, 1)
	m := &membership{c: c, poked: make(chan struct{}, 1)}
	m.leave()
	m.join(0)
	for _, f := range c.mail.work {
		f()
	}
	require.Zero(t, c.waiting)
}
