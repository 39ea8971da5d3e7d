package fleet

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/switchover"
	"github.com/starferry/starferry/internal/wire"
)

// take takes a fence. A group that somebody has entered meanwhile is waited for.
func (x *outing) take(ctx context.Context, n switchover.TakeFence) error {
	if !n.Moved && (!x.p.Open() || x.p.Epoch != x.req.Epoch) {
		if err := x.write(ctx, control.Placement{Phase: control.Drain, Active: x.o.Source, Target: x.o.Target}); err != nil {
			return err
		}
	}
	c := n.Cluster
	if h := x.fences[c]; h != nil { // it has fallen
		delete(x.fences, c)
		if err := h.close(ctx); err != nil {
			x.f.log.Debug("leave a fence that has fallen", "error", err)
		}
	}
	h, err := x.f.openFence(ctx, c, x.o.Group, x.drives)
	if err != nil {
		return err
	}
	x.fences[c] = h
	delete(x.unclear, c)
	x.f.log.Info("fence stands", "group", x.o.Group, "cluster", c)
	return nil
}

// lift leaves the group. What ought to stand is changed only where this switch
// has a say: the new home is free, and a switch that is undone takes back its
// own.
func (x *outing) lift(ctx context.Context, n switchover.LiftFence) error {
	if h := x.fences[n.Cluster]; h != nil {
		delete(x.fences, n.Cluster)
		if err := h.close(ctx); err != nil {
			x.f.log.Warn("lift fence", "error", err)
		}
	}
	return x.free(ctx, n.Cluster, n.Moved && n.Cluster == x.o.Target)
}

// free takes a fence out of what ought to stand: any, or that of this switch.
func (x *outing) free(ctx context.Context, c starferry.ClusterName, anyone bool) error {
	_, err := x.f.dropFence(ctx, x.o.Group, c, func(w control.Fence) bool { return !anyone && w.Epoch != x.req.Epoch })
	return err
}

// settle makes what ought to be agree with what is, also where an agent died
// between the two.
func (x *outing) settle(ctx context.Context, home starferry.ClusterName) error {
	var err error
	if home == x.o.Target {
		if err = x.free(ctx, home, true); err == nil {
			err = x.f.wantFence(ctx, x.o.Group, x.o.Source, control.Fence{Epoch: x.req.Epoch, By: x.o.By, Why: x.o.Why})
		}
	} else {
		err = x.free(ctx, home, false)
	}
	if err != nil {
		return fmt.Errorf("its fences are not in order: %w", err)
	}
	if x.p.Epoch > x.req.Epoch || x.p.Phase == control.Steady && x.p.Epoch == x.req.Epoch && x.p.Active == home {
		return nil
	}
	return x.write(ctx, control.Placement{Phase: control.Steady, Active: home, Cut: x.cut, Seeds: x.seeds})
}

func (x *outing) renew(ctx context.Context, c starferry.ClusterName) error {
	h := x.fences[c]
	if h == nil {
		delete(x.unclear, c) // no member of ours is left whose commit could be accepted
		return nil
	}
	if err := h.renew(ctx); err != nil {
		if errors.Is(err, kafka.InconsistentGroupProtocol) {
			delete(x.unclear, c)
		}
		return fmt.Errorf("a new generation on %s: %w", c, err)
	}
	delete(x.unclear, c)
	return nil
}

// commit writes first what is about to be done, so that whoever comes after
// knows, and then does it.
func (x *outing) commit(ctx context.Context, n switchover.CommitFenced) error {
	if err := x.announce(ctx, n); err != nil {
		return err
	}
	offsets := make(map[starferry.TopicPartition]wire.Committed, len(n.Commits))
	for tp, k := range n.Commits {
		offsets[tp] = wire.Committed{Offset: k.Offset, LeaderEpoch: k.LeaderEpoch, Metadata: k.Metadata}
	}
	cctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	err := x.fences[n.Cluster].commit(cctx, x.passes[n.Cluster], offsets)
	var code kafka.Error
	switch {
	case err == nil:
		x.f.log.Info("committed for a group without the library", "group", x.o.Group, "cluster", n.Cluster, "what", n.What, "epoch", x.req.Epoch, "partitions", len(offsets))
		x.moved = x.moved || n.What == switchover.CommitMoved
	case errors.As(err, &code) && passing(code):
	case errors.As(err, &code):
		x.stop(err.Error())
		return err
	case !errors.Is(err, wire.ErrNotSent):
		x.unclear[n.Cluster] = true
	}
	return err
}

// passing reports whether a refused commit may be tried again, when the scene
// has been looked at anew.
func passing(code kafka.Error) bool {
	switch code {
	case kafka.UnknownMemberId, kafka.IllegalGeneration, kafka.RebalanceInProgress, kafka.FencedInstanceID,
		kafka.NotCoordinatorForGroup, kafka.GroupLoadInProgress, kafka.GroupCoordinatorNotAvailable:
		return true
	}
	return code.Temporary() || code.Timeout()
}

// announce writes the placement that a commit belongs to, and before the
// decision the fence that is to stand from then on.
func (x *outing) announce(ctx context.Context, n switchover.CommitFenced) error {
	next := control.Placement{Active: x.o.Source, Target: x.o.Target, Cut: x.cut, Seeds: x.seeds}
	switch n.What {
	case switchover.CommitDraining:
		next.Phase = control.Drain
	case switchover.CommitSeeded:
		x.again = nil
		if t := x.answer.Translation; x.req.Ranges == switchover.RangesRepeat {
			x.again = switchover.Repeats(*t)
		}
		next.Phase, next.Cut, next.Seeds = control.Seed, x.answer.Asked, places(n.Commits)
		x.exact = exactOf(*x.answer.Translation)
	case switchover.CommitMoved:
		next.Phase = control.Decide
		if err := x.f.wantFence(ctx, x.o.Group, x.o.Source, control.Fence{Epoch: x.req.Epoch, By: x.o.By, Why: x.o.Why}); err != nil {
			return fmt.Errorf("the fence on %s to be recorded: %w", x.o.Source, err)
		}
		if next.Cut == nil {
			next.Cut, next.Seeds = x.p.Cut, x.p.Seeds
		}
	default:
		return nil
	}
	x.phase = string(next.Phase)
	x.cut, x.seeds = next.Cut, next.Seeds
	if x.p.Phase == next.Phase && x.p.Epoch == x.req.Epoch && x.p.Cut.Equal(next.Cut) && x.p.Seeds.Equal(next.Seeds) {
		return nil
	}
	return x.write(ctx, next)
}

func places(k switchover.Keep) starferry.Cut {
	cut := starferry.Cut{}
	for tp, c := range k {
		cut[tp] = starferry.Place{Next: c.Offset}
	}
	return cut
}

func exactOf(t starferry.Translation) int {
	n := 0
	for _, a := range t.Answers {
		if a.Status == starferry.Exact {
			n++
		}
	}
	return n
}

// write stores the placement of this switch. Another writer ends it.
func (x *outing) write(ctx context.Context, p control.Placement) error {
	p.Group, p.Epoch, p.Link, p.Token = x.o.Group, x.req.Epoch, x.o.Link, x.o.Token
	p.By, p.Why, p.At = x.o.By, x.o.Why, x.f.c.Now().UnixMilli()
	p.External = p.Open()
	wctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	rev, err := x.f.c.Store.PutPlacement(wctx, p, x.rev)
	if errors.Is(err, desired.ErrConflict) {
		now, at, rerr := x.f.c.Store.Placement(wctx, x.o.Group)
		if rerr == nil && now.Token == x.o.Token && now.Epoch == p.Epoch && now.Phase == p.Phase && now.Active == p.Active { // an answer was lost
			rev, err = at, nil
		} else if rerr == nil || errors.Is(rerr, desired.ErrNotFound) {
			x.fatal = switchover.Failure{Group: x.o.Group, Phase: x.phase, Expected: "to be the only one who moves the group",
				Found: []string{"somebody else has written its placement since"}, Stands: "what Kafka's commits say holds", Do: "ask again when the other switch has ended", Conflict: true}
			return x.fatal
		}
	}
	if err != nil {
		return fmt.Errorf("the placement to be stored: %w", err)
	}
	x.p, x.rev = p, rev
	return nil
}

func (x *outing) translate(ctx context.Context, cut starferry.Cut) error {
	tctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	t, err := x.f.c.Copies.Translate(tctx, x.o.Link, x.dir, maps.Clone(cut), readTimeout-time.Second)
	if err != nil {
		return fmt.Errorf("link %s to translate the cut: %w", x.o.Link, err)
	}
	x.answer = &switchover.Scene{Translation: &t, Asked: cut}
	return nil
}

// kept reads what a group has committed on a cluster, whoever did.
func (f *Fleet) kept(ctx context.Context, c starferry.ClusterName, g starferry.Group) (switchover.Keep, error) {
	w, err := f.cluster(c)
	if err != nil {
		return nil, err
	}
	commits, err := w.Committed(ctx, g, nil)
	if errors.Is(err, kafka.UnstableOffsetCommit) {
		return nil, fmt.Errorf("transactions of the group are open with offsets in them; they end with their producers, or after transaction.timeout.ms: %w", err)
	}
	if err != nil {
		return nil, err
	}
	keep := make(switchover.Keep, len(commits))
	for tp, k := range commits {
		keep[tp] = switchover.Kept{Offset: k.Offset, LeaderEpoch: k.LeaderEpoch, Metadata: k.Metadata}
	}
	return keep, nil
}

// spans reads what the partitions of the topics with commits hold.
func (f *Fleet) spans(ctx context.Context, c starferry.ClusterName, k switchover.Keep) (map[starferry.TopicPartition]starferry.Range, error) {
	w, err := f.cluster(c)
	if err != nil || len(k) == 0 {
		return nil, err
	}
	seen := map[starferry.Topic]bool{}
	var topics []starferry.Topic
	for tp := range k {
		if !seen[tp.Topic] {
			seen[tp.Topic] = true
			topics = append(topics, tp.Topic)
		}
	}
	md, err := w.Metadata(ctx, topics...)
	if err != nil {
		return nil, err
	}
	var tps []starferry.TopicPartition
	for _, t := range topics {
		m := md.Topics[t]
		if m.Err != nil && !errors.Is(m.Err, kafka.UnknownTopicOrPartition) {
			return nil, fmt.Errorf("topic %s: %w", t, m.Err)
		}
		for p := range m.Partitions {
			tps = append(tps, starferry.TopicPartition{Topic: t, Partition: starferry.Partition(p)})
		}
	}
	from, err := w.Offsets(ctx, tps, wire.Earliest)
	if err != nil {
		return nil, err
	}
	to, err := w.Offsets(ctx, tps, wire.Latest)
	if err != nil {
		return nil, err
	}
	spans := make(map[starferry.TopicPartition]starferry.Range, len(tps))
	for _, tp := range tps {
		spans[tp] = starferry.Range{From: from[tp], To: to[tp]}
	}
	return spans, nil
}

// suitable refuses groups that keep more of themselves in a cluster than
// positions.
func (f *Fleet) suitable(ctx context.Context, c starferry.ClusterName, g starferry.Group) error {
	w, err := f.cluster(c)
	if err != nil {
		return err
	}
	kind, err := w.GroupKind(ctx, g)
	if err != nil {
		return err
	}
	d, err := w.AnyGroup(ctx, g)
	if err != nil {
		return err
	}
	commits, err := f.kept(ctx, c, g)
	if err != nil {
		return err
	}
	streams := kind == "streams" || d.Protocol == "stream" || streamsCommits(g, commits)
	switch {
	case kind == "share":
		return fmt.Errorf("it is a share group on %s, whose records are acknowledged one by one and which has no positions: let it finish on %s, then start it on the other cluster where translate_offset says", c, c)
	case streams:
		return fmt.Errorf("it is an application of Kafka Streams on %s, whose state lies in topics and stores of its own: start a new application on the other cluster and let it build its state from the copies", c)
	case d.ProtocolType == "connect":
		return fmt.Errorf("it is a group of Kafka Connect workers on %s, which keeps connectors in topics of its own: move the connectors by Connect's REST interface; their sink groups are called connect-NAME and can be moved so", c)
	case d.ProtocolType != "" && d.ProtocolType != "consumer" && d.ProtocolType != fenceType:
		return fmt.Errorf("it is a group of type %q on %s, not one of consumers, and what it keeps there is unknown", d.ProtocolType, c)
	}
	return nil
}

// streamsCommits reports whether commits are those of Kafka Streams: to topics
// that it makes for itself, or with its metadata, a version and a time (KIP-251)
// in base64.
func streamsCommits(g starferry.Group, commits switchover.Keep) bool {
	for tp, k := range commits {
		if t := string(tp.Topic); strings.HasPrefix(t, string(g)+"-") && strings.HasSuffix(t, "-repartition") {
			return true
		}
		b, err := base64.StdEncoding.DecodeString(k.Metadata)
		if err != nil || len(b) < 9 || b[0] != 1 && b[0] != 2 {
			continue
		}
		at := time.UnixMilli(int64(binary.BigEndian.Uint64(b[1:])))
		if at.Year() >= 2010 && at.Year() < 2100 {
			return true
		}
	}
	return false
}
