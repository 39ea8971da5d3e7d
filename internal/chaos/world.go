package chaos

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/chaos/checker"
	"github.com/starferry/starferry/internal/chaos/ground"
	"github.com/starferry/starferry/internal/estate"
	"github.com/starferry/starferry/internal/process"
	"github.com/starferry/starferry/internal/wire"
)

// The names of the processes beside the instances of services.
const (
	agentRole = "agent"
	natsRole  = "nats"
)

func shardRoles() []string { return []string{"shard-1", "shard-2"} }

// Options describe a world.
type Options struct {
	ground.Options
	Script string        // the migration that moves a group there
	Rate   int           // records per second of each crew
	Early  time.Duration // plants a bug in the service, see ServiceOptions
	Work   time.Duration // a record takes
	Crews  int           // 0: all there are
	// Patience is how long the groups may take to be well again after a fault; 0
	// means 90 s.
	Patience time.Duration
	Direct   bool // no proxies: no fault will happen
	Writers  int  // processes that produce with the library; 0: the harness produces
}

// World is everything that runs.
type World struct {
	ground.Ground
	Script      string
	Rate        int
	Early, Work time.Duration
	natsAddress string
	direct      bool
	patience    time.Duration

	estates  map[string]*estate.Estate // by the role that runs in it; "": command lines
	roles    map[string]*role
	ways     map[string]*ways
	crews    []*crew
	writers  *writers      // nil: the harness produces
	admin    *wire.Cluster // old, past the proxies
	readers  map[starferry.ClusterName]*Reader
	conn     *nats.Conn
	store    *desired.Store
	commands atomic.Int64 // started so far
}

// role is a process that can be killed and started again.
type role struct {
	start func(boot int) (*process.Process, error)
	boot  int
	p     *process.Process
	idle  bool // it is not to run just now
}

// Open starts a world. Close ends it.
func Open(ctx context.Context, o Options) (*World, error) {
	w := &World{Ground: ground.New(o.Options), Script: o.Script, Rate: o.Rate, Early: o.Early, Work: o.Work, direct: o.Direct, patience: cmp.Or(o.Patience, settleWithin), estates: map[string]*estate.Estate{},
		roles: map[string]*role{}, ways: map[string]*ways{}, readers: map[starferry.ClusterName]*Reader{}}
	w.crews = newCrews()
	if o.Writers > 0 {
		w.crews = handCrew()
	}
	if o.Crews > 0 {
		w.crews = w.crews[:o.Crews]
	}
	steps := []func(context.Context) error{w.kafkas, w.topics, w.nats, w.programs}
	for _, c := range w.crews {
		steps = append(steps, func(ctx context.Context) error { return c.open(ctx, w, o.Writers) })
	}
	steps = append(steps, func(ctx context.Context) error { return w.estates[""].AwaitAgent(ctx) })
	for _, step := range steps {
		if err := step(ctx); err != nil {
			w.Close()
			return nil, fmt.Errorf("open world: %w", err)
		}
	}
	return w, nil
}

func (w *World) kafkas(ctx context.Context) error { return w.StartKafkas(ctx) }

// topics makes the topics on the source and opens readers.
func (w *World) topics(ctx context.Context) error {
	var err error
	if w.admin, err = wire.Open(starferry.Cluster{Name: estate.Old, Brokers: []string{w.Addresses[0]}}); err != nil {
		return err
	}
	w.OnClose(func() { _ = w.admin.Close() })
	var lanes []starferry.TopicPartition
	for _, c := range w.crews {
		lanes = append(lanes, c.lanes...)
		for _, topic := range c.topics() {
			if err := w.admin.CreateTopic(ctx, wire.TopicSpec{Topic: topic, Partitions: c.partitions(topic), Replication: 1}); err != nil {
				return err
			}
		}
	}
	for i, name := range []starferry.ClusterName{estate.Old, estate.New} {
		r, err := OpenReader(name, w.Addresses[i], lanes)
		if err != nil {
			return err
		}
		w.OnClose(r.Close)
		w.readers[name] = r
	}
	return nil
}

// grow gives a topic of the source one more partition.
func (w *World) grow(ctx context.Context, topic starferry.Topic, to int) error {
	req := kmsg.NewPtrCreatePartitionsRequest()
	t := kmsg.NewCreatePartitionsRequestTopic()
	t.Topic, t.Count = string(topic), int32(to)
	req.Topics, req.TimeoutMillis = append(req.Topics, t), 10_000
	resp, err := w.admin.DoController(ctx, req)
	if err == nil {
		if r, ok := resp.(*kmsg.CreatePartitionsResponse); ok && len(r.Topics) == 1 {
			err = wire.Code(r.Topics[0].ErrorCode)
		}
	}
	if err != nil {
		return fmt.Errorf("give %s %d partitions: %w", topic, to, err)
	}
	return nil
}

// nats starts the server and connects the harness, which only watches.
func (w *World) nats(ctx context.Context) error {
	address, err := estate.FreeAddress()
	if err != nil {
		return err
	}
	w.natsAddress = address
	w.roles[natsRole] = &role{start: func(int) (*process.Process, error) { return w.StartNATS(natsRole, address) }}
	if err := w.Start(natsRole); err != nil {
		return err
	}
	w.conn, err = nats.Connect("nats://"+address, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		return err
	}
	w.OnClose(w.conn.Close)
	return ground.Until(ctx, 20*time.Second, ground.Often, func() (bool, error) {
		w.store, err = desired.Open(ctx, w.conn, desired.Options{})
		return err == nil, nil
	})
}

// programs starts agent and shards, each in an estate of its own, because each
// has its own ways.
func (w *World) programs(context.Context) error {
	if err := w.found("", ways{addresses: w.Addresses, natsURL: "nats://" + w.natsAddress}); err != nil {
		return err
	}
	for _, name := range append(shardRoles(), agentRole) {
		v, err := w.waysOf(name)
		if err != nil {
			return err
		}
		if err := w.found(name, *v); err != nil {
			return err
		}
		w.roles[name] = &role{start: func(int) (*process.Process, error) {
			if name == agentRole {
				return w.estates[name].Agent()
			}
			return w.estates[name].Shard(name)
		}}
		if err := w.Start(name); err != nil {
			return err
		}
	}
	return nil
}

// found makes the estate of a role.
func (w *World) found(name string, v ways) error {
	dir := filepath.Join(w.Dir, "estate", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	e, err := estate.Open(estate.Plan{Dir: dir, Binary: w.Binary, Old: v.addresses[0], New: v.addresses[1], NATS: v.natsURL, Processes: w.Processes})
	w.estates[name] = e
	return err
}

// Start starts a role that does not run.
func (w *World) Start(name string) error {
	r := w.roles[name]
	if r.idle || r.p != nil && r.p.Running() {
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

// Kill ends roles as kill −9 does, and notes what their groups had committed.
func (w *World) Kill(ctx context.Context, silent bool, names ...string) error {
	var all []*process.Process
	for _, name := range names {
		if p := w.roles[name].p; p != nil {
			all = append(all, p)
		}
	}
	process.KillAll(all...)
	at := time.Now()
	for _, name := range names {
		if err := w.struck(ctx, name, checker.Strike{Blow: checker.Killed, From: at, Silent: silent}); err != nil {
			return err
		}
	}
	return nil
}

// struck notes what was done to an instance; other roles have no records.
func (w *World) struck(ctx context.Context, name string, s checker.Strike, on ...starferry.ClusterName) error {
	c := w.crewOf(name)
	if c == nil {
		return nil
	}
	if len(on) == 0 {
		on = []starferry.ClusterName{estate.Old, estate.New}
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	s.Boot, s.Committed = bootName(name, w.roles[name].boot), map[starferry.ClusterName]map[starferry.TopicPartition]starferry.Offset{}
	for _, cluster := range on {
		found, err := w.readers[cluster].Committed(ctx, c.group)
		if err != nil {
			return fmt.Errorf("after %s was %s: %w", s.Boot, s.Blow, err)
		}
		s.Committed[cluster] = found
	}
	c.history.strikes = append(c.history.strikes, s)
	return nil
}

// healed notes since when an instance can go on.
func (w *World) healed(name string) {
	c := w.crewOf(name)
	if c == nil {
		return
	}
	boot := bootName(name, w.roles[name].boot)
	for i, s := range slices.Backward(c.history.strikes) {
		if s.Boot == boot && s.Until.IsZero() {
			c.history.strikes[i].Until = time.Now()
			return
		}
	}
}

// StartAll starts whatever does not run, as a supervisor would: NATS first,
// because an agent or shard that does not find it gives up.
func (w *World) StartAll(ctx context.Context) error {
	if err := w.Start(natsRole); err != nil {
		return err
	}
	if err := ground.Until(ctx, 20*time.Second, ground.Often, func() (bool, error) { return w.jetstream(ctx), nil }); err != nil {
		return fmt.Errorf("NATS did not come back: %w", err)
	}
	names := append(shardRoles(), agentRole)
	for _, c := range w.crews {
		names = append(names, c.instances...)
	}
	if w.writers != nil {
		names = append(names, w.writers.names...)
	}
	for _, name := range names {
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

// command starts a command line with a log of its own.
func (w *World) command(args ...string) (*process.Process, error) {
	return w.estates[""].Run(fmt.Sprintf("starferry-%d-%s", w.commands.Add(1), args[0]), args...)
}
