package fleet_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// forgotten is a group whose backlog has been moved in part to be handled, whose
// instances were started again since, and of which NATS has forgotten all that.
func forgotten(t *testing.T) (*world, control.Overflow) {
	w := newWorld(t, 2)
	release := w.holdEach("0/1", "0/10")
	a := w.instance("a")
	w.begun(2)
	for range 20 {
		w.produce()
	}
	asks, dies := context.WithCancel(t.Context())
	ended, _ := w.redistributing(asks, w.hotOrder())
	is := w.phase(control.OverflowMove)
	release("0/1")
	require.Eventually(t, func() bool { // all of it is moved, and the handler stuck in the overflow
		got, err := w.oldW.Committed(t.Context(), w.group, []starferry.TopicPartition{w.tp(0)})
		return err == nil && got[w.tp(0)].Offset == is.Until
	}, patience, 5*time.Millisecond)
	dies()
	require.Error(t, <-ended)

	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_ = a.Close(short) // its handler is given up
	_, revision, err := w.store.Settings(t.Context(), w.group)
	require.NoError(t, err)
	_, err = w.store.PutSettings(t.Context(), control.Settings{Group: w.group}, revision)
	require.NoError(t, err)
	release("0/10")
	w.instance("b")
	require.Eventually(t, func() bool {
		ls, err := w.store.Leases(t.Context(), w.group)
		return err == nil && len(ls) == 1 && ls[0].Home == w.old.Name
	}, patience, 10*time.Millisecond)
	return w, is
}

// Guarantee 8: A redistributed backlog is moved once and nothing of it is lost,
// also if NATS forgets that there was one and the instances begin anew.
func TestARedistributionThatNATSForgotIsFoundAgain(t *testing.T) {
	for name, finds := range map[string]func(*world){
		"by the next redistribution": func(w *world) {
			o := w.hotOrder()
			o.Token = "tok-2"
			_, err := w.fleet.Redistribute(w.t.Context(), o)
			require.NoError(w.t, err)
		},
		"by a switch": func(w *world) {
			w.switched(w.old, w.new, "run-1")
			w.livesOn(w.new)
		},
		"by an agent that starts": func(w *world) {
			ctx, cancel := context.WithCancel(w.t.Context())
			done := make(chan struct{})
			go func() { defer close(done); w.fleet.KeepOverflows(ctx) }()
			w.settled()
			require.Eventually(w.t, func() bool {
				v, _, err := w.store.Settings(w.t.Context(), w.group)
				return err == nil && v.Overflow == nil
			}, patience, 10*time.Millisecond)
			cancel()
			<-done
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, is := forgotten(t)
			finds(w)
			w.noOverflowLeft(is.Topic)
			w.settled() // nothing is lost
			require.Contains(t, w.trail(), "redistribute found again")
		})
	}
}
