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
	Trials int           // valid ones wanted; 0: as many as there are in For
	For    time.Duration // for all; with Trials it is an error to take longer; 0: no end
	Seed   uint64
	Only   string // the only deed; empty: all
	At     Aim    // the only aim, with Aimed
	Aimed  bool
	// Instances strikes nothing but instances, where a deed could strike others.
	Instances bool
	Out       io.Writer
}

// Summary is what a campaign has shown.
type Summary struct {
	Valid, Void  int
	Made, Undone int            // switches
	Deeds        map[string]int // valid trials by what was done
	Hit          map[string]int // and by the step in which it was
	Resumed      []time.Duration
	Stuck        error           // a group without a way forward
	Verdict      checker.Verdict // of the whole history
	Took         time.Duration
}

// OK reports whether nothing was found.
func (s Summary) OK() bool { return s.Stuck == nil && s.Verdict.OK() }

// First is the first thing that was found.
func (s Summary) First() string {
	switch {
	case len(s.Verdict.Findings) > 0:
		return s.Verdict.Findings[0]
	case s.Stuck != nil:
		return s.Stuck.Error()
	}
	return "nothing"
}

// Run makes trials until enough are valid, the time is over, or something is
// found.
func (c Campaign) Run(ctx context.Context, w *World) (s Summary, err error) {
	began := time.Now()
	s = Summary{Deeds: map[string]int{}, Hit: map[string]int{}}
	defer func() { s.Took = time.Since(began) }()
	faults, err := NewFaults(c.Seed, w.Kafka != "", c.Only, w.crews)
	if err != nil {
		return s, err
	}
	for s.OK() && (c.Trials == 0 || s.Valid < c.Trials) {
		if c.For > 0 && time.Since(began) > c.For {
			if c.Trials == 0 {
				break
			}
			return s, fmt.Errorf("%d of %d trials after %s: the time is over", s.Valid, c.Trials, c.For)
		}
		fault, deed := faults.Next()
		if c.Instances && deed.takes != nil && len(deed.takes) > 1 {
			continue
		}
		if c.Aimed {
			fault.At = c.At
		}
		from := time.Now()
		r, err := w.Trial(ctx, fault, deed)
		if err != nil {
			return s, fmt.Errorf("trial %d (%s, %s): %w", s.Valid+s.Void+1, r.Way, fault, err)
		}
		s.add(r)
		c.tell(s, r, time.Since(from))
	}
	if s.OK() {
		// The load ends, so that every record ever sent is accounted for.
		for _, c := range w.crews {
			if err := c.load.Close(); err != nil {
				w.Say("%v", err)
			}
		}
		s.Verdict, err = w.check(ctx, false)
	}
	return s, err
}

func (s *Summary) add(r Result) {
	s.Verdict, s.Stuck = r.Verdict, r.Stuck
	s.Made, s.Undone = s.Made+r.Made, s.Undone+r.Undone
	if r.Void != "" {
		s.Void++
		return
	}
	s.Valid++
	s.Hit[cmp.Or(string(r.Hit), "before prepare")]++
	s.Deeds[r.Fault.Deed]++
	if r.Resumed > 0 {
		s.Resumed = append(s.Resumed, r.Resumed)
	}
}

func (c Campaign) tell(s Summary, r Result, took time.Duration) {
	what := fmt.Sprintf("hit %s; %s", cmp.Or(string(r.Hit), "before prepare"), r.Outcome)
	if r.Void != "" {
		what += "; void: " + r.Void
	}
	if r.Resumed > 0 {
		what += fmt.Sprintf("; went on by itself after %.1f s", r.Resumed.Seconds())
	}
	if r.Stuck != nil {
		what += "; stuck: " + r.Stuck.Error()
	}
	if r.Fault.Both {
		r.Way += " both"
	}
	fmt.Fprintf(c.Out, "%s trial %2d %-10s %-52s %4.1f s  %s; %s\n", time.Now().Format("15:04:05"), s.Valid+s.Void, r.Way, r.Fault, took.Seconds(), what, r.Verdict)
}

// Report prints the summary and its figures.
func (s Summary) Report(out io.Writer) {
	fmt.Fprintf(out, "\n%d trials, %d void, %d switches made, %d undone, %.0f s\n%s\n", s.Valid, s.Void, s.Made, s.Undone, s.Took.Seconds(), s.Verdict)
	for _, f := range s.Verdict.Findings {
		fmt.Fprintln(out, "  "+f)
	}
	stuck := 0
	if s.Stuck != nil {
		stuck = 1
		fmt.Fprintln(out, "  stuck: "+s.Stuck.Error())
	}
	for i, counts := range []map[string]int{s.Deeds, s.Hit} {
		fmt.Fprintln(out, []string{"by fault", "by step"}[i])
		for _, k := range slices.Sorted(maps.Keys(counts)) {
			fmt.Fprintf(out, "  %-34s %d\n", k, counts[k])
		}
	}
	v := s.Verdict
	for _, f := range []struct {
		name  string
		value int
		unit  string
	}{
		{"trials", s.Valid, "trials"}, {"void", s.Void, "trials"}, {"switches", s.Made, "switches"}, {"undone", s.Undone, "switches"},
		{"records", v.Produced, "records"}, {"lost", v.Lost, "records"}, {"doubled_unexplained", v.Doubled, "records"},
		{"repeated_explained", v.Repeated, "records"}, {"repeated_unreported", v.Unreported, "records"},
		{"out_of_order", v.OutOfOrder, "records"}, {"two_active", v.TwoActive, "changes"}, {"stuck", stuck, "groups"},
	} {
		fmt.Fprintf(out, "figure chaos_%s %d %s\n", f.name, f.value, f.unit)
	}
	if len(s.Resumed) > 0 {
		fmt.Fprintf(out, "figure chaos_alone_worst %g s\n", slices.Max(s.Resumed).Seconds())
	}
}
