package wire

import (
	"context"
	"errors"
	"fmt"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/acl"
)

// Want is an operation on a topic or group, which is asked for before it is
// needed.
type Want struct {
	Right acl.Right
	Name  string
}

// WantTopics wants operations on each of some topics.
func WantTopics(topics []starferry.Topic, ops ...acl.Operation) (out []Want) {
	for _, t := range topics {
		for _, o := range ops {
			out = append(out, Want{acl.Right{Resource: acl.Topic, Operation: o}, string(t)})
		}
	}
	return out
}

// WantGroup wants operations on a group.
func WantGroup(g starferry.Group, ops ...acl.Operation) (out []Want) {
	for _, o := range ops {
		out = append(out, Want{acl.Right{Resource: acl.Group, Operation: o}, string(g)})
	}
	return out
}

// May asks the cluster whether we may do what is wanted (KIP-430), and joins a
// *DeniedError for each thing we may not. What cannot be asked is not denied:
// topics that are not there yet, transactional ids, brokers before Kafka 2.3.
func (c *Cluster) May(ctx context.Context, wants ...Want) error {
	var topics []starferry.Topic
	groups := map[starferry.Group]bool{}
	for _, w := range wants {
		switch w.Right.Resource {
		case acl.Topic:
			topics = append(topics, starferry.Topic(w.Name))
		case acl.Group:
			groups[starferry.Group(w.Name)] = true
		}
	}
	may := map[Want]int32{} // by the resource alone
	if err := c.topicRights(ctx, topics, may); err != nil {
		return err
	}
	for g := range groups {
		if err := c.groupRights(ctx, g, may); err != nil {
			return err
		}
	}
	var lacking []error
	for _, w := range wants {
		bits, known := may[Want{acl.Right{Resource: w.Right.Resource}, w.Name}]
		if !known || bits&(1<<w.Right.Operation.Code()) != 0 {
			continue
		}
		code := kafka.TopicAuthorizationFailed
		if w.Right.Resource == acl.Group {
			code = kafka.GroupAuthorizationFailed
		}
		lacking = append(lacking, &DeniedError{Cluster: c.conf.Name, Principal: c.Principal(), Right: w.Right, Name: w.Name, Code: code})
	}
	return errors.Join(lacking...)
}

// MayTransact asks whether we may use a transactional id, by asking for its
// coordinator: a *DeniedError if not. Any other trouble is none of its answers.
func (c *Cluster) MayTransact(ctx context.Context, txid string) error {
	_, err := c.coordinator(ctx, coordinator{1, txid})
	var denied *DeniedError
	if errors.As(err, &denied) {
		return err
	}
	return nil
}

// untold is what brokers say that do not tell.
const untold = -1 << 31

func (c *Cluster) topicRights(ctx context.Context, topics []starferry.Topic, may map[Want]int32) error {
	if len(topics) == 0 {
		return nil
	}
	req := kmsg.NewPtrMetadataRequest()
	req.IncludeTopicAuthorizedOperations = true
	for _, t := range topics {
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = kmsg.StringPtr(string(t))
		req.Topics = append(req.Topics, rt)
	}
	r, err := c.Do(ctx, req)
	if err != nil {
		return fmt.Errorf("ask what we may do with topics: %w", err)
	}
	for _, t := range r.(*kmsg.MetadataResponse).Topics {
		if t.Topic == nil {
			continue
		}
		of := Want{acl.Right{Resource: acl.Topic}, *t.Topic}
		switch {
		case kafka.Error(t.ErrorCode) == kafka.TopicAuthorizationFailed:
			may[of] = 0
		case t.ErrorCode == 0 && t.AuthorizedOperations != untold:
			may[of] = t.AuthorizedOperations
		}
	}
	return nil
}

func (c *Cluster) groupRights(ctx context.Context, g starferry.Group, may map[Want]int32) error {
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Groups, req.IncludeAuthorizedOperations = []string{string(g)}, true
	of := Want{acl.Right{Resource: acl.Group}, string(g)}
	r, err := c.DoGroup(ctx, g, req)
	if errors.Is(err, kafka.GroupAuthorizationFailed) {
		may[of] = 0
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask what we may do with group %s: %w", g, err)
	}
	for _, rg := range r.(*kmsg.DescribeGroupsResponse).Groups {
		if rg.Group == string(g) && rg.ErrorCode == 0 && rg.AuthorizedOperations != untold {
			may[of] = rg.AuthorizedOperations
		}
	}
	return nil
}
