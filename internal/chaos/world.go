package chaos

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/estate"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/process"
	"github.com/starferry/starferry/internal/wire"
)

// The names of the processes that can be killed.
const (
	agentRole = "agent"
	natsRole  = "nats"
)

func shardRoles() []string { return []string{"shard-1", "shard-2"} }

func serviceRoles() []string { return []string{"orders-1", "orders-2", "orders-3"} }

// Options describe a world.
type Options struct {
	Binary string // the program starferry
	Self   string // this program, for the servers and the service
	Script string // the migration that is run
	Dir    string // for data and logs; it exists
	Kafka  string // version of real brokers; empty: in-process ones
	Jars   string
	Rate   int           // records per second
	Early  time.Duration // plants a bug in the service, see ServiceOptions
	Out    io.Writer
}

// World is everything that runs.
type World struct {
	Options
	group     starferry.Group
	lanes     []starferry.TopicPartition
	addresses [2]string // of old and new
	natsURL   string

	processes *process.Set
	estate    *estate.Estate
	roles     map[string]*role
	load      *Load
	readers   map[starferry.ClusterName]*Reader
	history   history
	conn      *nats.Conn
	store     *desired.Store
	commands  int    // started so far
	lastRun   string // the run that brought the group to the new cluster
	closers   []func()
}

// role is a process that can be killed and started again.
type role struct {
	start func(boot int) (*process.Process, error)
	boot  int
	p     *process.Process
}

// topics of the service, with their partitions.
func lanes() []starferry.TopicPartition {
	var all []starferry.TopicPartition
	for topic, n := range map[starferry.Topic]int{"orders": 6, "payments": 2} {
		for p := range n {
			all = append(all, starferry.TopicPartition{Topic: topic, Partition: starferry.Partition(p)})
		}
	}
	return all
}

// Open starts a world. Close ends it.
func Open(ctx context.Context, o Options) (*World, error) {
	w := &World{Options: o, group: "orders", lanes: lanes(), processes: process.NewSet(o.Dir),
		roles: map[string]*role{}, readers: map[starferry.ClusterName]*Reader{}}
	w.onClose(w.processes.Close)
	for _, step := range []func(context.Context) error{w.kafkas, w.topics, w.nats, w.programs, w.services} {
		if err := step(ctx); err != nil {
			w.Close()
			return nil, fmt.Errorf("open world: %w", err)
		}
	}
	return w, nil
}

func (w *World) onClose(f func()) { w.closers = append(w.closers, f) }

// Close ends all processes.
func (w *World) Close() {
	for i := len(w.closers) - 1; i >= 0; i-- {
		w.closers[i]()
	}
	w.closers = nil
}

// kafkas starts the clusters.
func (w *World) kafkas(ctx context.Context) error {
	if w.Kafka != "" {
		for i, name := range []string{estate.Old, estate.New} {
			b, err := kafkatest.StartBroker(ctx, kafkatest.BrokerOptions{Version: w.Kafka, Jars: w.Jars, Dir: filepath.Join(w.Dir, name)})
			if err != nil {
				return err
			}
			w.onClose(func() { _ = b.Kill() }) // its data is thrown away anyway
			w.addresses[i] = b.Addr
		}
		return nil
	}
	p, err := w.processes.Start(process.Spec{Name: "kafkas", Path: w.Self, Args: []string{"kafkas"}})
	if err != nil {
		return err
	}
	err = until(ctx, 20*time.Second, often, func() (bool, error) {
		lines := strings.Fields(p.Tail())
		if len(lines) >= 2 {
			copy(w.addresses[:], lines)
		}
		return len(lines) >= 2, nil
	})
	if err != nil {
		return fmt.Errorf("the in-process Kafkas did not start: %w: %s", err, p.Tail())
	}
	return nil
}

// topics makes the topics on the source, starts the load and opens readers.
func (w *World) topics(ctx context.Context) error {
	c, err := wire.Open(starferry.Cluster{Name: estate.Old, Brokers: []string{w.addresses[0]}})
	if err != nil {
		return err
	}
	defer c.Close()
	partitions := map[starferry.Topic]int{}
	for _, tp := range w.lanes {
		partitions[tp.Topic]++
	}
	for topic, n := range partitions {
		if err := c.CreateTopic(ctx, wire.TopicSpec{Topic: topic, Partitions: n, Replication: 1}); err != nil {
			return err
		}
	}
	if w.load, err = StartLoad(w.addresses[0], w.lanes, w.Rate); err != nil {
		return err
	}
	w.onClose(func() {
		if err := w.load.Close(); err != nil {
			w.say("%v", err)
		}
	})
	for i, name := range []starferry.ClusterName{estate.Old, estate.New} {
		r, err := OpenReader(name, w.addresses[i], w.lanes)
		if err != nil {
			return err
		}
		w.onClose(r.Close)
		w.readers[name] = r
	}
	return nil
}

// nats starts the server and connects the harness, which only watches.
func (w *World) nats(ctx context.Context) error {
	address, err := estate.FreeAddress()
	if err != nil {
		return err
	}
	w.natsURL = "nats://" + address
	w.roles[natsRole] = &role{start: func(int) (*process.Process, error) {
		return w.processes.Start(process.Spec{Name: natsRole, Path: w.Self,
			Args: []string{"nats", "-listen", address, "-dir", filepath.Join(w.Dir, "jetstream")}})
	}}
	if err := w.Start(natsRole); err != nil {
		return err
	}
	w.conn, err = nats.Connect(w.natsURL, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		return err
	}
	w.onClose(w.conn.Close)
	return until(ctx, 20*time.Second, often, func() (bool, error) {
		w.store, err = desired.Open(ctx, w.conn, desired.Options{})
		return err == nil, nil
	})
}

// programs starts agent and shards.
func (w *World) programs(context.Context) error {
	var err error
	w.estate, err = estate.Open(estate.Plan{Dir: w.Dir, Binary: w.Binary, Old: w.addresses[0], New: w.addresses[1], NATS: w.natsURL, Processes: w.processes})
	if err != nil {
		return err
	}
	w.roles[agentRole] = &role{start: func(int) (*process.Process, error) { return w.estate.Agent() }}
	for _, id := range shardRoles() {
		w.roles[id] = &role{start: func(int) (*process.Process, error) { return w.estate.Shard(id) }}
	}
	for _, name := range append(shardRoles(), agentRole) {
		if err := w.Start(name); err != nil {
			return err
		}
	}
	return nil
}

// services starts the processes of the service and waits until every lane has
// been handed out once.
func (w *World) services(ctx context.Context) error {
	for _, id := range serviceRoles() {
		w.roles[id] = &role{start: func(boot int) (*process.Process, error) { return w.service(id, boot) }}
		if err := w.Start(id); err != nil {
			return err
		}
	}
	return w.flows(ctx, time.Now(), 30*time.Second)
}

func (w *World) service(id string, boot int) (*process.Process, error) {
	out := filepath.Join(w.Dir, fmt.Sprintf("%s.%d.handled", id, boot))
	if err := os.WriteFile(out, nil, 0o644); err != nil {
		return nil, err
	}
	w.history.add(bootName(id, boot), out)
	return w.processes.Start(process.Spec{Name: id, Path: w.Self, Args: []string{"service",
		"-old", w.addresses[0], "-new", w.addresses[1], "-nats", w.natsURL, "-group", string(w.group),
		"-instance", id, "-out", out, "-early", w.Early.String()}})
}

func bootName(id string, boot int) string { return fmt.Sprintf("%s/%d", id, boot) }

// Start starts a role that does not run.
func (w *World) Start(name string) error {
	r := w.roles[name]
	if r.p != nil && r.p.Running() {
		return nil
	}
	r.boot++
	p, err := r.start(r.boot)
	if err != nil {
		return err
	}
	r.p = p
	return nil
}

// Kill ends a role as kill −9 does, and notes what the group had committed.
func (w *World) Kill(ctx context.Context, names ...string) error {
	var all []*process.Process
	for _, name := range names {
		all = append(all, w.roles[name].p)
	}
	process.KillAll(all...)
	at := time.Now()
	for _, name := range names {
		if !isService(name) {
			continue
		}
		if err := w.died(ctx, bootName(name, w.roles[name].boot), at); err != nil {
			return err
		}
	}
	return nil
}

func isService(name string) bool { return slices.Contains(serviceRoles(), name) }

// StartAll starts whatever does not run, as a supervisor would: NATS first,
// because an agent or shard that does not find it gives up.
func (w *World) StartAll(ctx context.Context) error {
	if err := w.Start(natsRole); err != nil {
		return err
	}
	if err := until(ctx, 20*time.Second, often, func() (bool, error) { return w.jetstream(ctx), nil }); err != nil {
		return fmt.Errorf("NATS did not come back: %w", err)
	}
	for _, name := range slices.Concat([]string{agentRole}, shardRoles(), serviceRoles()) {
		if err := w.Start(name); err != nil {
			return err
		}
	}
	return nil
}

// jetstream reports whether JetStream answers.
func (w *World) jetstream(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := w.store.Groups(ctx)
	return err == nil
}

// How often things are asked for: cheap ones, and those that read all logs.
const (
	often = 20 * time.Millisecond
	rare  = 300 * time.Millisecond
)

// until asks f again and again until it says yes.
func until(ctx context.Context, within, every time.Duration, f func() (bool, error)) error {
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

func (w *World) say(format string, args ...any) {
	fmt.Fprintf(w.Out, "%s "+format+"\n", append([]any{time.Now().Format("15:04:05")}, args...)...)
}
