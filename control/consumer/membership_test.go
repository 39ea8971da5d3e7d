package consumer

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
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

// Connections that wait for a switch are made anew when they have died.
func TestConnectionsStayWarm(t *testing.T) {
	cluster := kafkatest.One(t)
	topic := kafkatest.Topic(t, cluster, 4, nil)
	c := &Consumer{cfg: Config{Topics: []starferry.Topic{topic}}}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	k := newConnections(c, kafkatest.Open(t, cluster))
	t.Cleanup(func() { c.cancel(nil); k.close(); c.wg.Wait() })
	live := func() (n int) {
		k.mu.Lock()
		defer k.mu.Unlock()
		for _, list := range k.idle {
			for _, conn := range list {
				if conn.Err() == nil {
					n++
				}
			}
		}
		return n
	}
	warm := func(n int) {
		require.Eventually(t, func() bool { k.tend(); return live() == n }, 20*time.Second, 5*time.Millisecond)
	}
	k.warm()
	require.Eventually(t, func() bool { return live() > 0 }, 20*time.Second, 5*time.Millisecond)
	c.wg.Wait()
	n := live()
	k.mu.Lock()
	for _, list := range k.idle {
		for _, conn := range list {
			conn.Close() //nolint:errcheck // it dies
		}
	}
	k.mu.Unlock()
	require.Zero(t, live())
	warm(n)
}
