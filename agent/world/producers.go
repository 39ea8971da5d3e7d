package world

import (
	"context"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/control/fleet"
)

var _ builtins.Producers = (*Hand)(nil)

// SwitchProducers implements builtins.Producers.
func (h *Hand) SwitchProducers(ctx context.Context, r builtins.ProducerSwitch) (builtins.ProducerReport, error) {
	rep, err := h.fleet.SwitchProducers(ctx, fleet.ProducerOrder{
		Topic: r.Topic, Source: r.Source, Target: r.Target, Link: r.Link, Within: r.Within, Hold: r.Hold, OneWay: r.OneWay,
		By: r.By, Why: r.Why, Token: r.Token, Watch: r.Progress,
	})
	return builtins.ProducerReport{
		Topic: r.Topic, Source: r.Source, Target: r.Target, Epoch: rep.Epoch, Changed: rep.Changed,
		Producers: rep.Producers, Gone: rep.Left, Late: rep.Late, HoldMS: rep.HoldMS, ControlMS: rep.ControlMS,
	}, err
}

// ProducersHome implements builtins.Producers.
func (h *Hand) ProducersHome(ctx context.Context, t starferry.Topic) (builtins.TopicHome, error) {
	x, err := h.fleet.ProducersHome(ctx, t)
	out := builtins.TopicHome{Topic: t, Cluster: x.Cluster, Epoch: x.Epoch, Token: x.Token, Producers: map[starferry.InstanceID]starferry.ClusterName{}}
	for _, l := range x.Leases {
		out.Producers[l.Instance] = l.Home
	}
	return out, err
}

// Writing implements builtins.Producers.
func (h *Hand) Writing(ctx context.Context, t starferry.Topic, during time.Duration) ([]builtins.Writing, error) {
	ws, err := h.fleet.Writing(ctx, t, during)
	var out []builtins.Writing
	for _, w := range ws {
		x := builtins.Writing{Cluster: w.Cluster, Records: w.Records, Error: w.Error}
		for _, y := range w.Writers {
			x.Writers = append(x.Writers, builtins.Writer{Who: y.Who, Kind: y.Kind, Records: y.Records})
		}
		out = append(out, x)
	}
	return out, err
}
