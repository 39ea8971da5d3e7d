package crossing

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/starferry/starferry/internal/chaos/checker"
	"github.com/starferry/starferry/internal/chaos/ground"
	"github.com/starferry/starferry/internal/chaos/proxy"
)

// Campaign is many trials in one world.
type Campaign struct {
	For   time.Duration // of all trials
	Trial time.Duration // of the faults of one; then it is checked
	Seed  uint64
	Only  string // the name of the only fault; empty: all
	Out   io.Writer
}

// Summary is what a campaign has shown.
type Summary struct {
	Valid, Void int
	Faults      map[string]int
	Stuck       error // the copy has not caught up, or a lane has stopped
	Balance     checker.Balance
	Produced    int64
	Took        time.Duration
}

// Total is how many faults there were.
func (s Summary) Total() (n int) {
	for _, f := range s.Faults {
		n += f
	}
	return n
}

// OK reports whether nothing was found.
func (s Summary) OK() bool { return s.Stuck == nil && s.Balance.OK() }

// First is the first thing that was found.
func (s Summary) First() string {
	switch {
	case len(s.Balance.Findings) > 0:
		return s.Balance.Findings[0]
	case s.Stuck != nil:
		return s.Stuck.Error()
	}
	return "nothing"
}

// What a trial needs to count.
const (
	minFaults  = 3
	minRecords = 500
)

// Run makes trials until the time is over or something is found.
func (c Campaign) Run(ctx context.Context, w *World) (s Summary, err error) {
	began := time.Now()
	s.Faults = map[string]int{}
	deck := w.deck()
	if c.Only != "" {
		deck = slices.DeleteFunc(deck, func(f fault) bool { return f.name != c.Only })
		if len(deck) == 0 {
			return s, fmt.Errorf("no fault is called %q", c.Only)
		}
	}
	faults := newDeal(c.Seed, deck)
	defer func() { s.Took, s.Produced = time.Since(began), w.load.acked.Load() }()
	for s.OK() && time.Since(began) < c.For {
		if err := c.trial(ctx, w, faults, &s); err != nil {
			return s, err
		}
	}
	if s.OK() { // once more, the whole map
		w.load.pause()
		defer w.load.resume()
		if s.Stuck = w.caughtUp(ctx); s.Stuck == nil {
			s.Balance, err = w.check(ctx, true)
		}
	}
	return s, err
}

// trial lets faults happen for a while and then looks what is left.
func (c Campaign) trial(ctx context.Context, w *World, faults *deal, s *Summary) error {
	began, before := time.Now(), w.load.acked.Load()
	done, err := w.storm(ctx, faults, c.Trial)
	for name, n := range done {
		s.Faults[name] += n
	}
	if err != nil {
		return err
	}
	if err := w.startAll(); err != nil {
		return err
	}
	w.load.pause()
	defer w.load.resume()
	for _, err := range w.load.trouble() {
		w.Say("load: %v", err)
	}
	n, records := 0, w.load.acked.Load()-before
	for _, k := range done {
		n += k
	}
	if s.Stuck = w.caughtUp(ctx); s.Stuck != nil {
		s.Balance, err = w.checkStuck(ctx)
		return err
	}
	calm := time.Since(began)
	if s.Balance, err = w.check(ctx, false); err != nil {
		return err
	}
	what := ""
	if n < minFaults || records < minRecords {
		s.Void++
		what = "; void"
	} else {
		s.Valid++
	}
	fmt.Fprintf(c.Out, "%s trial %3d: %2d faults, %d records, caught up after %.1f s; %s%s\n", time.Now().Format("15:04:05"),
		s.Valid+s.Void, n, records, (calm - c.Trial).Seconds(), s.Balance, what)
	return nil
}

// storm begins faults one after the other, overlapping, and returns when the
// last of them is over.
func (w *World) storm(ctx context.Context, faults *deal, d time.Duration) (map[string]int, error) {
	var running sync.WaitGroup
	var mu sync.Mutex
	var errs error
	done := map[string]int{}
	for began := time.Now(); time.Since(began) < d && ctx.Err() == nil; {
		f, what, long := faults.next()
		if w.take(what) {
			done[f.name]++
			running.Go(func() {
				defer w.free(what)
				if err := f.run(ctx, w, what, long); err != nil && ctx.Err() == nil {
					mu.Lock()
					errs = errors.Join(errs, fmt.Errorf("%s, %s: %w", f.name, what, err))
					mu.Unlock()
				}
			})
		}
		ground.Pause(ctx, faults.between())
	}
	running.Wait()
	for _, p := range w.proxies {
		p.Forget()
		p.Set(proxy.Weather{})
	}
	if ctx.Err() != nil {
		errs = context.Cause(ctx)
	}
	return done, errs
}

// take gives a fault what it strikes, unless another has it.
func (w *World) take(what string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy[what] {
		return false
	}
	w.busy[what] = true
	return true
}

func (w *World) free(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.busy, what)
}

// Report prints the summary and its figures.
func (s Summary) Report(out io.Writer) {
	fmt.Fprintf(out, "\n%d trials, %d void, %d records produced, %.0f s\n", s.Valid, s.Void, s.Produced, s.Took.Seconds())
	for _, name := range slices.Sorted(maps.Keys(s.Faults)) {
		fmt.Fprintf(out, "  %-34s %d\n", name, s.Faults[name])
	}
	for _, f := range s.Balance.Findings {
		fmt.Fprintln(out, "  "+f)
	}
	if s.Stuck != nil {
		fmt.Fprintln(out, "  "+s.Stuck.Error())
	}
	fmt.Fprintf(out, "%s faults %d\n", s.Balance, s.Total())
	for _, f := range []struct {
		name  string
		value int
		unit  string
	}{
		{"copy_faults", s.Total(), "faults"}, {"copy_trials", s.Valid, "trials"}, {"copy_void", s.Void, "trials"},
		{"copy_copied", s.Balance.Copied, "records"}, {"copy_lost", s.Balance.Lost, "records"}, {"copy_doubled", s.Balance.Doubled, "records"},
		{"copy_out_of_order", s.Balance.OutOfOrder, "records"}, {"copy_altered", s.Balance.Altered, "records"},
		{"copy_map_asked", s.Balance.Asked, "offsets"}, {"copy_map_wrong", s.Balance.MapWrong, "offsets"}, {"copy_map_unknown", s.Balance.Unknown, "offsets"},
	} {
		fmt.Fprintf(out, "figure chaos_%s %d %s\n", f.name, f.value, f.unit)
	}
}
