package demo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// stranger is a member of a group that does not use the library: a forgotten
// host. It subscribes to nothing, so it takes no partition away, and it is enough
// to keep the group from being moved.
type stranger struct {
	cluster *wire.Cluster
	group   starferry.Group
	member  string
	gen     int32

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

const strangerBeat = 200 * time.Millisecond

// intrude returns once the stranger is a member.
func intrude(ctx context.Context, c *wire.Cluster, g starferry.Group) (*stranger, error) {
	s := &stranger{cluster: c, group: g}
	if err := s.join(ctx); err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.wg.Go(func() { s.stay(running) })
	return s, nil
}

func (s *stranger) join(ctx context.Context) error {
	for ctx.Err() == nil {
		req := kmsg.NewPtrJoinGroupRequest()
		req.Group, req.MemberID, req.ProtocolType = string(s.group), s.member, "consumer"
		req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 10_000, 60_000
		for _, name := range []string{"range", "roundrobin"} {
			p := kmsg.NewJoinGroupRequestProtocol()
			meta := kmsg.NewConsumerMemberMetadata()
			p.Name, p.Metadata = name, meta.AppendTo(nil)
			req.Protocols = append(req.Protocols, p)
		}
		r, err := s.cluster.DoGroup(ctx, s.group, req)
		if err != nil {
			return fmt.Errorf("join group %s as a stranger: %w", s.group, err)
		}
		joined := r.(*kmsg.JoinGroupResponse)
		s.member = joined.MemberID
		if code := kafka.Error(joined.ErrorCode); code != 0 {
			if errors.Is(code, kafka.MemberIDRequired) || code.Temporary() {
				continue
			}
			return fmt.Errorf("join group %s as a stranger: %w", s.group, code)
		}
		s.gen = joined.Generation
		sync := kmsg.NewPtrSyncGroupRequest()
		sync.Group, sync.MemberID, sync.Generation = string(s.group), s.member, s.gen
		r, err = s.cluster.DoGroup(ctx, s.group, sync)
		if err != nil {
			return fmt.Errorf("join group %s as a stranger: %w", s.group, err)
		}
		if r.(*kmsg.SyncGroupResponse).ErrorCode == 0 {
			return nil
		}
	}
	return context.Cause(ctx)
}

func (s *stranger) stay(ctx context.Context) {
	tick := time.NewTicker(strangerBeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		req := kmsg.NewPtrHeartbeatRequest()
		req.Group, req.MemberID, req.Generation = string(s.group), s.member, s.gen
		r, err := s.cluster.DoGroup(ctx, s.group, req)
		if err == nil && r.(*kmsg.HeartbeatResponse).ErrorCode != 0 {
			_ = s.join(ctx) // what is wrong shows at the next beat
		}
	}
}

// leave ends the membership.
func (s *stranger) leave(ctx context.Context) error {
	s.cancel()
	s.wg.Wait()
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group, req.MemberID = string(s.group), s.member
	m := kmsg.NewLeaveGroupRequestMember()
	m.MemberID = s.member
	req.Members = append(req.Members, m)
	r, err := s.cluster.DoGroup(ctx, s.group, req)
	if err != nil {
		return fmt.Errorf("leave group %s: %w", s.group, err)
	}
	if err := wire.Code(r.(*kmsg.LeaveGroupResponse).ErrorCode); err != nil {
		return fmt.Errorf("leave group %s: %w", s.group, err)
	}
	return nil
}
