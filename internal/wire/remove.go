package wire

import (
	"context"
	"errors"
	"fmt"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
)

// RemoveMembers puts members out of a group, by member id, and by
// group.instance.id for static ones (KIP-345). Members that are not there any
// more are no error. The group rebalances; whoever was removed learns it from
// its next heartbeat or commit.
func (c *Cluster) RemoveMembers(ctx context.Context, g starferry.Group, members []GroupMember, reason string) error {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = string(g)
	for _, m := range members {
		who := kmsg.NewLeaveGroupRequestMember()
		who.MemberID = m.ID
		if m.InstanceID != "" {
			who.InstanceID = kmsg.StringPtr(m.InstanceID)
		}
		who.Reason = kmsg.StringPtr(reason)
		req.Members = append(req.Members, who)
	}
	r, err := c.DoGroup(ctx, g, req)
	if err != nil {
		return fmt.Errorf("remove members from group %s on cluster %q: %w", g, c.conf.Name, err)
	}
	var errs []error
	for _, m := range r.(*kmsg.LeaveGroupResponse).Members {
		if err := Code(m.ErrorCode); err != nil && !errors.Is(err, kafka.UnknownMemberId) {
			errs = append(errs, fmt.Errorf("remove member %s from group %s on cluster %q: %w", m.MemberID, g, c.conf.Name, err))
		}
	}
	return errors.Join(errs...)
}
