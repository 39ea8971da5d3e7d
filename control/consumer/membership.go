package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/switchover"
	"github.com/starferry/starferry/internal/acl"
	"github.com/starferry/starferry/internal/wire"
)

// membership is one group membership on one cluster: it joins, syncs and
// heartbeats when it is told to, and says what became of it. The member id
// survives cut connections, so that no zombie of this process holds partitions.
type membership struct {
	c    *Consumer
	wc   *wire.Cluster
	name starferry.ClusterName

	mu       sync.Mutex
	wantJoin bool
	wantGone bool
	nonce    int64
	cancel   context.CancelFunc // of the join under way
	poked    chan struct{}
	beaten   chan struct{} // closed and replaced after every heartbeat

	// Of the run goroutine alone.
	id         string
	gen        int32
	leader     bool
	signalled  bool // the machine knows of the rebalance
	partitions map[starferry.Topic]int
	looked     time.Time

	lookedAt atomic.Pointer[time.Time] // when the membership was last seen to be good
	good     atomic.Int64              // sinceBoot when the last answered heartbeat was sent
	barred   atomic.Pointer[string]    // why it cannot join, if that does not pass by itself
	stale    atomic.Bool               // it is to join anew: what it subscribes to has changed
	standby  atomic.Bool               // the group lives elsewhere
	ousted   atomic.Bool               // another process has taken the place; never to be taken back
}

func newMembership(c *Consumer, wc *wire.Cluster) *membership {
	return &membership{c: c, wc: wc, name: wc.Name(), gen: -1, poked: make(chan struct{}, 1), beaten: make(chan struct{})}
}

// join asks for a new assignment; nonce changes the user data.
func (m *membership) join(nonce int64) {
	m.mu.Lock()
	stays := m.wantGone // told to leave, and not gone yet
	m.wantJoin, m.wantGone = true, false
	m.nonce = max(m.nonce, nonce)
	m.mu.Unlock()
	if stays {
		m.c.post(func() { m.c.departed(m.name) })
	}
	m.poke()
}

// renew has it join anew, at the next heartbeat, once nothing is in flight.
func (m *membership) renew() {
	m.stale.Store(true)
	m.poke()
}

func (m *membership) leave() {
	m.mu.Lock()
	m.wantJoin, m.wantGone = false, true
	if m.cancel != nil {
		m.cancel()
	}
	m.mu.Unlock()
	m.poke()
}

// poke makes it heartbeat now, or carry out what it was asked.
func (m *membership) poke() {
	select {
	case m.poked <- struct{}{}:
	default:
	}
}

func (m *membership) run(ctx context.Context) {
	tick := time.NewTicker(m.c.cfg.HeartbeatInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.poked:
		case <-tick.C:
		}
		m.mu.Lock()
		join, gone := m.wantJoin, m.wantGone
		jctx, cancel := context.WithCancel(ctx)
		m.wantJoin, m.wantGone, m.cancel = false, false, cancel
		m.mu.Unlock()
		switch {
		case gone:
			m.depart(ctx)
		case join:
			m.joinUntil(jctx)
		case m.gen >= 0:
			m.heartbeat(ctx)
		}
		cancel()
	}
}

// joinUntil joins and syncs until it has an assignment or is told to stop.
func (m *membership) joinUntil(ctx context.Context) {
	for wait := 50 * time.Millisecond; ctx.Err() == nil && !m.ousted.Load(); wait = min(2*wait, 2*time.Second) {
		a, err := m.joinOnce(ctx)
		if err == nil {
			m.signalled = false
			m.barred.Store(nil)
			m.c.post(func() { m.c.step(*a) })
			return
		}
		if ctx.Err() != nil || m.ousted.Load() {
			return
		}
		var code kafka.Error
		if errors.As(err, &code) && (code == kafka.MemberIDRequired || code == kafka.RebalanceInProgress) {
			wait = time.Millisecond
			continue
		}
		m.bar(ctx, code, err)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// joinOnce is one JoinGroup and one SyncGroup.
func (m *membership) joinOnce(ctx context.Context) (*switchover.Assigned, error) {
	if err := m.mayRead(ctx); err != nil {
		return nil, err
	}
	resp, err := m.askJoin(ctx)
	if err != nil {
		return nil, err
	}
	m.id, m.gen, m.leader = resp.MemberID, resp.Generation, resp.LeaderID == resp.MemberID
	protocol := ""
	if resp.Protocol != nil {
		protocol = *resp.Protocol
	}
	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Group, sync.Generation, sync.MemberID = string(m.c.cfg.Group), m.gen, m.id
	sync.ProtocolType, sync.Protocol, sync.InstanceID = kmsg.StringPtr("consumer"), &protocol, m.c.cfg.static()
	if m.leader {
		plan, topics, err := subscriptions(resp.Members)
		if err != nil {
			return nil, err
		}
		counts, err := m.count(ctx, topics)
		if err != nil {
			return nil, err
		}
		m.partitions, m.looked = counts, time.Now()
		if !resp.SkipAssignment { // a static leader that is back (KIP-814): who has what stays
			sync.GroupAssignment = assign(protocol, plan, counts, owned(resp.Members))
		}
	}
	sent := sinceBoot()
	r, err := m.wc.DoGroup(ctx, m.c.cfg.Group, sync)
	if err != nil {
		return nil, fmt.Errorf("sync group %s: %w", m.c.cfg.Group, err)
	}
	answer, ok := r.(*kmsg.SyncGroupResponse)
	if !ok {
		return nil, fmt.Errorf("sync group %s: answered by %T", m.c.cfg.Group, r)
	}
	if err := m.fenced(answer.ErrorCode); err != nil {
		return nil, fmt.Errorf("sync group %s: %w", m.c.cfg.Group, err)
	}
	own, err := assigned(answer.MemberAssignment)
	if err != nil {
		return nil, err
	}
	counts, err := m.count(ctx, m.c.topics())
	if err != nil {
		return nil, err
	}
	m.good.Store(sent)
	return &switchover.Assigned{Cluster: m.name, Member: m.id, Generation: starferry.Generation(m.gen), Own: own, All: all(counts)}, nil
}

// mayRead asks, before a cluster is joined that the group may move to, whether
// its topics may be read there: on a standby nothing is fetched that would show
// it, and afterwards it is too late. An answer that does not come denies nothing.
func (m *membership) mayRead(ctx context.Context) error {
	if m.id != "" || !m.standby.Load() {
		return nil
	}
	err := m.wc.May(ctx, wire.WantTopics(m.c.topics(), acl.Read)...)
	var denied *wire.DeniedError
	if errors.As(err, &denied) {
		return fmt.Errorf("join group %s: %w", m.c.cfg.Group, denied)
	}
	return nil
}

func (m *membership) askJoin(ctx context.Context) (*kmsg.JoinGroupResponse, error) {
	m.mu.Lock()
	nonce := m.nonce
	m.mu.Unlock()
	req := kmsg.NewPtrJoinGroupRequest()
	req.Group, req.MemberID, req.ProtocolType, req.InstanceID = string(m.c.cfg.Group), m.id, "consumer", m.c.cfg.static()
	req.SessionTimeoutMillis = int32(m.c.cfg.SessionTimeout.Milliseconds())
	req.RebalanceTimeoutMillis = int32(m.c.cfg.RebalanceTimeout.Milliseconds())
	m.stale.Store(false)
	var topics []string
	for _, t := range m.c.topics() {
		topics = append(topics, string(t))
	}
	slices.Sort(topics)
	boot := m.c.boot
	if m.c.cfg.Static { // says nothing of the process: it must find its place unchanged
		boot = ""
	}
	req.Protocols = protocols(topics, control.UserData(boot, nonce))
	r, err := m.wc.DoGroup(ctx, m.c.cfg.Group, req)
	if err != nil {
		return nil, fmt.Errorf("join group %s: %w", m.c.cfg.Group, err)
	}
	resp, ok := r.(*kmsg.JoinGroupResponse)
	if !ok {
		return nil, fmt.Errorf("join group %s: answered by %T", m.c.cfg.Group, r)
	}
	if kafka.Error(resp.ErrorCode) == kafka.MemberIDRequired {
		m.id = resp.MemberID
	}
	if err := m.fenced(resp.ErrorCode); err != nil {
		return nil, fmt.Errorf("join group %s: %w", m.c.cfg.Group, err)
	}
	return resp, nil
}

// fenced obeys the codes that end a membership.
func (m *membership) fenced(code int16) error {
	switch kafka.Error(code) {
	case 0:
		return nil
	case kafka.UnknownMemberId:
		m.id, m.gen = "", -1
	case kafka.FencedInstanceID:
		m.id, m.gen = "", -1
		if !m.ousted.Swap(true) {
			m.c.post(func() { m.c.ousted(m.name) })
		}
	case kafka.IllegalGeneration:
		m.gen = -1
	}
	return kafka.Error(code)
}

// heartbeat tells the coordinator that the member lives, and hears from it
// whether it still is one.
func (m *membership) heartbeat(ctx context.Context) {
	defer m.beat()
	hctx, cancel := context.WithTimeout(ctx, max(m.c.cfg.HeartbeatInterval, m.c.cfg.SessionTimeout/3))
	defer cancel()
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.Generation, req.MemberID, req.InstanceID = string(m.c.cfg.Group), m.gen, m.id, m.c.cfg.static()
	sent := sinceBoot()
	r, err := m.wc.DoGroup(hctx, m.c.cfg.Group, req)
	if err != nil {
		if ctx.Err() == nil {
			m.c.log.Warn("heartbeat", "cluster", m.name, "error", err)
		}
		return
	}
	resp, ok := r.(*kmsg.HeartbeatResponse)
	if !ok {
		return
	}
	switch code := kafka.Error(resp.ErrorCode); code {
	case 0:
		m.good.Store(sent)
		m.lookForPartitions(ctx)
		if m.stale.Load() && !m.signalled {
			m.signalled = true
			m.c.post(func() { m.c.step(switchover.Rebalance{Cluster: m.name}) })
		}
	case kafka.RebalanceInProgress:
		m.good.Store(sent)
		if !m.signalled {
			m.signalled = true
			m.c.post(func() { m.c.step(switchover.Rebalance{Cluster: m.name}) })
		}
	case kafka.UnknownMemberId, kafka.IllegalGeneration, kafka.FencedInstanceID:
		m.fenced(resp.ErrorCode) //nolint:errcheck // told below
		m.gen = -1
		m.c.log.Warn("membership lost", "cluster", m.name, "reason", code.Title())
		m.c.post(func() { m.c.step(switchover.Lost{Cluster: m.name, Reason: code.Title()}) })
	default:
		m.c.log.Warn("heartbeat", "cluster", m.name, "error", code)
	}
}

// beat wakes those who wait for a heartbeat.
func (m *membership) beat() {
	m.mu.Lock()
	close(m.beaten)
	m.beaten = make(chan struct{})
	m.mu.Unlock()
}

// alive returns true once a heartbeat sent within the last half session was
// answered. After a freeze it asks the coordinator first, however long the
// session is: who says nothing for the time of a lease may be removed.
func (m *membership) alive(ctx context.Context) bool {
	now := time.Now()
	if looked := m.lookedAt.Load(); looked != nil && steady(*looked, now) {
		return ctx.Err() == nil
	}
	if !m.awake(ctx) {
		return false
	}
	at := now // now itself stays on the stack
	m.lookedAt.Store(&at)
	return true
}

// steadyFor is how long a look at the clock that goes on in a suspended machine
// holds, while neither of the others has moved by more. Asking that one is a
// system call; asking the others is not.
const steadyFor = 5 * time.Millisecond

// steady reports whether no time can have been lost since a look at the clock:
// a stopped process finds the monotonic clock moved, one in a suspended machine
// the wall clock.
func steady(looked, now time.Time) bool {
	mono, wall := now.Sub(looked), now.Round(0).Sub(looked.Round(0))
	return mono >= 0 && mono < steadyFor && wall >= 0 && wall < steadyFor
}

// awake is alive by the clock that never stands still.
func (m *membership) awake(ctx context.Context) bool {
	limit := int64(m.c.cfg.SessionTimeout / 2)
	since := m.c.pulse.awakeSince()
	for good := m.good.Load(); good < since || sinceBoot()-good > limit; good = m.good.Load() {
		m.mu.Lock()
		beaten := m.beaten
		m.mu.Unlock()
		m.poke()
		select {
		case <-ctx.Done():
			return false
		case <-beaten:
		case <-time.After(m.c.cfg.HeartbeatInterval):
		}
	}
	return ctx.Err() == nil
}

// isAlive is alive without waiting.
func (m *membership) isAlive() bool {
	return sinceBoot()-m.good.Load() <= int64(m.c.cfg.SessionTimeout/2)
}

// lookForPartitions lets the leader notice partitions that were added.
func (m *membership) lookForPartitions(ctx context.Context) {
	every := 30 * time.Second
	for _, n := range m.partitions {
		if n == 0 {
			every = 2 * time.Second // a topic that does not exist yet
		}
	}
	if !m.leader || m.signalled || time.Since(m.looked) < every {
		return
	}
	m.looked = time.Now()
	topics := make([]starferry.Topic, 0, len(m.partitions))
	for t := range m.partitions {
		topics = append(topics, t)
	}
	counts, err := m.count(ctx, topics)
	if err != nil {
		return // asked again
	}
	for t, n := range counts {
		if m.partitions[t] != n {
			m.c.log.Info("partitions changed", "cluster", m.name, "topic", t, "from", m.partitions[t], "to", n)
			m.signalled = true
			m.c.post(func() { m.c.step(switchover.Rebalance{Cluster: m.name}) })
			return
		}
	}
}

func (m *membership) depart(ctx context.Context) {
	id := m.id
	m.id, m.gen, m.leader, m.signalled = "", -1, false, false
	defer m.c.post(func() { m.c.departed(m.name) })
	if id == "" || (m.c.cfg.StayOnClose || m.c.cfg.Static) && m.c.closing() {
		return
	}
	lctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = string(m.c.cfg.Group)
	who := kmsg.NewLeaveGroupRequestMember()
	who.MemberID, who.InstanceID = id, m.c.cfg.static()
	who.Reason = kmsg.StringPtr("starferry instance leaves")
	req.Members = append(req.Members, who)
	if _, err := m.wc.DoGroup(lctx, m.c.cfg.Group, req); err != nil && ctx.Err() == nil {
		m.c.log.Warn("leave group", "cluster", m.name, "error", err)
	}
}

// count returns how many partitions each topic has; 0 for a topic that does not
// exist.
func (m *membership) count(ctx context.Context, topics []starferry.Topic) (map[starferry.Topic]int, error) {
	md, err := m.wc.Metadata(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("read partitions of %v: %w", topics, err)
	}
	out := map[starferry.Topic]int{}
	for _, t := range topics {
		meta := md.Topics[t]
		if meta.Err != nil && !errors.Is(meta.Err, kafka.UnknownTopicOrPartition) {
			return nil, fmt.Errorf("read partitions of %s: %w", t, meta.Err)
		}
		out[t] = len(meta.Partitions)
	}
	return out, nil
}
