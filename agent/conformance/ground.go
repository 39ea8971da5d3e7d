package conformance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/embednats"
	"github.com/starferry/starferry/internal/wire"
)

// The clusters' names. A group lives on old to begin with.
const (
	oldName starferry.ClusterName = "old"
	newName starferry.ClusterName = "new"
)

// ground is what all scenarios stand on.
type ground struct {
	clusters []starferry.Cluster // old and new
	wires    map[starferry.ClusterName]*wire.Cluster
	nats     string
	conn     *nats.Conn
	session  time.Duration // of clients' memberships
	closers  []func() error
}

// openGround reaches what is given, and starts what is not.
func openGround(ctx context.Context, o Options, log *slog.Logger) (g *ground, err error) {
	// Real brokers take no session below 6 s.
	g = &ground{wires: map[starferry.ClusterName]*wire.Cluster{}, nats: o.NATS, session: 6 * time.Second}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	if (len(o.Old) == 0) != (len(o.New) == 0) {
		return g, errors.New("conformance: give the brokers of both clusters, or of neither")
	}
	addresses := map[starferry.ClusterName][]string{oldName: o.Old, newName: o.New}
	if len(o.Old) == 0 {
		g.session = 2 * time.Second
		for name := range addresses {
			c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ClusterID("starferry-conformance-"+string(name)), kfake.GroupMinSessionTimeout(100*time.Millisecond))
			if err != nil {
				return g, fmt.Errorf("start an embedded Kafka: %w", err)
			}
			g.closers = append(g.closers, func() error { c.Close(); return nil })
			addresses[name] = c.ListenAddrs()
		}
	}
	for _, name := range []starferry.ClusterName{oldName, newName} {
		c := starferry.Cluster{Name: name, Brokers: addresses[name]}
		w, err := wire.Open(c, wire.WithClientID("starferry-conformance"), wire.WithLogger(log))
		if err != nil {
			return g, err
		}
		g.closers = append(g.closers, w.Close)
		if _, err := w.Metadata(ctx); err != nil {
			return g, fmt.Errorf("reach cluster %s: %w", name, err)
		}
		g.clusters, g.wires[name] = append(g.clusters, c), w
	}
	return g, g.openNATS(log)
}

func (g *ground) openNATS(log *slog.Logger) error {
	if g.nats == "" {
		dir, err := os.MkdirTemp("", "starferry-conformance-")
		if err != nil {
			return fmt.Errorf("start NATS: %w", err)
		}
		g.closers = append(g.closers, func() error { return os.RemoveAll(dir) })
		s, err := embednats.Open(embednats.Options{Dir: dir, Listen: "127.0.0.1:0", Log: log})
		if err != nil {
			return err
		}
		g.closers = append(g.closers, func() error { s.Close(); return nil })
		g.nats = s.URL()
	}
	nc, err := nats.Connect(g.nats, nats.Name("starferry conformance"))
	if err != nil {
		return fmt.Errorf("reach NATS at %s: %w", g.nats, err)
	}
	g.conn = nc
	g.closers = append(g.closers, func() error { nc.Close(); return nil })
	return nil
}

// close ends all, the last first.
func (g *ground) close() error {
	var errs []error
	for i := len(g.closers) - 1; i >= 0; i-- {
		errs = append(errs, g.closers[i]())
	}
	g.closers = nil
	return errors.Join(errs...)
}
