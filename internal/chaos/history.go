package chaos

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/chaos/checker"
)

// history is what the processes of the service wrote, read as it grows.
type history struct {
	tails   []*tail
	strikes []checker.Strike
	seen    map[checker.ID]bool
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
	if h.seen == nil {
		h.seen = map[checker.ID]bool{}
	}
	for _, t := range h.tails {
		was := len(t.handled)
		if err := t.update(); err != nil {
			return err
		}
		for _, l := range t.handled[was:] {
			h.seen[l.ID] = true
		}
	}
	return nil
}

// covers reports whether each record that was sent has been handled.
func (h *history) covers(sent []checker.Produced) (bool, error) {
	if err := h.update(); err != nil {
		return false, err
	}
	for _, p := range sent {
		if p.Acked() && !h.seen[p.ID] {
			return false, nil
		}
	}
	return true, nil
}

// handled are the handlings of what was sent.
func (h *history) handled(sent []checker.Produced) []checker.Handling {
	known := make(map[checker.ID]bool, len(sent))
	for _, p := range sent {
		known[p.ID] = true
	}
	var all []checker.Handling
	for _, t := range h.tails {
		for _, l := range t.handled {
			if known[l.ID] {
				all = append(all, l)
			}
		}
	}
	return all
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
