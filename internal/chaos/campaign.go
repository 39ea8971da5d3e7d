package chaos

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/starferry/starferry/internal/chaos/checker"
)

// Campaign is many trials in one world.
type Campaign struct {
	Trials int           // valid ones wanted
	Budget time.Duration // for all; 0: none
	Seed   uint64
	// Services kills nothing but processes of the service.
	Services bool
	Out      io.Writer
}

// Summary is what a campaign has shown.
type Summary struct {
	Valid, Void int
	Stopped     int            // valid trials whose run ended without moving the group
	Killed      map[string]int // valid trials by the role that was killed
	Hit         map[string]int // and by the phase in which it was
	Resumed     []time.Duration
	Verdict     checker.Verdict // of the whole history
	Took        time.Duration
}

// Run makes trials until enough are valid, the budget is spent, or the checker
// finds something.
func (c Campaign) Run(ctx context.Context, w *World) (Summary, error) {
	began := time.Now()
	s := Summary{Killed: map[string]int{}, Hit: map[string]int{}}
	var only []string
	if c.Services {
		only = serviceRoles()
	}
	faults := NewFaults(c.Seed, only...)
	for s.Valid < c.Trials {
		if c.Budget > 0 && time.Since(began) > c.Budget {
			return s, fmt.Errorf("%d of %d trials after %s: the budget is spent", s.Valid, c.Trials, c.Budget)
		}
		fault := faults.Next()
		from := time.Now()
		r, err := w.Trial(ctx, fault)
		if err != nil {
			return s, fmt.Errorf("trial %d (%s, %s): %w", s.Valid+s.Void+1, r.Way, fault, err)
		}
		s.add(r)
		c.tell(s, r, time.Since(from))
		if !r.Verdict.OK() {
			break
		}
	}
	if s.Verdict.OK() {
		// The load ends, so that every record ever sent is accounted for.
		if err := w.load.Close(); err != nil {
			w.Say("%v", err)
		}
		v, err := w.Check(ctx, settleWithin, false)
		if err != nil {
			return s, err
		}
		s.Verdict = v
	}
	s.Took = time.Since(began)
	return s, nil
}

func (s *Summary) add(r Result) {
	s.Verdict = r.Verdict
	if r.Void != "" {
		s.Void++
		return
	}
	s.Valid++
	if r.Stopped {
		s.Stopped++
	}
	s.Hit[cmp.Or(string(r.Hit), "before prepare")]++
	for _, k := range r.Fault.Kill {
		s.Killed[k]++
	}
	if r.Fault.Gone {
		s.Resumed = append(s.Resumed, r.Resumed)
	}
}

func (c Campaign) tell(s Summary, r Result, took time.Duration) {
	what := fmt.Sprintf("hit %s; %s", cmp.Or(string(r.Hit), "before prepare"), r.Outcome)
	if r.Void != "" {
		what += "; void: " + r.Void
	}
	if r.Fault.Gone {
		what += fmt.Sprintf("; went on by itself after %.1f s", r.Resumed.Seconds())
	}
	fmt.Fprintf(c.Out, "%s trial %2d %-5s %-48s %4.1f s  %s; %s\n", time.Now().Format("15:04:05"), s.Valid+s.Void, r.Way, r.Fault, took.Seconds(), what, r.Verdict)
}

// Report prints the summary and its figures.
func (s Summary) Report(out io.Writer) {
	fmt.Fprintf(out, "\n%d trials, %d void, %.0f s\n%s\n", s.Valid, s.Void, s.Took.Seconds(), s.Verdict)
	for _, f := range s.Verdict.Findings {
		fmt.Fprintln(out, "  "+f)
	}
	for _, counts := range []map[string]int{s.Killed, s.Hit} {
		for _, k := range slices.Sorted(maps.Keys(counts)) {
			fmt.Fprintf(out, "  %-14s %d\n", k, counts[k])
		}
	}
	figure := func(name string, value float64, unit string) {
		fmt.Fprintf(out, "figure %s %g %s\n", name, value, unit)
	}
	figure("chaos_trials", float64(s.Valid), "trials")
	figure("chaos_void", float64(s.Void), "trials")
	figure("chaos_stopped", float64(s.Stopped), "trials")
	figure("chaos_lost", float64(s.Verdict.Lost), "records")
	figure("chaos_doubled_unexplained", float64(s.Verdict.Doubled), "records")
	figure("chaos_repeated_explained", float64(s.Verdict.Repeated), "records")
	figure("chaos_out_of_order", float64(s.Verdict.OutOfOrder), "records")
	if len(s.Resumed) > 0 {
		figure("chaos_alone_worst", slices.Max(s.Resumed).Seconds(), "s")
	}
}
