package offsetmap

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
)

const benchRuns = 1_000_000

// bigLane stores a fully compacted lane of 1,000,000 runs: one record, one hole.
func bigLane(b *testing.B) (*Store, *Lane) {
	b.Helper()
	s := openStore(b, b.TempDir())
	l := openLane(b, s, key(1))
	require.NoError(b, l.Reset(0, 0))
	compacted(b, l, benchRuns)
	require.NoError(b, l.Flush())
	return s, l
}

func BenchmarkForwardHot(b *testing.B) {
	_, l := bigLane(b)
	for i := 0; b.Loop(); i++ {
		if a, _ := l.Forward(starferry.Offset(1000 + i%1000)); a.Offset < 0 {
			b.Fatal(a)
		}
	}
}

func BenchmarkForwardCold(b *testing.B) { benchCold(b, (*Lane).Forward, 2*benchRuns) }

func BenchmarkBackCold(b *testing.B) { benchCold(b, (*Lane).Back, benchRuns) }

// benchCold asks at random, without the cache, and reports the 99th percentile
// and what a run takes on disk.
func benchCold(b *testing.B, ask func(*Lane, starferry.Offset) (starferry.Answer, error), below int64) {
	s, l := bigLane(b)
	bytes := 0
	for _, e := range stored(b, s, key(1)) {
		bytes += len(e.key) + len(e.value)
	}
	var took []time.Duration
	for b.Loop() {
		at := starferry.Offset(rand.Int64N(below))
		begin := time.Now()
		a, err := ask(l, at)
		took = append(took, time.Since(begin))
		if err != nil || a.Offset < 0 {
			b.Fatal(a, err)
		}
		s.place(l.id, l.m.refs[max(0, min(l.m.bySource(at), len(l.m.refs)-1))].source).Store(nil)
		s.place(l.id, l.m.refs[max(0, min(l.m.byTarget(at), len(l.m.refs)-1))].source).Store(nil)
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
	b.ReportMetric(float64(bytes)/benchRuns, "bytes/run")
}

func BenchmarkOpenLane(b *testing.B) {
	s, l := bigLane(b)
	require.NoError(b, l.Close())
	for b.Loop() {
		l := openLane(b, s, key(1))
		require.NoError(b, l.Close())
	}
}

func BenchmarkAppendAndFlush(b *testing.B) {
	s := openStore(b, b.TempDir())
	l := openLane(b, s, key(1))
	require.NoError(b, l.Reset(0, 0))
	for b.Loop() {
		source, target := l.Next()
		if err := l.Append(Run{source, target, 100}); err != nil {
			b.Fatal(err)
		}
		if err := s.Flush(); err != nil {
			b.Fatal(err)
		}
	}
}
