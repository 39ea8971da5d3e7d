package replication

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/starferry/starferry"
)

// Under any interleaving of answers a broker that keeps sequences ends up with
// each entry once and in order, and the lane knows where each went.
func TestPipelineIsExactlyOnceUnderAnyAnswers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p pipeline
		p.reset()
		const total = 12
		broker := &fakeLog{}
		var flying, settled []*entry
		added := 0
		for step := 0; len(settled) < total; step++ {
			require.Less(t, step, 2000, "no progress")
			switch k := rapid.IntRange(0, 5).Draw(t, "step"); {
			case k <= 1 && added < total:
				p.add(&entry{pieces: []piece{{starferry.Offset(added), 1, ""}}, batch: []byte{1}, records: 1})
				added++
			case k <= 3:
				if e, _ := p.take(); e != nil {
					require.LessOrEqual(t, len(flying), fullWindow)
					flying = append(flying, e)
				}
			case len(flying) > 0:
				e := flying[0]
				flying = flying[1:]
				broker.answer(t, &p, e)
			}
			settled = append(settled, p.done()...)
		}
		for i, e := range settled {
			require.EqualValues(t, i, e.pieces[0].source)
			require.EqualValues(t, i, e.target)
		}
		require.Len(t, broker.seqs, total)
	})
}

// fakeLog keeps sequences as a broker does.
type fakeLog struct{ seqs []int32 }

func (f *fakeLog) answer(t *rapid.T, p *pipeline, e *entry) {
	switch rapid.IntRange(0, 3).Draw(t, "fate") {
	case 0: // refused, not carried out
		p.fail(e)
		return
	case 1: // carried out if it fits, the answer lost
		if int(e.seq) == len(f.seqs) {
			f.seqs = append(f.seqs, e.seq)
		}
		p.fail(e)
		return
	}
	switch {
	case int(e.seq) < len(f.seqs):
		p.ack(e, starferry.Offset(e.seq)) // a duplicate is told its place
	case int(e.seq) == len(f.seqs):
		f.seqs = append(f.seqs, e.seq)
		p.ack(e, starferry.Offset(e.seq))
	default:
		require.True(t, p.echo(e), "out of order with nothing failed before it")
		p.fail(e)
	}
}

func TestSequencesWrapAsBrokersDo(t *testing.T) {
	require.Equal(t, int32(0), addSeq(1<<31-1, 1))
	require.Equal(t, int32(4), addSeq(1<<31-3, 7))
}
