package bench

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/internal/records"
	"github.com/starferry/starferry/replication/batch"
)

func TestEveryFigureHasOneName(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range catalogue() {
		require.False(t, seen[f.Name], f.Name)
		seen[f.Name] = true
		require.NotEmpty(t, f.Text)
		require.NotEmpty(t, f.Unit)
		require.NotContains(t, f.Unit, " ", "machines split the line at spaces")
	}
}

func TestAFigureNobodyKnowsIsAnError(t *testing.T) {
	_, err := assemble(Values{"copy_rsp": 1})
	require.ErrorContains(t, err, "copy_rsp")
}

func TestTheRelayIsComparedWithTheCopyOfTheSameRun(t *testing.T) {
	figures, err := assemble(Values{"copy_cpu_s_per_gb": 0.9, "relay_cpu_s_per_gb": 0.5})
	require.NoError(t, err)
	ratio := figures[len(figures)-1]
	require.Equal(t, "copy_cpu_ratio_relay", ratio.Name)
	require.InDelta(t, 1.8, ratio.Value, 1e-9)
	require.True(t, ratio.Met())
	figures, err = assemble(Values{"relay_cpu_s_per_gb": 0.5})
	require.NoError(t, err)
	require.Len(t, figures, 1, "no copy, no ratio")
}

func TestBarsAreMetAtTheirLimit(t *testing.T) {
	for _, c := range []struct {
		bar   *Bar
		value float64
		met   bool
		text  string
	}{
		{least(2), 2, true, "≥ 2"}, {least(2), 1.99, false, "≥ 2"},
		{most(10), 10, true, "≤ 10"}, {most(10), 10.01, false, "≤ 10"},
		{most(0), 0, true, "0"}, {most(0), 1, false, "0"},
		{least(1_000_000), 17e6, true, "≥ 1,000,000"}, {nil, 1, true, ""},
	} {
		require.Equal(t, c.met, Figure{Bar: c.bar, Value: c.value}.Met(), "%v against %v", c.value, c.bar)
		require.Equal(t, c.text, c.bar.String())
	}
}

func TestPartsAreChosenByName(t *testing.T) {
	all, err := choose(nil)
	require.NoError(t, err)
	require.Len(t, all, len(parts()))
	some, err := choose([]string{"map", "copy"})
	require.NoError(t, err)
	require.Equal(t, []string{"copy", "map"}, []string{some[0].name, some[1].name})
	_, err = choose([]string{"copy", "cpoy"})
	require.ErrorContains(t, err, `no part "cpoy"; there are: latency, copy, relay`)
}

func given(t *testing.T) report {
	t.Helper()
	figures, err := assemble(Values{"copy_rps": 427123.4, "copy_rps_ratio_mm2": 4.1, "latency_p99_ms": 44.25})
	require.NoError(t, err)
	return report{figures: figures, parts: []string{"copy", "latency", "lanes"}, took: 90 * time.Second, machine: []fact{{"machine", "2 cores"}},
		failed: []failure{{"lanes", errors.New("no room\nand more")}}}
}

func TestAReportHasATableLinesForMachinesAndAVerdict(t *testing.T) {
	var s strings.Builder
	require.NoError(t, given(t).print(&s))
	for _, line := range []string{
		"machine: 2 cores", "427,123", "MISSED", "figure copy_rps 427123.400 records/s\n", "figure latency_p99_ms 44.250 ms\n",
		"1 bars met, 1 missed, 1 parts could not run; 1m30s in all.", "missed: latency_p99_ms is 44.2, the bar is ≤ 10", "could not run: lanes: no room\n",
	} {
		require.Contains(t, s.String(), line)
	}
}

func TestResultsReplaceThoseBetweenTheMarks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "B.md")
	require.NoError(t, os.WriteFile(path, []byte("before\n"+beginMark+"\nold\n"+endMark+"\nbehind\n"), 0o644))
	for range 2 {
		require.NoError(t, given(t).into(path))
	}
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(text), "before\n"+beginMark+"\n- machine: 2 cores\n"))
	require.True(t, strings.HasSuffix(string(text), endMark+"\nbehind\n"))
	require.NotContains(t, string(text), "old")
	require.Equal(t, 1, strings.Count(string(text), "| records/s of one link, uncompressed | 427,123 records/s |  |  | `copy_rps` |"))

	require.NoError(t, os.WriteFile(path, []byte(beginMark+"\nmine\n"), 0o644))
	require.ErrorContains(t, given(t).into(path), "no \""+endMark)
	fresh := filepath.Join(t.TempDir(), "fresh.md")
	require.NoError(t, given(t).into(fresh))
	require.FileExists(t, fresh)
}

func TestABatchBearsNumbersAndItsTime(t *testing.T) {
	for _, codec := range []batch.Codec{batch.None, batch.LZ4} {
		l := Load{Topic: "t", Partitions: 1, Size: 100, Batch: 7, Codec: codec}
		b, err := l.maker(0).batch(40, 7, 3*time.Millisecond)
		require.NoError(t, err)
		require.NoError(t, b.Verify())
		require.Equal(t, codec, b.Codec())
		all, _, err := records.Decode(b, 0, nil)
		require.NoError(t, err)
		require.Len(t, all, 7)
		for i, r := range all {
			n, at, ok := stampOf(r.Value)
			require.True(t, ok)
			require.Equal(t, int64(40+i), n)
			require.Equal(t, 3*time.Millisecond, at)
			require.Len(t, r.Value, 100)
		}
	}
	_, _, ok := stampOf([]byte("short"))
	require.False(t, ok)
}
