package scripting

import (
	"context"
	"slices"
	"sync"
)

// MemoryJournal is a Journal that lives as long as the process: for tests, and
// for runs that nobody needs to take over.
type MemoryJournal struct {
	mu   sync.Mutex
	seq  uint64
	runs map[string][]Record
	all  []string
}

// NewMemoryJournal returns an empty journal.
func NewMemoryJournal() *MemoryJournal { return &MemoryJournal{runs: map[string][]Record{}} }

// Append implements Journal.
func (j *MemoryJournal) Append(ctx context.Context, after uint64, r Record) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, context.Cause(ctx)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	records := j.runs[r.Run]
	var last uint64
	if len(records) > 0 {
		last = records[len(records)-1].Seq
	} else {
		j.all = append(j.all, r.Run)
	}
	if last != after {
		return 0, ErrFenced
	}
	j.seq++
	r.Seq = j.seq
	j.runs[r.Run] = append(records, r)
	return r.Seq, nil
}

// Read implements Journal.
func (j *MemoryJournal) Read(ctx context.Context, run string) ([]Record, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.runs[run]), nil
}

// Runs implements Journal.
func (j *MemoryJournal) Runs(ctx context.Context) ([]string, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.all), nil
}
