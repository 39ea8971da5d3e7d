package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/replication/offsetmap"
)

const (
	mapRuns     = 1_000_000
	coldLookups = 50_000
	hotLookups  = 4_000_000
	// hotStretch is how many neighbouring offsets hot lookups go to: those of a
	// group that reads on.
	hotStretch = 1000
)

// offsetMap measures a map as a topic has it that is compacted everywhere: runs
// of 1 to 4 records, holes of 1 to 9 offsets, lengths at random so that no
// compression profits from their being alike. The store is closed, weighed by its
// files and opened again; cold lookups go to random places, forward and back in
// turn, and their answers are compared. The plain topic is one that was copied
// in 10,000 batches.
func offsetMap(b *bench, _ context.Context, dir string) (Values, error) {
	m := &mapped{dir: filepath.Join(dir, "maps"), runs: b.sized(mapRuns, 100_000)}
	if err := m.within(m.build); err != nil {
		return nil, err
	}
	bytes, err := weigh(m.dir)
	if err != nil {
		return nil, err
	}
	values := Values{"map_bytes_per_run": float64(bytes) / float64(m.runs)}
	err = m.within(func(s *offsetmap.Store) error { return errors.Join(m.cold(s, values), m.plain(s, values)) })
	return values, err
}

// mapped is the store that is measured.
type mapped struct {
	dir  string
	runs int
	all  []offsetmap.Run
}

func (m *mapped) within(work func(*offsetmap.Store) error) error {
	s, err := offsetmap.OpenStore(m.dir, offsetmap.Options{})
	if err != nil {
		return err
	}
	return errors.Join(work(s), s.Close())
}

func (m *mapped) lane(s *offsetmap.Store, topic starferry.Topic) (*offsetmap.Lane, error) {
	return s.Lane(offsetmap.LaneKey{Link: link, TopicPartition: starferry.TopicPartition{Topic: topic}, Incarnation: "0123456789abcdef"})
}

func (m *mapped) build(s *offsetmap.Store) error {
	l, err := m.lane(s, "compacted")
	if err != nil {
		return err
	}
	if err := l.Reset(0, 0); err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(1, 2))
	var source, target starferry.Offset
	for range m.runs {
		r := offsetmap.Run{Source: source, Target: target, Count: 1 + random.Int64N(4)}
		hole := starferry.Offset(1 + random.Int64N(9))
		source, target = source+starferry.Offset(r.Count), target+starferry.Offset(r.Count)
		if err := l.Append(r); err != nil {
			return err
		}
		if err := l.Hole(source, source+hole, starferry.Compacted); err != nil {
			return err
		}
		source += hole
		m.all = append(m.all, r)
	}
	return l.Close()
}

// weigh sums the sizes of a directory's files.
func weigh(dir string) (int64, error) {
	var bytes int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "DISCARD" { // Badger keeps 1 MB of statistics whatever the store holds
			return err
		}
		info, err := d.Info()
		if err == nil {
			bytes += info.Size()
		}
		return err
	})
	return bytes, err
}

func (m *mapped) cold(s *offsetmap.Store, values Values) error {
	l, err := m.lane(s, "compacted")
	if err != nil {
		return err
	}
	took := make([]time.Duration, coldLookups)
	for i := range took {
		r := m.all[rand.IntN(len(m.all))]
		ask, at, want := l.Forward, r.Source, r.Target
		if i%2 == 1 {
			ask, at, want = l.Back, r.Target, r.Source
		}
		begin := time.Now()
		a, err := ask(at)
		took[i] = time.Since(begin)
		if err != nil || a.Offset != want || a.Status != starferry.Exact {
			return fmt.Errorf("look up %d: %+v, want %d exactly: %w", at, a, want, err)
		}
	}
	slices.Sort(took)
	values["map_cold_lookup_p99_us"] = float64(took[len(took)*99/100].Nanoseconds()) / 1e3
	from := m.all[len(m.all)/2].Source
	begin := time.Now()
	for i := range starferry.Offset(hotLookups) {
		if _, err := l.Forward(from + i%hotStretch); err != nil {
			return err
		}
	}
	values["map_hot_lookups_per_s"] = hotLookups / time.Since(begin).Seconds()
	return nil
}

// plain counts the runs of a topic that was copied batch by batch.
func (m *mapped) plain(s *offsetmap.Store, values Values) error {
	l, err := m.lane(s, "plain")
	if err != nil {
		return err
	}
	if err := l.Reset(0, 0); err != nil {
		return err
	}
	for i := range starferry.Offset(10_000) {
		if err := l.Append(offsetmap.Run{Source: i * 100, Target: i * 100, Count: 100}); err != nil {
			return err
		}
	}
	if err := l.Flush(); err != nil {
		return err
	}
	runs := 0
	for _, err := range l.Segments(0) {
		if err != nil {
			return err
		}
		runs++
	}
	values["map_plain_runs"] = float64(runs)
	return nil
}
