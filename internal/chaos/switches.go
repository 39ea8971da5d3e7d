package chaos

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/internal/chaos/checker"
	"github.com/starferry/starferry/internal/chaos/ground"
)

// Switches moves a group there and back, again and again, while it is busy. No
// fault happens: nothing may be lost, handled twice or out of order, with no
// explanation allowed.
type Switches struct {
	Times int // switches, there and back counted
	Out   io.Writer
}

// SwitchesSummary is what they have shown.
type SwitchesSummary struct {
	Made    int
	Control []float64 // of each switch, from the order to drain to the decision, ms
	Pauses  []float64 // of each switch, the longest of a partition, ms
	Lanes   []float64 // of each partition of each switch, ms
	Verdict checker.Verdict
	Took    time.Duration
}

// switchesScript goes to and fro in one run.
const switchesScript = `"""Move a consumer group there and back, many times."""

params(
    group = param(group, "orders", "group to move"),
    times = param(int, 1, "how often there and back"),
)

def link(m):
    link = replicate(topics_of("old", m.p.group), source = "old", target = "new")
    assert_lag(link, max = 500, within = "2m")
    return struct(link = link)

def switch(m):
    for i in range(m.p.times):
        switch_consumer(m.p.group, source = "old", target = "new", link = m.out.link.link)
        switch_consumer(m.p.group, source = "new", target = "old", link = m.out.link.link)

to_and_fro = migration(name = "{group}-to-and-fro", phases = [phase("link", do = link), phase("switch", do = switch)])
`

// Run makes all switches and checks what was handled.
func (s Switches) Run(ctx context.Context, w *World) (sum SwitchesSummary, err error) {
	began := time.Now()
	defer func() { sum.Took = time.Since(began) }()
	c := w.crews[0]
	script := filepath.Join(w.Dir, "switches.star")
	if err := os.WriteFile(script, []byte(switchesScript), 0o644); err != nil {
		return sum, err
	}
	op, err := w.command("run", script, "--auto-approve", "-p", "group="+string(c.group), "-p", "times="+strconv.Itoa((s.Times+1)/2))
	if err != nil {
		return sum, err
	}
	said := time.Now()
	for op.Running() && ctx.Err() == nil {
		ground.Pause(ctx, ground.Rare)
		if time.Since(said) > 30*time.Second {
			said = time.Now()
			p, _, err := w.store.Placement(ctx, c.group)
			w.Say("epoch %d (%v)", p.Epoch, err)
		}
	}
	if err := op.Wait(ctx); err != nil {
		return sum, err
	}
	if err := c.load.Close(); err != nil {
		w.Say("%v", err)
	}
	if sum.Verdict, err = c.check(ctx, w, settleWithin); err != nil {
		return sum, err
	}
	return sum, sum.measure(ctx, w, c)
}

// measure reads what the audit trail tells of each switch.
func (s *SwitchesSummary) measure(ctx context.Context, w *World, c *crew) error {
	events, err := w.store.AuditLog(ctx, desired.AuditFilter{Group: c.group})
	if err != nil {
		return err
	}
	for _, e := range events {
		var r fleet.Story
		if e.What != "switched" || json.Unmarshal(e.Data, &r) != nil || r.Attempts == 0 {
			continue
		}
		s.Made++
		s.Control = append(s.Control, r.ControlMS)
		worst := 0.0
		for _, p := range r.Places() {
			if p.PauseMS != nil {
				s.Lanes = append(s.Lanes, *p.PauseMS)
				worst = max(worst, *p.PauseMS)
			}
		}
		s.Pauses = append(s.Pauses, worst)
	}
	for _, all := range [][]float64{s.Control, s.Pauses, s.Lanes} {
		slices.Sort(all)
	}
	return nil
}

// percentile of sorted values.
func percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(p/100*float64(len(sorted))))]
}

// Judge returns what was wrong. Not even an explained repeat is right.
func (s SwitchesSummary) Judge(want int) error {
	var errs error
	if !s.Verdict.OK() || s.Verdict.Repeated > 0 {
		errs = errors.New("the checker found what must not be: " + cmp.Or(s.First(), "records were handled twice"))
	}
	if s.Made < want {
		errs = errors.Join(errs, fmt.Errorf("the audit trail tells of %d switches, not of %d", s.Made, want))
	}
	return errs
}

// First is the first thing that was found.
func (s SwitchesSummary) First() string {
	if len(s.Verdict.Findings) > 0 {
		return s.Verdict.Findings[0]
	}
	return ""
}

// Report prints the summary and its figures.
func (s SwitchesSummary) Report(out io.Writer) {
	fmt.Fprintf(out, "\n%d switches in %.0f s\n%s\n", s.Made, s.Took.Seconds(), s.Verdict)
	for _, f := range s.Verdict.Findings {
		fmt.Fprintln(out, "  "+f)
	}
	fmt.Fprintf(out, "%-46s %8s %8s %8s %8s\n", "ms", "p50", "p95", "p99", "worst")
	for _, row := range []struct {
		name string
		of   []float64
	}{{"from the order to drain to the decision", s.Control}, {"between two records of a partition", s.Lanes}, {"the same, of the slowest partition of a switch", s.Pauses}} {
		fmt.Fprintf(out, "%-46s %8.1f %8.1f %8.1f %8.1f\n", row.name, percentile(row.of, 50), percentile(row.of, 95), percentile(row.of, 99), percentile(row.of, 100))
	}
	v := s.Verdict
	for _, f := range []struct {
		name  string
		value float64
		unit  string
	}{
		{"made", float64(s.Made), "switches"}, {"records", float64(v.Produced), "records"}, {"lost", float64(v.Lost), "records"},
		{"twice", float64(v.Doubled + v.Repeated), "records"}, {"out_of_order", float64(v.OutOfOrder), "records"},
		{"control_p50", percentile(s.Control, 50), "ms"}, {"control_p99", percentile(s.Control, 99), "ms"},
		{"pause_p50", percentile(s.Lanes, 50), "ms"}, {"pause_p99", percentile(s.Lanes, 99), "ms"},
	} {
		fmt.Fprintf(out, "figure switches_%s %g %s\n", f.name, f.value, f.unit)
	}
}
