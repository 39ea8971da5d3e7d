package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/switchover"
	"github.com/starferry/starferry/internal/wire"
)

// The fence is a group of this protocol type. Members of a group have one type
// in common, so while it stands the coordinator refuses everyone else.
const (
	fenceType     = "starferry"
	fenceProtocol = "fence"
)

const (
	// fenceSession is how long a fence stands without its agent.
	fenceSession = 10 * time.Second
	fenceBeat    = 500 * time.Millisecond
	// fenceJoin bounds a join: the members of an agent that died may have to be
	// waited for.
	fenceJoin = fenceSession + 10*time.Second
)

// OccupiedError says that a group has members and cannot be fenced.
type OccupiedError struct {
	Cluster starferry.ClusterName
	Group   starferry.Group
	Members []switchover.MemberSeen
}

// Error implements error.
func (e *OccupiedError) Error() string {
	var who []string
	for _, m := range e.Members {
		who = append(who, m.String())
	}
	if len(who) == 0 {
		who = []string{"members that have left again since"}
	}
	return fmt.Sprintf("fence group %s on %s: it has members: %s; stop them and try again", e.Group, e.Cluster, strings.Join(who, ", "))
}

// fence is a membership in an emptied group that keeps its clients out. The
// coordinator lets it in only when nobody else is there, which proves that the
// group is empty; for as long as its member id is known there, it has stayed so.
type fence struct {
	w       *wire.Cluster
	group   starferry.Group
	log     *slog.Logger
	session time.Duration
	drives  int64 // since when its agent drives a switch, Unix nanoseconds; 0: it only keeps

	joining sync.Mutex // one join at a time

	mu   sync.Mutex
	id   string
	gen  int32 // -1: to be joined again
	lets bool  // it may drive in this generation
	lost error // why it does not stand

	cancel context.CancelFunc
	done   chan struct{}
}

// openFence takes a fence and keeps it alive until close or vanish: one that
// drives a switch since then, or one that only keeps (0). Ctx bounds the taking
// alone. A group with members is an *OccupiedError.
func (f *Fleet) openFence(ctx context.Context, c starferry.ClusterName, g starferry.Group, drives int64) (*fence, error) {
	w, err := f.cluster(c)
	if err != nil {
		return nil, err
	}
	x := &fence{w: w, group: g, log: f.log.With("group", g, "cluster", c), session: fenceSession, gen: -1, drives: drives, done: make(chan struct{})}
	if err := x.join(ctx); err != nil {
		x.forget(ctx)
		return nil, f.occupied(ctx, c, g, err)
	}
	var life context.Context
	life, x.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go func() { defer close(x.done); x.live(life) }()
	return x, nil
}

// occupied names the members of a group that refused the fence.
func (f *Fleet) occupied(ctx context.Context, c starferry.ClusterName, g starferry.Group, err error) error {
	if !errors.Is(err, kafka.InconsistentGroupProtocol) {
		return fmt.Errorf("fence group %s on %s: %w", g, c, err)
	}
	e := &OccupiedError{Cluster: c, Group: g}
	seen, derr := f.describe(ctx, c, g)
	if derr != nil {
		return fmt.Errorf("fence group %s on %s: it has members, and they cannot be named: %w", g, c, derr)
	}
	if !fencing(seen) {
		e.Members = seen.Members
	}
	return e
}

// fencing reports whether the members of a group are fences.
func fencing(g switchover.GroupSeen) bool { return g.ProtocolType == fenceType }

// live heartbeats, and joins again when the coordinator asks for it or has
// forgotten the member. A new member is a new proof that the group is empty;
// where that fails, somebody has come in, and the fence has fallen.
func (x *fence) live(ctx context.Context) {
	tick := time.NewTicker(fenceBeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if x.generation() >= 0 {
			x.heartbeat(ctx)
		}
		if x.generation() >= 0 || ctx.Err() != nil {
			continue
		}
		err := x.join(ctx)
		x.mu.Lock()
		fallen := err != nil && x.lost == nil && x.id == ""
		if err == nil {
			x.lost = nil
		} else if x.id == "" {
			x.lost = err
		}
		x.mu.Unlock()
		if fallen && ctx.Err() == nil {
			x.log.Warn("fence has fallen; it is tried again", "error", err)
		}
	}
}

func (x *fence) generation() int32 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.gen
}

// pass is a membership of the fence in one generation, in which it alone may
// drive. What was read under a pass is still so when a commit under it is
// accepted.
type pass struct {
	id  string
	gen int32
}

// pass reports whether the fence stands and may drive.
func (x *fence) pass() (pass, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return pass{x.id, x.gen}, x.lost == nil && x.id != "" && x.gen >= 0 && x.lets
}

// fallen reports whether the group has been entered by others, or cannot be
// entered, since the fence stood.
func (x *fence) fallen() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.lost != nil
}

// renew joins again, so that no commit of an earlier generation can be carried
// out any more.
func (x *fence) renew(ctx context.Context) error {
	x.mu.Lock()
	x.gen = -1
	x.mu.Unlock()
	return x.join(ctx)
}

// join joins and syncs until there is a generation of its own.
func (x *fence) join(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fenceJoin)
	defer cancel()
	x.joining.Lock()
	defer x.joining.Unlock()
	for x.generation() < 0 {
		err := x.joinOnce(ctx)
		var code kafka.Error
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		case errors.As(err, &code) && (code == kafka.MemberIDRequired || code == kafka.RebalanceInProgress || code == kafka.UnknownMemberId):
		default:
			return err
		}
	}
	return nil
}

func (x *fence) joinOnce(ctx context.Context) error {
	x.mu.Lock()
	id := x.id
	x.mu.Unlock()
	req := kmsg.NewPtrJoinGroupRequest()
	req.Group, req.MemberID, req.ProtocolType = string(x.group), id, fenceType
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = int32(x.session.Milliseconds()), int32(x.session.Milliseconds())
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name, p.Metadata = fenceProtocol, x.claim()
	req.Protocols = append(req.Protocols, p)
	r, err := x.w.DoGroup(ctx, x.group, req)
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	joined, ok := r.(*kmsg.JoinGroupResponse)
	if !ok {
		return fmt.Errorf("join: answered by %T", r)
	}
	if kafka.Error(joined.ErrorCode) == kafka.MemberIDRequired {
		x.become(joined.MemberID, -1)
	}
	if err := x.obey(joined.ErrorCode); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	x.become(joined.MemberID, -1)
	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Group, sync.Generation, sync.MemberID = string(x.group), joined.Generation, joined.MemberID
	sync.ProtocolType, sync.Protocol = kmsg.StringPtr(fenceType), kmsg.StringPtr(fenceProtocol)
	sync.GroupAssignment = assign(joined.Members) // the leader's alone
	if r, err = x.w.DoGroup(ctx, x.group, sync); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	synced, ok := r.(*kmsg.SyncGroupResponse)
	if !ok {
		return fmt.Errorf("sync: answered by %T", r)
	}
	if err := x.obey(synced.ErrorCode); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	x.mu.Lock()
	x.lets = x.drives != 0 && string(synced.MemberAssignment) == driverWord
	x.mu.Unlock()
	x.become(joined.MemberID, joined.Generation)
	return nil
}

func (x *fence) become(id string, gen int32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.id, x.gen = id, gen
}

// obey ends the membership, or its generation, where a code says so.
func (x *fence) obey(code int16) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch kafka.Error(code) {
	case 0:
		return nil
	case kafka.UnknownMemberId, kafka.FencedInstanceID, kafka.InconsistentGroupProtocol:
		x.id, x.gen = "", -1
	case kafka.IllegalGeneration, kafka.RebalanceInProgress:
		x.gen = -1
	}
	return kafka.Error(code)
}

func (x *fence) heartbeat(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, x.session/3)
	defer cancel()
	x.mu.Lock()
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.Generation, req.MemberID = string(x.group), x.gen, x.id
	x.mu.Unlock()
	r, err := x.w.DoGroup(ctx, x.group, req)
	if err != nil {
		x.log.Debug("heartbeat of the fence", "error", err)
		return
	}
	resp, ok := r.(*kmsg.HeartbeatResponse)
	if !ok || x.generation() != req.Generation { // it has joined again meanwhile
		return
	}
	if err := x.obey(resp.ErrorCode); err != nil && !errors.Is(err, kafka.RebalanceInProgress) {
		x.log.Warn("fence lost its session", "error", err)
	}
}

// commit commits as the fence. It is refused if the pass has ended.
func (x *fence) commit(ctx context.Context, p pass, offsets map[starferry.TopicPartition]wire.Committed) error {
	err := x.w.Commit(ctx, wire.Commit{Group: x.group, Member: p.id, Generation: starferry.Generation(p.gen), Offsets: offsets})
	var code kafka.Error
	if now, _ := x.pass(); errors.As(err, &code) && now == p {
		_ = x.obey(int16(code)) // err says it
	}
	return err
}

// close leaves the group: the fence falls at once.
func (x *fence) close(ctx context.Context) error {
	x.vanish()
	return x.forget(ctx)
}

// vanish stops without leaving: the fence stands for another session, time for
// the agents that keep fences to take it up.
func (x *fence) vanish() {
	x.cancel()
	<-x.done
}

func (x *fence) forget(ctx context.Context) error {
	x.mu.Lock()
	id := x.id
	x.id, x.gen = "", -1
	x.mu.Unlock()
	if id == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = string(x.group)
	who := kmsg.NewLeaveGroupRequestMember()
	who.MemberID, who.Reason = id, kmsg.StringPtr("the fence is lifted")
	req.Members = append(req.Members, who)
	r, err := x.w.DoGroup(ctx, x.group, req)
	if err != nil {
		return fmt.Errorf("lift fence of group %s on %s: %w; it falls by itself within %v", x.group, x.w.Name(), err, x.session)
	}
	codes := []int16{r.(*kmsg.LeaveGroupResponse).ErrorCode}
	for _, m := range r.(*kmsg.LeaveGroupResponse).Members {
		codes = append(codes, m.ErrorCode)
	}
	gone := []kafka.Error{0, kafka.UnknownMemberId}
	for _, c := range codes {
		if !slices.Contains(gone, kafka.Error(c)) {
			return fmt.Errorf("lift fence of group %s on %s: %w; it falls by itself within %v", x.group, x.w.Name(), kafka.Error(c), x.session)
		}
	}
	return nil
}
