package chaos

import (
	"context"
	"io"
	"time"

	"github.com/starferry/starferry/internal/chaos/plant"
)

// handPlants are bugs that show when hands are laid on a group.
func handPlants() []Plant {
	const library = "control/consumer"
	lost, twice, order := []string{"lost"}, []string{"twice"}, []string{"out of order", "copied wrong"}
	return []Plant{
		{Name: "offset-beside", Bug: "a redistribution commits the group's offset before its transaction, and not in it", Act: "redistribute", Only: "owner: no answer to Produce", At: "prepare",
			Signs: lost,
			edits: []plant.Edit{{Dir: library, Old: "	sets := m.spread()\n	if len(sets) > 0 {\n", New: `	first := wire.Commit{Group: s.c.cfg.Group, Member: s.memberID, Instance: s.c.cfg.name(), Generation: s.generation,
		Offsets: map[starferry.TopicPartition]wire.Committed{m.p.tp: {Offset: after.Next, LeaderEpoch: -1, Metadata: control.Mark{State: control.Home, Epoch: s.epoch}.String()}}}
	if err := s.wc.Commit(ctx, first); err != nil {
		return err
	}
	sets := m.spread()
	if len(sets) > 0 {
`}}},
		{Name: "dirty-overflow", Bug: "the overflow is read uncommitted", Act: "redistribute", Only: "owner: no answer to TxnOffsetCommit", At: "prepare",
			Signs: twice,
			edits: []plant.Edit{{Dir: library, Old: "			recs, next, err := records.Decode(", New: "			if s.spilled(tp.Topic) {\n				aborted = nil\n			}\n			recs, next, err := records.Decode("}}},
		{Name: "later-first", Bug: "a redistribution by key does not hold back later records", Act: "redistribute by key", Only: "slow link of writer", At: "move",
			Work: 6 * time.Millisecond, Signs: order,
			edits: []plant.Edit{{Dir: library, Old: "	if m.o.Order == control.NoOrder {\n		return true\n", New: "	if m.o.Order != \"\" {\n		return true\n"}}},
		{Name: "early-writers", Bug: "producers go on before the copy has passed what they wrote", Act: "producers", Only: "slow copy", At: "prepare",
			Signs: order,
			edits: []plant.Edit{{Dir: "control/fleet", Old: "return handover.Passed{Behind: behind}, nil", New: "return handover.Passed{Behind: 0 * behind}, nil"}}},
		{Name: "early-skip", Bug: "a skip is acknowledged before it is applied", Act: "skip", Only: "slow link of writer",
			Signs: []string{"handled though skipped"},
			edits: []plant.Edit{{Dir: library, Old: "if s := &all[i]; s.Cluster == cluster && s.Partition == tp && s.Range.Contains(o) {",
				New: "if s := &all[i]; s.Cluster == cluster && s.Partition == tp && s.Range.Contains(o) && time.Now().UnixMilli() > s.At+5000 {"}}},
		{Name: "whole-rate", Bug: "each instance takes the whole rate of a throttle", Act: "throttle", Only: "slow link of writer",
			Signs: []string{"too fast"},
			edits: []plant.Edit{{Dir: library, Old: "	share := t.Rate * float64(own) / float64(every)\n", New: "	share := t.Rate\n"}}},
	}
}

// Find lets what shows a planted bug happen, and returns the finding that tells
// of it and how many trials that took; empty if there is none.
func (p Plant) Find(ctx context.Context, w *World, seed uint64, limit time.Duration) (shown string, trials int, report func(io.Writer), err error) {
	if p.Act != "" {
		s, err := Hand{For: limit, Seed: seed, Only: p.Only, Act: p.Act, Beside: "none", At: string(p.At), Out: io.Discard}.Run(ctx, w)
		return p.shown(s.Verdict.Findings, s.Stuck), s.Valid + s.Void, s.Report, err
	}
	s, err := Campaign{For: limit, Seed: seed, Only: p.Only, At: p.At, Aimed: true, Instances: true, Out: io.Discard}.Run(ctx, w)
	return p.shown(s.Verdict.Findings, s.Stuck), s.Valid + s.Void, s.Report, err
}
