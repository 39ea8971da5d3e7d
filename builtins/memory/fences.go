package memory

import (
	"context"
	"slices"

	"github.com/starferry/starferry"
)

// Fences implements builtins.Fencer.
func (w *World) Fences(context.Context, starferry.Group) ([]starferry.ClusterName, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.Fenced), nil
}

// RaiseFence implements builtins.Fencer.
func (w *World) RaiseFence(_ context.Context, _ starferry.Group, c starferry.ClusterName, _, _ string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Fenced = append(w.Fenced, c)
	return w.effect("fence", string(c))
}

// LiftFence implements builtins.Fencer.
func (w *World) LiftFence(_ context.Context, _ starferry.Group, c starferry.ClusterName, _, _ string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Fenced = slices.DeleteFunc(w.Fenced, func(f starferry.ClusterName) bool { return f == c })
	return w.effect("lift fence", string(c))
}
