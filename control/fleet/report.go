package fleet

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/switchover"
)

// Story is what the audit trail keeps of a switch, made or not. It stays small
// for groups of ten thousand partitions.
type Story struct {
	Group  starferry.Group       `json:"group"`
	Source starferry.ClusterName `json:"source"`
	Target starferry.ClusterName `json:"target"`
	Epoch  starferry.Epoch       `json:"epoch,omitempty"`
	By     string                `json:"by,omitempty"`
	Why    string                `json:"why,omitempty"`
	Token  string                `json:"token,omitempty"`
	Began  int64                 `json:"began"` // Unix milliseconds
	Ended  int64                 `json:"ended"`

	Phases []switchover.PhaseTime `json:"phases,omitempty"`
	// ControlMS is from the order to drain to the decision; Attempts counts
	// those orders.
	ControlMS float64 `json:"control_ms"`
	Attempts  int     `json:"attempts"`
	// The pauses are what partitions saw, their records' own spacing included.
	PauseP50MS float64 `json:"pause_p50_ms"`
	PauseMaxMS float64 `json:"pause_max_ms"`

	Partitions int `json:"partitions"`
	Exact      int `json:"exact"`
	// Positions by topic, each [partition, source, target, pause in ms or -1].
	Positions map[starferry.Topic][][4]float64 `json:"positions,omitempty"`
	LeftOut   int                              `json:"left_out,omitempty"` // positions beyond the limit
	// Behind are those that went on behind a marker or a hole.
	Behind []starferry.TopicPartition `json:"behind,omitempty"`

	Members []switchover.Participant `json:"members,omitempty"`
	Evicted []switchover.Evicted     `json:"evicted,omitempty"`
	Repeats []string                 `json:"repeats,omitempty"`
	Notes   []string                 `json:"notes,omitempty"`
	// Failure is set if the switch was not made, or not completely.
	Failure *Refusal `json:"failure,omitempty"`
}

// Refusal is why a switch was not made.
type Refusal struct {
	Phase    string           `json:"phase"`
	Expected string           `json:"expected"`
	Rows     []switchover.Row `json:"rows,omitempty"`
	Stands   string           `json:"stands,omitempty"`
	Do       string           `json:"do,omitempty"`
}

// What a story keeps at most.
const (
	maxPositions = 20_000
	maxNamed     = 1_000
)

// Pauses tells the median and the longest of some pauses in milliseconds.
func Pauses(all map[starferry.TopicPartition]float64) (p50, longest float64) {
	sorted := slices.Sorted(maps.Values(all))
	if len(sorted) == 0 {
		return 0, 0
	}
	return sorted[(len(sorted)-1)/2], sorted[len(sorted)-1]
}

// tell makes the story of a switch that has ended. What other partitions than
// the first of a very large group did is in their commits.
func tell(o SwitchOrder, r switchover.Report, f *switchover.Failure) Story {
	s := Story{Group: o.Group, Source: o.Source, Target: o.Target, Epoch: r.Epoch, By: o.By, Why: o.Why, Token: o.Token,
		Began: r.Began, Ended: r.Ended, Phases: r.Phases, ControlMS: r.ControlMS, Attempts: r.Attempts, Partitions: len(r.Cut), Exact: r.Exact,
		Behind: first(r.Behind, maxNamed), Members: first(r.Members, maxNamed), Evicted: first(r.Evicted, maxNamed),
		Repeats: first(r.Repeats, maxNamed), Notes: first(r.Notes, maxNamed)}
	s.PauseP50MS, s.PauseMaxMS = Pauses(r.Pauses)
	if f != nil {
		s.Failure = &Refusal{f.Phase, f.Expected, first(f.Rows, maxNamed), f.Stands, f.Do}
		if len(f.Rows) == 0 {
			for _, found := range first(f.Found, maxNamed) {
				s.Failure.Rows = append(s.Failure.Rows, switchover.Row{What: found})
			}
		}
	}
	partitions := r.Cut.Partitions()
	s.LeftOut = max(0, len(partitions)-maxPositions)
	s.Positions = map[starferry.Topic][][4]float64{}
	for _, tp := range first(partitions, maxPositions) {
		pause, ok := r.Pauses[tp]
		if !ok {
			pause = -1
		}
		to := starferry.NoOffset
		if seed, ok := r.Seeds[tp]; ok {
			to = seed.Next
		}
		s.Positions[tp.Topic] = append(s.Positions[tp.Topic], [4]float64{float64(tp.Partition), float64(r.Cut[tp].Next), float64(to), pause})
	}
	return s
}

func first[T any](all []T, n int) []T { return all[:min(len(all), n)] }

// Stories reads the switches of a group out of the audit trail's events, oldest
// first. Events of other kinds are left out.
func Stories(events []desired.Event) ([]Story, error) {
	var all []Story
	for _, e := range events {
		if e.What != "switched" && e.What != "switch failed" {
			continue
		}
		s := Story{Group: e.Group, By: e.Who, Why: e.Why, Token: e.Token, Ended: e.When}
		if e.What == "switch failed" {
			s.Failure = &Refusal{Expected: "the switch to be made", Rows: []switchover.Row{{What: e.Detail}}}
		}
		if len(e.Data) > 0 {
			if err := json.Unmarshal(e.Data, &s); err != nil {
				return nil, fmt.Errorf("read the report of a switch of %s: %w", e.Group, err)
			}
		}
		all = append(all, s)
	}
	return all, nil
}

// Place is where one partition went.
type Place struct {
	Partition starferry.TopicPartition `json:"partition"`
	Source    starferry.Offset         `json:"source"`
	Target    starferry.Offset         `json:"target"`
	Exact     bool                     `json:"exact"`              // else behind a marker or a hole
	PauseMS   *float64                 `json:"pause_ms,omitempty"` // nil: no records around the switch
}

// Places are the positions of a story one by one, in order.
func (s Story) Places() []Place {
	var all []Place
	for topic, list := range s.Positions {
		for _, x := range list {
			p := Place{Partition: starferry.TopicPartition{Topic: topic, Partition: starferry.Partition(x[0])},
				Source: starferry.Offset(x[1]), Target: starferry.Offset(x[2])}
			_, behind := slices.BinarySearchFunc(s.Behind, p.Partition, starferry.TopicPartition.Compare)
			if p.Exact = !behind; x[3] >= 0 {
				p.PauseMS = &x[3]
			}
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b Place) int { return cmp.Or(a.Partition.Compare(b.Partition)) })
	return all
}
