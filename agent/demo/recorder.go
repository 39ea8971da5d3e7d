package demo

import (
	"slices"
	"sync"
	"time"

	"github.com/starferry/starferry"
)

// recorder is told of every record that a handler was given, by all instances,
// and says what was lost, doubled or out of order. It keeps marks, not records,
// so that it can run for days.
type recorder struct {
	mu    sync.Mutex
	lanes map[starferry.TopicPartition]*inLane
	alien int64 // records that the demo's producer did not write
}

// inLane is one partition as the handlers saw it.
type inLane struct {
	next     int64 // every smaller number was handled
	ahead    map[int64]bool
	handled  int64 // different numbers
	twice    int64
	disorder int64

	last    int64 // number handled last; −1: none
	lastAt  time.Time
	cluster starferry.ClusterName
	moves   []move
	spacing []time.Duration // between records without a move, the newest maxSpacing
	seen    int
}

// move is the change of cluster of one partition, as its handler saw it.
type move struct {
	from, to starferry.ClusterName
	pause    time.Duration // last record handled there to first one here
	gapless  bool          // the first record here follows the last one there
	at       time.Time
}

const maxSpacing = 2048

func newRecorder() *recorder {
	return &recorder{lanes: map[starferry.TopicPartition]*inLane{}}
}

// handled is called by handlers.
func (r *recorder) handled(c starferry.ClusterName, tp starferry.TopicPartition, value []byte, at time.Time) {
	n, err := numberOf(value)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.alien++
		return
	}
	l := r.lanes[tp]
	if l == nil {
		l = &inLane{ahead: map[int64]bool{}, last: -1}
		r.lanes[tp] = l
	}
	l.record(c, n, at)
}

func (l *inLane) record(c starferry.ClusterName, n int64, at time.Time) {
	if n < l.next || l.ahead[n] {
		l.twice++
	} else {
		l.handled++
		l.ahead[n] = true
		for l.ahead[l.next] {
			delete(l.ahead, l.next)
			l.next++
		}
		if n < l.last {
			l.disorder++
		}
	}
	switch {
	case l.last < 0:
	case c != l.cluster:
		l.moves = append(l.moves, move{l.cluster, c, at.Sub(l.lastAt), n == l.last+1, at})
	case l.seen < maxSpacing:
		l.spacing = append(l.spacing, at.Sub(l.lastAt))
		l.seen++
	default:
		l.spacing[l.seen%maxSpacing] = at.Sub(l.lastAt)
		l.seen++
	}
	l.last, l.lastAt, l.cluster = n, at, c
}

// everywhere reports whether every partition's newest record came from a cluster.
func (r *recorder) everywhere(c starferry.ClusterName) bool { return r.lanesOn(c) == partitions }

// lanesOn counts the partitions whose newest record came from a cluster.
func (r *recorder) lanesOn(c starferry.ClusterName) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, l := range r.lanes {
		if l.last >= 0 && l.cluster == c {
			n++
		}
	}
	return n
}

// tally is what the recorder knows so far.
type tally struct {
	handled, twice, disorder, alien int64
	distinct                        map[starferry.TopicPartition]int64
}

func (r *recorder) tally() tally {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := tally{alien: r.alien, distinct: map[starferry.TopicPartition]int64{}}
	for tp, l := range r.lanes {
		t.handled += l.handled + l.twice
		t.twice += l.twice
		t.disorder += l.disorder
		t.distinct[tp] = l.handled
	}
	return t
}

// lost counts the records that were acknowledged and never handled.
func (t tally) lost(produced map[starferry.TopicPartition]int64) int64 {
	var lost int64
	for tp, n := range produced {
		lost += max(0, n-t.distinct[tp])
	}
	return lost
}

// pauses is one switch as all partitions saw it, milliseconds.
type pauses struct {
	From       starferry.ClusterName `json:"from"`
	To         starferry.ClusterName `json:"to"`
	Partitions int                   `json:"partitions"`
	P50        float64               `json:"p50"`
	Worst      float64               `json:"worst"`
	gapless    int
}

// switches groups the partitions' moves: the i-th move of each partition belongs
// to the i-th switch.
func (r *recorder) switches() []pauses {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []pauses
	for i := 0; ; i++ {
		var times []time.Duration
		p := pauses{}
		for _, l := range r.lanes {
			if i < len(l.moves) {
				m := l.moves[i]
				times = append(times, m.pause)
				p.From, p.To = m.from, m.to
				if m.gapless {
					p.gapless++
				}
			}
		}
		if len(times) == 0 {
			return out
		}
		slices.Sort(times)
		p.Partitions, p.P50, p.Worst = len(times), millis(times[len(times)/2]), millis(times[len(times)-1])
		out = append(out, p)
	}
}

// ordinary is the mean time between two records of a partition without any
// switch, in milliseconds: what a pause has to be compared with.
func (r *recorder) ordinary() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var sum time.Duration
	n := 0
	for _, l := range r.lanes {
		for _, d := range l.spacing {
			sum += d
		}
		n += len(l.spacing)
	}
	if n == 0 {
		return 0
	}
	return millis(sum / time.Duration(n))
}

func millis(d time.Duration) float64 {
	return float64(d.Round(100*time.Microsecond)) / float64(time.Millisecond)
}
