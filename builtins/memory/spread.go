package memory

import (
	"context"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
)

// Redistribute handles the backlog at once; there is never anything to stop.
func (w *World) Redistribute(_ context.Context, r builtins.RedistributeRequest) (builtins.RedistributeReport, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.Stop {
		return builtins.RedistributeReport{Group: r.Group, Partition: r.Partition}, w.effect("redistribute stop", r.Token)
	}
	if err := w.effect("redistribute", r.Token); err != nil {
		return builtins.RedistributeReport{}, err
	}
	n := w.Behind[r.Partition]
	w.Behind[r.Partition] = 0
	rep := builtins.RedistributeReport{Group: r.Group, Partition: r.Partition, First: 9, Next: 9 + starferry.Offset(n), Revision: w.Set.Revision, Instances: []string{"i-1", "i-2"}}
	w.Spread[r.Token] = rep
	return rep, nil
}

// Redistributed finds what Redistribute did.
func (w *World) Redistributed(_ context.Context, _ starferry.Group, token string) (builtins.RedistributeReport, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	rep, ok := w.Spread[token]
	return rep, ok, nil
}
