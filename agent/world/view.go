package world

import (
	"errors"
	"log/slog"

	"github.com/nats-io/nats.go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/internal/wire"
)

// OpenView makes a fleet for looking at groups on all clusters. Clusters are
// reached when they are first asked; close ends what was opened.
func OpenView(cfg *config.Config, nc *nats.Conn, store *desired.Store, log *slog.Logger) (f *fleet.Fleet, closeAll func() error, err error) {
	clusters := NewClusters(cfg, wire.WithClientID("starferry-view"), wire.WithLogger(log))
	links := NewLinks(cfg, nc, log)
	closeAll = func() error { return errors.Join(links.Close(), clusters.Close()) }
	wires := map[starferry.ClusterName]*wire.Cluster{}
	for _, name := range cfg.Names() {
		if wires[name], err = clusters.Wire(name); err != nil {
			return nil, nil, errors.Join(err, closeAll())
		}
	}
	f, err = fleet.Open(fleet.Config{Clusters: wires, Store: store, Copies: copies{links}, Logger: log})
	if err != nil {
		return nil, nil, errors.Join(err, closeAll())
	}
	return f, closeAll, nil
}
