package fleet

import (
	"slices"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/switchover"
)

// sayAgain is how often a switch says what it waits for though nothing has
// changed, for those who show how long that takes.
const sayAgain = 500 * time.Millisecond

// Progress is where a switch stands: the phase, and what its barrier waits for.
type Progress struct {
	Phase string `json:"phase"`
	// Waits is the same as Rows in one line; empty while a phase does its work.
	Waits string            `json:"waits,omitempty"`
	Rows  []switchover.Wait `json:"rows,omitempty"` // each with the time since when
	More  int               `json:"more,omitempty"` // rows left out
	// Began is when the request began, Since when the phase did, At now; Unix
	// milliseconds.
	Began int64 `json:"began"`
	Since int64 `json:"since"`
	At    int64 `json:"at"`
}

// teller turns what the driver says into Progress: it knows since when each
// thing is waited for, and repeats the last word.
type teller struct {
	last   Progress
	since  map[waitedFor]int64
	told   int64
	phases []switchover.PhaseTime
	at     time.Time // when the present phase began
}

// enter notes a phase at a time; "" ends the last one.
func (t *teller) enter(now time.Time, phase string) {
	if n := len(t.phases); n > 0 && phase != t.last.Phase {
		i := slices.IndexFunc(t.phases, func(p switchover.PhaseTime) bool { return p.Phase == t.last.Phase })
		t.phases[i].MS += float64(now.Sub(t.at).Microseconds()) / 1000
	}
	if phase == "" || phase == t.last.Phase {
		return
	}
	t.at = now
	i := slices.IndexFunc(t.phases, func(p switchover.PhaseTime) bool { return p.Phase == phase })
	if i < 0 {
		t.phases = append(t.phases, switchover.PhaseTime{Phase: phase})
		i = len(t.phases) - 1
	}
	t.phases[i].Times++
}

type waitedFor struct {
	instance  starferry.InstanceID
	member    string
	partition starferry.TopicPartition
	cluster   starferry.ClusterName
}

// hear takes in what the driver says.
func (t *teller) hear(at time.Time, s switchover.Say) Progress {
	t.enter(at, s.Phase)
	now := at.UnixMilli()
	p := Progress{Phase: s.Phase, Waits: s.Waits, More: s.More, Began: s.Began, Since: s.Since, At: now}
	since := map[waitedFor]int64{}
	for _, w := range s.Rows {
		key := waitedFor{w.Instance, w.Member, w.Partition, w.Cluster}
		if since[key] = t.since[key]; since[key] == 0 || s.Phase != t.last.Phase {
			since[key] = now
		}
		if w.Since == 0 {
			w.Since = since[key]
		}
		p.Rows = append(p.Rows, w)
	}
	t.last, t.since, t.told = p, since, now
	return p
}

// again is the last word at a later time, if it is time to say it again.
func (t *teller) again(now int64) (Progress, bool) {
	if t.last.Waits == "" || now-t.told < sayAgain.Milliseconds() {
		return Progress{}, false
	}
	t.told, t.last.At = now, now
	return t.last, true
}
