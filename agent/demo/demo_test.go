package demo

import (
	"context"
	"math"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

// Guarantee 3: A switch loses nothing and hands no record to a handler twice
func TestTheStoryLosesNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r, err := Run(ctx, Options{
		Rate: 400, DataDir: t.TempDir(), dwell: 200 * time.Millisecond,
		Say: func(format string, args ...any) { t.Logf(format, args...) },
	})
	require.NoError(t, err)
	require.Zero(t, r.Lost)
	require.Zero(t, r.Twice)
	require.Zero(t, r.OutOfOrder)
	require.Equal(t, r.Produced, r.Handled)
	require.Equal(t, r.Produced, r.Copied, "each record once on the target")
	require.Equal(t, 3, r.Switches, "there, back, and there again")
	require.Len(t, r.Pauses, 3)
	require.Equal(t, 3*partitions, r.Positions)
	require.True(t, r.Exact)
	require.Greater(t, r.Produced, int64(300), "without traffic it proves nothing")
}

func TestBadOptions(t *testing.T) {
	for _, o := range []Options{{Source: "a:1"}, {Source: "a:1", Target: "a:1"}, {Rate: -1}, {Rate: math.NaN()}, {Records: -1}, {Records: math.MaxInt64}} {
		_, err := Run(t.Context(), o)
		require.ErrorContains(t, err, "demo: ")
	}
}

// One cluster under two addresses would be copied onto itself.
func TestOneClusterUnderTwoAddressesIsRefused(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	defer c.Close()
	_, port, err := net.SplitHostPort(c.ListenAddrs()[0])
	require.NoError(t, err)
	_, err = Run(t.Context(), Options{Source: "127.0.0.1:" + port, Target: "localhost:" + port})
	require.ErrorContains(t, err, "are the same cluster")
	require.Equal(t, scripting.ExitUsage, scripting.ExitCode(err))
}

// The time for many records grows with their number: at the usual rate, a
// million takes longer than any other part of the story may.
func TestManyRecordsAreWaitedFor(t *testing.T) {
	o, err := Options{Records: 1_000_000}.checked()
	require.NoError(t, err)
	require.Greater(t, o.enough(), 1_000_000/DefaultRate*time.Second)
	o, err = Options{Records: maxRecords, Rate: 1}.checked()
	require.NoError(t, err)
	require.Positive(t, o.enough())
}

// What the recorder says of faults that never happen in a good run.
func TestTheRecorderFindsWhatIsWrong(t *testing.T) {
	tp := starferry.TopicPartition{Topic: "orders", Partition: 1}
	at := time.Unix(0, 0)
	handle := func(r *recorder, c starferry.ClusterName, numbers ...int64) {
		for _, n := range numbers {
			at = at.Add(10 * time.Millisecond)
			r.handled(c, tp, valueOf(tp, n), at)
		}
	}
	for _, tc := range []struct {
		name                  string
		numbers               []int64
		lost, twice, disorder int64
	}{
		{"a good run", []int64{0, 1, 2, 3, 4}, 0, 0, 0},
		{"one lost", []int64{0, 1, 3, 4}, 1, 0, 0},
		{"the last lost", []int64{0, 1, 2, 3}, 1, 0, 0},
		{"one twice", []int64{0, 1, 1, 2, 3, 4}, 0, 1, 0},
		{"a stretch twice", []int64{0, 1, 2, 3, 1, 2, 3, 4}, 0, 3, 0},
		{"one late", []int64{0, 2, 1, 3, 4}, 0, 0, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRecorder()
			handle(r, "old", tc.numbers...)
			got := r.tally()
			require.Equal(t, []int64{tc.lost, tc.twice, tc.disorder},
				[]int64{got.lost(map[starferry.TopicPartition]int64{tp: 5}), got.twice, got.disorder})
		})
	}
	t.Run("records of others", func(t *testing.T) {
		r := newRecorder()
		r.handled("old", tp, []byte("hello"), at)
		require.Equal(t, int64(1), r.tally().alien)
	})
	t.Run("a pause", func(t *testing.T) {
		r := newRecorder()
		handle(r, "old", 0, 1)
		at = at.Add(90 * time.Millisecond)
		handle(r, "new", 2, 3)
		require.Len(t, r.switches(), 1)
		require.InDelta(t, 100, r.switches()[0].P50, 0.1)
		require.InDelta(t, 10, r.ordinary(), 0.1)
	})
}

// A batch that the demo writes reads back as what it is.
func TestBatches(t *testing.T) {
	tp := starferry.TopicPartition{Topic: "clicks", Partition: 3}
	for _, compress := range []bool{false, true} {
		raw, err := encode(identity{7, 1}, tp, 40, []string{"a", "b", "c"}, compress, time.Unix(1, 0))
		require.NoError(t, err)
		require.Equal(t, []stretch{{size: len(raw), first: 0, next: 3, records: 3}}, stretches(append(raw, raw[:20]...)), "the cut-off rest is left out")
		n, found, err := firstNumber(raw, 2)
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, int64(42), n)
		_, found, err = firstNumber(raw, 3)
		require.NoError(t, err)
		require.False(t, found)
	}
}
