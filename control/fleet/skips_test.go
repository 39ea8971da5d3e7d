package fleet

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
)

// What lies between two places is what is skipped: in pieces where the other
// cluster has records of its own between the copies.
func TestASkipIsCarriedOverInPieces(t *testing.T) {
	r := func(from, to starferry.Offset) starferry.Range { return starferry.Range{From: from, To: to} }
	place := func(next starferry.Offset, handled ...starferry.Range) starferry.Place {
		return starferry.Place{Next: next, Handled: handled}
	}
	for name, c := range map[string]struct {
		a, b starferry.Place
		want []starferry.Range
	}{
		"copies alone":      {place(5), place(9), []starferry.Range{r(5, 9)}},
		"nothing":           {place(5, r(7, 8)), place(5, r(7, 8)), nil},
		"behind own ones":   {place(5), place(5, r(8, 10)), []starferry.Range{r(8, 10)}},
		"around own ones":   {place(3, r(5, 7)), place(4, r(5, 9), r(12, 14)), []starferry.Range{r(3, 4), r(7, 9), r(12, 14)}},
		"ranges grow whole": {place(3, r(5, 7), r(8, 9)), place(12), []starferry.Range{r(3, 5), r(7, 8), r(9, 12)}},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, beyond(c.a, c.b)) })
	}
}
