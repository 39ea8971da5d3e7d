package world

import (
	"context"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/internal/wire"
)

var _ builtins.Times = (*Clusters)(nil)

// OffsetsAt implements builtins.Times. Kafka answers with the first record whose
// time is not below; where there is none, what is committed ends before it.
func (w *Clusters) OffsetsAt(ctx context.Context, name starferry.ClusterName, topics []starferry.Topic, at time.Time) (starferry.Cut, error) {
	c, err := w.Wire(name)
	if err != nil {
		return nil, err
	}
	meta, err := c.Metadata(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("describe topics of %s: %w", name, err)
	}
	var tps []starferry.TopicPartition
	for _, t := range topics {
		m := meta.Topics[t]
		if len(m.Partitions) == 0 {
			if m.Err == nil {
				m.Err = kafka.UnknownTopicOrPartition
			}
			return nil, fmt.Errorf("describe topic %s of %s: %w", t, name, m.Err)
		}
		for _, p := range m.Partitions {
			tps = append(tps, starferry.TopicPartition{Topic: t, Partition: p.Partition})
		}
	}
	found, err := c.Offsets(ctx, tps, wire.Time(at.UnixMilli()))
	if err != nil {
		return nil, err
	}
	var none []starferry.TopicPartition
	cut := starferry.Cut{}
	for _, tp := range tps {
		if o := found[tp]; o >= 0 {
			cut[tp] = starferry.Place{Next: o}
		} else {
			none = append(none, tp)
		}
	}
	if len(none) == 0 {
		return cut, nil
	}
	ends, err := c.Offsets(ctx, none, wire.LatestStable)
	if err != nil {
		return nil, err
	}
	for tp, end := range ends {
		cut[tp] = starferry.Place{Next: end}
	}
	return cut, nil
}
