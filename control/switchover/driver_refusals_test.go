package switchover

import (
	"testing"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/stretchr/testify/require"
)

// refusedWith lets a switch fail and returns why.
func refusedWith(t *testing.T, w *drill) Failure {
	var f *Failure
	w.told = func(o Order) {
		if o, ok := o.(Failed); ok {
			f = &o.Failure
		}
	}
	w.runTo("", 120_000)
	require.NotNil(t, f, "it was not refused: %s", w.result)
	return *f
}

// Each refusal names a subject in each row, why it is in the way, what to do, and
// what stands now; and none of them has let the group stand still.
func TestEachRefusalIsRows(t *testing.T) {
	at := func(p starferry.Partition) starferry.TopicPartition {
		return starferry.TopicPartition{Topic: "orders", Partition: p}
	}
	for name, c := range map[string]struct {
		subject, why string
		make         func(*drill)
	}{
		"unknown member":   {"java-7-old", "does not use the library", func(w *drill) { w.sides[drillOld].members = append(w.sides[drillOld].members, "java-7") }},
		"outside the link": {"orders/1", "does not copy it", func(w *drill) { delete(w.link.Lag, at(1)) }},
		"unhealthy lane":   {"orders/0", "the disk is full", func(w *drill) { w.link.Stopped[at(0)] = "the disk is full" }},
		"far behind":       {"orders/1", "", func(w *drill) { w.link.Lag[at(1)] = 100_000 }},
		"connect":          {"group on old", "workers share out", func(w *drill) { w.sides[drillOld].kind = "connect" }},
		"share group":      {"group on old", "one by one", func(w *drill) { w.sides[drillOld].kind = "share" }},
		"something else":   {"group on old", "no consumers", func(w *drill) { w.sides[drillOld].kind = "sr" }},
		"streams": {"app-StreamThread-1-consumer-old", "Kafka Streams", func(w *drill) {
			w.sides[drillOld].members = append(w.sides[drillOld].members, "app-StreamThread-1-consumer")
		}},
		"deleted place":   {"orders/1", "deleted before it was copied", func(w *drill) { w.missing = "orders/1" }},
		"foreign offsets": {"orders/0", "another client", func(w *drill) { w.sides[drillNew].found = Found{at(0): {Offset: 7}} }},
		"nobody":          {"group on old", "", func(w *drill) { w.insts, w.sides[drillOld].members = nil, nil }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newDrill(2, 2)
			c.make(w)
			f := refusedWith(t, w)
			require.NotEmpty(t, f.Rows, f.Error())
			require.Equal(t, c.subject, f.Rows[0].Subject)
			require.Contains(t, f.Rows[0].Why, c.why)
			require.NotEmpty(t, f.Rows[0].What)
			require.NotEmpty(t, f.Do)
			require.Contains(t, f.Stands, "lives on old")
			require.Contains(t, []string{"look", "prepare"}, f.Phase, "the group has stood still")
			require.Len(t, f.Found, len(f.Rows))
		})
	}
}

func TestAnOlderLibraryAndATargetWithFewerPartitionsAreRows(t *testing.T) {
	d := NewDriver(Request{Group: "pay", Source: drillOld, Target: drillNew, Patience: 100})
	d.leases = []control.Lease{{Instance: "i2", Host: "h", Version: control.ProtocolVersion - 1, Library: "starferry-go/0"}, {Instance: "i1", Version: control.ProtocolVersion}}
	f := d.outdated()
	require.Len(t, f.Rows, 1)
	require.Equal(t, "i2", f.Rows[0].Subject)
	require.Contains(t, f.Rows[0].What, "starferry-go/0")
	require.Contains(t, f.Rows[0].Do, "newer library")

	waits := []Wait{lane(starferry.TopicPartition{Topic: "orders", Partition: 9}, drillNew, "to be held by somebody on new")}
	d.now = 1000
	require.False(t, d.bare(waits), "an instance may still be on its way")
	d.now = 1100
	require.True(t, d.bare(waits))
	failed, ok := d.out[len(d.out)-1].(Failed)
	require.True(t, ok)
	require.Equal(t, "orders/9", failed.Failure.Rows[0].Subject)
	require.Contains(t, failed.Failure.Rows[0].Do, "as many partitions")
}
