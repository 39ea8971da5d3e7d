package chaos

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/chaos/checker"
	"github.com/starferry/starferry/internal/process"
)

// source is where a crew's records come from.
type source interface {
	Sent() []checker.Produced
	Close() error
	// add has records go to one more partition.
	add(tp starferry.TopicPartition)
}

// writers are the processes that produce a crew's records with the library.
type writers struct {
	w     *World
	crew  *crew
	names []string
	rate  int // records per second of each

	mu    sync.Mutex
	boots []*written
	errs  []error
}

// The numbers of records: each boot of each writer has a stretch of its own.
const (
	numbersOfWriter = 1_000_000_000_000
	numbersOfBoot   = 100_000_000
)

// startWriters starts to produce.
func (w *World) startWriters(c *crew, n int) (*writers, error) {
	s := &writers{w: w, crew: c, rate: w.Rate / n}
	for i := range n {
		name := fmt.Sprintf("writer-%d", i+1)
		s.names = append(s.names, name)
		v, err := w.waysOf(name)
		if err != nil {
			return nil, err
		}
		w.roles[name] = &role{start: func(boot int) (*process.Process, error) { return s.start(v, name, i+1, boot) }}
		if err := w.Start(name); err != nil {
			return nil, err
		}
	}
	w.writers = s
	return s, nil
}

func (s *writers) start(v *ways, name string, index, boot int) (*process.Process, error) {
	t := &written{topic: s.crew.lanes[0].Topic, path: filepath.Join(s.w.Dir, fmt.Sprintf("%s.%d.written", name, boot))}
	t.first = checker.ID(int64(index)*numbersOfWriter + int64(boot)*numbersOfBoot)
	if err := os.WriteFile(t.path, nil, 0o644); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.boots = append(s.boots, t)
	s.mu.Unlock()
	return s.w.Processes.Start(process.Spec{Name: name, Path: s.w.Self, Args: []string{"writer",
		"-old", v.addresses[0], "-new", v.addresses[1], "-nats", v.natsURL, "-topic", string(t.topic), "-partitions", fmt.Sprint(s.crew.partitions(t.topic)),
		"-instance", name, "-boot", fmt.Sprintf("%s.%d", name, boot), "-first", fmt.Sprint(int64(t.first)), "-rate", fmt.Sprint(s.rate), "-out", t.path}})
}

// all is what was sent so far.
func (s *writers) all() []checker.Written {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []checker.Written
	for _, t := range s.boots {
		if err := t.update(); err != nil {
			s.errs = append(s.errs, err)
		}
		all = append(all, t.all...)
	}
	return all
}

// Sent is the same, as a crew's history wants it.
func (s *writers) Sent() []checker.Produced { return producedOf(s.all()) }

func producedOf(written []checker.Written) []checker.Produced {
	all := make([]checker.Produced, 0, len(written))
	for _, w := range written {
		p := checker.Produced{ID: w.ID, TopicPartition: w.TopicPartition, Offset: starferry.NoOffset}
		if w.Cluster != "" {
			p.Offset = w.Offset
		}
		all = append(all, p)
	}
	return all
}

// add: writers know their partitions from the beginning.
func (s *writers) add(starferry.TopicPartition) {}

// Close asks them to end, which writes what they have taken.
func (s *writers) Close() error {
	for _, name := range s.names {
		r := s.w.roles[name]
		r.idle = true
		if r.p != nil {
			r.p.Stop()
		}
	}
	s.all()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.errs) > 0 {
		return fmt.Errorf("what writers noted: %w", s.errs[0])
	}
	return nil
}
