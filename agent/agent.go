// Package agent is the process that carries out runs: it wires scripts to
// clusters, links and groups, keeps the journals, and answers the command line.
//
// # Rules
//
//   - An agent holds nothing that cannot be lost: runs are in the journal, links
//     and placements in NATS, decisions in Kafka. Another agent goes on.
//   - One agent at a time carries out a run. It holds a lease, and the journal
//     refuses the records of any other.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/agent/embednats"
	"github.com/starferry/starferry/agent/journal"
	"github.com/starferry/starferry/agent/world"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/scripting"
)

// Agent is a running agent.
type Agent struct {
	cfg      config.Config
	log      *slog.Logger
	id       string // host, process, and a part of its own
	server   *embednats.Server
	nc       *nats.Conn
	subs     []*nats.Subscription
	journal  *journal.Journal
	locks    *locks
	world    *world.World
	registry *scripting.Registry

	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
}

// Open starts an agent, and the NATS server if the configuration names none. It
// returns when the agent answers: a NATS that does not answer yet is waited for.
// Ctx bounds opening alone.
func Open(ctx context.Context, cfg *config.Config, log *slog.Logger) (_ *Agent, err error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	a := &Agent{cfg: *cfg, log: log, id: identity()}
	a.ctx, a.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	if cfg.NATS.Embedded() {
		a.server, err = embednats.Open(embednats.Options{
			Dir: filepath.Join(cfg.DataDir, "nats"), Listen: cfg.NATS.Listen, SyncAlways: true, Log: log,
		})
		if err != nil {
			return a, err
		}
		a.cfg.NATS.Listen = a.server.Addr()
	}
	if err = a.reachNATS(ctx); err != nil {
		return a, err
	}
	if a.registry, err = builtins.Registry(a.world.Ports()); err != nil {
		return a, err
	}
	a.wg.Go(func() { a.world.KeepFences(a.ctx) })
	a.wg.Go(func() { a.world.KeepOverflows(a.ctx) })
	a.wg.Go(func() { a.world.KeepStores(a.ctx) })
	return a, a.serve()
}

// reachNATS connects and opens what the agent keeps in NATS.
func (a *Agent) reachNATS(ctx context.Context) (err error) {
	if a.nc, err = AwaitNATS(ctx, a.cfg.NATS, "starferry agent "+a.id, a.log); err != nil {
		return err
	}
	js, err := jetstream.New(a.nc)
	if err != nil {
		return fmt.Errorf("open agent: %w", err)
	}
	w := newWaiter(a.cfg.NATS, a.log)
	w.nc = a.nc
	for _, open := range []func(context.Context) error{
		func(ctx context.Context) (err error) { a.journal, err = journal.Open(ctx, js); return err },
		func(ctx context.Context) (err error) { a.locks, err = openLocks(ctx, js, a.id, a.log); return err },
		func(ctx context.Context) (err error) { a.world, err = world.Open(ctx, &a.cfg, a.nc, a.log); return err },
	} {
		if err := w.until(ctx, open); err != nil {
			return err
		}
	}
	return nil
}

func identity() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d/%s", host, os.Getpid(), nuid.Next()[16:])
}

// NATS says where the agent's NATS is: with an embedded server, the address it
// really listens on.
func (a *Agent) NATS() config.NATS { return a.cfg.NATS }

// Close stops the agent. Runs under way stay open in the journal.
func (a *Agent) Close() error {
	for _, sub := range a.subs { // so that nothing is asked of us any more
		_ = sub.Unsubscribe() // the connection may be gone
	}
	if a.nc != nil {
		_ = a.nc.FlushTimeout(connectWithin)
	}
	a.cancel(errStopping)
	a.wg.Wait()
	var err error
	if a.world != nil {
		err = a.world.Close()
	}
	if a.nc != nil {
		a.nc.Close()
	}
	if a.server != nil {
		a.server.Close()
	}
	return err
}
