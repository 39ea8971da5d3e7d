package consumer

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/starferry/starferry"
)

// A waterline says of every record what a plain set says.
func TestWaterlineAgainstAPlainSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		offset := rapid.Int64Range(0, 60)
		start := offset.Draw(t, "start")
		w := newWaterline(starferry.Place{Next: starferry.Offset(start)})
		set := map[starferry.Offset]bool{}
		for o := range start {
			set[starferry.Offset(o)] = true
		}
		for range rapid.IntRange(0, 40).Draw(t, "adds") {
			r := starferry.Range{From: starferry.Offset(offset.Draw(t, "from"))}
			r.To = r.From + starferry.Offset(rapid.Int64Range(0, 8).Draw(t, "length"))
			w.add(r)
			for o := r.From; o < r.To; o++ {
				set[o] = true
			}
		}
		for o := range starferry.Offset(80) {
			require.Equal(t, set[o], w.has(o), "offset %d in %+v", o, w)
		}
		require.False(t, set[w.next], "everything up to the first gap is below")
		for i, r := range w.ahead {
			require.Less(t, r.From, r.To)
			require.Greater(t, r.From, w.next)
			require.True(t, i == 0 || w.ahead[i-1].To < r.From, "%+v", w.ahead)
		}
		again := newWaterline(w.place())
		require.Equal(t, w.next, again.next)
		require.True(t, w.place().Equal(again.place()))
	})
}
