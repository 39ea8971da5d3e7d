package chaos

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry/internal/chaos/plant"
)

// Plant is a bug that the harness must find: lines of the product that are
// changed when agent and service are built, and the faults that show it soonest.
type Plant struct {
	Name, Bug string
	Act       string // that a hand is laid on a group in this way; empty: the group is switched
	Only      string // the deed
	At        Aim
	Work      time.Duration // a record takes
	// Signs are the kinds of findings that tell of it; any other is something else.
	Signs []string
	edits []plant.Edit
}

// Plants are the bugs.
func Plants() []Plant {
	const protocol, library = "control/switchover", "control/consumer"
	return append(handPlants(), []Plant{
		{Name: "no-read-back", Bug: "the decision is ordered before the seed was acknowledged and read back", Only: "slow seeder", At: Announce,
			Signs: []string{"twice", "lost", stuckSign},
			edits: []plant.Edit{
				{Dir: protocol, Old: "if l.Seeded < d.firstRev {", New: "if false && l.Seeded < d.firstRev {"},
				{Dir: protocol, Old: "waits = append(waits, differences(d.p.Target, f.Commits[d.p.Target], d.p.Seeds,\n\t\tcontrol.Mark{State: control.Seeded, Epoch: d.p.Epoch, Cluster: d.p.Active})...)\n", New: ""},
			}},
		{Name: "old-generation", Bug: "a member goes on in a generation that is gone", Only: "freeze for two leases",
			Signs: []string{"twice"},
			edits: []plant.Edit{{Dir: library,
				Old: "case kafka.UnknownMemberId, kafka.IllegalGeneration, kafka.FencedInstanceID:\n\t\tm.fenced(resp.ErrorCode) //nolint:errcheck // told below",
				New: "case kafka.UnknownMemberId, kafka.IllegalGeneration:\n\t\tm.good.Store(sent)\n\tcase kafka.FencedInstanceID:\n\t\tm.fenced(resp.ErrorCode) //nolint:errcheck // told below"}}},
		{Name: "late-hand-out", Bug: "a record is handed out after a late wake-up without a look at the membership", Only: "freeze, then slow link",
			Work: 40 * time.Millisecond, Signs: []string{"twice"},
			edits: []plant.Edit{{Dir: library, Old: "good < since || sinceBoot()-good > limit; good", New: "false && (good < since || sinceBoot()-good > limit); good"}}},
		{Name: "early-translation", Bug: "the cut is translated before the copy has passed it", Only: "slow link", At: Translate,
			Signs: []string{"twice", "lost", "out of order"},
			edits: []plant.Edit{{Dir: "control/fleet",
				Old: "t, err := s.f.c.Copies.Translate(ctx, s.o.Link, s.dir, a.Translate, wait)\n",
				New: "t, err := s.f.c.Copies.Translate(ctx, s.o.Link, s.dir, a.Translate, 0*wait)\n" + toTheEnd}}},
		{Name: "believes-KV", Bug: "where the group lives is taken from KV, whatever the commits say", Only: "restore NATS", At: Announce,
			Signs: []string{"twice", "two active", "out of order", stuckSign},
			edits: []plant.Edit{
				{Dir: protocol, Old: "p.Epoch < m.placement.Epoch || p.Epoch == m.placement.Epoch && e.Revision <= m.revision {", New: "e.Revision == m.revision {"},
				{Dir: protocol, Old: "	if p.Epoch >= m.epoch && m.hinted != m.revision && m.sides[p.Active] != nil {",
					New: "	if m.sides[p.Active] != nil {\n\t\tm.epoch = 0\n\t\tm.live(p.Active, p.Epoch)\n\t\treturn\n\t}\n\tif p.Epoch >= m.epoch && m.hinted != m.revision && m.sides[p.Active] != nil {"},
				{Dir: protocol, Old: "func (m *Member) proven(s *side) bool {\n", New: "func (m *Member) proven(s *side) bool {\n\tif m.placement.Active == s.name {\n\t\treturn true\n\t}\n"},
				{Dir: protocol, Old: "func (m *Member) readMoved(s *side, v verdict) {\n", New: "func (m *Member) readMoved(s *side, v verdict) {\n\tif m.placement.Active == s.name && m.placement.Phase == control.Steady {\n\t\treturn\n\t}\n"},
			}},
		{Name: "trusts-seeds", Bug: "a seed is fetched without looking for the decision", Only: "slow seeder, then alone", At: Seed,
			Signs: []string{"twice", "two active", "out of order", stuckSign},
			edits: []plant.Edit{{Dir: protocol, Old: "	from := m.sides[v.cluster]\n	if from == nil {\n		if m.home == \"\" {",
				New: "	m.live(s.name, v.epoch)\n	return\n	from := m.sides[v.cluster]\n	if from == nil {\n		if m.home == \"\" {"}}},
	}...)
}

// stuckSign stands for a group without a way forward.
const stuckSign = "stuck"

// toTheEnd takes the end of the copy for the place of what is not copied yet.
const toTheEnd = `			if w, ok := s.f.c.Clusters[s.o.Target]; ok && len(t.Behind) > 0 {
				var late []starferry.TopicPartition
				for tp := range t.Behind {
					late = append(late, tp)
				}
				ends, _ := w.Offsets(ctx, late, wire.LatestStable)
				for tp, o := range ends {
					t.Cut[tp], t.Answers[tp] = starferry.Place{Next: o}, starferry.Answer{Status: starferry.Exact}
					delete(t.Behind, tp)
				}
			}
`

// Build builds agent and harness from the module at root with the bug in them,
// and returns the programs' paths, below dir.
func (p Plant) Build(ctx context.Context, root, dir string) (starferry, harness string, err error) {
	if starferry, err = plant.Build(ctx, root, dir, p.Name, "./agent/starferry", p.edits); err != nil {
		return "", "", err
	}
	harness, err = plant.Build(ctx, root, dir, p.Name+"-harness", "./internal/chaos/cmd/chaos", p.edits)
	return starferry, harness, err
}

// shown is the finding that tells of the bug; empty if there is none.
func (p Plant) shown(findings []string, stuck error) string {
	for _, f := range findings {
		if slices.ContainsFunc(p.Signs, func(sign string) bool { return strings.HasPrefix(f, sign) }) {
			return f
		}
	}
	if stuck != nil && slices.Contains(p.Signs, stuckSign) {
		return stuckSign + ": " + stuck.Error()
	}
	return ""
}

// Check reports an edit that does not fit the source any more.
func (p Plant) Check(root string) error {
	if err := plant.Check(filepath.Clean(root), p.edits); err != nil {
		return fmt.Errorf("plant %s: %w", p.Name, err)
	}
	return nil
}
