package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/chaos/ground"
	"github.com/starferry/starferry/internal/estate"
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
	ground.Options
	Script string        // the migration that is run
	Rate   int           // records per second
	Early  time.Duration // plants a bug in the service, see ServiceOptions
}

// World is everything that runs.
type World struct {
	ground.Ground
	Script  string
	Rate    int
	Early   time.Duration
	group   starferry.Group
	lanes   []starferry.TopicPartition
	natsURL string

	estate   *estate.Estate
	roles    map[string]*role
	load     *Load
	readers  map[starferry.ClusterName]*Reader
	history  history
	conn     *nats.Conn
	store    *desired.Store
	commands int    // started so far
	lastRun  string // the run that brought the group to the new cluster
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
	w := &World{Ground: ground.New(o.Options), Script: o.Script, Rate: o.Rate, Early: o.Early, group: "orders", lanes: lanes(),
		roles: map[string]*role{}, readers: map[starferry.ClusterName]*Reader{}}
	for _, step := range []func(context.Context) error{w.kafkas, w.topics, w.nats, w.programs, w.services} {
		if err := step(ctx); err != nil {
			w.Close()
			return nil, fmt.Errorf("open world: %w", err)
		}
	}
	return w, nil
}

func (w *World) kafkas(ctx context.Context) error { return w.StartKafkas(ctx) }

// topics makes the topics on the source, starts the load and opens readers.
func (w *World) topics(ctx context.Context) error {
	c, err := wire.Open(starferry.Cluster{Name: estate.Old, Brokers: []string{w.Addresses[0]}})
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
	if w.load, err = StartLoad(w.Addresses[0], w.lanes, w.Rate); err != nil {
		return err
	}
	w.OnClose(func() {
		if err := w.load.Close(); err != nil {
			w.Say("%v", err)
		}
	})
	for i, name := range []starferry.ClusterName{estate.Old, estate.New} {
		r, err := OpenReader(name, w.Addresses[i], w.lanes)
		if err != nil {
			return err
		}
		w.OnClose(r.Close)
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
		return w.StartNATS(natsRole, address)
	}}
	if err := w.Start(natsRole); err != nil {
		return err
	}
	w.conn, err = nats.Connect(w.natsURL, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		return err
	}
	w.OnClose(w.conn.Close)
	return ground.Until(ctx, 20*time.Second, ground.Often, func() (bool, error) {
		w.store, err = desired.Open(ctx, w.conn, desired.Options{})
		return err == nil, nil
	})
}

// programs starts agent and shards.
func (w *World) programs(context.Context) error {
	var err error
	w.estate, err = estate.Open(estate.Plan{Dir: w.Dir, Binary: w.Binary, Old: w.Addresses[0], New: w.Addresses[1], NATS: w.natsURL, Processes: w.Processes})
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
	return w.Processes.Start(process.Spec{Name: id, Path: w.Self, Args: []string{"service",
		"-old", w.Addresses[0], "-new", w.Addresses[1], "-nats", w.natsURL, "-group", string(w.group),
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
	if err := ground.Until(ctx, 20*time.Second, ground.Often, func() (bool, error) { return w.jetstream(ctx), nil }); err != nil {
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
