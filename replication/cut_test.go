package replication

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/replication/offsetmap"
)

// slot is one offset of a model log.
type slot struct {
	id   int  // of the record; 0: a marker
	own  bool // written here, not copied here
	gone bool // a cleaner took it
}

// coast is one side of the model: a log, and the map of the link that reads it.
type coast struct {
	name string
	log  []slot
	m    *offsetmap.Map
	far  *coast
	read starferry.Offset // by the link from here
	owed []func()         // what the map is not told yet
}

// sound is two coasts with links both ways, and a group that lives on one.
type sound struct {
	t       *rapid.T
	coasts  [2]*coast
	ids     int
	home    int
	place   starferry.Place
	handled map[int]bool
	crossed int
	refused map[starferry.Status]int
}

func newSound(t *rapid.T) *sound {
	s := &sound{t: t, handled: map[int]bool{}, refused: map[starferry.Status]int{}}
	for i, name := range []string{"old", "new"} {
		s.coasts[i] = &coast{name: name, m: &offsetmap.Map{}}
	}
	s.coasts[0].far, s.coasts[1].far = s.coasts[1], s.coasts[0]
	for _, c := range s.coasts {
		if rapid.Bool().Draw(t, "fresh") { // the link begins at the start of an old log
			for range rapid.IntRange(0, 4).Draw(t, "older") {
				s.produce(c)
			}
		}
		require.NoError(t, c.m.Reset(0, starferry.Offset(len(c.far.log))))
	}
	return s
}

func (s *sound) produce(c *coast) {
	s.ids++
	c.log = append(c.log, slot{id: s.ids, own: true})
}

// copy lets the link from a coast read n offsets on. What it writes is there at
// once; its map is told later.
func (s *sound) copy(c *coast, n int) {
	for ; n > 0 && int(c.read) < len(c.log); n-- {
		at, r := c.read, c.log[c.read]
		c.read++
		target := starferry.Offset(len(c.far.log))
		note := func() error { return c.m.Hole(at, at+1, starferry.Control) }
		switch {
		case r.id == 0:
		case r.gone:
			note = func() error { return c.m.Hole(at, at+1, starferry.Compacted) }
		case !r.own:
			note = func() error { return c.m.Hole(at, at+1, starferry.Returned) }
		default:
			c.far.log = append(c.far.log, slot{id: r.id})
			note = func() error { return c.m.Append(offsetmap.Run{Source: at, Target: target, Count: 1}) }
		}
		c.owed = append(c.owed, func() { require.NoError(s.t, note()) })
	}
}

// tell lets the map of a coast's link know what it did, some of it.
func (c *coast) tell(n int) {
	for ; n > 0 && len(c.owed) > 0; n-- {
		c.owed[0]()
		c.owed = c.owed[1:]
	}
}

// takeover is a crash of the link from a coast and what follows: a fence, and a
// map that has been read back. A lost map is rebuilt from both logs.
func (s *sound) takeover(c *coast, lost bool) {
	c.far.log = append(c.far.log, slot{})
	if lost {
		s.rebuild(c)
	} else {
		c.tell(len(c.owed))
	}
	require.NoError(s.t, c.m.Pass(starferry.Offset(len(c.far.log))))
}

// rebuild makes a coast's map anew from what both logs still hold: a copy whose
// source record is gone cannot be placed.
func (s *sound) rebuild(c *coast) {
	_, start := c.m.Start()
	m := &offsetmap.Map{}
	require.NoError(s.t, m.Reset(0, start))
	at := map[int]starferry.Offset{}
	for o, r := range c.far.log {
		if r.id != 0 && !r.own {
			at[r.id] = starferry.Offset(o)
		}
	}
	for o, r := range c.log[:c.read] {
		from := starferry.Offset(o)
		var err error
		target, copied := at[r.id]
		switch {
		case r.id == 0:
			err = m.Hole(from, from+1, starferry.Control)
		case !r.own && r.gone:
			err = m.Hole(from, from+1, starferry.Compacted)
		case !r.own:
			err = m.Hole(from, from+1, starferry.Returned)
		case !copied && r.gone: // before it was copied
			err = m.Hole(from, from+1, starferry.Compacted)
		case r.gone:
			err = m.MarkUnknown(from, from+1)
		default:
			err = m.Append(offsetmap.Run{Source: from, Target: target, Count: 1})
		}
		require.NoError(s.t, err)
	}
	c.m, c.owed = m, nil
}

// clean takes a record of a log.
func (s *sound) clean(c *coast) {
	var there []int
	for o, r := range c.log[:max(0, len(c.log)-1)] {
		if r.id != 0 && !r.gone {
			there = append(there, o)
		}
	}
	if len(there) > 0 {
		c.log[rapid.SampledFrom(there).Draw(s.t, "cleaned")].gone = true
	}
}

// poll lets the group handle n records where it lives. Sometimes it handles one
// out of order, as a pool of workers does.
func (s *sound) poll(n int, ahead bool) {
	c := s.coasts[s.home]
	skip := rapid.IntRange(0, 4)
	for ; n > 0; n-- {
		o := s.open(s.place.Next)
		if ahead {
			for range skip.Draw(s.t, "ahead") {
				o = s.open(o + 1)
			}
		}
		if int(o) >= len(c.log) {
			return
		}
		if r := c.log[o]; r.id != 0 && !r.gone {
			require.False(s.t, s.handled[r.id], "record %d is handled twice on %s at %d", r.id, c.name, o)
			s.handled[r.id] = true
		}
		s.done(o)
	}
}

// open is the first offset from o on that the place does not say is handled.
func (s *sound) open(o starferry.Offset) starferry.Offset {
	for _, r := range s.place.Handled {
		if r.Contains(o) {
			o = r.To
		}
	}
	return o
}

// done notes an offset as handled, as the library does.
func (s *sound) done(o starferry.Offset) {
	if o == s.place.Next {
		s.place.Next = s.open(o + 1)
	} else {
		s.place.Handled = append(s.place.Handled, starferry.Range{From: o, To: o + 1})
	}
	slices.SortFunc(s.place.Handled, func(a, b starferry.Range) int { return int(a.From - b.From) })
	var out []starferry.Range
	for _, r := range s.place.Handled {
		if n := len(out); n > 0 && out[n-1].To >= r.From {
			out[n-1].To = max(out[n-1].To, r.To)
		} else if r.To > s.place.Next {
			out = append(out, r)
		}
	}
	s.place.Handled = out
}

// cross translates a place from one coast to the other.
func (s *sound) cross(c *coast, p starferry.Place) offsetmap.Translated {
	t, err := crossed(c.m, c.far.m, p, len(c.far.owed) == 0)
	require.NoError(s.t, err)
	return t
}

// crossed asks both maps as the client asks two shards.
func crossed(out, in way, p starferry.Place, idle bool) (offsetmap.Translated, error) {
	x := crossing{place: p}
	q := crossingQuestion{Place: p}
	var err error
	for range 2 {
		a, b := q.out(out), q.in(in, idle)
		if err = x.take(a, b); err != nil {
			return offsetmap.Translated{}, err
		}
		if t, over := x.failed(); over {
			return t, nil
		}
		q = x.question()
	}
	return x.result(), nil
}

// records are the ids that a place says are handled: true for those that a
// cleaner has left.
func (c *coast) records(p starferry.Place) map[int]bool {
	out := map[int]bool{}
	for o, r := range c.log {
		at := starferry.Offset(o)
		in := at < p.Next || slices.ContainsFunc(p.Handled, func(r starferry.Range) bool { return r.Contains(at) })
		if r.id != 0 && in {
			out[r.id] = !r.gone
		}
	}
	return out
}

// move takes the group to the other side, if the maps know where. There and back
// is the same set of records.
func (s *sound) move() {
	c := s.coasts[s.home]
	t := s.cross(c, s.place)
	if !t.Final() || t.Behind > 0 {
		s.refused[t.Answer.Status]++
		return
	}
	here, there := c.records(s.place), c.far.records(t.Place)
	on := map[int]bool{}
	for _, r := range c.far.log {
		on[r.id] = true
	}
	for id := range here {
		_, handled := there[id]
		require.True(s.t, handled || !on[id], "record %d is handled on %s and open on %s: %v became %v", id, c.name, c.far.name, s.place, t.Place)
	}
	for id, left := range there {
		_, handled := here[id]
		require.True(s.t, handled || !left, "record %d is open on %s and handled on %s: %v became %v", id, c.name, c.far.name, s.place, t.Place)
	}
	if back := s.cross(c.far, t.Place); back.Final() && back.Behind == 0 {
		again := c.records(back.Place)
		for id := range here {
			_, handled := again[id]
			require.True(s.t, handled || !on[id], "there and back: record %d is open again", id)
		}
		for id, left := range again {
			_, handled := here[id]
			require.True(s.t, handled || !left, "there and back: record %d is lost", id)
		}
	}
	s.home, s.place = 1-s.home, t.Place
	s.crossed++
}

// Guarantee 3: A switch loses nothing and hands no record to a handler twice:
// with records written and copied on both sides, in any order and with any
// delay, with cleaners at work and maps lost, a group that goes to and fro
// handles every record once, or stays where it is.
func TestCutsAcrossBothDirections(t *testing.T) {
	crossed, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		s := newSound(t)
		cleaned := rapid.Bool().Draw(t, "with cleaners")
		few := rapid.IntRange(1, 6)
		side := func() *coast { return s.coasts[rapid.IntRange(0, 1).Draw(t, "side")] }
		t.Repeat(map[string]func(*rapid.T){
			"produce": func(*rapid.T) {
				c := side()
				for range few.Draw(t, "n") {
					s.produce(c)
				}
			},
			"mark":  func(*rapid.T) { c := side(); c.log = append(c.log, slot{}) },
			"copy":  func(*rapid.T) { s.copy(side(), few.Draw(t, "n")) },
			"tell":  func(*rapid.T) { side().tell(few.Draw(t, "n")) },
			"fence": func(*rapid.T) { s.takeover(side(), rapid.Bool().Draw(t, "lost")) },
			"clean": func(*rapid.T) {
				if cleaned {
					s.clean(side())
				}
			},
			"poll": func(*rapid.T) { s.poll(few.Draw(t, "n"), rapid.Bool().Draw(t, "ahead")) },
			"move": func(*rapid.T) { s.move() },
		})
		for range 4 {
			for _, c := range s.coasts {
				s.copy(c, len(c.log))
				c.tell(len(c.owed))
			}
		}
		before := s.crossed
		s.poll(2, false)
		s.move()
		if !cleaned {
			require.Greater(t, s.crossed, before, "with everything copied and nothing cleaned the group is free to move: %v", s.refused)
		}
		s.poll(1<<20, false)
		cleaners := map[int]bool{} // what they took the group may never have met
		for _, c := range s.coasts {
			for _, r := range c.log {
				cleaners[r.id] = cleaners[r.id] || r.gone
			}
		}
		for _, r := range s.coasts[s.home].log {
			require.True(t, r.id == 0 || cleaners[r.id] || s.handled[r.id], "record %d is lost", r.id)
		}
		crossed += s.crossed
		for _, n := range s.refused {
			refused += n
		}
	})
	require.Greater(t, crossed, 50, "void: hardly anything moved")
	t.Logf("%d moves, %d refused", crossed, refused)
}

// What would take more ranges than fit anywhere is refused in words, not cut
// short; and what a cleaner and a lost map left unproven is not answered.
func TestACutThatCannotBeToldIsRefused(t *testing.T) {
	out, in := &offsetmap.Map{}, &offsetmap.Map{}
	require.NoError(t, out.Reset(0, 0))
	require.NoError(t, in.Reset(0, 0))
	const n = 2*maxPortion + 10
	for o := range starferry.Offset(n) { // there: a copy and an own record in turns, which have not come here
		require.NoError(t, out.Append(offsetmap.Run{Source: o, Target: 2 * o, Count: 1}))
		require.NoError(t, in.Hole(2*o, 2*o+1, starferry.Returned))
		require.NoError(t, in.Append(offsetmap.Run{Source: 2*o + 1, Target: n + o, Count: 1}))
	}
	require.NoError(t, out.Hole(n, 2*n, starferry.Returned))
	few, err := crossed(out, in, starferry.Place{Next: 3}, true)
	require.NoError(t, err)
	require.Equal(t, starferry.Place{Next: 1, Handled: []starferry.Range{{From: 2, To: 3}, {From: 4, To: 5}}}, few.Place)
	_, err = crossed(out, in, starferry.Place{Next: n}, true)
	require.ErrorContains(t, err, "mixed too finely")
	all, err := crossed(out, in, starferry.Place{Next: 2 * n}, true)
	require.NoError(t, err)
	require.Equal(t, starferry.Place{Next: 2 * n}, all.Place)

	late, err := crossed(out, in, starferry.Place{Next: 2*n + 5}, true)
	require.NoError(t, err)
	require.EqualValues(t, 5, late.Behind)
	require.NoError(t, in.MarkUnknown(2*n, 2*n+1))
	require.NoError(t, in.Append(offsetmap.Run{Source: 2*n + 1, Target: 2*n + 3, Count: 1}))
	require.NoError(t, out.Hole(2*n, 2*n+10, starferry.Returned))
	dark, err := crossed(out, in, starferry.Place{Next: 2*n + 2}, true)
	require.NoError(t, err)
	require.Equal(t, starferry.Unknown, dark.Answer.Status)
	require.False(t, dark.Final())
}
