package wire

import (
	"context"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
)

// GroupDescription is what a coordinator says of a group. A group it has never
// heard of is in state Dead.
type GroupDescription struct {
	State        string // Empty, PreparingRebalance, CompletingRebalance, Stable, Dead
	ProtocolType string // "consumer" for consumers
	Protocol     string // the assignor
	Members      []GroupMember
}

// GroupMember is one member of a group.
type GroupMember struct {
	ID         string
	InstanceID string // group.instance.id of a static member, or empty
	ClientID   string
	Host       string
	// Topics is what it subscribes to, Assigned what it was given; empty while
	// the group rebalances and for groups that are not of consumers.
	Topics   []starferry.Topic
	Assigned []starferry.TopicPartition
	// UserData is what the member put beside its subscription.
	UserData []byte
}

// ListedGroup is one line of a list of groups.
type ListedGroup struct {
	Group        starferry.Group
	ProtocolType string
	State        string // empty before Kafka 2.6
	Kind         string // classic, consumer, share, streams; empty before Kafka 3.8
}

// DescribeGroup asks a group's coordinator about it.
func (c *Cluster) DescribeGroup(ctx context.Context, g starferry.Group) (GroupDescription, error) {
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Groups = []string{string(g)}
	r, err := c.DoGroup(ctx, g, req)
	if err != nil {
		return GroupDescription{}, fmt.Errorf("describe group %s: %w", g, err)
	}
	for _, rg := range r.(*kmsg.DescribeGroupsResponse).Groups {
		if rg.Group != string(g) {
			continue
		}
		if err := Code(rg.ErrorCode); err != nil {
			return GroupDescription{}, fmt.Errorf("describe group %s on cluster %q: %w", g, c.conf.Name, err)
		}
		d := GroupDescription{State: rg.State, ProtocolType: rg.ProtocolType, Protocol: rg.Protocol}
		for _, m := range rg.Members {
			d.Members = append(d.Members, readMember(m, rg.ProtocolType))
		}
		return d, nil
	}
	return GroupDescription{}, fmt.Errorf("describe group %s on cluster %q: %w: the answer leaves the group out", g, c.conf.Name, ErrFrame)
}

// readMember reads a member's own bytes if they are a consumer's; other kinds
// of groups put there what they like.
func readMember(m kmsg.DescribeGroupsResponseGroupMember, protocolType string) GroupMember {
	g := GroupMember{ID: m.MemberID, ClientID: m.ClientID, Host: m.ClientHost}
	if m.InstanceID != nil {
		g.InstanceID = *m.InstanceID
	}
	if protocolType != "consumer" {
		return g
	}
	if topics, user, err := Subscription(m.ProtocolMetadata); err == nil {
		g.Topics, g.UserData = topics, user
	}
	var given kmsg.ConsumerMemberAssignment
	if given.ReadFrom(m.MemberAssignment) == nil {
		for _, t := range given.Topics {
			for _, p := range t.Partitions {
				g.Assigned = append(g.Assigned, starferry.TopicPartition{Topic: starferry.Topic(t.Topic), Partition: starferry.Partition(p)})
			}
		}
	}
	return g
}

// Subscription reads which topics a member of a consumer group wants, from what
// it sent with JoinGroup. Versions above 0 only append fields, and not everyone
// who claims one appends them (kafka-go does not), so all are read as version 0.
func Subscription(b []byte) (topics []starferry.Topic, userData []byte, err error) {
	plain := slices.Clone(b)
	if len(plain) >= 2 {
		plain[0], plain[1] = 0, 0
	}
	meta := kmsg.NewConsumerMemberMetadata()
	if err := meta.ReadFrom(plain); err != nil {
		return nil, nil, fmt.Errorf("read subscription of %d bytes: %w", len(b), err)
	}
	topics = make([]starferry.Topic, len(meta.Topics))
	for i, t := range meta.Topics {
		topics[i] = starferry.Topic(t)
	}
	return topics, meta.UserData, nil
}

// Groups lists the groups of all brokers.
func (c *Cluster) Groups(ctx context.Context) ([]ListedGroup, error) {
	m, err := c.Metadata(ctx)
	if err != nil {
		return nil, fmt.Errorf("list groups: %w", err)
	}
	var all []ListedGroup
	for _, b := range m.Brokers {
		list, err := c.groupsOf(ctx, b.ID)
		if err != nil {
			return nil, fmt.Errorf("list groups of broker %d of cluster %q: %w", b.ID, c.conf.Name, err)
		}
		all = append(all, list...)
	}
	return all, nil
}

func (c *Cluster) groupsOf(ctx context.Context, broker int32) ([]ListedGroup, error) {
	wait := c.newBackoff(retryWithin)
	for {
		r, err := c.DoOn(ctx, broker, kmsg.NewPtrListGroupsRequest())
		if err != nil {
			return nil, err
		}
		resp := r.(*kmsg.ListGroupsResponse)
		if err := c.Code(kmsg.ListGroups, resp.ErrorCode, On{}); err != nil {
			if between(err) && wait.next(ctx, err) {
				continue
			}
			return nil, err
		}
		var list []ListedGroup
		for _, g := range resp.Groups {
			list = append(list, ListedGroup{starferry.Group(g.Group), g.ProtocolType, g.GroupState, g.GroupType})
		}
		return list, nil
	}
}
