package checker

import (
	"fmt"
	"slices"
	"time"

	"github.com/starferry/starferry"
)

// HandEvidence is the history of a group whose records come from producers that
// move as well, over a link in each direction, and on which operators lay their
// hands meanwhile.
type HandEvidence struct {
	// Evidence without an order of partitions: Produced are those of Written.
	Evidence
	Written []Written
	Skips   []Skip
	Kept    map[ID]bool // what skips have put aside
	Limits  []Limit
	// Ended: producers have ended and the copies had caught up when the logs were
	// read, so both clusters must hold all records.
	Ended bool
}

// Written is a record that a producer was given. A key is one boot's of one
// producer, which sends its records in the order of their numbers.
type Written struct {
	ID
	starferry.TopicPartition
	Key     string
	Cluster starferry.ClusterName // where it was acknowledged; empty: nowhere
	Offset  starferry.Offset
}

// Skip is a range of records that was asked to be passed.
type Skip struct {
	Cluster starferry.ClusterName
	starferry.TopicPartition
	starferry.Range
	Acked time.Time // from then on none is handled; zero: it was never acknowledged
	Until time.Time // up to then; zero: for ever
}

// Limit is a rate that was acknowledged, and not lifted before its end. Rate 0 is
// a pause.
type Limit struct {
	Rate     float64 // records per second of the whole group
	From, To time.Time
}

// Stretch is the backlog of a partition that was redistributed.
type Stretch struct {
	Cluster starferry.ClusterName
	starferry.TopicPartition
	starferry.Range
	Loose bool // without a promise on the order
}

// Spill is where a redistribution has put a record.
type Spill struct {
	starferry.TopicPartition
	Offset starferry.Offset
}

// HandVerdict is a verdict on more.
type HandVerdict struct {
	Verdict
	Skipped    int // passed by a skip, and kept
	Passed     int // handled after a skip of them was acknowledged
	TooFast    int // handled beyond a limit
	Unreleased int // orders, holds and topics that were left behind
}

// OK reports whether nothing is wrong.
func (v HandVerdict) OK() bool { return v.Verdict.OK() && v.Passed+v.TooFast+v.Unreleased == 0 }

// String is the verdict in one line.
func (v HandVerdict) String() string {
	return fmt.Sprintf("%s; skipped %d, handled though skipped %d, too fast %d, not released %d", v.Verdict, v.Skipped, v.Passed, v.TooFast, v.Unreleased)
}

// Release notes what was left behind.
func (v *HandVerdict) Release(format string, args ...any) {
	v.Unreleased++
	v.find("not released", format, args...)
}

// CheckHand reads the evidence.
func CheckHand(e HandEvidence) HandVerdict {
	for _, w := range e.Written {
		p := Produced{ID: w.ID, TopicPartition: w.TopicPartition, Offset: starferry.NoOffset}
		if w.Cluster != "" {
			p.Offset = w.Offset
		}
		e.Produced = append(e.Produced, p)
	}
	v := HandVerdict{Verdict: Verdict{Handled: len(e.Handled)}}
	h := hand{history: newHistory(e.Evidence), HandEvidence: e, skips: map[ID][]Skip{}, loose: map[ID]bool{}}
	h.ranges()
	h.lost(&v)
	h.doubled(&v.Verdict)
	h.order(&v)
	h.passed(&v)
	h.fast(&v)
	h.active(&v.Verdict)
	for cluster, logs := range e.Logs {
		h.stands(&v, cluster, logs)
	}
	return v
}

// hand is the evidence, indexed.
type hand struct {
	history
	HandEvidence
	skips map[ID][]Skip
	loose map[ID]bool
}

// ranges finds the records of skips and stretches in the logs.
func (h hand) ranges() {
	within := func(c starferry.ClusterName, tp starferry.TopicPartition, r starferry.Range, f func(ID)) {
		log := h.history.Logs[c][tp]
		i, _ := slices.BinarySearchFunc(log, r.From, func(s Stored, o starferry.Offset) int { return int(s.Offset - o) })
		for ; i < len(log) && log[i].Offset < r.To; i++ {
			f(log[i].ID)
		}
	}
	for _, s := range h.Skips {
		within(s.Cluster, s.TopicPartition, s.Range, func(id ID) { h.skips[id] = append(h.skips[id], s) })
	}
	for _, s := range h.history.Stretches {
		within(s.Cluster, s.TopicPartition, s.Range, func(id ID) {
			h.loose[id] = h.loose[id] || s.Loose
			h.moved[placed{s.Cluster, id}] = true
		})
	}
}

// lost finds acknowledged records that were neither handled nor skipped and kept.
func (h hand) lost(v *HandVerdict) {
	for _, w := range h.Written {
		if w.Cluster == "" {
			continue
		}
		v.Produced++
		switch {
		case len(h.handled[w.ID]) > 0:
		case len(h.skips[w.ID]) > 0 && h.Kept[w.ID]:
			v.Skipped++
		case len(h.skips[w.ID]) > 0:
			v.Lost++
			v.find("lost", "record %d at %s@%d of %s was skipped, and no copy of it is kept", w.ID, w.TopicPartition, w.Offset, w.Cluster)
		default:
			v.Lost++
			v.find("lost", "record %d at %s@%d was acknowledged on %s and never handled", w.ID, w.TopicPartition, w.Offset, w.Cluster)
		}
	}
	for _, l := range h.history.Handled {
		if p, ok := h.produced[l.ID]; !ok || p.TopicPartition != l.TopicPartition {
			v.Foreign++
			v.find("foreign", "%s handled record %d as %s@%d; no such record was produced there", l.Boot, l.ID, l.TopicPartition, l.Offset)
		}
	}
}

// order checks that the first handlings of each key come in the order in which
// its records were sent.
func (h hand) order(v *HandVerdict) {
	last := map[string]Handling{} // of each key
	for _, w := range h.inOrder() {
		lines := h.handled[w.ID]
		if len(lines) == 0 {
			continue
		}
		l, prev := lines[0], last[w.Key]
		if l.At.Before(prev.At) {
			v.OutOfOrder++
			v.find("out of order", "key %s of %s: %s handled record %d (%s@%d) at %s, before %s handled the earlier record %d (%s@%d) at %s", w.Key, w.TopicPartition,
				l.Boot, l.ID, l.Cluster, l.Offset, clock(l.At), prev.Boot, prev.ID, prev.Cluster, prev.Offset, clock(prev.At))
		}
		if l.At.After(prev.At) && !h.loose[w.ID] {
			last[w.Key] = l
		}
	}
}

// inOrder are the written records by their numbers.
func (h hand) inOrder() []Written {
	all := slices.Clone(h.Written)
	slices.SortFunc(all, func(a, b Written) int { return int(a.ID - b.ID) })
	return all
}

// soon is how long a handler that has been told to stop may take to be seen to.
const soon = 100 * time.Millisecond

// passed finds records that were handled although a skip of them had been
// acknowledged.
func (h hand) passed(v *HandVerdict) {
	for id, skips := range h.skips {
		for _, l := range h.handled[id] {
			for _, s := range skips {
				if _, thawed := h.thawed(l); thawed || s.Acked.IsZero() || l.At.Before(s.Acked.Add(soon)) || !s.Until.IsZero() && l.At.After(s.Until) {
					continue
				}
				v.Passed++
				v.find("handled though skipped", "record %d of %s: %s handled it at %s (offset %d of %s); its skip ([%d, %d) of %s) was acknowledged at %s",
					id, l.TopicPartition, l.Boot, clock(l.At), l.Offset, l.Cluster, s.From, s.To, s.Cluster, clock(s.Acked))
			}
		}
	}
}

// The slack of a limit.
const (
	window  = 2 * time.Second
	inHand  = 24   // records that were admitted before a window began
	overfed = 1.15 // beside which each instance may save up a twentieth of a second
)

// fast looks for more handlings in a window than a limit allows.
func (h hand) fast(v *HandVerdict) {
	var times []time.Time
	for _, l := range h.history.Handled {
		if _, ok := h.thawed(l); !ok {
			times = append(times, l.At)
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	for _, l := range h.Limits {
		i, _ := slices.BinarySearchFunc(times, l.From.Add(soon), time.Time.Compare)
		for j := i; i < len(times) && times[i].Before(l.To); i++ {
			for j < len(times) && times[j].Before(l.To) && times[j].Sub(times[i]) < window {
				j++
			}
			if n, most := j-i, int(l.Rate*window.Seconds()*overfed)+inHand; n > most {
				v.TooFast += n - most
				v.find("too fast", "%d records were handled within %s from %s on; at %g records per second, acknowledged at %s, %d are the most", n, window, clock(times[i]), l.Rate, clock(l.From), most)
				break
			}
		}
	}
}

// stands checks what one cluster holds: each record once, those of a key in the
// order of their sending, and in the end all of them.
func (h hand) stands(v *HandVerdict, cluster starferry.ClusterName, logs map[starferry.TopicPartition]Log) {
	wrong := func(format string, args ...any) {
		v.CopiedWrong++
		v.find("copied wrong", "%s: "+format, append([]any{cluster}, args...)...)
	}
	keys := make(map[ID]string, len(h.Written))
	for _, w := range h.Written {
		keys[w.ID] = w.Key
	}
	seen := make(map[ID]bool, len(h.Written))
	for tp, log := range logs {
		last := map[string]Stored{}
		for _, s := range log {
			if seen[s.ID] {
				wrong("record %d stands twice, again at %s@%d", s.ID, tp, s.Offset)
			}
			seen[s.ID] = true
			k := keys[s.ID]
			if prev := last[k]; k != "" && prev.ID > s.ID {
				wrong("record %d of key %s stands at %s@%d, behind the later record %d (offset %d)", s.ID, k, tp, s.Offset, prev.ID, prev.Offset)
			}
			last[k] = s
		}
	}
	for _, w := range h.Written {
		if h.Ended && w.Cluster != "" && !seen[w.ID] {
			wrong("record %d is missing; %s acknowledged it at %s@%d", w.ID, w.Cluster, w.TopicPartition, w.Offset)
		}
	}
}
