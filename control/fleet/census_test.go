package fleet_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/internal/wire"
)

// nobodyReads is commit metadata that claims to be ours.
const nobodyReads = "starferry/1 garbage e=1"

// commits makes a group without members that has a place in the first partition.
func (w *world) commits(g starferry.Group, metadata string) {
	w.t.Helper()
	require.NoError(w.t, w.oldW.Commit(w.t.Context(), wire.Commit{Group: g, Generation: -1,
		Offsets: map[starferry.TopicPartition]wire.Committed{w.tp(0): {Offset: 1, LeaderEpoch: -1, Metadata: metadata}}}))
}

// hurried is the world's fleet with a clock that goes five seconds on whenever it
// is looked at; at each look it tells.
func (w *world) hurried(look func(n int64)) *fleet.Fleet {
	w.t.Helper()
	var looks atomic.Int64
	f, err := fleet.Open(fleet.Config{
		Clusters: map[starferry.ClusterName]*wire.Cluster{w.old.Name: w.oldW, w.new.Name: w.newW},
		Store:    w.store, Copies: ideal{w}, Logger: logger("agent"),
		Now: func() time.Time {
			n := looks.Add(1)
			look(n)
			return time.UnixMilli(1_700_000_000_000).Add(time.Duration(n) * 5 * time.Second)
		},
	})
	require.NoError(w.t, err)
	return f
}

func (w *world) census(f *fleet.Fleet, pattern string) map[starferry.Group]fleet.Listed {
	w.t.Helper()
	list, err := f.Census(contextFor(w.t, 2*patience), w.old.Name, pattern)
	require.NoError(w.t, err)
	out := map[starferry.Group]fleet.Listed{}
	for _, l := range list {
		out[l.Group] = l
	}
	return out
}

// One group that cannot be read does not hide the others: it is named.
func TestACensusNamesTheGroupItCannotRead(t *testing.T) {
	w := newWorld(t, 1)
	for i := range 3 {
		w.commits(w.group+starferry.Group(fmt.Sprint(i)), "")
	}
	w.commits(w.group+"-odd", nobodyReads)
	_, err := w.store.PutPlacement(t.Context(), control.Placement{Version: 99, Group: w.group + "1"}, 0)
	require.NoError(t, err)
	got := w.census(w.hurried(func(int64) {}), string(w.group)+"*")
	require.Len(t, got, 4)
	require.Equal(t, []starferry.Topic{w.topic}, got[w.group+"0"].Topics)
	require.Equal(t, w.old.Name, got[w.group+"2"].Home)
	require.Contains(t, got[w.group+"-odd"].Unknown, `unknown state "garbage"`)
	require.Contains(t, got[w.group+"1"].Unknown, "protocol version 99")
	require.Empty(t, got[w.group+"-odd"].Topics)
}

// A group that does not answer at first is asked again.
func TestACensusAsksAgain(t *testing.T) {
	w := newWorld(t, 1)
	w.commits(w.group, nobodyReads)
	f := w.hurried(func(n int64) {
		if n == 3 {
			w.commits(w.group, "")
		}
	})
	got := w.census(f, string(w.group))
	require.Empty(t, got[w.group].Unknown)
	require.Equal(t, w.old.Name, got[w.group].Home)
}

// Instances whose leases have run out for a moment are back soon: without them
// their labels would be missing, and the group in the wrong wave.
func TestACensusWaitsForLeases(t *testing.T) {
	w, stop := running(t)
	for _, i := range []starferry.InstanceID{"i1", "i2"} {
		require.NoError(t, w.store.DeleteLease(t.Context(), w.group, i))
	}
	got := w.census(w.fleet, string(w.group))
	require.Positive(t, got[w.group].Instances)
	w.nothingLost(stop)
}

// Services without NATS have no leases: they are listed by what Kafka says.
func TestACensusListsServicesWithoutNATS(t *testing.T) {
	w := newWorld(t, 2)
	w.withoutNATS("alone", 1)
	got := w.census(w.hurried(func(int64) {}), string(w.group))
	require.Equal(t, fleet.Listed{Group: w.group, Home: w.old.Name, Topics: []starferry.Topic{w.topic}, Labels: map[string]string{}}, got[w.group])
}
