package fleet_test

import (
	"context"
	"log/slog"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/internal/wire"
)

// deadly is a log handler that ends the goroutine of an agent right after it has
// done something: the nearest thing to a kill inside one process. The fences are
// left to their sessions.
type deadly struct {
	slog.Handler
	after string
}

func (d deadly) Enabled(context.Context, slog.Level) bool { return true }
func (d deadly) WithAttrs([]slog.Attr) slog.Handler       { return d }
func (d deadly) Handle(_ context.Context, r slog.Record) error {
	said := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "what" || a.Key == "cluster" {
			said += " " + a.Value.String()
		}
		return true
	})
	if said == d.after {
		runtime.Goexit()
	}
	return nil
}

// evict ends the sessions of a dead agent's fences, which time would do.
func (w *world) evict(c *wire.Cluster) {
	d, err := c.AnyGroup(w.t.Context(), w.group)
	require.NoError(w.t, err)
	if d.ProtocolType != "starferry" {
		return
	}
	for _, m := range d.Members {
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Group = string(w.group)
		who := kmsg.NewLeaveGroupRequestMember()
		who.MemberID = m.ID
		req.Members = append(req.Members, who)
		_, err := c.DoGroup(w.t.Context(), w.group, req)
		require.NoError(w.t, err)
	}
}

// Guarantee 5: A run survives kill −9 of the agent at any point
func TestAnotherAgentFinishesAGroupWithoutTheLibrary(t *testing.T) {
	const committed = "committed for a group without the library"
	for _, after := range []string{"fence stands old", "fence stands new", committed + " old draining", committed + " new seeded", committed + " old moved", committed + " new plain"} {
		t.Run(after, func(t *testing.T) {
			t.Parallel()
			w := outsiders(t)
			dying, err := fleet.Open(fleet.Config{Clusters: map[starferry.ClusterName]*wire.Cluster{w.old.Name: w.oldW, w.new.Name: w.newW},
				Store: w.store, Copies: ideal{w}, Logger: slog.New(deadly{slog.DiscardHandler, after})})
			require.NoError(t, err)
			died, ended := make(chan struct{}), false
			go func() {
				defer close(died)
				_, _ = dying.SwitchExternal(context.Background(), w.externalOrder(w.old, w.new, "run-1"))
				ended = true
			}()
			<-died
			require.False(t, ended, "it was not killed")
			w.evict(w.oldW)
			w.evict(w.newW)

			w.keeper()
			r := w.movedOutside(w.old, w.new, "run-1")
			require.Equal(t, starferry.Epoch(1), r.Epoch)
			require.Equal(t, starferry.Cut{w.tp(0): {Next: 4}, w.tp(1): {Next: 7}}, r.Cut)
			require.Equal(t, r.Cut, r.Seeds)
			require.Equal(t, "by hand 1", w.committed(w.newW)[w.tp(1)].Metadata)
			require.NoError(t, w.byHand(w.newW, 5, 8))
			require.Error(t, w.byHand(w.oldW, 5, 8))
		})
	}
}
