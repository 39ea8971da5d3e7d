package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry/internal/process"
)

// Options say what to measure.
type Options struct {
	Starferry string   // path of the program
	Kafka     string   // version of the brokers and of MirrorMaker 2
	Jars      string   // directory that holds the jars, below their version
	Only      []string // names of the parts to run; empty: all
	Load      Load     // what the copying parts copy
	// Small makes everything about a tenth as large: to see that a part works.
	// Its figures mean nothing.
	Small bool
	// Relay is this program's own path, which runs the bare relay as a process
	// when its first argument is RelayCommand.
	Relay string
	Into  string    // file that gets the results as Markdown; empty: none
	Out   io.Writer // table and figures
	Log   io.Writer // progress
}

// bench is a run under way.
type bench struct {
	Options
	dir       string
	processes *process.Set
	brokers   *pair // once a part wants them
}

// failure is a part that could not run.
type failure struct {
	part string
	err  error
}

// Run runs the wanted parts, prints the table, and leaves nothing behind. Its
// error names the parts that could not run; bars that are missed are no error.
func Run(ctx context.Context, o Options) error {
	wanted, err := choose(o.Only)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	dir, err := os.MkdirTemp("", "starferry-bench-")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer os.RemoveAll(dir)
	b := &bench{Options: o, dir: dir, processes: process.NewSet(dir)}
	defer b.processes.Close()
	defer b.stopBrokers()
	began := time.Now()
	values, failed := b.runAll(ctx, wanted)
	figures, err := assemble(values)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	r := report{figures: figures, failed: failed, took: time.Since(began), machine: lookAround(ctx, o), small: o.Small}
	for _, p := range wanted {
		r.parts = append(r.parts, p.name)
	}
	err = r.print(o.Out)
	if o.Into != "" {
		if werr := r.into(o.Into); werr == nil {
			b.say("the results are in %s as Markdown", o.Into)
		} else {
			err = errors.Join(err, werr)
		}
	}
	for _, f := range failed {
		err = errors.Join(err, fmt.Errorf("part %s could not run: %w", f.part, f.err))
	}
	return err
}

// runAll runs the parts one after the other.
func (b *bench) runAll(ctx context.Context, wanted []part) (Values, []failure) {
	all := Values{}
	var failed []failure
	for _, p := range wanted {
		if ctx.Err() != nil {
			failed = append(failed, failure{p.name, context.Cause(ctx)})
			continue
		}
		b.say("== %s: %s", p.name, p.what)
		began := time.Now()
		values, err := b.runOne(ctx, p)
		for name, v := range values {
			all[name] = v
		}
		if err != nil {
			failed = append(failed, failure{p.name, err})
			b.say("== %s could not run: %v", p.name, err)
			continue
		}
		b.say("== %s took %.0f s", p.name, time.Since(began).Seconds())
	}
	return all, failed
}

// patience bounds a part.
const patience = 10 * time.Minute

// runOne runs a part with a directory of its own and on empty brokers.
func (b *bench) runOne(ctx context.Context, p part) (Values, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if b.brokers != nil {
		if err := b.brokers.clear(ctx); err != nil {
			return nil, err
		}
	}
	dir := filepath.Join(b.dir, p.name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	return p.run(b, ctx, dir)
}

// choose finds parts by name, in their own order.
func choose(names []string) ([]part, error) {
	all := parts()
	if len(names) == 0 {
		return all, nil
	}
	var known []string
	for _, p := range all {
		known = append(known, p.name)
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			return nil, fmt.Errorf("there is no part %q; there are: %s", n, strings.Join(known, ", "))
		}
	}
	return slices.DeleteFunc(all, func(p part) bool { return !slices.Contains(names, p.name) }), nil
}

// sized is a tenth of n, but not below least, in a small run.
func (b *bench) sized(n, least int) int {
	if b.Small {
		return max(n/10, least)
	}
	return n
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.Log, "%s "+format+"\n", append([]any{time.Now().Format("15:04:05")}, args...)...)
}
