package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/chaos/checker"
	"github.com/starferry/starferry/internal/chaos/ground"
	"github.com/starferry/starferry/internal/estate"
)

// history is what the processes of the service wrote, read as it grows.
type history struct {
	tails  []*tail
	deaths []checker.Death
}

// tail is the log of one boot.
type tail struct {
	boot, path string
	read       int64
	handled    []checker.Handling
}

func (h *history) add(boot, path string) { h.tails = append(h.tails, &tail{boot: boot, path: path}) }

// update reads what is new.
func (h *history) update() error {
	for _, t := range h.tails {
		if err := t.update(); err != nil {
			return err
		}
	}
	return nil
}

func (t *tail) update() error {
	f, err := os.Open(t.path)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, t.read, 1<<40))
	if err != nil {
		return fmt.Errorf("read %s: %w", t.path, err)
	}
	whole := b[:bytes.LastIndexByte(b, '\n')+1]
	lines, err := checker.ReadHandled(t.boot, bytes.NewReader(whole))
	if err != nil {
		return err
	}
	t.read += int64(len(whole))
	t.handled = append(t.handled, lines...)
	return nil
}

// since lists each lane's first handling after a time.
func (h *history) since(at time.Time) map[starferry.TopicPartition]time.Time {
	first := map[starferry.TopicPartition]time.Time{}
	for _, t := range h.tails {
		for i := len(t.handled) - 1; i >= 0 && t.handled[i].At.After(at); i-- {
			l := t.handled[i]
			if was, ok := first[l.TopicPartition]; !ok || l.At.Before(was) {
				first[l.TopicPartition] = l.At
			}
		}
	}
	return first
}

// count is how many records were handled after a time.
func (h *history) count(at time.Time) int {
	n := 0
	for _, t := range h.tails {
		for i := len(t.handled) - 1; i >= 0 && t.handled[i].At.After(at); i-- {
			n++
		}
	}
	return n
}

// died notes a killed boot with the commits of its group.
func (w *World) died(ctx context.Context, boot string, at time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	d := checker.Death{Boot: boot, At: at, Committed: map[starferry.ClusterName]map[starferry.TopicPartition]starferry.Offset{}}
	for name, r := range w.readers {
		c, err := r.Committed(ctx, w.group)
		if err != nil {
			return fmt.Errorf("after the death of %s: %w", boot, err)
		}
		d.Committed[name] = c
	}
	w.history.deaths = append(w.history.deaths, d)
	return nil
}

// flows waits until every lane has handed out a record produced lately.
func (w *World) flows(ctx context.Context, since time.Time, within time.Duration) error {
	missing := ""
	err := ground.Until(ctx, within, ground.Often, func() (bool, error) {
		if err := w.history.update(); err != nil {
			return false, err
		}
		seen := w.history.since(since)
		missing = ""
		for _, tp := range w.lanes {
			if _, ok := seen[tp]; !ok {
				missing += " " + tp.String()
			}
		}
		return missing == "", nil
	})
	if err != nil {
		return fmt.Errorf("nothing is handed out of%s: %w", missing, err)
	}
	return nil
}

// Check waits until all that was produced so far is handled, or a while, and
// lets the checker read everything.
func (w *World) Check(ctx context.Context, within time.Duration, copied bool) (checker.Verdict, error) {
	sent := w.load.Sent()
	known := make(map[checker.ID]bool, len(sent))
	for _, p := range sent {
		known[p.ID] = true
	}
	// What is still missing at the end is for the checker to say.
	if err := ground.Until(ctx, within, ground.Rare, func() (bool, error) { return w.allHandled(known) }); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return checker.Verdict{}, err
	}
	e := checker.Evidence{Source: estate.Old, Target: estate.New, Produced: sent, Deaths: w.history.deaths, Copied: copied,
		Logs: map[starferry.ClusterName]map[starferry.TopicPartition]checker.Log{}}
	for _, t := range w.history.tails {
		for _, l := range t.handled {
			if known[l.ID] {
				e.Handled = append(e.Handled, l)
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	// The target first: what it holds must be on the source by then.
	for _, name := range []starferry.ClusterName{estate.New, estate.Old} {
		logs, err := w.readers[name].Logs(ctx)
		if err != nil {
			return checker.Verdict{}, err
		}
		e.Logs[name] = logs
	}
	return checker.Check(e), nil
}

// allHandled reports whether each known record has been handled.
func (w *World) allHandled(known map[checker.ID]bool) (bool, error) {
	if err := w.history.update(); err != nil {
		return false, err
	}
	seen := make(map[checker.ID]bool, len(known))
	for _, t := range w.history.tails {
		for _, l := range t.handled {
			if known[l.ID] {
				seen[l.ID] = true
			}
		}
	}
	return len(seen) == len(known), nil
}
