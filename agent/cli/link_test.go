package cli

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/replication"
	"github.com/starferry/starferry/scripting"
)

// A link shows what it does, and the lane that needs somebody first.
func TestALinkShowsWhatNeedsSomebodyFirst(t *testing.T) {
	var out strings.Builder
	c := &cli{IO: IO{Out: &out}}
	lane := func(p starferry.Partition, state replication.LaneState, lag int64, reason string) replication.LaneStatus {
		return replication.LaneStatus{Partition: starferry.TopicPartition{Topic: "orders", Partition: p}, State: state, Lag: lag, Reason: reason, Until: -1}
	}
	lost := lane(3, replication.Copying, 2, "")
	lost.Lost = 15
	require.NoError(t, c.showLink(replication.LinkStatus{
		Spec: replication.LinkSpec{Name: "old-new", Source: "old", Target: "new", Patterns: []string{`orders\..*`}, Sample: 0.05,
			Rename: replication.Rename{replication.EveryTopic: "dc2.{topic}"}, OnLoss: replication.ContinueOnLoss},
		Lanes: []replication.LaneStatus{
			lane(0, replication.Done, 0, ""), lane(1, replication.Copying, 7, ""), lane(2, replication.Stalled, 1, "broker 3 is away"), lost,
			lane(4, replication.Stopped, 9, "retention has overtaken the copy"),
		},
		Problems: map[starferry.Topic]string{"orders.odd": "has 2 partitions on old and 3 on new"},
	}))
	require.Regexp(t, `(?s)old-new: old to new, stopped: orders/4: retention.*orders.odd is not copied: has 2.*matches orders.*renames \{\*: dc2.\{topic\}\}.*a sample of 5%.*on loss: continue.*`+
		`orders/4.*orders/2.*broker 3.*orders/1.*orders/3.*15.*orders/0`, out.String())
}

// What a link copies a second is told, if it copies.
func TestALinkTellsItsRate(t *testing.T) {
	for bytes, want := range map[int64]string{0: "-", 7: "7B/s", 9_999: "9999B/s", 12_345: "12kB/s", 5_432_100: "5432kB/s", 12_345_678: "12MB/s", 238_000_000: "238MB/s", 12_345_678_901: "12GB/s"} {
		require.Equal(t, want, perSecond(bytes))
	}
	var out strings.Builder
	c := &cli{IO: IO{Out: &out}}
	l := replication.LinkStatus{Spec: replication.LinkSpec{Name: "old-new", Source: "old", Target: "new"}, Lanes: []replication.LaneStatus{
		{State: replication.Copying, Rate: 20_000_000}, {State: replication.Copying, Rate: 4_500_000},
	}}
	require.NoError(t, c.showLink(l))
	require.Contains(t, out.String(), "link old-new: old to new, copying 24MB/s\n")
	require.NoError(t, c.showLinks([]replication.LinkStatus{l}))
	require.Regexp(t, `COPIED +RATE +REASON\n.* 24MB/s`, out.String())
}

// A deed that there is not is wrong usage.
func TestALinkHasFourDeeds(t *testing.T) {
	var out, errs strings.Builder
	code := Main(t.Context(), []string{"link", "old-new", "puase"}, IO{Out: &out, Err: &errs, Getenv: func(string) string { return "" }})
	require.Equal(t, scripting.ExitUsage, code)
	require.Contains(t, errs.String(), "want pause, resume, drain or stop")
}

// Settings that differ are told, so many as fit a screen.
func TestDriftIsTold(t *testing.T) {
	var out strings.Builder
	c := &cli{IO: IO{Out: &out}}
	d := []replication.TopicDrift{
		{Topic: "a", Target: "dc2.a", SourcePartitions: 3, TargetPartitions: 2},
		{Topic: "b", Target: "b", Differs: []replication.SettingDrift{{Name: "retention.ms", Source: "1", Target: "2"}},
			Left: []replication.SettingLeft{{Name: "min.insync.replicas", Value: "2", Why: "each cluster chooses"}}},
		{Topic: "c", Problem: "cannot be read"},
	}
	for range maxDrift {
		d = append(d, d[2])
	}
	c.showDrift(replication.LinkSpec{Source: "old", Target: "new"}, d)
	for _, want := range []string{"a has 3 partitions on old, and dc2.a has 2 on new", "retention.ms is 1 on old and 2 on new", "min.insync.replicas = 2 stays on old: each cluster chooses", "c: cannot be read", "and 4 more"} {
		require.Contains(t, out.String(), want)
	}
}
