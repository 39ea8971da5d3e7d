package checker

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/starferry/starferry"
)

// crossed is a lane of ten source offsets: records, a marker at 4, an aborted
// record at 5 and nothing at 7. On the target the copies begin at 1, with a
// marker at 4.
func crossed() Crossing {
	data := func(o starferry.Offset, id ID) Entry {
		return Entry{Offset: o, ID: id, Key: uint64(id), Sum: uint64(id) * 7}
	}
	hole := func(next starferry.Offset, why starferry.Reason) starferry.Answer {
		return starferry.Answer{Offset: next, Status: starferry.InHole, Reason: why}
	}
	exact := func(o starferry.Offset) starferry.Answer { return starferry.Answer{Offset: o, Status: starferry.Exact} }
	c := Crossing{Lane: lane0}
	for o := range starferry.Offset(10) {
		switch e := data(o, ID(100+o)); o {
		case 4:
			c.Source = append(c.Source, Entry{Offset: o, Kind: Marker})
		case 5:
			e.Kind = Aborted
			c.Source = append(c.Source, e)
		case 7:
		default:
			c.Source = append(c.Source, e)
		}
	}
	for _, p := range []pair{{0, 1}, {1, 2}, {2, 3}, {3, 5}, {6, 6}, {8, 7}, {9, 8}} {
		c.Target = append(c.Target, data(p.target, ID(100+p.source)))
	}
	c.Target = append(c.Target, Entry{Offset: 4, Kind: Marker}, Entry{Offset: 9, Kind: Marker})
	c.Forward.Given = []starferry.Answer{exact(1), exact(2), exact(3), exact(5), hole(6, starferry.Control), hole(6, starferry.Aborted),
		exact(6), hole(7, starferry.Compacted), exact(7), exact(8)}
	c.Back.Given = []starferry.Answer{{Offset: 0, Status: starferry.BeforeStart}, exact(0), exact(1), exact(2), hole(3, ""), exact(3), exact(6), exact(8), exact(9),
		{Offset: 10, Status: starferry.AtEnd}}
	return c
}

func TestACrossingWithoutFault(t *testing.T) {
	b := crossed().Balance()
	assert.Empty(t, b.Findings)
	assert.True(t, b.OK())
	assert.Equal(t, 20, b.Asked)
	assert.Equal(t, 7, b.Copied)
}

// Each thing that can go wrong is counted as what it is.
func TestWhatGoesWrongInACrossing(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*Crossing)
		count func(Balance) int
	}{
		"lost":          {func(c *Crossing) { c.Target = c.Target[1:]; c.Forward.Given, c.Back.Given = nil, nil }, func(b Balance) int { return b.Lost }},
		"doubled":       {func(c *Crossing) { c.Target = append(c.Target, Entry{Offset: 10, ID: 103, Sum: 721}) }, func(b Balance) int { return b.Doubled }},
		"aborted":       {func(c *Crossing) { c.Target = append(c.Target, Entry{Offset: 10, ID: 105, Sum: 735}) }, func(b Balance) int { return b.Altered }},
		"invented":      {func(c *Crossing) { c.Target = append(c.Target, Entry{Offset: 10, ID: 999}) }, func(b Balance) int { return b.Altered }},
		"altered":       {func(c *Crossing) { c.Target[0].Sum++ }, func(b Balance) int { return b.Altered }},
		"off by one":    {func(c *Crossing) { c.Forward.Given[6].Offset++ }, func(b Balance) int { return b.MapWrong }},
		"hole too far":  {func(c *Crossing) { c.Forward.Given[4].Offset++ }, func(b Balance) int { return b.MapWrong }},
		"wrong reason":  {func(c *Crossing) { c.Forward.Given[5].Reason = starferry.Deleted }, func(b Balance) int { return b.MapWrong }},
		"no answer":     {func(c *Crossing) { c.Forward.Given[2] = starferry.Answer{} }, func(b Balance) int { return b.MapWrong }},
		"unknown":       {func(c *Crossing) { c.Forward.Given[2] = starferry.Answer{Status: starferry.Unknown} }, func(b Balance) int { return b.MapWrong }},
		"back":          {func(c *Crossing) { c.Back.Given[5].Offset++ }, func(b Balance) int { return b.MapWrong }},
		"marker's back": {func(c *Crossing) { c.Back.Given[4].Offset++ }, func(b Balance) int { return b.MapWrong }},
	} {
		t.Run(name, func(t *testing.T) {
			x := crossed()
			c.spoil(&x)
			b := x.Balance()
			assert.Equal(t, 1, c.count(b), "%s %v", b, b.Findings)
			assert.Len(t, b.Findings, 1)
		})
	}
	x := crossed()
	x.Forward.Given, x.Back.Given = nil, nil
	x.Target[1].ID, x.Target[2].ID, x.Target[1].Sum, x.Target[2].Sum = x.Target[2].ID, x.Target[1].ID, x.Target[2].Sum, x.Target[1].Sum
	assert.Equal(t, 1, x.Balance().OutOfOrder)
}

// A copy that has not caught up has lost nothing behind its last record.
func TestACopyThatIsBehind(t *testing.T) {
	x := crossed()
	x.Behind, x.Target = true, x.Target[1:3]
	x.Forward.Given, x.Back.Given = nil, nil
	assert.Equal(t, 1, x.Balance().Lost)
	x.Behind = false
	assert.Equal(t, 5, x.Balance().Lost)
}

// Cleaners take records on either side; the newest of each key must stand.
func TestCleanersAreNotFaults(t *testing.T) {
	x := crossed()
	x.Compacted = true
	for i := range x.Source {
		x.Source[i].Key = 1
	}
	for i := range x.Target {
		x.Target[i].Key = 1
	}
	x.Sent = []Entry{x.Source[0], x.Source[2]}
	x.Source = append(x.Source[1:2:2], x.Source[3:]...) // 0 and 2 are gone there
	x.Target = append(x.Target[:1:1], x.Target[2:]...)  // 1 is gone here
	x.Forward.Given[2] = starferry.Answer{Status: starferry.Unknown}
	b := x.Balance()
	assert.True(t, b.OK(), "%v", b.Findings)
	assert.Equal(t, 1, b.Unknown)
	x.Target = x.Target[:4] // up to source offset 6: the newest is lost
	x.Forward.Given, x.Back.Given = nil, nil
	assert.Equal(t, 2, x.Balance().Lost)
}
