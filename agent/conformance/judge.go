package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// Unmet says that a client did something else than the protocol asks.
type Unmet struct {
	Expected string `json:"expected"`
	Seen     string `json:"seen"`
	Section  string `json:"section"` // of docs/protocol.md
}

// Error implements error.
func (u *Unmet) Error() string {
	return fmt.Sprintf("expected %s; seen: %s (docs/protocol.md, section %s)", u.Expected, u.Seen, u.Section)
}

func (s *stand) unmet(section, expected, seen string) error {
	return &Unmet{Expected: expected, Seen: seen, Section: section}
}

// until waits for what is expected. look says whether it is so, or what is seen.
func (s *stand) until(ctx context.Context, section, expected string, look func() (seen string, err error)) error {
	deadline := time.Now().Add(s.patient)
	for {
		seen, err := look()
		if err == nil && seen == "" {
			return nil
		}
		var u *Unmet
		if errors.As(err, &u) {
			return err
		}
		if err != nil {
			seen = err.Error()
		}
		if err := s.fitting(); err != nil {
			return err // the rest may follow from that
		}
		if why := s.ended(); why != "" {
			return s.unmet("Trying a client", "the client to run", why)
		}
		if !time.Now().Before(deadline) {
			return s.unmet(section, expected, fmt.Sprintf("%s, after %v", seen, s.patient))
		}
		if !rest(ctx, 20*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
}

// ended names an instance that has ended though nobody told it to.
func (s *stand) ended() string {
	for _, i := range s.all {
		if !i.running() && !i.killed && !i.stopped {
			return fmt.Sprintf("instance %s ended by itself (%v)", i.name, i.err)
		}
	}
	return ""
}

// index is which record of its partition a line tells of, by its offset on old.
func (h handled) index() starferry.Offset {
	if h.cluster == newName {
		return h.offset - shift(h.partition.Partition)
	}
	return h.offset
}

// counts are how often each record was handled.
func (s *stand) counts() map[starferry.TopicPartition]map[starferry.Offset]int {
	out := map[starferry.TopicPartition]map[starferry.Offset]int{}
	for _, tp := range s.partitions() {
		out[tp] = map[starferry.Offset]int{}
	}
	for _, i := range s.all {
		lines, _ := i.handled()
		for _, h := range lines {
			if of, ok := out[h.partition]; ok {
				of[h.index()]++
			}
		}
	}
	return out
}

// total is how many lines there are, of one cluster or, with "", of all.
func (s *stand) total(c starferry.ClusterName) int {
	n := 0
	for _, i := range s.all {
		lines, _ := i.handled()
		for _, h := range lines {
			if c == "" || h.cluster == c {
				n++
			}
		}
	}
	return n
}

// settled waits until every record was handled, but for those that never are.
func (s *stand) settled(ctx context.Context) error {
	return s.until(ctx, "1", "every record to be handled", func() (string, error) {
		counts, missing, first := s.counts(), 0, ""
		for _, tp := range s.partitions() {
			for o := range s.wrote[tp.Partition] {
				if counts[tp][o] == 0 && !slices.Contains(s.blocks[tp], o) {
					if missing++; first == "" {
						first = fmt.Sprintf("%s@%d on old (%d on new)", tp, o, o+shift(tp.Partition))
					}
				}
			}
		}
		if missing == 0 {
			return "", nil
		}
		return fmt.Sprintf("%d are missing, the first is %s", missing, first), nil
	})
}

// judged is what is wrong with all that was seen, once a scenario is over.
func (s *stand) judged() error {
	for _, i := range s.all {
		lines, wrong := i.handled()
		if len(wrong) > 0 {
			return s.unmet("Trying a client", "lines of the form TOPIC PARTITION OFFSET CLUSTER", wrong[0])
		}
		if err := s.inOrder(i, lines); err != nil {
			return err
		}
	}
	if err := s.repeats(); err != nil {
		return err
	}
	return s.fitting()
}

// fitting is what is wrong with the leases that were heard.
func (s *stand) fitting() error {
	if wrong := s.ear.unfit(); len(wrong) > 0 {
		return s.unmet("5 and 7", "every lease to fit its schema and its key", strings.Join(wrong, " | "))
	}
	return nil
}

// inOrder looks at one instance's lines.
func (s *stand) inOrder(i *instance, lines []handled) error {
	last := map[starferry.TopicPartition]handled{}
	for _, h := range lines {
		if !slices.Contains(s.partitions(), h.partition) || h.cluster != oldName && h.cluster != newName {
			return s.unmet("Trying a client", "lines of this scenario's topic and clusters", h.String())
		}
		switch was, ok := last[h.partition]; {
		case h.index() < 0:
			return s.unmet("4", "nothing handled below the seeds", fmt.Sprintf("%s has handled %s, which lies before the group's place there", i.name, h))
		case slices.Contains(s.blocks[h.partition], h.index()):
			return s.unmet("Trying a client", "a record of value block not to be handled", h.String())
		case ok && !s.again && h.index() < was.index():
			return s.unmet("2.11", "records of a partition in order", fmt.Sprintf("%s has handled %s after %s", i.name, h, was))
		}
		last[h.partition] = h
	}
	return nil
}

// repeats looks for records that were handled twice, though nobody was killed
// who had handled them.
func (s *stand) repeats() error {
	if s.again {
		return nil
	}
	type place struct {
		tp starferry.TopicPartition
		at starferry.Offset
	}
	by := map[place][]*instance{}
	for _, i := range s.all {
		lines, _ := i.handled()
		for _, h := range lines {
			p := place{h.partition, h.index()}
			by[p] = append(by[p], i)
		}
	}
	for p, who := range by {
		unharmed := slices.DeleteFunc(slices.Clone(who), func(i *instance) bool { return i.killed })
		if len(unharmed) > 1 {
			return s.unmet("1", "no record handled twice, but what a killed process had in hand",
				fmt.Sprintf("%s@%d was handled %d times, by %s and %s", p.tp, p.at, len(who), unharmed[0].name, unharmed[1].name))
		}
	}
	return nil
}

// anyEpoch leaves open how a switch has ended.
const anyEpoch starferry.Epoch = -1

// stands waits until so many instances live on a cluster, each with a good
// membership there, and hold all partitions.
func (s *stand) stands(ctx context.Context, c starferry.ClusterName, e starferry.Epoch, names ...starferry.InstanceID) error {
	what := fmt.Sprintf("%v to say that they live on %s at epoch %d, well, and hold all partitions there", names, c, e)
	return s.until(ctx, "7", what, func() (string, error) {
		live := s.live()
		for _, n := range names {
			l, ok := live[n]
			switch {
			case !ok:
				return fmt.Sprintf("no lease of %s", n), nil
			case l.Home != c || e != anyEpoch && l.HomeEpoch != e:
				return fmt.Sprintf("%s says home %q, home_epoch %d, refusal %q", n, l.Home, l.HomeEpoch, l.Refusal), nil
			}
		}
		return s.covered(live, c, names), nil
	})
}

// covered says what is missing for the instances to hold all partitions of a
// cluster in one generation.
func (s *stand) covered(live map[starferry.InstanceID]control.Lease, c starferry.ClusterName, names []starferry.InstanceID) string {
	held := map[starferry.TopicPartition]starferry.InstanceID{}
	var generation starferry.Generation = -1
	for _, n := range names {
		m := on(live[n], c)
		switch {
		case m == nil || !m.Good:
			return fmt.Sprintf("%s has no good membership on %s: %+v", n, c, live[n].Memberships)
		case generation >= 0 && m.Generation != generation:
			return fmt.Sprintf("%s is in generation %d of %s, others in %d", n, m.Generation, c, generation)
		}
		generation = m.Generation
		for _, tp := range m.Partitions {
			held[tp] = n
		}
	}
	if len(held) < partitions {
		return fmt.Sprintf("on %s only %d of %d partitions are held", c, len(held), partitions)
	}
	return ""
}

func on(l control.Lease, c starferry.ClusterName) *control.Membership {
	for i := range l.Memberships {
		if l.Memberships[i].Cluster == c {
			return &l.Memberships[i]
		}
	}
	return nil
}

// marked waits until all partitions on a cluster bear a mark.
func (s *stand) marked(ctx context.Context, section string, c starferry.ClusterName, state control.State, e starferry.Epoch) error {
	return s.until(ctx, section, fmt.Sprintf("all partitions on %s to be committed as %s e=%d", c, state, e), func() (string, error) {
		ms, err := s.marks(ctx, c)
		if err != nil {
			return "", err
		}
		for _, tp := range s.partitions() {
			if m, ok := ms[tp]; !ok || m.State != state || m.Epoch != e {
				return fmt.Sprintf("%s: %q", tp, m.Mark.String()), nil
			}
		}
		return "", nil
	})
}

// never looks for a while at what must not be: look says what it sees of it.
func (s *stand) never(ctx context.Context, section, expected string, d time.Duration, look func() (string, error)) error {
	for end := time.Now().Add(d); time.Now().Before(end); {
		seen, err := look()
		if err != nil {
			return err
		}
		if seen != "" {
			return s.unmet(section, expected, seen)
		}
		if !rest(ctx, 20*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
	return nil
}
