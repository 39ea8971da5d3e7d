package memory

import (
	"context"
	"fmt"
	"slices"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
)

// Pause sets a pause.
func (w *World) Pause(_ context.Context, r builtins.PauseRequest) (builtins.Receipt, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.Set
	if err := w.effect("pause", r.Token); err != nil {
		return builtins.Receipt{}, err
	}
	h := builtins.GroupHold{ID: "pause-" + r.Token, On: r.On, By: r.By, Why: r.Why}
	if r.For > 0 {
		h.Until = w.Time.Add(r.For).UnixMilli()
	}
	w.Set.Holds = append(slices.Clone(w.Set.Holds), h)
	w.Set.Revision++
	return builtins.Receipt{Group: r.Group, Revision: w.Set.Revision, ID: h.ID, Before: before, Instances: []string{"a"}}, nil
}

// Resume ends pauses.
func (w *World) Resume(_ context.Context, r builtins.ResumeRequest) (builtins.Receipt, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Set.Holds = slices.DeleteFunc(slices.Clone(w.Set.Holds), func(h builtins.GroupHold) bool {
		return r.ID == "" && r.On == "" || r.ID != "" && h.ID == r.ID || r.On != "" && h.On == r.On
	})
	w.Set.Revision++
	return builtins.Receipt{Group: r.Group, Revision: w.Set.Revision, Instances: []string{"a"}}, w.effect("resume", r.Token)
}

// Rewind moves positions, once for each token.
func (w *World) Rewind(_ context.Context, r builtins.RewindRequest) (builtins.RewindReport, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if done, ok := w.Done[r.Token]; ok {
		return done, nil
	}
	if err := w.effect("rewind", r.Token); err != nil {
		return builtins.RewindReport{}, err
	}
	done := builtins.RewindReport{Group: r.Group, Cluster: w.home(r.Group).Cluster, Instances: []string{"a"},
		Before: map[starferry.TopicPartition]starferry.Offset{}, After: r.Places}
	for tp, to := range r.Places {
		done.Before[tp] = 7
		if was, ok := w.Stands[tp]; ok {
			done.Before[tp] = was
		}
		w.Stands[tp] = to
	}
	w.Done[r.Token] = done
	return done, nil
}

// State is the instances, the first with one partition, blocked at offset 7.
func (w *World) State(_ context.Context, g starferry.Group) (builtins.GroupState, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	home := w.home(g)
	p := builtins.PartitionState{Partition: "orders/0", Instance: "a", Position: 8, Committed: 7, Lag: w.Behind[starferry.TopicPartition{Topic: "orders"}], Blocked: 7, BusyMS: 4000}
	if w.Free {
		p.Blocked, p.BusyMS = starferry.NoOffset, 0
	}
	s := builtins.GroupState{Group: g, Home: home.Cluster, Epoch: home.Epoch, Phase: home.Phase, Settings: w.Set, Lag: p.Lag, Partitions: []builtins.PartitionState{p}}
	for _, i := range w.Instances {
		s.Instances = append(s.Instances, builtins.InstanceState{Name: i, Host: "h", Home: string(home.Cluster), Revision: w.Set.Revision})
	}
	return s, nil
}

// Peek shows records whose value is their offset.
func (w *World) Peek(_ context.Context, r builtins.PeekRequest) ([]builtins.PeekedRecord, error) {
	var out []builtins.PeekedRecord
	for o := r.From; len(out) < r.Most && (r.Below == 0 || o < r.Below); o++ {
		at := starferry.Position{TopicPartition: r.Partition, Offset: o}
		out = append(out, builtins.PeekedRecord{Position: at.String(), Value: fmt.Sprint(o), Headers: map[string]string{}, Bytes: 1, Digest: fmt.Sprintf("d%d", o)})
	}
	return out, nil
}

// Replay puts three records back.
func (w *World) Replay(_ context.Context, r builtins.ReplayRequest) (builtins.ReplayReport, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return builtins.ReplayReport{Group: r.Group, Cluster: w.home(r.Group).Cluster, From: "dead", To: "retry", Records: 3}, w.effect("replay", r.Token)
}
