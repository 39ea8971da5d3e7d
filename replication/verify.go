package replication

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/starferry/starferry"
)

// Verdict says what a proof came to.
type Verdict string

// The verdicts.
const (
	// Identical: every record that both sides have is the same on both.
	Identical Verdict = "identical"
	// Different: at least one is not, or is on one side only without a reason.
	Different Verdict = "different"
	// Unproven: no difference was found, and something could not be looked at.
	Unproven Verdict = "unproven"
)

// LaneProof is what was found out about one lane: a stretch of the source
// compared with the target, along the offset map.
type LaneProof struct {
	Partition starferry.TopicPartition `json:"partition,omitzero"`
	// From is the first source offset compared and Next the first that is not:
	// To, once the lane is done. To is where the range or the copy ends.
	From starferry.Offset `json:"from"`
	Next starferry.Offset `json:"next"`
	To   starferry.Offset `json:"to"`

	Identical int64 `json:"identical"` // records that both sides have
	// SourceGone are copied records that only the target has still: retention or
	// the cleaner has removed them from the source.
	SourceGone int64 `json:"source_gone,omitempty"`
	// TargetGone are copied records that only the source has still. On a
	// compacted target a newer record of the key explains each of them.
	TargetGone int64 `json:"target_gone,omitempty"`
	// Unknown are source offsets whose place the map does not know.
	Unknown int64 `json:"unknown,omitempty"`
	// Foreign are records on the target that the link did not write.
	Foreign int64 `json:"foreign,omitempty"`
	// Holes are source offsets without a copy, by reason. That the source has no
	// committed record there was looked at, except for those left out on purpose.
	Holes map[starferry.Reason]int64 `json:"holes,omitempty"`
	// TimesLeftOut are records of Identical whose times were not compared,
	// because the target's broker sets its own (LogAppendTime).
	TimesLeftOut int64 `json:"times_left_out,omitempty"`

	Differences int64       `json:"differences,omitempty"`
	First       *Difference `json:"first,omitempty"`
	Bytes       int64       `json:"bytes"` // read from both clusters
	// Rounds is how often a continuous proof has reached the end of the copy.
	Rounds int64 `json:"rounds,omitempty"`
	// SourceHash and TargetHash are SHA-256 over the compared records of each
	// side in order, if they were asked for.
	SourceHash string `json:"source_hash,omitempty"`
	TargetHash string `json:"target_hash,omitempty"`
	// Error says why the lane could not be compared to its end.
	Error string `json:"error,omitempty"`

	// Where a client goes on.
	place  *proofPlace
	states [2][]byte
}

// Verdict sums the lane up.
func (l LaneProof) Verdict() Verdict {
	switch {
	case l.Differences > 0:
		return Different
	case l.Error != "" || l.Unknown > 0 || l.Next < l.To:
		return Unproven
	}
	return Identical
}

// Compared is how many records both sides were expected to have.
func (l LaneProof) Compared() int64 { return l.Identical + l.Differences }

// String tells the proof in a line.
func (l LaneProof) String() string {
	s := fmt.Sprintf("%s: %d of %d records identical", l.Partition, l.Identical, l.Compared())
	if l.First != nil {
		s += "; first difference: " + l.First.String()
	}
	if notes := l.Notes(); notes != "" {
		s += "; " + notes
	}
	return s
}

// Notes tells what was counted besides identical records, and what is not
// proven.
func (l LaneProof) Notes() string {
	var out []string
	add := func(n int64, what string) {
		if n != 0 {
			out = append(out, fmt.Sprintf("%d %s", n, what))
		}
	}
	for _, r := range slices.Sorted(maps.Keys(l.Holes)) {
		add(l.Holes[r], string(r))
	}
	add(l.SourceGone, "gone on source")
	add(l.TargetGone, "gone on target")
	add(l.Foreign, "foreign")
	add(l.TimesLeftOut, "without times, which the target sets")
	add(l.Unknown, "offsets unknown to the map")
	if l.Error != "" {
		out = append(out, l.Error)
	}
	return strings.Join(out, ", ")
}

func (l *LaneProof) hole(why starferry.Reason, n int64) {
	if l.Holes == nil {
		l.Holes = map[starferry.Reason]int64{}
	}
	l.Holes[why] += n
}

// add takes over the counts of a later stretch.
func (l *LaneProof) add(o LaneProof) {
	l.Identical += o.Identical
	l.SourceGone += o.SourceGone
	l.TargetGone += o.TargetGone
	l.Unknown += o.Unknown
	l.Foreign += o.Foreign
	l.TimesLeftOut += o.TimesLeftOut
	l.Differences += o.Differences
	l.Bytes += o.Bytes
	for r, n := range o.Holes {
		l.hole(r, n)
	}
	if l.First == nil {
		l.First = o.First
	}
}

// Difference is one place where the two sides are not the same.
type Difference struct {
	Source starferry.Offset `json:"source"` // -1: no record of the source
	Target starferry.Offset `json:"target"` // -1: no record of the target
	// Field says what differs: key, value, headers, time; or record, if one side
	// has none; batch, if it cannot be read; map or log, if those cannot be.
	Field string `json:"field"`
	// SourceHas and TargetHas tell sizes and hashes; contents only if asked for.
	SourceHas string `json:"source_has,omitempty"`
	TargetHas string `json:"target_has,omitempty"`
	Why       string `json:"why,omitempty"`
}

// String tells the difference in a line that is safe to print.
func (d Difference) String() string {
	var s strings.Builder
	s.WriteString(d.Field)
	if d.Source >= 0 {
		fmt.Fprintf(&s, " at source offset %d", d.Source)
	}
	if d.Target >= 0 {
		fmt.Fprintf(&s, ", target offset %d", d.Target)
	}
	if d.SourceHas != "" || d.TargetHas != "" {
		fmt.Fprintf(&s, ": source has %s, target has %s", d.SourceHas, d.TargetHas)
	}
	if d.Why != "" {
		s.WriteString(": " + d.Why)
	}
	return s.String()
}

// Proof is what was found out about a link.
type Proof struct {
	Link  starferry.LinkName `json:"link"`
	Lanes []LaneProof        `json:"lanes"` // in order
}

// Verdict sums the lanes up, worst first: different, unproven, identical. A
// proof without lanes proves nothing.
func (p Proof) Verdict() Verdict {
	worst := Identical
	for _, l := range p.Lanes {
		switch v := l.Verdict(); {
		case v == Different:
			return Different
		case v == Unproven:
			worst = Unproven
		}
	}
	if len(p.Lanes) == 0 {
		return Unproven
	}
	return worst
}

// Total sums the lanes' counts up; First is that of the first lane with one.
func (p Proof) Total() LaneProof {
	var t LaneProof
	for _, l := range p.Lanes {
		if l.First != nil && t.First == nil {
			first := *l.First
			first.Why = strings.TrimPrefix(first.Why+" (partition "+l.Partition.String()+")", " ")
			t.First = &first
		}
		t.add(l)
	}
	return t
}
