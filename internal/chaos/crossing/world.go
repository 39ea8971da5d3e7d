package crossing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/chaos/checker"
	"github.com/starferry/starferry/internal/chaos/ground"
	"github.com/starferry/starferry/internal/chaos/proxy"
	"github.com/starferry/starferry/internal/estate"
	"github.com/starferry/starferry/internal/process"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication"
)

// Options describe a world.
type Options struct {
	ground.Options
	Lease time.Duration // of the shards of this program
	Soak  bool          // the load of a Soak, and no small disk
}

const link starferry.LinkName = "crossing"

const (
	agentRole = "agent"
	natsRole  = "nats"
	// smallDisk is the shard whose store lies on a disk that can be filled.
	smallDisk = "shard-3"
)

func shardRoles() []string { return []string{"shard-1", "shard-2", smallDisk} }

// World is everything that runs.
type World struct {
	ground.Ground // its addresses lead past the proxies
	Lease         time.Duration
	Soak          bool
	cargoes       []cargo
	lanes         []starferry.TopicPartition
	proxies       [2]*proxy.Proxy
	natsURL       string
	disk          bool // there is a small disk

	estate    *estate.Estate
	conn      *nats.Conn
	client    *replication.Client
	load      *load
	source    *reader // all of it
	committed *reader // what is committed of topics with transactions
	target    *reader
	asked     map[starferry.TopicPartition][2]starferry.Offset // up to where the map was checked, forward and back

	mu    sync.Mutex
	roles map[string]*process.Process
	busy  map[string]bool // what a fault has taken for itself
}

// Open starts a world. Close ends it.
func Open(ctx context.Context, o Options) (*World, error) {
	w := &World{Ground: ground.New(o.Options), Lease: o.Lease, Soak: o.Soak, cargoes: cargoes(o.Kafka != ""), roles: map[string]*process.Process{},
		busy: map[string]bool{}, asked: map[starferry.TopicPartition][2]starferry.Offset{}}
	if o.Soak {
		w.cargoes = soakCargoes()
	}
	w.lanes = lanesOf(w.cargoes)
	for _, step := range []func(context.Context) error{w.startKafkas, w.startProxies, w.topics, w.programs, w.begin} {
		if err := step(ctx); err != nil {
			w.Close()
			return nil, fmt.Errorf("open world: %w", err)
		}
	}
	return w, nil
}

// startKafkas starts the clusters; cleaners of in-process ones run often.
func (w *World) startKafkas(ctx context.Context) error { return w.StartKafkas(ctx, "-clean", "1s") }

func (w *World) startProxies(context.Context) error {
	for i, a := range w.Addresses {
		p, err := proxy.Open(a)
		if err != nil {
			return err
		}
		w.OnClose(func() { _ = p.Close() })
		w.proxies[i] = p
	}
	return nil
}

// topics makes the topics on the source, and opens readers and load.
func (w *World) topics(ctx context.Context) error {
	c, err := wire.Open(starferry.Cluster{Name: estate.Old, Brokers: []string{w.Addresses[0]}})
	if err != nil {
		return err
	}
	defer c.Close()
	var txn []starferry.TopicPartition
	for _, g := range w.cargoes {
		if err := c.CreateTopic(ctx, wire.TopicSpec{Topic: g.topic, Partitions: g.partitions, Replication: 1, Configs: g.configs}); err != nil {
			return err
		}
		if g.txn {
			txn = append(txn, lanesOf([]cargo{g})...)
		}
	}
	for _, r := range []struct {
		into      **reader
		address   string
		lanes     []starferry.TopicPartition
		committed bool
	}{{&w.source, w.Addresses[0], w.lanes, false}, {&w.committed, w.Addresses[0], txn, true}, {&w.target, w.Addresses[1], w.lanes, false}} {
		if *r.into, err = openReader(r.address, r.lanes, r.committed); err != nil {
			return err
		}
		w.OnClose((*r.into).client.Close)
	}
	w.load = newLoad(w.Addresses[0])
	group, inner := errgroup.WithContext(ctx)
	for _, g := range w.cargoes {
		if g.sparse {
			group.Go(func() error { return w.load.prelude(inner, g) })
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	w.load.start(w.cargoes)
	w.OnClose(w.load.close)
	return nil
}

// programs starts NATS, shards and agent.
func (w *World) programs(ctx context.Context) error {
	address, err := estate.FreeAddress()
	if err != nil {
		return err
	}
	w.natsURL = "nats://" + address
	var ways [2]string
	for i, a := range w.Addresses {
		if ways[i], err = w.proxies[i].Address(a); err != nil {
			return err
		}
	}
	w.estate, err = estate.Open(estate.Plan{Dir: w.Dir, Binary: w.Binary, Old: ways[0], New: ways[1], NATS: w.natsURL, Processes: w.Processes})
	if err != nil {
		return err
	}
	if !w.Soak {
		if w.disk, err = w.mountSmallDisk(); err != nil {
			return err
		}
	}
	if err := w.startAll(); err != nil {
		return err
	}
	w.conn, err = nats.Connect(w.natsURL, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		return err
	}
	w.OnClose(w.conn.Close)
	// The harness asks past the proxies.
	w.client = replication.NewClient(w.conn, map[starferry.ClusterName]starferry.Cluster{
		estate.Old: {Name: estate.Old, Brokers: []string{w.Addresses[0]}},
		estate.New: {Name: estate.New, Brokers: []string{w.Addresses[1]}},
	}, slog.New(slog.DiscardHandler))
	w.OnClose(func() { _ = w.client.Close() })
	return nil
}

// mountSmallDisk puts the directory of one shard on a disk of its own.
func (w *World) mountSmallDisk() (bool, error) {
	dir := w.storeOf(smallDisk)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, err
	}
	if err := mountDisk(dir, diskSize); err != nil {
		w.Say("no disk will be full: %v", err)
		return false, nil
	}
	w.OnClose(func() {
		if err := unmountDisk(dir); err != nil {
			w.Say("unmount %s: %v", dir, err)
		}
	})
	return true, nil
}

// diskSize is what the maps of a short campaign need, several times over.
const diskSize = 64 << 20

func (w *World) storeOf(shard string) string {
	return filepath.Join(w.Dir, "data", "shards", shard)
}

// begin waits until the link runs.
func (w *World) begin(ctx context.Context) error {
	// The shards make the buckets, whose time to live is theirs.
	err := ground.Until(ctx, 30*time.Second, ground.Rare, func() (bool, error) {
		_, err := w.conn.Request("starferry.shard.shard-1.lag", []byte(`{"link":"none"}`), time.Second)
		return err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("no shard answers: %w", err)
	}
	return w.ensure(ctx)
}

// ensure asks for the link, as an operator would, until it is there.
func (w *World) ensure(ctx context.Context) error {
	var topics []starferry.Topic
	for _, c := range w.cargoes {
		topics = append(topics, c.topic)
	}
	var last error
	err := ground.Until(ctx, settleWithin, ground.Rare, func() (bool, error) {
		short, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		_, last = w.client.Ensure(short, replication.LinkSpec{Name: link, Source: estate.Old, Target: estate.New, Topics: topics, Buckets: 16})
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("the link is not made: %w", errors.Join(err, last))
	}
	return nil
}

// start starts a role that does not run.
func (w *World) start(name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.roles[name]; p != nil && p.Running() {
		return nil
	}
	var p *process.Process
	var err error
	switch name {
	case natsRole:
		p, err = w.StartNATS(natsRole, strings.TrimPrefix(w.natsURL, "nats://"))
	case agentRole:
		p, err = w.estate.Agent()
	default:
		p, err = w.estate.Shard(name)
	}
	w.roles[name] = p
	return err
}

// startAll starts what does not run, as a supervisor would.
func (w *World) startAll() error {
	for _, name := range append([]string{natsRole, agentRole}, shardRoles()...) {
		if err := w.start(name); err != nil {
			return err
		}
	}
	return nil
}

func (w *World) role(name string) *process.Process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.roles[name]
}

// How long the copy may take to catch up when all is well again.
const settleWithin = 120 * time.Second

// errStuck is a copy that does not catch up, or a lane that has stopped.
var errStuck = errors.New("the copy does not catch up")

// caughtUp waits until no lane lags. A lane that has stopped is no better for
// waiting.
func (w *World) caughtUp(ctx context.Context) error {
	why := "no status"
	err := ground.Until(ctx, settleWithin, ground.Rare, func() (bool, error) {
		short, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		s, err := w.client.Status(short, link)
		if err != nil {
			why = err.Error()
			return false, nil
		}
		why = ""
		for _, l := range s.Lanes {
			if l.State == replication.Stopped {
				return false, fmt.Errorf("%w: lane %s has stopped: %s", errStuck, l.Partition, l.Reason)
			}
			if l.State != replication.Copying || l.Lag != 0 {
				why += fmt.Sprintf("\n  %s of %s is %s with lag %d: %s", l.Partition, l.Owner, l.State, l.Lag, l.Reason)
			}
		}
		return why == "" && len(s.Lanes) > 0, nil
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w within %s: %s", errStuck, settleWithin, why)
	}
	return err
}

// readAll reads what is new on both clusters, the target first: what it holds
// must be on the source by then.
func (w *World) readAll(ctx context.Context) error {
	for _, r := range []*reader{w.target, w.source, w.committed} {
		if err := r.read(ctx); err != nil {
			return err
		}
	}
	for _, tp := range w.committed.lanes {
		markAborted(w.source.logs[tp], w.committed.logs[tp])
	}
	return nil
}

// balance lets the checker compare all of both logs, and the answers there are.
func (w *World) balance(behind bool, forward, back map[starferry.TopicPartition]checker.Answers) checker.Balance {
	var all checker.Balance
	for _, g := range w.cargoes {
		for _, tp := range lanesOf([]cargo{g}) {
			all.Add(checker.Crossing{
				Lane: tp, Compacted: g.compacted, Behind: behind, Source: w.source.logs[tp], Target: w.target.logs[tp],
				Sent: w.load.sentTo(tp), Forward: forward[tp], Back: back[tp],
			}.Balance())
		}
	}
	return all
}

// check compares both logs, and the map for what is new, or for everything.
func (w *World) check(ctx context.Context, everything bool) (checker.Balance, error) {
	short, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	if err := w.readAll(short); err != nil {
		return checker.Balance{}, err
	}
	if everything {
		clear(w.asked)
	}
	forward, back, err := w.ask(ctx)
	if err != nil {
		return checker.Balance{}, err
	}
	return w.balance(false, forward, back), nil
}

// checkStuck compares what a copy that is stuck has left.
func (w *World) checkStuck(ctx context.Context) (checker.Balance, error) {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	if err := w.readAll(ctx); err != nil {
		return checker.Balance{}, err
	}
	return w.balance(true, nil, nil), nil
}
