package conformance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Options say what is tried, and where.
type Options struct {
	// Command starts the client.
	Command []string
	// Old and New are brokers of two clusters; empty: embedded ones. NATS is an
	// address; empty: an embedded one.
	Old, New []string
	NATS     string
	// Only are the scenarios to be played; empty: all.
	Only []string
	// AtOnce is how many are played at the same time; 0 means 4.
	AtOnce int
	// Patience is how long anything expected is waited for; 0 means 20 s.
	Patience time.Duration
	// Tell, if set, is told each result as it comes, one at a time.
	Tell func(Result)
	Log  *slog.Logger // nil discards
}

// Result is how a client did in one scenario.
type Result struct {
	Scenario string  `json:"scenario"`
	What     string  `json:"what"`
	OK       bool    `json:"ok"`
	Unmet    *Unmet  `json:"unmet,omitempty"`
	Error    string  `json:"error,omitempty"` // of the ground, not of the client
	Said     string  `json:"said,omitempty"`  // the end of what an instance wrote to standard error
	Seconds  float64 `json:"seconds"`
}

// String is the result in a line or, if it is not ok, in a few.
func (r Result) String() string {
	head := fmt.Sprintf("%-4s %-22s %4.1fs  %s", map[bool]string{true: "ok", false: "FAIL"}[r.OK], r.Scenario, r.Seconds, r.What)
	if r.OK {
		return head
	}
	if r.Unmet != nil {
		head += fmt.Sprintf("\n     expected: %s\n     seen:     %s\n     see:      docs/protocol.md, section %s", r.Unmet.Expected, r.Unmet.Seen, r.Unmet.Section)
	} else {
		head += "\n     " + r.Error
	}
	if r.Said != "" {
		head += "\n     the client said: " + strings.ReplaceAll(r.Said, "\n", "\n       ")
	}
	return head
}

// Scenarios lists their names with what they are about, in the order they are
// played.
func Scenarios() [][2]string {
	var out [][2]string
	for _, s := range scenarios() {
		out = append(out, [2]string{s.name, s.what})
	}
	return out
}

// Run plays scenarios and returns how the client did, in their order. An error
// means that they could not be played.
func Run(ctx context.Context, o Options) ([]Result, error) {
	chosen, err := choose(o.Only)
	if err != nil {
		return nil, err
	}
	if len(o.Command) == 0 {
		return nil, errors.New("conformance: no command; give the one that starts your client")
	}
	if o.AtOnce <= 0 {
		o.AtOnce = 4
	}
	if o.Patience <= 0 {
		o.Patience = 20 * time.Second
	}
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	g, err := openGround(ctx, o, log)
	if err != nil {
		return nil, err
	}
	results := make([]Result, len(chosen))
	tell := make(chan Result, len(chosen))
	told := make(chan struct{})
	go func() {
		defer close(told)
		for r := range tell {
			if o.Tell != nil {
				o.Tell(r)
			}
		}
	}()
	var players errgroup.Group
	players.SetLimit(o.AtOnce)
	for i, sc := range chosen {
		players.Go(func() error {
			results[i] = play(ctx, g, o, sc, log)
			tell <- results[i]
			return nil
		})
	}
	_ = players.Wait() // players return no error
	close(tell)
	<-told
	return results, errors.Join(ctx.Err(), g.close())
}

func choose(only []string) ([]scenario, error) {
	all := scenarios()
	for _, name := range only {
		if !slices.ContainsFunc(all, func(s scenario) bool { return s.name == name }) {
			var names []string
			for _, s := range all {
				names = append(names, s.name)
			}
			return nil, fmt.Errorf("conformance: there is no scenario %q; there are %s", name, strings.Join(names, ", "))
		}
	}
	if len(only) == 0 {
		return all, nil
	}
	return slices.DeleteFunc(all, func(s scenario) bool { return !slices.Contains(only, s.name) }), nil
}

// play plays one scenario on a stand of its own.
func play(ctx context.Context, g *ground, o Options, sc scenario, log *slog.Logger) Result {
	r, began := Result{Scenario: sc.name, What: sc.what}, time.Now()
	s, err := newStand(ctx, g, o, sc.name, log.With("scenario", sc.name))
	if err == nil {
		err = sc.play(ctx, s)
		if err == nil {
			err = s.judged()
		}
	}
	s.close()
	r.OK, r.Seconds = err == nil, time.Since(began).Seconds()
	if err == nil {
		return r
	}
	if !errors.As(err, &r.Unmet) {
		r.Error = err.Error()
	}
	for _, i := range s.all {
		if said := i.said.String(); said != "" {
			r.Said = string(i.name) + ": " + said
		}
	}
	return r
}
