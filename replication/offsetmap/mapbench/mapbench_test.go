package mapbench

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMeasure(t *testing.T) {
	if testing.Short() {
		t.Skip("builds 10,000 lanes")
	}
	f, err := Measure(t.TempDir(), 20_000)
	require.NoError(t, err)
	require.Positive(t, f.ColdP99)
	require.Positive(t, f.PlainOpen)
	require.Less(t, f.BytesPerRun, 16.0, "on disk, averaged over blocks")
}

func BenchmarkMap(b *testing.B) {
	for b.Loop() {
		f, err := Measure(b.TempDir(), 1_000_000)
		require.NoError(b, err)
		b.ReportMetric(f.BytesPerRun, "map_bytes_per_run")
		b.ReportMetric(float64(f.ColdP99.Nanoseconds())/1e3, "map_cold_lookup_p99_us")
		b.ReportMetric(f.HotPerSecond, "map_hot_lookups_per_s")
		b.ReportMetric(f.Open.Seconds()*1e3, "map_open_ms")
		b.ReportMetric(float64(f.PlainOpen.Nanoseconds())/1e3, "map_open_plain_us")
	}
}
