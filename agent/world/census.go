package world

import (
	"context"
	"fmt"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/control/fleet"
)

// Census implements builtins.Census over the fleet and the clusters.
type Census struct {
	cfg      *config.Config
	fleet    *fleet.Fleet
	clusters *Clusters
}

var _ builtins.Census = (*Census)(nil)

// Groups implements builtins.Census.
func (w *Census) Groups(ctx context.Context, c starferry.ClusterName, pattern string) ([]builtins.GroupInfo, error) {
	listed, err := w.fleet.Census(ctx, c, pattern)
	if err != nil {
		return nil, err
	}
	partitions, err := w.partitions(ctx, c, listed)
	if err != nil {
		return nil, err
	}
	out := make([]builtins.GroupInfo, 0, len(listed))
	for _, l := range listed {
		g := builtins.GroupInfo{Name: l.Group, Topics: l.Topics, Labels: w.cfg.Homes.LabelsOfGroup(l.Group, l.Labels), Instances: l.Instances, Unknown: l.Unknown}
		for _, t := range l.Topics {
			g.Partitions += partitions[t]
		}
		out = append(out, g)
	}
	return out, nil
}

// partitions counts those of all topics that the groups read, in one request.
func (w *Census) partitions(ctx context.Context, c starferry.ClusterName, listed []fleet.Listed) (map[starferry.Topic]int, error) {
	wanted := map[starferry.Topic]bool{}
	var names []starferry.Topic
	for _, l := range listed {
		for _, t := range l.Topics {
			if !wanted[t] {
				wanted[t], names = true, append(names, t)
			}
		}
	}
	out := map[starferry.Topic]int{}
	if len(names) == 0 {
		return out, nil
	}
	wire, err := w.clusters.Wire(c)
	if err != nil {
		return nil, err
	}
	meta, err := wire.Metadata(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("describe topics of %s: %w", c, err)
	}
	for t, m := range meta.Topics {
		out[t] = len(m.Partitions)
	}
	return out, nil
}
