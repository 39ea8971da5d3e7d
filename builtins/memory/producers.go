package memory

import (
	"context"
	"fmt"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/builtins"
)

// Written is a topic's producers in a world in memory: "web" and "batch" write
// orders on old.
type Written struct {
	Home   builtins.TopicHome
	Others map[starferry.ClusterName]int64 // records that somebody without the library writes
}

// SwitchProducers implements builtins.Producers.
func (w *World) SwitchProducers(_ context.Context, r builtins.ProducerSwitch) (builtins.ProducerReport, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := builtins.ProducerReport{Topic: r.Topic, Source: r.Source, Target: r.Target, Epoch: w.Written.Home.Epoch, Producers: []starferry.InstanceID{"batch", "web"}}
	if w.Written.Home.Cluster == r.Target {
		return out, nil
	}
	if err := w.effect("switch producers", r.Token); err != nil {
		return out, err
	}
	if w.Written.Home.Cluster != r.Source {
		return out, fmt.Errorf("topic lives on %s", w.Written.Home.Cluster)
	}
	w.Written.Home = builtins.TopicHome{Topic: r.Topic, Cluster: r.Target, Epoch: out.Epoch + 1, Token: r.Token,
		Producers: map[starferry.InstanceID]starferry.ClusterName{"web": r.Target, "batch": r.Target}}
	out.Epoch, out.Changed = out.Epoch+1, true
	return out, nil
}

// ProducersHome implements builtins.Producers.
func (w *World) ProducersHome(context.Context, starferry.Topic) (builtins.TopicHome, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.Written.Home, nil
}

// Writing implements builtins.Producers.
func (w *World) Writing(_ context.Context, _ starferry.Topic, during time.Duration) ([]builtins.Writing, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Time = w.Time.Add(during)
	var out []builtins.Writing
	for _, c := range w.Names() {
		x := builtins.Writing{Cluster: c}
		for who, on := range w.Written.Home.Producers {
			if on == c {
				x.Writers = append(x.Writers, builtins.Writer{Who: string(who), Kind: "library", Records: 10})
			}
		}
		if n := w.Written.Others[c]; n > 0 {
			x.Writers = append(x.Writers, builtins.Writer{Who: "without a producer id", Kind: "unknown", Records: n})
		}
		for _, y := range x.Writers {
			x.Records += y.Records
		}
		out = append(out, x)
	}
	return out, nil
}
