package fleet_test

import (
	"encoding/json"
	"testing"

	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/fleet"
	"github.com/stretchr/testify/require"
)

// A switch leaves in the audit trail what people ask afterwards.
func TestASwitchLeavesItsStory(t *testing.T) {
	w, stop := running(t)
	r := w.switched(w.old, w.new, "run-1")
	w.consumesOn(w.new)
	w.nothingLost(stop)
	trail, err := w.store.AuditLog(t.Context(), desired.AuditFilter{Group: w.group})
	require.NoError(t, err)
	stories, err := fleet.Stories(trail)
	require.NoError(t, err)
	require.Len(t, stories, 1)
	s := stories[0]
	require.Equal(t, []any{w.group, w.old.Name, w.new.Name, r.Epoch, "ann", "test", "run-1"}, []any{s.Group, s.Source, s.Target, s.Epoch, s.By, s.Why, s.Token})
	require.Nil(t, s.Failure)
	require.Len(t, s.Members, 2)
	for _, m := range s.Members {
		require.NotEmpty(t, m.Boot)
		require.NotEmpty(t, m.Old.Member)
		require.Positive(t, m.New.Generation)
		require.Equal(t, 2, m.New.Partitions)
	}
	var names []string
	for _, p := range s.Phases {
		names = append(names, p.Phase)
	}
	require.Subset(t, names, []string{"prepare", "drain", "seed", "decide", "announce", "verify"})
	require.Positive(t, s.ControlMS)
	places := s.Places()
	require.Len(t, places, 4)
	for _, p := range places {
		require.Equal(t, r.Cut[p.Partition].Next, p.Source)
		require.Equal(t, r.Seeds[p.Partition].Next, p.Target)
		require.True(t, p.Exact)
	}
}

func TestARefusedSwitchLeavesItsReasons(t *testing.T) {
	w := newWorld(t, 1)
	_, err := w.fleet.Switch(t.Context(), w.order(w.old, w.new, "run-1"))
	require.Error(t, err)
	trail, err := w.store.AuditLog(t.Context(), desired.AuditFilter{Group: w.group})
	require.NoError(t, err)
	stories, err := fleet.Stories(trail)
	require.NoError(t, err)
	require.Len(t, stories, 1)
	require.Contains(t, stories[0].Failure.Rows[0].What, "neither a member nor a committed offset")
	require.NotEmpty(t, stories[0].Failure.Stands)
	_, err = fleet.Stories([]desired.Event{{What: "switched", Data: json.RawMessage(`{"epoch": "x"}`)}})
	require.ErrorContains(t, err, "read the report")
}
