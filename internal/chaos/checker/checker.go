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
	starferry.TopicPartition
	// Offset is the record's offset on the cluster the service read it from.
	Offset starferry.Offset
	ID     ID
}

// Death is a boot that was killed.
type Death struct {
	Boot string
	At   time.Time
	// Committed is what its group had committed on each cluster right after.
	Committed map[starferry.ClusterName]map[starferry.TopicPartition]starferry.Offset
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
	Deaths  []Death
	// Logs is what the clusters hold at the end.
	Logs map[starferry.ClusterName]map[starferry.TopicPartition]Log
	// Copied says that the copy had caught up when Logs was read, so that what
	// the target lacks is missing. Otherwise it may be a prefix.
	Copied bool
}

// maxFindings is how many findings of a kind are spelt out.
const maxFindings = 10

// Verdict is what the checker says.
type Verdict struct {
	Produced, Handled int
	Lost              int
	Doubled           int // handled again without an explanation
	Repeated          int // handled again, in the range of a killed boot
	OutOfOrder        int
	Foreign           int // handled, but never produced
	CopiedWrong       int // on the target: missing, doubled, out of order or altered
	// Findings spells out the first few of each kind, for people.
	Findings []string

	spelt map[string]int
}

// OK reports whether nothing is wrong. Explained repeats are not wrong.
func (v Verdict) OK() bool {
	return v.Lost+v.Doubled+v.OutOfOrder+v.Foreign+v.CopiedWrong == 0
}

// String is the verdict in one line.
func (v Verdict) String() string {
	return fmt.Sprintf("produced %d, handled %d; lost %d, twice %d, out of order %d, foreign %d, copied wrong %d; repeated after a kill %d",
		v.Produced, v.Handled, v.Lost, v.Doubled, v.OutOfOrder, v.Foreign, v.CopiedWrong, v.Repeated)
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
	copied(e, &v)
	return v
}

// history is the evidence, indexed.
type history struct {
	Evidence
	produced map[ID]Produced
	handled  map[ID][]Handling // in the order of time
	deaths   map[string]Death
	place    map[starferry.ClusterName]map[ID]starferry.Offset
}

func newHistory(e Evidence) history {
	h := history{
		Evidence: e,
		produced: make(map[ID]Produced, len(e.Produced)),
		handled:  make(map[ID][]Handling, len(e.Produced)),
		deaths:   map[string]Death{},
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
	for _, d := range e.Deaths {
		h.deaths[d.Boot] = d
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

// doubled finds second handlings and looks for what explains each.
func (h history) doubled(v *Verdict) {
	for _, p := range h.Evidence.Produced {
		lines := h.handled[p.ID]
		for i := 1; i < len(lines); i++ {
			why := h.unexplained(lines[i-1], lines[i])
			if why == "" {
				v.Repeated++
				continue
			}
			v.Doubled++
			v.find("twice", "record %d of %s: by %s at %s (offset %d), again by %s at %s (offset %d): %s",
				p.ID, p.TopicPartition, lines[i-1].Boot, clock(lines[i-1].At), lines[i-1].Offset,
				lines[i].Boot, clock(lines[i].At), lines[i].Offset, why)
		}
	}
}

// unexplained says why a second handling is nobody's right, or "".
func (h history) unexplained(first, second Handling) string {
	if first.Boot == second.Boot {
		return "the same process handled it again"
	}
	d, dead := h.deaths[first.Boot]
	switch {
	case !dead:
		return "the first process was not killed"
	case second.At.Before(d.At):
		return "the first process was killed only at " + clock(d.At)
	}
	for cluster, committed := range d.Committed {
		c, ok := committed[first.TopicPartition]
		at, stored := h.place[cluster][first.ID]
		if ok && stored && at < c {
			return fmt.Sprintf("it is offset %d on %s, where %d was committed when the first process died", at, cluster, c)
		}
	}
	return ""
}

// stays checks the order within what each boot handled of each partition.
func (h history) stays(v *Verdict) {
	type stay struct {
		boot string
		tp   starferry.TopicPartition
	}
	last := map[stay]Handling{}
	for _, l := range h.Handled {
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
