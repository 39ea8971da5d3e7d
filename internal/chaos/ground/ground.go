// Package ground is what the worlds of the chaos harness stand on: two
// clusters, in-process ones in a process of their own or real brokers, a set of
// processes, and what has to be undone at the end.
package ground

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/starferry/starferry/internal/estate"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/process"
)

// Options describe a ground.
type Options struct {
	Binary string // the program starferry
	Self   string // this program, which serves in-process clusters and NATS
	Dir    string // for data and logs; it exists
	Kafka  string // version of real brokers; empty: in-process ones
	Jars   string // where their jars are
	Out    io.Writer
}

// Ground is what runs below a world. The zero value with Options is ready.
type Ground struct {
	Options
	Processes *process.Set
	Addresses [2]string            // of the clusters old and new
	Brokers   [2]*kafkatest.Broker // nil: in-process
	Kafkas    *process.Process     // of the in-process ones
	closers   []func()
}

// New makes a ground on which nothing runs yet.
func New(o Options) Ground {
	g := Ground{Options: o, Processes: process.NewSet(o.Dir)}
	g.OnClose(g.Processes.Close)
	return g
}

// OnClose has f called at the end, before what was given earlier.
func (g *Ground) OnClose(f func()) { g.closers = append(g.closers, f) }

// Close ends all that runs.
func (g *Ground) Close() {
	for i := len(g.closers) - 1; i >= 0; i-- {
		g.closers[i]()
	}
	g.closers = nil
}

// StartKafkas starts both clusters. The arguments are those of in-process ones.
func (g *Ground) StartKafkas(ctx context.Context, args ...string) error {
	if g.Kafka != "" {
		for i, name := range []string{estate.Old, estate.New} {
			b, err := kafkatest.StartBroker(ctx, kafkatest.BrokerOptions{Version: g.Kafka, Jars: g.Jars, Dir: filepath.Join(g.Dir, name)})
			if err != nil {
				return err
			}
			g.OnClose(func() { _ = b.Kill() }) // its data is thrown away anyway
			g.Brokers[i], g.Addresses[i] = b, b.Addr
		}
		return nil
	}
	var err error
	g.Kafkas, err = g.Processes.Start(process.Spec{Name: "kafkas", Path: g.Self, Args: append([]string{"kafkas"}, args...)})
	if err != nil {
		return err
	}
	err = Until(ctx, 20*time.Second, Often, func() (bool, error) {
		lines := strings.Fields(g.Kafkas.Tail())
		if len(lines) >= 2 {
			copy(g.Addresses[:], lines)
		}
		return len(lines) >= 2, nil
	})
	if err != nil {
		return fmt.Errorf("the in-process Kafkas did not start: %w: %s", err, g.Kafkas.Tail())
	}
	return nil
}

// StartNATS starts a NATS server at host:port, with its store below Dir.
func (g *Ground) StartNATS(name, address string) (*process.Process, error) {
	return g.Processes.Start(process.Spec{Name: name, Path: g.Self, Args: []string{"nats", "-listen", address, "-dir", g.NATSDir()}})
}

// NATSDir is where the NATS server keeps its streams.
func (g *Ground) NATSDir() string { return filepath.Join(g.Dir, "jetstream") }

// Say prints a line with the time of day.
func (g *Ground) Say(format string, args ...any) {
	fmt.Fprintf(g.Out, "%s "+format+"\n", append([]any{time.Now().Format("15:04:05")}, args...)...)
}

// How often things are asked for: cheap ones, and others.
const (
	Often = 20 * time.Millisecond
	Rare  = 200 * time.Millisecond
)

// Until asks f again and again until it says yes, and gives up after a while.
func Until(ctx context.Context, within, every time.Duration, f func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if ok, err := f(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up after %s: %w", within, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// Pause waits. Faults are about time.
func Pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
