package switchover

import (
	"errors"
	"fmt"
	"slices"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// ExternalRequest asks for a switch of a group whose clients know nothing of
// starferry: they are stopped on Source, and started on Target when it is done.
type ExternalRequest struct {
	Group          starferry.Group
	Source, Target starferry.ClusterName
	Epoch          starferry.Epoch
	// Ranges says what becomes of a cut with handled ranges, which such clients
	// cannot honour: RangesRefuse, or RangesRepeat to begin at the lowest.
	Ranges string
	// Missing says where a partition without a commit begins that has records:
	// MissingRefuse, MissingEarliest or MissingLatest.
	Missing string
}

// The choices of an ExternalRequest.
const (
	RangesRefuse    = "refuse"
	RangesRepeat    = "repeat"
	MissingRefuse   = "refuse"
	MissingEarliest = "earliest"
	MissingLatest   = "latest"
)

// Kept is one commit as it is kept, by whomever.
type Kept struct {
	Offset      starferry.Offset
	LeaderEpoch int32
	Metadata    string
}

// Keep is the commits of a group on one cluster.
type Keep map[starferry.TopicPartition]Kept

// Standing is how a group stands on one cluster of an external switch.
type Standing struct {
	Members []MemberSeen // those that are no fence
	// Fenced: this agent is a member under the private protocol type, and has
	// been without a gap since the commits were read or written; and no other
	// that drives a switch may commit in this generation.
	Fenced bool
	// Unclear: a commit was sent here whose answer never came, and it may still
	// be carried out in this generation.
	Unclear bool
	Commits Keep
}

// Scene is all that an external switch goes by. It is read anew before each
// step, so whoever reads the same goes on in the same way.
type Scene struct {
	Source, Target Standing
	// Spans is what the partitions of the group's topics hold on Source: first
	// offset and end.
	Spans map[starferry.TopicPartition]starferry.Range
	// Translation answers for the cut in Asked; nil until AskTranslation.
	Translation *starferry.Translation
	Asked       starferry.Cut
	// Undo is why the switch is to be taken back; it counts until the decision.
	Undo string
}

// ExternalStep is what an external switch is to do next.
type ExternalStep interface{ externalStep() }

type (
	// AwaitEmpty waits until the members have left the group.
	AwaitEmpty struct {
		Cluster starferry.ClusterName
		Members []MemberSeen
	}
	// TakeFence joins the group as its only member. Moved: it is decided already.
	TakeFence struct {
		Cluster starferry.ClusterName
		Moved   bool
	}
	// LiftFence leaves the group, so that clients may come in.
	LiftFence struct {
		Cluster starferry.ClusterName
		Moved   bool
	}
	// NewGeneration makes sure that no commit of before can be carried out any
	// more.
	NewGeneration struct{ Cluster starferry.ClusterName }
	// CommitFenced commits as the fence, in the generation in which the scene was
	// read.
	CommitFenced struct {
		Cluster starferry.ClusterName
		What    string // draining, seeded, moved, plain, cleared, restored
		Commits Keep
	}
	// AskTranslation asks the link where a cut lies on Target.
	AskTranslation struct{ Cut starferry.Cut }
	// AwaitCopy waits until the copy has passed the cut.
	AwaitCopy struct {
		Behind map[starferry.TopicPartition]int64
	}
	// Refuse says why the group cannot be moved. The switch is then undone.
	Refuse struct {
		Expected string
		Found    []string
		Do       string
	}
	// Over is the last step. Moved: the group lives on Target.
	Over struct {
		Moved bool
		Notes []string
	}
)

func (AwaitEmpty) externalStep()     {}
func (TakeFence) externalStep()      {}
func (LiftFence) externalStep()      {}
func (NewGeneration) externalStep()  {}
func (CommitFenced) externalStep()   {}
func (AskTranslation) externalStep() {}
func (AwaitCopy) externalStep()      {}
func (Refuse) externalStep()         {}
func (Over) externalStep()           {}

// The commits of an external switch, in their order.
const (
	CommitDraining = "draining" // on Source: the position is the cut
	CommitSeeded   = "seeded"   // on Target: the translated position
	CommitMoved    = "moved"    // on Source: the decision
	CommitPlain    = "plain"    // on Target: the metadata its clients wrote
	CommitCleared  = "cleared"  // on Target, undone: the group lives on Source
	CommitRestored = "restored" // on Source, undone: as found
)

// NextExternal says what an external switch is to do next. It remembers
// nothing: the scene tells how far the switch is, so an agent that dies at any
// step is followed by any other.
func NextExternal(r ExternalRequest, s Scene) ExternalStep {
	x := external{r: r, s: s}
	var err error
	if x.from, err = marks(s.Source.Commits); err == nil {
		x.to, err = marks(s.Target.Commits)
	}
	if err != nil && s.Undo != "" {
		return x.lift(Over{})
	}
	if err != nil {
		return Refuse{Expected: "commits that this program can read", Found: []string{err.Error()}, Do: "upgrade the agent"}
	}
	home, e, moved := Truth(map[starferry.ClusterName]Found{r.Source: x.from, r.Target: x.to})
	switch {
	case s.Source.Unclear:
		return NewGeneration{r.Source}
	case s.Target.Unclear:
		return NewGeneration{r.Target}
	case home == r.Target && moved:
		return x.decided(e)
	case s.Undo != "":
		return x.undo()
	case home != "" && home != r.Source:
		return Refuse{Expected: fmt.Sprintf("group %s at home on %s", r.Group, r.Source),
			Found: []string{fmt.Sprintf("its commits say that it lives on %s since epoch %d", home, e)}, Do: "name that cluster as source"}
	}
	return x.forward()
}

type external struct {
	r        ExternalRequest
	s        Scene
	from, to Found // the marks on Source and Target
}

// marks reads the metadata of commits. Those of other clients have no mark.
func marks(k Keep) (Found, error) {
	found := make(Found, len(k))
	for tp, c := range k {
		m, err := control.ParseMark(c.Metadata)
		switch {
		case err == nil:
			found[tp] = FoundCommit{Offset: c.Offset, Mark: &m}
		case errors.Is(err, control.ErrForeign):
			found[tp] = FoundCommit{Offset: c.Offset}
		default:
			return nil, fmt.Errorf("%s: %w", tp, err)
		}
	}
	return found, nil
}

// forward goes on to the decision.
func (x *external) forward() ExternalStep {
	if r := x.strangeTarget(); r != nil {
		return *r
	}
	switch {
	case len(x.s.Source.Members) > 0:
		return AwaitEmpty{x.r.Source, x.s.Source.Members}
	case len(x.s.Target.Members) > 0:
		return AwaitEmpty{x.r.Target, x.s.Target.Members}
	case !x.s.Source.Fenced:
		return TakeFence{x.r.Source, false}
	case !x.s.Target.Fenced:
		return TakeFence{x.r.Target, false}
	}
	cut, draining, r := x.cut()
	if r != nil {
		return *r
	}
	if !draining.in(x.s.Source.Commits) {
		return CommitFenced{x.r.Source, CommitDraining, draining}
	}
	if x.s.Translation == nil || !x.s.Asked.Equal(cut) {
		return AskTranslation{cut}
	}
	if r := x.untranslated(cut); r != nil {
		return *r
	}
	if len(x.s.Translation.Behind) > 0 {
		return AwaitCopy{x.s.Translation.Behind}
	}
	seeds, r := x.seeds(cut)
	if r != nil {
		return *r
	}
	if !seeds.in(x.s.Target.Commits) {
		return CommitFenced{x.r.Target, CommitSeeded, seeds}
	}
	moved := Keep{}
	for tp, place := range cut {
		m := control.Mark{State: control.Moved, Epoch: x.r.Epoch, Cluster: x.r.Target, Handled: place.Handled}
		moved[tp] = Kept{place.Next, draining[tp].LeaderEpoch, m.String()}
	}
	return CommitFenced{x.r.Source, CommitMoved, moved}
}

// in reports whether all of these commits are among those.
func (k Keep) in(all Keep) bool {
	for tp, c := range k {
		if have, ok := all[tp]; !ok || have.Offset != c.Offset || have.Metadata != c.Metadata {
			return false
		}
	}
	return true
}

// strangeTarget refuses a target where somebody else has committed under the
// group's name: that is another service's place, not a leftover of ours.
func (x *external) strangeTarget() *Refuse {
	var found []string
	for tp, f := range x.to {
		if f.Mark == nil {
			found = append(found, fmt.Sprintf("%s at %d", tp, f.Offset))
		}
	}
	if len(found) == 0 {
		return nil
	}
	slices.Sort(found)
	return &Refuse{Expected: fmt.Sprintf("no commits of group %s on %s but those of starferry", x.r.Group, x.r.Target), Found: found,
		Do: fmt.Sprintf("if nobody needs them, delete the group on %s (kafka-consumer-groups --delete --group %s); else find out who uses its name there", x.r.Target, x.r.Group)}
}

// cut is the group's place on Source, and the commits that say so. Partitions
// without a commit are named, unless they hold no record: then every client
// would begin at the same place.
func (x *external) cut() (starferry.Cut, Keep, *Refuse) {
	cut, draining := starferry.Cut{}, Keep{}
	var bad []string
	add := func(tp starferry.TopicPartition, p starferry.Place, leader int32, was string) {
		m := control.Mark{State: control.Draining, Epoch: x.r.Epoch, Handled: p.Handled, Was: was}
		if n := len(m.String()); n > control.MaxMetadata {
			bad = append(bad, fmt.Sprintf("%s: its metadata of %d bytes needs %d with a mark beside it, more than %d", tp, len(was), n, control.MaxMetadata))
		}
		cut[tp], draining[tp] = p, Kept{p.Next, leader, m.String()}
	}
	for tp, c := range x.s.Source.Commits {
		p := starferry.Place{Next: c.Offset}
		if m := x.from[tp].Mark; m != nil {
			p.Handled = m.Handled
		}
		if _, known := x.s.Spans[tp]; !known {
			bad = append(bad, fmt.Sprintf("%s: committed at %d, and %s has no such partition", tp, c.Offset, x.r.Source))
		}
		add(tp, p, c.LeaderEpoch, x.was(tp))
	}
	for tp, span := range x.s.Spans {
		_, committed := x.s.Source.Commits[tp]
		switch {
		case committed:
		case span.From == span.To, x.r.Missing == MissingLatest:
			add(tp, starferry.Place{Next: span.To}, -1, "")
		case x.r.Missing == MissingEarliest:
			add(tp, starferry.Place{Next: span.From}, -1, "")
		default:
			bad = append(bad, fmt.Sprintf("%s: no commit, and it holds offsets %d to %d", tp, span.From, span.To-1))
		}
	}
	if len(cut) == 0 {
		bad = append(bad, fmt.Sprintf("no commit at all on %s", x.r.Source))
	}
	if len(bad) == 0 {
		return cut, draining, nil
	}
	slices.Sort(bad)
	return nil, nil, &Refuse{Expected: fmt.Sprintf("a commit of group %s for every partition it reads on %s", x.r.Group, x.r.Source), Found: bad,
		Do: `let the group commit there, set its place with kafka-consumer-groups --reset-offsets, or say where it begins with on_missing = "earliest" or "latest"`}
}

// was is the metadata that a commit on Source had before this switch.
func (x *external) was(tp starferry.TopicPartition) string {
	if m := x.from[tp].Mark; m != nil && m.State == control.Draining {
		return m.Was
	}
	return x.s.Source.Commits[tp].Metadata
}

// untranslated refuses a cut with a place that cannot be proven.
func (x *external) untranslated(cut starferry.Cut) *Refuse {
	t := x.s.Translation
	var bad []string
	for tp, p := range cut {
		a, answered := t.Answers[tp]
		_, behind := t.Behind[tp]
		_, placed := t.Cut[tp]
		switch why, missing := t.Missing[tp]; {
		case missing:
			bad = append(bad, fmt.Sprintf("%s@%d: %s", tp, p.Next, why))
		case behind:
		case a.Status == starferry.InHole && a.Reason == starferry.Deleted:
			bad = append(bad, fmt.Sprintf("%s@%d: deleted on %s before it was copied", tp, p.Next, x.r.Source))
		case a.Status == starferry.BeforeStart || a.Status == starferry.Unknown:
			bad = append(bad, fmt.Sprintf("%s@%d: %s", tp, p.Next, a.Status))
		case !answered || !placed:
			bad = append(bad, fmt.Sprintf("%s@%d: no answer", tp, p.Next))
		}
	}
	if len(bad) == 0 {
		return nil
	}
	slices.Sort(bad)
	return &Refuse{Expected: "an exact place on " + string(x.r.Target) + " for every partition", Found: bad,
		Do: "copy these partitions with the link, or move the group past what the target does not have"}
}

// Repeats counts, for each partition of a translated cut, the offsets that
// clients which cannot honour handled ranges will read again.
func Repeats(t starferry.Translation) map[starferry.TopicPartition]int64 {
	n := map[starferry.TopicPartition]int64{}
	for tp, p := range t.Cut {
		for _, r := range p.Handled {
			n[tp] += int64(r.To - r.From)
		}
	}
	return n
}

// seeds is what is committed on Target.
func (x *external) seeds(cut starferry.Cut) (Keep, *Refuse) {
	seeds := Keep{}
	var bad []string
	for tp, n := range Repeats(*x.s.Translation) {
		if x.r.Ranges != RangesRepeat {
			bad = append(bad, fmt.Sprintf("%s: %d offsets beyond %d are handled", tp, n, x.s.Translation.Cut[tp].Next))
		}
	}
	for tp := range cut {
		was := x.was(tp)
		if _, err := control.ParseMark(was); err == nil {
			was = "" // ours: it says nothing to the group's clients
		}
		m := control.Mark{State: control.Seeded, Epoch: x.r.Epoch, Cluster: x.r.Source, Was: was}
		if n := len(m.String()); n > control.MaxMetadata {
			bad = append(bad, fmt.Sprintf("%s: its metadata of %d bytes needs %d with a mark beside it, more than %d", tp, len(was), n, control.MaxMetadata))
		}
		seeds[tp] = Kept{x.s.Translation.Cut[tp].Next, -1, m.String()}
	}
	if len(bad) == 0 {
		return seeds, nil
	}
	slices.Sort(bad)
	return nil, &Refuse{Expected: "a cut without handled ranges, which the group's clients cannot honour", Found: bad,
		Do: `let the links catch up in both directions and try again, or allow that these are read again with on_ranges = "repeat"`}
}

// decided finishes what is left after the decision: Source stays fenced, Target
// gets the metadata its clients wrote and is free for them.
func (x *external) decided(e starferry.Epoch) ExternalStep {
	over := Over{Moved: true}
	for _, m := range x.s.Source.Members {
		over.Notes = append(over.Notes, fmt.Sprintf("member %s runs on %s, where the group does not live any more: stop it", m, x.r.Source))
	}
	if len(over.Notes) == 0 && !x.s.Source.Fenced {
		return TakeFence{x.r.Source, true}
	}
	plain := Keep{}
	for tp, f := range x.to {
		if m := f.Mark; m != nil && m.State == control.Seeded && m.Epoch == e && m.Cluster == x.r.Source {
			plain[tp] = Kept{f.Offset, -1, m.Was}
		}
	}
	switch {
	case len(plain) > 0 && len(x.s.Target.Members) == 0 && !x.s.Target.Fenced:
		return TakeFence{x.r.Target, true}
	case len(plain) > 0 && x.s.Target.Fenced:
		return CommitFenced{x.r.Target, CommitPlain, plain}
	case x.s.Target.Fenced:
		return LiftFence{x.r.Target, true}
	}
	return over
}

// undo leads back to Source as it was found. It clears Target first: while
// Source says "draining", nobody of ours takes either for the group's place.
func (x *external) undo() ExternalStep {
	over := Over{}
	cleared, restored := Keep{}, Keep{}
	for tp, f := range x.to {
		if m := f.Mark; m != nil && m.State == control.Seeded && m.Epoch == x.r.Epoch && m.Cluster == x.r.Source {
			home := control.Mark{State: control.Moved, Epoch: x.r.Epoch, Cluster: x.r.Source}
			cleared[tp] = Kept{f.Offset, -1, home.String()}
		}
	}
	for tp, f := range x.from {
		if m := f.Mark; m != nil && m.State == control.Draining && m.Epoch == x.r.Epoch {
			restored[tp] = Kept{f.Offset, x.s.Source.Commits[tp].LeaderEpoch, m.Was}
		}
	}
	for _, side := range []struct {
		cluster starferry.ClusterName
		at      Standing
		what    string
		commits Keep
	}{{x.r.Target, x.s.Target, CommitCleared, cleared}, {x.r.Source, x.s.Source, CommitRestored, restored}} {
		switch {
		case len(side.commits) == 0:
		case len(side.at.Members) > 0:
			over.Notes = append(over.Notes, fmt.Sprintf("%d commits on %s keep starferry's marks, since clients run there again: %s", len(side.commits), side.cluster, side.at.Members[0]))
		case !side.at.Fenced:
			return TakeFence{side.cluster, false}
		default:
			return CommitFenced{side.cluster, side.what, side.commits}
		}
	}
	return x.lift(over)
}

// lift gives the fences up before it is over.
func (x *external) lift(over Over) ExternalStep {
	switch {
	case x.s.Target.Fenced:
		return LiftFence{x.r.Target, false}
	case x.s.Source.Fenced:
		return LiftFence{x.r.Source, false}
	}
	return over
}
