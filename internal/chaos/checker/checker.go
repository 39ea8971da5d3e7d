package checker

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/starferry/starferry"
)

// ID is the number that a record carries as its value; no two records share one.
type ID int64

// Produced is a record that was sent to the source cluster.
type Produced struct {
	ID ID
	starferry.TopicPartition
	// Offset is where the source cluster put it; NoOffset if no acknowledgement
	// came, in which case the record may exist or not.
	Offset starferry.Offset
}

// Acked reports whether the cluster has promised to keep the record.
func (p Produced) Acked() bool { return p.Offset != starferry.NoOffset }

// Handling is one line of a service's log.
type Handling struct {
	Boot string
	At   time.Time
	// Cluster is where it was read from; empty if the log does not tell.
	Cluster starferry.ClusterName
	starferry.TopicPartition
	// Offset is the record's offset on the cluster the service read it from.
	Offset starferry.Offset
	ID     ID
}

// Blow is what a strike has done to a boot.
type Blow string

// The blows.
const (
	Killed Blow = "killed"
	Frozen Blow = "frozen"
	CutOff Blow = "cut off" // for so long that it may have lost its membership
)

// Strike is a boot that was killed, frozen, or cut off from a cluster.
type Strike struct {
	Boot string
	Blow Blow
	From time.Time
	// Until is when it could go on; zero for a killed one.
	Until time.Time
	// Committed is what its group had committed, right after From, on each cluster
	// that it was struck on.
	Committed map[starferry.ClusterName]map[starferry.TopicPartition]starferry.Offset
	// Silent says that nobody could have reported what may repeat: NATS was away.
	Silent bool
}

// Repeat is a range of records that survivors have said may come again.
type Repeat struct {
	Cluster starferry.ClusterName
	starferry.TopicPartition
	starferry.Range
}

// Stored is one record in the log of a partition.
type Stored struct {
	ID     ID
	Offset starferry.Offset
	// Sum is a digest of key, value, headers and timestamp.
	Sum uint64
}

// Log is what a cluster holds of one partition, in the order of offsets.
type Log []Stored

// Evidence is all that is known of one history.
type Evidence struct {
	Source, Target starferry.ClusterName
	Produced       []Produced
	// Handled has the lines of each boot in the order of its log; the boots may
	// stand in any order.
	Handled []Handling
	Strikes []Strike
	// Reported is every range that the leases of survivors have told of.
	Reported []Repeat
	// Moves is how often the group may have changed cluster: the highest epoch
	// that anything has heard of. Negative: unknown.
	Moves int
	// Logs is what the clusters hold at the end.
	Logs map[starferry.ClusterName]map[starferry.TopicPartition]Log
	// Copied says that the copy had caught up when Logs was read, so that what
	// the target lacks is missing. Otherwise it may be a prefix.
	Copied bool
	// Stretches were redistributed, and Spilled is where to. The group's offset is
	// past them as soon as they are moved: what it has committed of the overflow
	// tells whether they were handled.
	Stretches []Stretch
	Spilled   map[starferry.ClusterName]map[ID]Spill
}

// maxFindings is how many findings of a kind are spelt out.
const maxFindings = 10

// Verdict is what the checker says.
type Verdict struct {
	Produced, Handled int
	Lost              int
	Doubled           int // handled again without an explanation
	Repeated          int // handled again, in the range of a struck boot
	Unreported        int // of these, those that no survivor has reported in time
	Late              int // of these, those that were under way in a frozen boot
	TwoActive         int // changes of cluster beyond the switches there were
	OutOfOrder        int
	Foreign           int // handled, but never produced
	CopiedWrong       int // on the target: missing, doubled, out of order or altered
	// Findings spells out the first few of each kind, for people.
	Findings []string

	spelt map[string]int
}

// OK reports whether nothing is wrong. Explained repeats are not wrong.
func (v Verdict) OK() bool {
	return v.Lost+v.Doubled+v.OutOfOrder+v.Foreign+v.CopiedWrong+v.TwoActive+v.Unreported == 0
}

// String is the verdict in one line.
func (v Verdict) String() string {
	return fmt.Sprintf("produced %d, handled %d; lost %d, twice %d, out of order %d, foreign %d, copied wrong %d, two active %d; repeated %d, unreported %d",
		v.Produced, v.Handled, v.Lost, v.Doubled, v.OutOfOrder, v.Foreign, v.CopiedWrong, v.TwoActive, v.Repeated, v.Unreported)
}

// Add adds what another history has shown.
func (v *Verdict) Add(o Verdict) {
	v.Produced, v.Handled = v.Produced+o.Produced, v.Handled+o.Handled
	v.Lost, v.Doubled, v.OutOfOrder = v.Lost+o.Lost, v.Doubled+o.Doubled, v.OutOfOrder+o.OutOfOrder
	v.Repeated, v.Unreported, v.Late = v.Repeated+o.Repeated, v.Unreported+o.Unreported, v.Late+o.Late
	v.Foreign, v.CopiedWrong, v.TwoActive = v.Foreign+o.Foreign, v.CopiedWrong+o.CopiedWrong, v.TwoActive+o.TwoActive
	v.Findings = append(v.Findings, o.Findings...)
}

func (v *Verdict) find(kind, format string, args ...any) {
	if v.spelt == nil {
		v.spelt = map[string]int{}
	}
	if v.spelt[kind]++; v.spelt[kind] <= maxFindings {
		v.Findings = append(v.Findings, kind+": "+fmt.Sprintf(format, args...))
	}
}

// Check reads the evidence.
func Check(e Evidence) Verdict {
	v := Verdict{Handled: len(e.Handled)}
	h := newHistory(e)
	h.lost(&v)
	h.doubled(&v)
	h.stays(&v)
	h.firsts(&v)
	h.active(&v)
	copied(e, &v)
	return v
}

// history is the evidence, indexed.
type history struct {
	Evidence
	produced map[ID]Produced
	handled  map[ID][]Handling // in the order of time
	strikes  map[string][]Strike
	reported map[lane][]starferry.Range
	place    map[starferry.ClusterName]map[ID]starferry.Offset
	again    map[again]bool  // second handlings that are explained
	late     map[again]bool  // of these, those of a boot that was frozen meanwhile
	moved    map[placed]bool // was part of a stretch
}

// placed is a record on a cluster.
type placed struct {
	cluster starferry.ClusterName
	id      ID
}

// lane is a partition of a cluster.
type lane struct {
	cluster starferry.ClusterName
	starferry.TopicPartition
}

// again is one handling of a record.
type again struct {
	id   ID
	boot string
	at   int64
}

func seen(l Handling) again { return again{l.ID, l.Boot, l.At.UnixNano()} }

func newHistory(e Evidence) history {
	h := history{
		Evidence: e,
		produced: make(map[ID]Produced, len(e.Produced)),
		handled:  make(map[ID][]Handling, len(e.Produced)),
		strikes:  map[string][]Strike{},
		reported: map[lane][]starferry.Range{},
		again:    map[again]bool{},
		late:     map[again]bool{},
		moved:    map[placed]bool{},
		place:    map[starferry.ClusterName]map[ID]starferry.Offset{},
	}
	for _, p := range e.Produced {
		h.produced[p.ID] = p
	}
	for _, l := range e.Handled {
		h.handled[l.ID] = append(h.handled[l.ID], l)
	}
	for _, lines := range h.handled {
		slices.SortStableFunc(lines, func(a, b Handling) int { return a.At.Compare(b.At) })
	}
	for _, d := range e.Strikes {
		h.strikes[d.Boot] = append(h.strikes[d.Boot], d)
	}
	for _, r := range e.Reported {
		k := lane{r.Cluster, r.TopicPartition}
		h.reported[k] = append(h.reported[k], r.Range)
	}
	for cluster, logs := range e.Logs {
		h.place[cluster] = map[ID]starferry.Offset{}
		for _, log := range logs {
			for _, s := range log {
				h.place[cluster][s.ID] = s.Offset
			}
		}
	}
	return h
}

// lost finds acknowledged records nobody handled, and handled ones nobody sent.
func (h history) lost(v *Verdict) {
	for _, p := range h.Evidence.Produced {
		if !p.Acked() {
			continue
		}
		v.Produced++
		if len(h.handled[p.ID]) == 0 {
			v.Lost++
			v.find("lost", "record %d at %s@%d was acknowledged and never handled", p.ID, p.TopicPartition, p.Offset)
		}
	}
	for _, l := range h.Handled {
		if p, ok := h.produced[l.ID]; !ok || p.TopicPartition != l.TopicPartition {
			v.Foreign++
			v.find("foreign", "%s handled record %d as %s@%d; no such record was produced there", l.Boot, l.ID, l.TopicPartition, l.Offset)
		}
	}
}

// stays checks the order within what each boot handled of each partition.
func (h history) stays(v *Verdict) {
	type stay struct {
		boot string
		tp   starferry.TopicPartition
	}
	last := map[stay]Handling{}
	for _, l := range h.Handled {
		if h.again[seen(l)] {
			continue
		}
		key := stay{l.Boot, l.TopicPartition}
		prev, seen := last[key]
		last[key] = l
		if seen && h.before(l.ID, prev.ID) {
			v.OutOfOrder++
			v.find("out of order", "%s handled record %d of %s (offset %d) after record %d (offset %d)",
				l.Boot, l.ID, l.TopicPartition, l.Offset, prev.ID, prev.Offset)
		}
	}
}

// firsts checks the order of first handlings of each partition over all boots:
// no process runs ahead while another still holds earlier records.
func (h history) firsts(v *Verdict) {
	parts := map[starferry.TopicPartition][]Handling{}
	for id, lines := range h.handled {
		if _, ok := h.produced[id]; ok {
			parts[lines[0].TopicPartition] = append(parts[lines[0].TopicPartition], lines[0])
		}
	}
	for tp, lines := range parts {
		slices.SortFunc(lines, func(a, b Handling) int {
			return cmp.Or(a.At.Compare(b.At), cmp.Compare(h.source(a.ID), h.source(b.ID)))
		})
		for i := 1; i < len(lines); i++ {
			a, b := lines[i-1], lines[i]
			if a.Boot != b.Boot && h.before(b.ID, a.ID) {
				v.OutOfOrder++
				v.find("out of order", "%s: %s handled record %d at %s, before %s handled the earlier record %d at %s",
					tp, a.Boot, a.ID, clock(a.At), b.Boot, b.ID, clock(b.At))
			}
		}
	}
}

// active finds out whether two clusters were active at a time: in the order of
// time a group's handlings change cluster once a switch.
func (h history) active(v *Verdict) {
	if h.Moves < 0 {
		return
	}
	all := slices.DeleteFunc(slices.Clone(h.Handled), func(l Handling) bool { return l.Cluster == "" || h.late[seen(l)] })
	slices.SortStableFunc(all, func(a, b Handling) int { return a.At.Compare(b.At) })
	changes := 0
	for i := 1; i < len(all); i++ {
		if all[i].Cluster == all[i-1].Cluster {
			continue
		}
		if changes++; changes > h.Moves {
			v.TwoActive++
			v.find("two active", "%s handled %s@%d of %s at %s, and %s %s@%d of %s at %s; there were %d switches at most",
				all[i-1].Boot, all[i-1].TopicPartition, all[i-1].Offset, all[i-1].Cluster, clock(all[i-1].At),
				all[i].Boot, all[i].TopicPartition, all[i].Offset, all[i].Cluster, clock(all[i].At), h.Moves)
		}
	}
}

// before reports whether a stands before b on the source. Records of unknown
// place are before nothing.
func (h history) before(a, b ID) bool {
	x, y := h.source(a), h.source(b)
	return x != starferry.NoOffset && y != starferry.NoOffset && x < y
}

// source is a record's offset on the source cluster, by its acknowledgement or
// else by the cluster's log.
func (h history) source(id ID) starferry.Offset {
	if p, ok := h.produced[id]; ok && p.Acked() {
		return p.Offset
	}
	if o, ok := h.place[h.Source][id]; ok {
		return o
	}
	return starferry.NoOffset
}

func clock(t time.Time) string { return t.Format("15:04:05.000") }
