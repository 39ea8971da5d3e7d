package replication

import (
	"fmt"
	"slices"
	"strings"

	"github.com/starferry/starferry"
)

// ring reports links that would lead a record back to where it came from over a
// third topic. Two links between the same topics leave out each other's copies;
// those of any other link are records like all others, and would circle for ever.
func ring(specs []LinkSpec, want LinkSpec) error {
	all := []LinkSpec{want}
	for _, s := range specs {
		if s.Name == want.Name {
			all[0].Topics = slices.Concat(want.Topics, s.Topics)
			continue
		}
		all = append(all, s)
	}
	all[0] = all[0].normal()
	for _, t := range want.Topics {
		from, to := place{want.Source, t}, place{want.Target, want.TargetOf(t)}
		if way := wayBack(all, to, from); way != nil {
			names := make([]string, 0, len(way)+1)
			for _, p := range append([]place{from}, way...) {
				names = append(names, fmt.Sprintf("%s/%s", p.cluster, p.topic))
			}
			return fmt.Errorf("topic %s would circle for ever: %s; two links may lead there and back between the same two topics, a ring of more may not: leave one link out, or rename the topic on one of them",
				t, strings.Join(names, " → "))
		}
	}
	return nil
}

// brought reports whether a topic on a link's source is itself a copy of one on
// the link's target, by another link and under another name. A pattern passes it
// over: with a pattern on either side each copy would be copied again, under ever
// longer names.
func brought(specs []LinkSpec, by LinkSpec, t starferry.Topic) bool {
	return slices.ContainsFunc(specs, func(s LinkSpec) bool {
		origin, ok := s.SourceOf(t)
		return ok && s.Source == by.Target && s.Target == by.Source && s.has(origin) && by.TargetOf(t) != origin
	})
}

// mayBring reports whether a topic has the name of a copy that a link back would
// bring by one of its patterns, though it has not said so yet.
func mayBring(specs []LinkSpec, by LinkSpec, t starferry.Topic) bool {
	return slices.ContainsFunc(specs, func(s LinkSpec) bool {
		origin, ok := s.SourceOf(t)
		if !ok || s.Source != by.Target || s.Target != by.Source || by.TargetOf(t) == origin {
			return false
		}
		ps, err := compile(s.Patterns)
		return err == nil && len(s.Patterns) > 0 && ps.which(origin) >= 0
	})
}

// wayBack finds a way over links from one topic to another that is not direct;
// nil if there is none.
func wayBack(specs []LinkSpec, from, to place) []place {
	seen := map[place]bool{from: true}
	var walk func(at place) []place
	walk = func(at place) []place {
		for _, s := range specs {
			next := place{s.Target, s.TargetOf(at.topic)}
			switch {
			case s.Source != at.cluster || !s.has(at.topic) || at == from && next == to:
			case next == to:
				return []place{at, next}
			case !seen[next]:
				seen[next] = true
				if rest := walk(next); rest != nil {
					return append([]place{at}, rest...)
				}
			}
		}
		return nil
	}
	return walk(from)
}
