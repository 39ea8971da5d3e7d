package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/chaos/checker"
	"github.com/starferry/starferry/internal/chaos/ground"
	"github.com/starferry/starferry/internal/chaos/proxy"
	"github.com/starferry/starferry/internal/estate"
)

// Hand is a campaign in which operators lay hands on a group: a backlog is
// redistributed, producers and consumers are moved there and back, records are
// skipped, the group is throttled and paused, two of these at a time, and
// something fails meanwhile.
type Hand struct {
	Trials int           // valid ones wanted; 0: as many as there are in For
	For    time.Duration // for all; 0: no end
	Seed   uint64
	Only   string // the only deed; empty: all
	Act    string // the only act; empty: all
	Beside string // the only one beside it; empty: all, and none; "none"
	At     string // the only phase; empty: all, and any time
	Out    io.Writer
}

// HandSummary is what such a campaign has shown.
type HandSummary struct {
	Valid, Void         int
	Acts, Beside, Deeds map[string]int // of valid trials
	Redistributed       int            // records that went through overflow topics
	Stuck               error
	Verdict             checker.HandVerdict
	Took                time.Duration
}

// First is the first thing that was found.
func (s HandSummary) First() string {
	switch {
	case len(s.Verdict.Findings) > 0:
		return s.Verdict.Findings[0]
	case s.Stuck != nil:
		return s.Stuck.Error()
	}
	return "nothing"
}

// Writers is how many processes produce while hands are laid on a group.
const Writers = 2

// OK reports whether nothing was found.
func (s HandSummary) OK() bool { return s.Stuck == nil && s.Verdict.OK() }

// handRun is a campaign under way.
type handRun struct {
	Hand
	w *World
	c *crew
	*ear

	mu     sync.Mutex // of what acts leave for the checker
	skips  []checker.Skip
	limits []checker.Limit
	kept   map[starferry.ClusterName]*Reader
}

// Run makes trials until enough are valid, the time is over, or something is
// found.
func (h Hand) Run(ctx context.Context, w *World) (s HandSummary, err error) {
	began := time.Now()
	s = HandSummary{Acts: map[string]int{}, Beside: map[string]int{}, Deeds: map[string]int{}}
	defer func() { s.Took = time.Since(began) }()
	r := &handRun{Hand: h, w: w, c: w.crews[0], kept: map[starferry.ClusterName]*Reader{}}
	deals, err := h.deals(w.Kafka != "", r.c)
	if err != nil {
		return s, err
	}
	if err := r.open(ctx); err != nil {
		return s, err
	}
	for s.OK() && (h.Trials == 0 || s.Valid < h.Trials) && (h.For == 0 || time.Since(began) < h.For) {
		d := deals.next()
		from := time.Now()
		void, err := r.trial(ctx, d)
		var stuck stuckError
		if errors.As(err, &stuck) {
			s.Stuck, err = stuck, nil
		}
		if err != nil {
			return s, fmt.Errorf("trial %d (%s): %w", s.Valid+s.Void+1, d, err)
		}
		if s.Verdict, err = r.check(ctx, false, s.Stuck != nil); err != nil {
			return s, err
		}
		s.add(d, void)
		what := ""
		if void != "" {
			what = "void: " + void + "; "
		}
		if s.Stuck != nil {
			what += "stuck: " + s.Stuck.Error() + "; "
		}
		fmt.Fprintf(h.Out, "%s trial %2d %-66s %4.1f s  %s%s\n", time.Now().Format("15:04:05"), s.Valid+s.Void, d, time.Since(from).Seconds(), what, s.Verdict)
	}
	_, spilled := r.heard()
	for _, all := range spilled {
		s.Redistributed += len(all)
	}
	if s.OK() {
		// The writers end, so that every record ever sent is accounted for.
		if err := r.c.load.Close(); err != nil {
			return s, err
		}
		s.Verdict, err = r.check(ctx, true, false)
	}
	return s, err
}

func (s *HandSummary) add(d deal, void string) {
	if void != "" {
		s.Void++
		return
	}
	s.Valid++
	s.Acts[d.act]++
	s.Beside[d.beside]++
	s.Deeds[d.Deed]++
}

// open makes a link in each direction and listens.
func (r *handRun) open(ctx context.Context) error {
	for i, name := range []starferry.ClusterName{estate.Old, estate.New} {
		var lanes []starferry.TopicPartition
		for _, tp := range r.c.lanes {
			lanes = append(lanes, starferry.TopicPartition{Topic: starferry.Topic(r.c.group) + ".skipped", Partition: tp.Partition})
		}
		k, err := OpenReader(name, r.w.Addresses[i], lanes)
		if err != nil {
			return err
		}
		r.w.OnClose(k.Close)
		r.kept[name] = k
	}
	if err := r.links(ctx); err != nil {
		return err
	}
	var err error
	r.ear, err = r.w.listen(ctx, r.c)
	return err
}

func (r *handRun) links(ctx context.Context) error {
	for _, way := range [][2]string{{estate.Old, estate.New}, {estate.New, estate.Old}} {
		if err := r.insist(ctx, fmt.Sprintf("replicate([%q], source = %q, target = %q)", r.c.lanes[0].Topic, way[0], way[1]), nil); err != nil {
			return err
		}
	}
	return nil
}

// deal is what happens in one trial.
type deal struct {
	Fault
	act, beside string
	phase       string // of the act, at which the fault strikes; empty: Delay after it began
	lane        int
	late        time.Duration // the act beside begins this long after the other
	deed        deed
}

// String describes it in a few words.
func (d deal) String() string {
	at := "start"
	if d.phase != "" {
		at = d.phase
	}
	return fmt.Sprintf("%s, beside it %s: %s %s, %s + %s", d.act, d.beside, d.Deed, d.What, at, d.Delay.Round(time.Millisecond))
}

// deals deals them, the same for the same seed.
type deals struct {
	Hand
	random *rand.Rand
	faults *Faults
	acts   []string // what is left of a round
}

func (h Hand) deals(real bool, c *crew) (*deals, error) {
	d := &deals{Hand: h, random: rand.New(rand.NewPCG(h.Seed, h.Seed+1))}
	d.faults = &Faults{random: d.random, deck: handDeck(real, c), crews: []*crew{c}}
	if h.Only != "" {
		d.faults.deck = slices.DeleteFunc(d.faults.deck, func(x deed) bool { return x.name != h.Only })
	}
	if len(d.faults.deck) == 0 {
		return nil, fmt.Errorf("no fault is called %q", h.Only)
	}
	if _, ok := acts()[h.Act]; h.Act != "" && !ok {
		return nil, fmt.Errorf("no act is called %q; there are %s", h.Act, slices.Sorted(maps.Keys(acts())))
	}
	return d, nil
}

func (d *deals) next() deal {
	fault, what := d.faults.Next()
	if len(d.acts) == 0 {
		for _, name := range slices.Sorted(maps.Keys(acts())) {
			if acts()[name].phases != nil {
				d.acts = append(d.acts, name)
			}
		}
		d.random.Shuffle(len(d.acts), func(i, j int) { d.acts[i], d.acts[j] = d.acts[j], d.acts[i] })
	}
	x := deal{Fault: fault, act: d.acts[0], deed: what, lane: d.random.IntN(64), late: time.Duration(d.random.IntN(3000)) * time.Millisecond}
	d.acts = d.acts[1:]
	if d.Act != "" {
		x.act = d.Act
	}
	others := []string{"none", "none", "throttle", "skip", "pause", "producers"}
	if x.act == "producers" {
		others = others[:5]
	}
	if acts()[x.act].kind == redistributes {
		others = append(others, "switch") // which ends it
	}
	x.beside = others[d.random.IntN(len(others))]
	phases := append([]string{""}, acts()[x.act].phases...)
	if x.phase = phases[d.random.IntN(len(phases))]; x.phase == "" {
		x.Delay = time.Duration(d.random.IntN(1500)) * time.Millisecond
	} else {
		x.Delay = time.Duration(d.random.IntN(40)) * time.Millisecond
	}
	if d.Beside != "" {
		x.beside = d.Beside
	}
	if d.At != "" {
		x.phase = d.At
	}
	return x
}

// trial lets an act be done, perhaps another beside it, and a fault happen.
func (r *handRun) trial(ctx context.Context, d deal) (void string, err error) {
	t := &trial{w: r.w, fault: d.Fault, crews: []*crew{r.c}, lane: r.c.lanes[d.lane%len(r.c.lanes)]}
	if d.Slow {
		if err := r.w.weather(proxy.Weather{Delay: 10 * time.Millisecond}, r.w.parties()...); err != nil {
			return "", err
		}
	}
	began := time.Now()
	a := newAct(r, t, d.act)
	g, all := errgroup.WithContext(ctx)
	g.Go(func() error { defer close(a.over); return a.do(all, a) })
	if d.beside != "none" {
		g.Go(func() error {
			ground.Pause(all, d.late)
			b := newAct(r, t, d.beside)
			return b.do(all, b)
		})
	}
	g.Go(func() error {
		if !r.reach(all, a, d.phase) {
			void = "it was over before the fault"
		}
		ground.Pause(all, d.Delay)
		select {
		case <-a.over:
			void = "it was over before the fault"
		default:
		}
		err := d.deed.run(all, t)
		r.w.clear()
		if err == nil {
			err = r.w.StartAll(all)
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return void, err
	}
	if err := r.c.flows(ctx, time.Now(), r.w.patience); err != nil {
		return void, stuckError{fmt.Errorf("after the trial %w", err)}
	}
	if n := r.c.history.count(began); n < minHandled {
		void = fmt.Sprintf("only %d records were handled", n)
	}
	return void, nil
}

// check lets the checker read everything.
func (r *handRun) check(ctx context.Context, ended, stuck bool) (checker.HandVerdict, error) {
	within := r.w.patience / 2
	if stuck {
		within = plantWithin
	}
	e := checker.HandEvidence{Kept: map[checker.ID]bool{}, Ended: ended}
	e.Source, e.Target = estate.Old, estate.New
	e.Written = r.w.writers.all()
	sent := producedOf(e.Written)
	for deadline := time.Now().Add(within); ; {
		if err := r.read(ctx, &e); err != nil {
			return checker.HandVerdict{}, err
		}
		if r.whole(&e, sent) || time.Now().After(deadline) {
			break
		}
		ground.Pause(ctx, ground.Rare)
	}
	_, epoch, err := r.c.truth(ctx, r.w)
	if err != nil {
		return checker.HandVerdict{}, err
	}
	e.Moves = int(epoch)
	e.Handled, e.Strikes = r.c.history.handled(sent), r.c.history.strikes
	r.c.mu.Lock()
	e.Reported = slices.Collect(maps.Keys(r.c.reported))
	r.c.mu.Unlock()
	r.mu.Lock()
	e.Skips, e.Limits = slices.Clone(r.skips), slices.Clone(r.limits)
	r.mu.Unlock()
	e.Stretches, e.Spilled = r.heard()
	v := checker.CheckHand(e)
	if !stuck {
		err = r.released(ctx, &v)
	}
	return v, err
}

// read reads both clusters, and what skips have kept.
func (r *handRun) read(ctx context.Context, e *checker.HandEvidence) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	e.Logs = map[starferry.ClusterName]map[starferry.TopicPartition]checker.Log{}
	for name, reader := range r.w.readers {
		logs, err := reader.Logs(ctx)
		if err != nil {
			return err
		}
		e.Logs[name] = logs
	}
	for _, reader := range r.kept {
		logs, err := reader.Logs(ctx)
		if err != nil {
			return err
		}
		for _, log := range logs {
			for _, s := range log {
				e.Kept[s.ID] = true
			}
		}
	}
	return r.c.history.update()
}

// whole reports whether nothing that was acknowledged is missing any more: it
// was handled or kept, and in the end both clusters have it.
func (r *handRun) whole(e *checker.HandEvidence, sent []checker.Produced) bool {
	for _, p := range sent {
		if p.Acked() && !r.c.history.seen[p.ID] && !e.Kept[p.ID] {
			return false
		}
	}
	if !e.Ended {
		return true
	}
	acked := 0
	for _, p := range sent {
		if p.Acked() {
			acked++
		}
	}
	for _, logs := range e.Logs {
		n := 0
		for _, log := range logs {
			n += len(log)
		}
		if n < acked {
			return false
		}
	}
	return true
}

// Report prints the summary and its figures.
func (s HandSummary) Report(out io.Writer) {
	fmt.Fprintf(out, "\n%d trials, %d void, %.0f s\n%s\n", s.Valid, s.Void, s.Took.Seconds(), s.Verdict)
	for _, f := range s.Verdict.Findings {
		fmt.Fprintln(out, "  "+f)
	}
	stuck := 0
	if s.Stuck != nil {
		stuck = 1
		fmt.Fprintln(out, "  stuck: "+s.Stuck.Error())
	}
	for i, counts := range []map[string]int{s.Acts, s.Beside, s.Deeds} {
		fmt.Fprintln(out, []string{"by act", "beside it", "by fault"}[i])
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
		{"trials", s.Valid, "trials"}, {"void", s.Void, "trials"}, {"records", v.Produced, "records"}, {"redistributed", s.Redistributed, "records"}, {"lost", v.Lost, "records"},
		{"doubled_unexplained", v.Doubled, "records"}, {"repeated_explained", v.Repeated, "records"}, {"repeated_unreported", v.Unreported, "records"},
		{"out_of_order", v.OutOfOrder, "records"}, {"copied_wrong", v.CopiedWrong, "records"}, {"two_active", v.TwoActive, "changes"},
		{"skipped", v.Skipped, "records"}, {"handled_though_skipped", v.Passed, "records"}, {"too_fast", v.TooFast, "records"},
		{"not_released", v.Unreleased, "orders"}, {"stuck", stuck, "groups"},
	} {
		fmt.Fprintf(out, "figure hand_%s %d %s\n", f.name, f.value, f.unit)
	}
}
