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
		p.fail(e, true)
		return
	case 1: // carried out if it fits, the answer lost
		if int(e.seq) == len(f.seqs) {
			f.seqs = append(f.seqs, e.seq)
		}
		p.fail(e, true)
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
		p.fail(e, true)
	}
}

func TestSequencesWrapAsBrokersDo(t *testing.T) {
	require.Equal(t, int32(0), addSeq(1<<31-1, 1))
	require.Equal(t, int32(4), addSeq(1<<31-3, 7))
}

// What may have arrived is not sent again once a leader may have forgotten it,
// by its own age or by that of what was written behind it.
func TestWhatALeaderMayHaveForgottenIsStale(t *testing.T) {
	const limit = 1000
	for name, c := range map[string]struct {
		newest []int64
		unsure bool
		behind bool // the second was acknowledged
		want   bool
	}{
		"young":                    {[]int64{2000, 2000}, true, true, false},
		"old":                      {[]int64{500, 2000}, true, false, true},
		"old, certainly not there": {[]int64{500, 2000}, false, false, false},
		"old behind it":            {[]int64{2000, 500}, true, true, true},
	} {
		var p pipeline
		p.reset()
		p.window = fullWindow
		for i, at := range c.newest {
			p.add(&entry{pieces: []piece{{starferry.Offset(i), 1, ""}}, batch: []byte{1}, records: 1})
			if i == 0 || c.behind {
				e, _ := p.take()
				e.newest = at
			}
		}
		first := p.queue[0]
		if c.behind {
			p.ack(p.queue[1], 1)
		}
		p.fail(first, c.unsure)
		require.Equal(t, c.want, p.stale(limit), name)
	}
}
