package consumer_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/consumer"
)

// An instance says how it stands, without NATS too.
func TestStateNamesTheRecordThatIsBlocked(t *testing.T) {
	e := newEstate(t, 2)
	e.seen.block["0/1"] = make(chan struct{})
	e.produce(0, 3, e.old)
	e.produce(1, 3, e.old)
	c := e.open("a")
	ctx := context.Background()
	require.Eventually(t, func() bool {
		l, err := c.State(ctx)
		return err == nil && len(l.Partitions) == 2 && l.Partitions[0].Blocked != nil && *l.Partitions[0].Blocked == 1 && l.Partitions[1].Position == 3
	}, patience, 10e6)
	require.NoError(t, c.Health(ctx))
	l, err := c.State(ctx)
	require.NoError(t, err)
	require.Equal(t, e.old.Name, l.Home)
	require.Equal(t, 1, l.Partitions[0].InFlight)
	require.EqualValues(t, 3, l.Partitions[0].End)
	_, err = json.Marshal(l)
	require.NoError(t, err)
	close(e.seen.block["0/1"])
	e.settled(6)
	closeIn(t, c)
	require.ErrorContains(t, c.Health(ctx), "is closed")
}

// Health says what is wrong and what to look at, and takes it back.
func TestHealthSaysWhatIsWrong(t *testing.T) {
	e, fake := faulty(t, 1)
	var mute atomic.Bool
	intercept(fake, kmsg.Heartbeat, func(kmsg.Request) (kmsg.Response, error, bool) {
		return nil, errors.New("the connection breaks"), mute.Load()
	})
	c := e.open("a", func(cfg *consumer.Config) { cfg.SessionTimeout = 1e9 })
	ctx := context.Background()
	require.Eventually(t, func() bool { return c.Health(ctx) == nil }, patience, 10e6)
	mute.Store(true)
	require.Eventually(t, func() bool { return c.Health(ctx) != nil }, patience, 10e6)
	require.ErrorContains(t, c.Health(ctx), "does not answer its heartbeats")
	mute.Store(false)
	require.Eventually(t, func() bool { return c.Health(ctx) == nil }, patience, 10e6)

	refused := e.open("b", func(cfg *consumer.Config) {
		cfg.Group, cfg.Start = starferry.Group(string(e.group)+"-refused"), consumer.Refuse
	})
	require.Eventually(t, func() bool {
		err := refused.Health(ctx)
		return err != nil && strings.Contains(err.Error(), "the start policy refuses to guess")
	}, patience, 10e6)
}
