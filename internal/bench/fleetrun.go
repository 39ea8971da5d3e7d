package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/agent/embednats"
	"github.com/starferry/starferry/agent/world"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/chaos/proxy"
	"github.com/starferry/starferry/internal/estate"
	"github.com/starferry/starferry/internal/process"
)

// plan says under what conditions groups are switched.
type plan struct {
	name       string
	instances  int
	partitions int
	rate       float64 // records per second
	warm       int     // switches that are made first and not counted
	// sync makes NATS write every order to the disk before it is acknowledged.
	sync bool
	// added is added to every round trip between instances and agent on one
	// side and brokers and NATS on the other. The agent runs NATS itself, as it
	// does unless it is told otherwise, and reaches it without a detour.
	added time.Duration
}

// fleetRun is a link, a group of instances and the agent's hand on it, with
// records flowing: everything that a switch needs, once.
type fleetRun struct {
	plan
	b       *bench
	pair    *pair
	dir     string
	topic   starferry.Topic
	cfg     config.Config
	ours    map[starferry.ClusterName]starferry.Cluster // as instances reach them
	natsURL string                                      // as instances reach it
	world   *world.World
	ports   builtins.Ports
	shard   *process.Process
	ledger  *ledger
	flow    *flow
	group   *group
	steps   steps // of the last switch
	closers []func() error
}

// openFleetRun starts NATS, a shard and the link, and lets records flow.
func (b *bench) openFleetRun(ctx context.Context, dir string, p *pair, pl plan) (*fleetRun, error) {
	r, err := b.openHand(ctx, dir, p, pl)
	if err != nil {
		return nil, err
	}
	if err := r.link(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// openHand starts NATS and what an agent acts with. Nothing is copied.
func (b *bench) openHand(ctx context.Context, dir string, p *pair, pl plan) (_ *fleetRun, err error) {
	r := &fleetRun{plan: pl, b: b, pair: p, dir: filepath.Join(dir, pl.name), topic: starferry.Topic(pl.name), ledger: newLedger(pl.partitions)}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		return nil, err
	}
	server, err := embednats.Open(embednats.Options{Dir: filepath.Join(r.dir, "nats"), Listen: "127.0.0.1:0", SyncAlways: pl.sync})
	if err != nil {
		return nil, err
	}
	r.closers = append(r.closers, func() error { server.Close(); return nil })
	if err := r.ways(server.URL()); err != nil {
		return nil, err
	}
	r.cfg = config.Config{Clusters: r.ours, NATS: config.NATS{URL: server.URL()}, DataDir: r.dir, Shards: config.Shards{Buckets: 8}}
	nc, err := nats.Connect(server.URL())
	if err != nil {
		return nil, err
	}
	r.closers = append(r.closers, func() error { nc.Close(); return nil })
	if r.world, err = world.Open(ctx, &r.cfg, nc, slog.New(slog.DiscardHandler)); err != nil {
		return nil, err
	}
	r.closers = append(r.closers, r.world.Close)
	r.ports = r.world.Ports()
	return r, nil
}

// ways leads the instances to the brokers and to NATS, by a detour if there is
// to be a delay.
func (r *fleetRun) ways(natsURL string) error {
	r.ours, r.natsURL = map[starferry.ClusterName]starferry.Cluster{}, natsURL
	for name, s := range map[starferry.ClusterName]*side{estate.Old: r.pair.source, estate.New: r.pair.target} {
		address := s.address
		if r.added > 0 {
			way, err := proxy.Open(address)
			if err != nil {
				return err
			}
			r.closers = append(r.closers, way.Close)
			way.Set(proxy.Weather{Delay: r.added / 2})
			if address, err = way.Address(address); err != nil {
				return err
			}
		}
		r.ours[name] = starferry.Cluster{Name: name, Brokers: []string{address}}
	}
	if r.added > 0 {
		line, err := openDelayLine(natsURL[len("nats://"):], r.added/2)
		if err != nil {
			return err
		}
		r.closers = append(r.closers, line.Close)
		r.natsURL = "nats://" + line.Addr()
	}
	return nil
}

// link makes the topic, starts the shard, and returns when the copy follows the
// flow.
func (r *fleetRun) link(ctx context.Context) error {
	load := Load{Topic: r.topic, Partitions: r.partitions}
	if err := load.Make(ctx, r.pair.source.cluster); err != nil {
		return err
	}
	e, err := estate.Open(estate.Plan{Dir: r.dir, Binary: r.b.Starferry, Old: r.pair.source.address, New: r.pair.target.address,
		NATS: r.natsURL, Processes: r.b.processes})
	if err != nil {
		return err
	}
	if r.shard, err = e.Shard("bench-" + r.name); err != nil {
		return err
	}
	r.closers = append(r.closers, func() error { r.shard.Stop(); return nil })
	if err := r.replicate(ctx); err != nil {
		return fmt.Errorf("%w; the shard said:\n%s", err, r.shard.Tail())
	}
	if r.flow, err = newFlow(ctx, r.pair.source.cluster, r.topic, r.partitions, r.rate); err != nil {
		return err
	}
	r.closers = append(r.closers, func() error { r.flow.cancel(); <-r.flow.done; return nil })
	return nil
}

// shardWithin is how long a shard may take to answer for a new link.
const shardWithin = 30 * time.Second

func (r *fleetRun) replicate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, shardWithin)
	defer cancel()
	req := builtins.ReplicateRequest{Link: link, Source: estate.Old, Target: estate.New, Topics: []starferry.Topic{r.topic}, Token: r.name}
	for {
		_, err := r.ports.Copier.Replicate(ctx, req)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond): // no shard yet
		}
	}
}

// Close ends everything, newest first.
func (r *fleetRun) Close() error {
	var errs []error
	for i := len(r.closers) - 1; i >= 0; i-- {
		errs = append(errs, r.closers[i]())
	}
	r.closers = nil
	return errors.Join(errs...)
}

// closeWithin is how long an instance may take to close.
const closeWithin = 20 * time.Second

// group is the running instances of a service.
type group struct {
	all   []*consumer.Consumer
	conns []*nats.Conn
}

// start starts the instances of a group, all at once, in place of those that
// were closed. Without NATS they know the home alone.
func (r *fleetRun) start(ctx context.Context, name starferry.Group, home starferry.ClusterName, withNATS bool) error {
	g := &group{all: make([]*consumer.Consumer, r.instances), conns: make([]*nats.Conn, r.instances)}
	var wg errgroup.Group
	for i := range r.instances {
		wg.Go(func() (err error) {
			cfg := consumer.Config{
				Group: name, Topics: []starferry.Topic{r.topic}, Instance: starferry.InstanceID(fmt.Sprintf("i%02d", i)),
				Clusters: []starferry.Cluster{r.ours[home]}, Home: home, Start: consumer.Earliest,
			}
			if withNATS {
				cfg.Clusters = []starferry.Cluster{r.ours[estate.Old], r.ours[estate.New]}
				if cfg.NATS, err = nats.Connect(r.natsURL); err != nil {
					return err
				}
				g.conns[i] = cfg.NATS
			}
			g.all[i], err = consumer.Open(ctx, cfg, r.handle)
			return err
		})
	}
	if err := wg.Wait(); err != nil {
		return errors.Join(err, g.Close())
	}
	if r.group == nil {
		r.closers = append(r.closers, func() error { return r.group.Close() })
	}
	r.group = g
	return nil
}

// handle is the service's handler.
func (r *fleetRun) handle(_ context.Context, rec consumer.Record) error {
	n, _, ok := stampOf(rec.Value)
	if !ok {
		return fmt.Errorf("a record of %d bytes, which the flow did not write", len(rec.Value))
	}
	r.ledger.handled(rec.Cluster, rec.Partition, n, time.Now())
	return nil
}

// Close closes all instances at once.
func (g *group) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
	defer cancel()
	var wg errgroup.Group
	for _, c := range g.all {
		if c != nil {
			wg.Go(func() error { return c.Close(ctx) })
		}
	}
	err := wg.Wait()
	for _, nc := range g.conns {
		if nc != nil {
			nc.Close()
		}
	}
	return err
}
