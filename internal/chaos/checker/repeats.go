package checker

import (
	"fmt"
	"slices"
	"time"

	"github.com/starferry/starferry"
)

// How late things may be on a loaded machine.
const (
	// lingers is how long a boot that could go on may take to notice that its
	// membership is gone.
	lingers = 10 * time.Second
	// unsaid is how old a handling must be for survivors to know of it: leases are
	// written ten times a second.
	unsaid = time.Second
)

// doubled finds second handlings and looks for what explains each.
func (h history) doubled(v *Verdict) {
	underWay := map[string]bool{}
	for _, p := range h.Evidence.Produced {
		lines := h.handled[p.ID]
		for i := 1; i < len(lines); i++ {
			first, second := lines[i-1], lines[i]
			if key, ok := h.thawed(second); ok && !underWay[key] {
				underWay[key] = true
				v.Repeated++
				v.Late++
				h.again[seen(second)], h.late[seen(second)] = true, true
				continue
			}
			s, why := h.explained(first, second)
			if s == nil {
				v.Doubled++
				v.find("twice", "record %d of %s: by %s at %s (offset %d of %s), again by %s at %s (offset %d of %s): %s",
					p.ID, p.TopicPartition, first.Boot, clock(first.At), first.Offset, first.Cluster,
					second.Boot, clock(second.At), second.Offset, second.Cluster, why)
				continue
			}
			v.Repeated++
			h.again[seen(second)] = true
			if !s.Silent && first.Cluster != "" && s.From.Sub(first.At) > unsaid && !h.told(first) {
				v.Unreported++
				v.find("unreported", "record %d of %s (offset %d of %s), handled by %s at %s, came again at %s: it was %s at %s, and no survivor has said that this may repeat",
					p.ID, p.TopicPartition, first.Offset, first.Cluster, first.Boot, clock(first.At), clock(second.At), s.Blow, clock(s.From))
			}
		}
	}
}

// thawed reports whether a handling is the one that was under way on its
// partition when its boot was frozen: between the last look at the clock and the
// handler there is a window for one record.
func (h history) thawed(l Handling) (key string, ok bool) {
	for i, s := range h.strikes[l.Boot] {
		if s.Blow == Frozen && !l.At.Before(s.Until) && l.At.Sub(s.Until) < unsaid {
			return fmt.Sprint(l.Boot, i, l.TopicPartition), true
		}
	}
	return "", false
}

// explained returns the strike that gives a second handling its right, or says
// why there is none.
func (h history) explained(first, second Handling) (*Strike, string) {
	why := "nothing had happened to the first process"
	if first.Boot == second.Boot {
		why = "the same process handled it again"
	}
	for _, s := range h.strikes[first.Boot] {
		c, committed := h.committed(s, first)
		switch {
		case s.Blow == Killed && second.Boot == first.Boot:
			why = "the same process handled it again"
		case second.At.Before(s.From):
			why = fmt.Sprintf("the first process was %s only at %s", s.Blow, clock(s.From))
		case s.Blow == Frozen && first.At.After(s.Until.Add(unsaid)), s.Blow == CutOff && first.At.After(s.Until.Add(lingers)):
			why = fmt.Sprintf("the first process was %s from %s to %s", s.Blow, clock(s.From), clock(s.Until))
		case committed:
			why = fmt.Sprintf("%d was committed when the first process was %s", c, s.Blow)
		default:
			return &s, ""
		}
	}
	return nil, why
}

// committed reports whether what was handled was committed when its boot was
// struck, and what was.
func (h history) committed(s Strike, l Handling) (starferry.Offset, bool) {
	if l.Cluster != "" {
		on, struck := s.Committed[l.Cluster]
		c, ok := on[l.TopicPartition]
		past := !struck || ok && l.Offset < c
		if past && h.moved[placed{l.Cluster, l.ID}] {
			at, known := h.Spilled[l.Cluster][l.ID]
			c, ok = on[at.TopicPartition]
			return c, known && (!struck || ok && at.Offset < c)
		}
		return c, past
	}
	for cluster, on := range s.Committed {
		c, ok := on[l.TopicPartition]
		if at, stored := h.place[cluster][l.ID]; ok && stored && at < c {
			return c, true
		}
	}
	return 0, false
}

// told reports whether survivors have said that a record may come again.
func (h history) told(l Handling) bool {
	said := func(tp starferry.TopicPartition, o starferry.Offset) bool {
		return slices.ContainsFunc(h.reported[lane{l.Cluster, tp}], func(r starferry.Range) bool { return r.Contains(o) })
	}
	at, spilled := h.Spilled[l.Cluster][l.ID]
	return said(l.TopicPartition, l.Offset) || spilled && said(at.TopicPartition, at.Offset) || !spilled && h.moved[placed{l.Cluster, l.ID}]
}
