// Package mapbench measures the offset map as users meet it: what a run takes on
// disk, and how long a place takes to be looked up. Tests check none of it: it
// depends on the machine.
package mapbench

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/replication/offsetmap"
)

// Figures of a store with one fully compacted lane: runs of one record with a
// hole behind each, the worst that a topic can be.
type Figures struct {
	Runs         int
	BytesPerRun  float64       // of the closed store, but for 1 MB that every store has
	Open         time.Duration // of the lane, all of it verified
	ColdP99      time.Duration // of Forward and Back, mixed, right after opening
	HotPerSecond float64       // lookups on one goroutine, within 1,000 records
	PlainOpen    time.Duration // of a lane of one run, averaged over PlainLanes
	PlainLanes   int
}

const (
	coldLookups = 20_000
	hotLookups  = 2_000_000
	plainLanes  = 10_000
)

// Measure builds a store in an empty directory and measures it. It takes some
// seconds for 1,000,000 runs.
func Measure(dir string, runs int) (Figures, error) {
	f := Figures{Runs: runs, PlainLanes: plainLanes}
	for _, step := range []func(string, *Figures) error{build, size, lookUp, plain} {
		if err := step(dir, &f); err != nil {
			return f, fmt.Errorf("measure offset map in %s: %w", dir, err)
		}
	}
	return f, nil
}

func lane(topic starferry.Topic, p int) offsetmap.LaneKey {
	return offsetmap.LaneKey{
		Link: "old-new", TopicPartition: starferry.TopicPartition{Topic: topic, Partition: starferry.Partition(p)},
		Incarnation: "0123456789abcdef0123456789abcdef.0123456789abcdef0123456789abcdef",
	}
}

// within opens the store and closes it behind work.
func within(dir string, work func(*offsetmap.Store) error) error {
	s, err := offsetmap.OpenStore(dir, offsetmap.Options{})
	if err != nil {
		return err
	}
	if err := work(s); err != nil {
		_ = s.Close() // the first error tells more
		return err
	}
	return s.Close()
}

func build(dir string, f *Figures) error {
	return within(dir, func(s *offsetmap.Store) error {
		l, err := s.Lane(lane("compacted", 0))
		if err != nil {
			return err
		}
		if err := l.Reset(0, 0); err != nil {
			return err
		}
		for i := range starferry.Offset(f.Runs) {
			if err := l.Append(offsetmap.Run{Source: 2 * i, Target: i, Count: 1}); err != nil {
				return err
			}
			if err := l.Hole(2*i+1, 2*i+2, starferry.Compacted); err != nil {
				return err
			}
		}
		return l.Close()
	})
}

func size(dir string, f *Figures) error {
	var bytes int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "DISCARD" {
			return err
		}
		info, err := d.Info()
		if err == nil {
			bytes += info.Size()
		}
		return err
	})
	f.BytesPerRun = float64(bytes) / float64(f.Runs)
	return err
}

func lookUp(dir string, f *Figures) error {
	return within(dir, func(s *offsetmap.Store) error {
		begin := time.Now()
		l, err := s.Lane(lane("compacted", 0))
		if err != nil {
			return err
		}
		f.Open = time.Since(begin)
		took := make([]time.Duration, coldLookups)
		for i := range took {
			at := rand.Int64N(int64(f.Runs))
			source, target := starferry.Offset(2*at), starferry.Offset(at)
			ask, o, want := l.Forward, source, target
			if i%2 == 1 {
				ask, o, want = l.Back, target, source
			}
			begin := time.Now()
			a, err := ask(o)
			took[i] = time.Since(begin)
			if err != nil || a.Offset != want {
				return fmt.Errorf("look up %d: %+v, want %d: %w", o, a, want, err)
			}
		}
		slices.Sort(took)
		f.ColdP99 = took[len(took)*99/100]
		begin = time.Now()
		for i := range starferry.Offset(hotLookups) {
			if _, err := l.Forward(i % 1000); err != nil {
				return err
			}
		}
		f.HotPerSecond = hotLookups / time.Since(begin).Seconds()
		return nil
	})
}

// plain opens many lanes of one run, as a shard does when it starts.
func plain(dir string, f *Figures) error {
	dir = filepath.Join(dir, "plain")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	err := within(dir, func(s *offsetmap.Store) error {
		for p := range plainLanes {
			l, err := s.Lane(lane("plain", p))
			if err != nil {
				return err
			}
			if err := l.Reset(0, 0); err != nil {
				return err
			}
			if err := l.Append(offsetmap.Run{Count: 1_000_000}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return within(dir, func(s *offsetmap.Store) error {
		begin := time.Now()
		for p := range plainLanes {
			if _, err := s.Lane(lane("plain", p)); err != nil {
				return err
			}
		}
		f.PlainOpen = time.Since(begin) / plainLanes
		return nil
	})
}
