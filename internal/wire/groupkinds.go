package wire

import (
	"context"
	"errors"
	"fmt"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
)

// AnyGroup describes a group of either protocol of consumers: the classic one,
// as DescribeGroup does, and the one of KIP-848, whose groups DescribeGroup
// takes for Dead. Kind tells what else bears the name, such as a share group.
func (c *Cluster) AnyGroup(ctx context.Context, g starferry.Group) (GroupDescription, error) {
	d, err := c.DescribeGroup(ctx, g)
	if err != nil && !errors.Is(err, kafka.GroupIdNotFound) {
		return d, err
	}
	if err == nil && d.State != "Dead" {
		return d, nil
	}
	d = GroupDescription{State: "Dead"}
	if speaks, err := c.groupSpeaks(ctx, g, kmsg.ConsumerGroupDescribe); err != nil || !speaks {
		return d, err
	}
	req := kmsg.NewPtrConsumerGroupDescribeRequest()
	req.Groups = []string{string(g)}
	r, err := c.DoGroup(ctx, g, req)
	if err != nil {
		return d, fmt.Errorf("describe group %s: %w", g, err)
	}
	for _, rg := range r.(*kmsg.ConsumerGroupDescribeResponse).Groups {
		switch err := c.Denied(kmsg.ConsumerGroupDescribe, coded(rg.ErrorCode, rg.ErrorMessage), On{Group: g}); {
		case rg.Group != string(g):
		case errors.Is(err, kafka.GroupIdNotFound), errors.Is(err, kafka.UnsupportedVersion):
		case err != nil:
			return d, fmt.Errorf("describe group %s on cluster %q: %w", g, c.conf.Name, err)
		default:
			return readConsumerGroup(rg), nil
		}
	}
	return d, nil
}

func readConsumerGroup(rg kmsg.ConsumerGroupDescribeResponseGroup) GroupDescription {
	d := GroupDescription{State: rg.State, ProtocolType: "consumer", Protocol: rg.AssignorName}
	for _, m := range rg.Members {
		x := GroupMember{ID: m.MemberID, ClientID: m.ClientID, Host: m.ClientHost}
		if m.InstanceID != nil {
			x.InstanceID = *m.InstanceID
		}
		for _, t := range m.SubscribedTopics {
			x.Topics = append(x.Topics, starferry.Topic(t))
		}
		for _, t := range m.Assignment.TopicPartitions {
			for _, p := range t.Partitions {
				x.Assigned = append(x.Assigned, starferry.TopicPartition{Topic: starferry.Topic(t.Topic), Partition: starferry.Partition(p)})
			}
		}
		d.Members = append(d.Members, x)
	}
	return d
}

// GroupKind says what kind of group bears a name: "classic", "consumer"
// (KIP-848), "share" (KIP-932) or "streams" (KIP-1071). It is empty for a group
// that the coordinator does not list, and before Kafka 4.0, which has no kinds
// but the classic one.
func (c *Cluster) GroupKind(ctx context.Context, g starferry.Group) (string, error) {
	at, err := c.awaitCoordinator(ctx, g)
	if err != nil {
		return "", fmt.Errorf("find kind of group %s: %w", g, err)
	}
	list, err := c.groupsOf(ctx, at)
	if err != nil {
		return "", fmt.Errorf("find kind of group %s: %w", g, err)
	}
	for _, l := range list {
		if l.Group == g {
			return l.Kind, nil
		}
	}
	return "", nil
}

// groupSpeaks reports whether a group's coordinator knows a request.
func (c *Cluster) groupSpeaks(ctx context.Context, g starferry.Group, key kmsg.Key) (bool, error) {
	at, err := c.awaitCoordinator(ctx, g)
	if err != nil {
		return false, err
	}
	v, err := c.MaxVersion(ctx, at, key.Int16())
	return v >= 0, err
}

// awaitCoordinator finds a group's coordinator, which a new cluster has to choose
// first.
func (c *Cluster) awaitCoordinator(ctx context.Context, g starferry.Group) (int32, error) {
	for wait := c.newBackoff(retryWithin); ; {
		at, err := c.coordinator(ctx, coordinator{0, string(g)})
		if err == nil || !between(err) || !wait.next(ctx, err) {
			return at, err
		}
	}
}
