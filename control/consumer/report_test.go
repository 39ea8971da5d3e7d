package consumer

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// pokedNow reports whether the newest lease is to be put now.
func (r *reporter) pokedNow() bool {
	select {
	case <-r.poked:
		r.mu.Lock()
		defer r.mu.Unlock()
		r.later = false // as put does
		return true
	default:
		return false
	}
}

func TestWhatIsWaitedForIsSaidAtOnceAndTheRestInAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReporter(nil)
		l := control.Lease{Group: "g", Instance: "i", Home: "old", HomeEpoch: 1, Epoch: 1, Revision: 7}
		r.mention(l, false)
		require.True(t, r.pokedNow(), "the first word")

		l.Revision++
		r.mention(l, false)
		require.True(t, r.pokedNow(), "an order that only has to be heard is answered")

		// An order to drain: that it was heard and how far the records are can wait.
		l.Revision, l.Epoch = l.Revision+1, 2
		r.mention(l, true)
		l.Partitions = []control.PartitionState{{Partition: starferry.TopicPartition{Topic: "orders"}, InFlight: 1}}
		r.mention(l, true)
		require.False(t, r.pokedNow())
		<-time.After(moment + time.Millisecond)
		synctest.Wait()
		require.True(t, r.pokedNow(), "a handler that takes long is seen")
		require.Equal(t, l, *r.lease, "the last of several words")

		l.Drained = 2
		r.mention(l, false)
		require.True(t, r.pokedNow(), "the answer that the group stands still for")

		l.Home = "new"
		r.mention(l, true)
		require.True(t, r.pokedNow())
		<-time.After(2 * moment) // whatever was armed before
		synctest.Wait()
		r.pokedNow()
		l.Pauses = []control.Pause{{Epoch: 2}}
		r.mention(l, true)
		require.False(t, r.pokedNow())
		<-time.After(2 * moment)
		synctest.Wait()
		require.True(t, r.pokedNow(), "what a lease says for the report is said")
	})
}
