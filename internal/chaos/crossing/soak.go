package crossing

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/starferry/starferry/internal/chaos/ground"
)

// Soak stands in for months of use: batches as fast as they come, through logs
// that forget soon, with ids that are renewed every second. What the shards hold
// must be flat after a while.
type Soak struct {
	For   time.Duration
	Every time.Duration // between two samples
	Out   io.Writer
}

// soakCargoes are many small batches in logs of little retention.
func soakCargoes() []cargo {
	short := map[string]string{"retention.bytes": strconv.Itoa(8 << 20), "segment.bytes": strconv.Itoa(1 << 20)}
	return []cargo{
		{topic: "tiny", partitions: 12, burst: 1, every: time.Millisecond, codec: kgo.NoCompression(), keys: 1000, configs: short},
		{topic: "lz4", partitions: 4, burst: 5, every: 2 * time.Millisecond, codec: kgo.Lz4Compression(), keys: 1000, configs: short},
		{topic: "txn", partitions: 4, burst: 2, every: 5 * time.Millisecond, codec: kgo.NoCompression(), keys: 1000, txn: true, configs: short},
	}
}

// sample is what all shards together hold at a moment.
type sample struct {
	after   time.Duration
	records int64
	rss     int64 // bytes
	files   int64 // open
	threads int64
	disk    int64 // bytes of all stores
}

// Run prints the series and fails if it grows, or if the copy is stuck.
func (s Soak) Run(ctx context.Context, w *World) error {
	began := time.Now()
	var series []sample
	fmt.Fprintf(s.Out, "%8s %12s %9s %6s %8s %9s\n", "after", "records", "RSS MiB", "files", "threads", "disk MiB")
	for time.Since(began) < s.For {
		ground.Pause(ctx, s.Every)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		now, err := w.sample()
		if err != nil {
			return err
		}
		now.after = time.Since(began)
		series = append(series, now)
		fmt.Fprintf(s.Out, "%7.0fs %12d %9.1f %6d %8d %9.1f\n", now.after.Seconds(), now.records, mib(now.rss), now.files, now.threads, mib(now.disk))
	}
	w.load.pause()
	defer w.load.resume()
	if err := w.caughtUp(ctx); err != nil {
		return err
	}
	last := series[len(series)-1]
	for name, value := range map[string]float64{"soak_records": float64(last.records), "soak_rss": mib(last.rss), "soak_files": float64(last.files), "soak_disk": mib(last.disk)} {
		fmt.Fprintf(s.Out, "figure %s %g\n", name, value)
	}
	return flat(series)
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// flat compares the last third of a series with the one before: what grows by
// more than a fifth, and by more than noise, leaks.
func flat(series []sample) error {
	if len(series) < 9 {
		return fmt.Errorf("%d samples tell nothing; want 9 at least", len(series))
	}
	third := len(series) / 3
	var errs error
	for _, m := range []struct {
		name  string
		noise int64
		of    func(sample) int64
	}{
		{"resident memory", 24 << 20, func(s sample) int64 { return s.rss }},
		{"open files", 24, func(s sample) int64 { return s.files }},
		{"threads", 12, func(s sample) int64 { return s.threads }},
		{"disk", 24 << 20, func(s sample) int64 { return s.disk }},
	} {
		before, after := median(series[third:2*third], m.of), median(series[2*third:], m.of)
		if after-before > max(m.noise, before/5) {
			errs = errors.Join(errs, fmt.Errorf("%s grows: %d in the middle third, %d in the last", m.name, before, after))
		}
	}
	return errs
}

func median(series []sample, of func(sample) int64) int64 {
	var all []int64
	for _, s := range series {
		all = append(all, of(s))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// sample looks at the shards from outside.
func (w *World) sample() (sample, error) {
	s := sample{records: w.load.acked.Load()}
	for _, name := range shardRoles() {
		proc := fmt.Sprintf("/proc/%d", w.role(name).PID())
		files, err := os.ReadDir(filepath.Join(proc, "fd"))
		if err != nil {
			return s, fmt.Errorf("look at %s: %w", name, err)
		}
		s.files += int64(len(files))
		text, err := os.ReadFile(filepath.Join(proc, "status"))
		if err != nil {
			return s, fmt.Errorf("look at %s: %w", name, err)
		}
		s.rss += field(string(text), "VmRSS:") << 10
		s.threads += field(string(text), "Threads:")
		err = filepath.WalkDir(w.storeOf(name), func(_ string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil // files come and go
			}
			if used, err := usedBytes(d); err == nil {
				s.disk += used
			}
			return nil
		})
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

// field reads a number of /proc/PID/status, proc(5).
func field(text, name string) int64 {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64) // the kernel writes numbers
			return n
		}
	}
	return 0
}
