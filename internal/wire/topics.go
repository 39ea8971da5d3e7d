package wire

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
)

// adminMillis is how long the controller may take over a request about topics.
const adminMillis = 30_000

// TopicSpec describes a topic to be made.
type TopicSpec struct {
	Topic       starferry.Topic
	Partitions  int
	Replication int16             // −1: the cluster's default
	Configs     map[string]string // those that differ from the cluster's defaults
}

// ConfigEntry is one setting of a topic.
type ConfigEntry struct {
	Value     string
	Default   bool // not set on the topic itself
	Sensitive bool // Value is withheld
}

// CreateTopic makes a topic and waits until the leaders of all its partitions answer. If
// it exists already, errors.Is(err, kafka.TopicAlreadyExists) holds.
func (c *Cluster) CreateTopic(ctx context.Context, spec TopicSpec) error {
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = string(spec.Topic), int32(spec.Partitions), spec.Replication
	if spec.Replication == 0 {
		t.ReplicationFactor = -1
	}
	for _, k := range slices.Sorted(maps.Keys(spec.Configs)) {
		rc := kmsg.NewCreateTopicsRequestTopicConfig()
		rc.Name, rc.Value = k, kmsg.StringPtr(spec.Configs[k])
		t.Configs = append(t.Configs, rc)
	}
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics, req.TimeoutMillis = append(req.Topics, t), adminMillis
	r, err := c.DoController(ctx, req)
	if err != nil {
		return fmt.Errorf("create topic %s: %w", spec.Topic, err)
	}
	for _, rt := range r.(*kmsg.CreateTopicsResponse).Topics {
		if err := c.Denied(kmsg.CreateTopics, coded(rt.ErrorCode, rt.ErrorMessage), On{Topic: spec.Topic}); err != nil {
			return fmt.Errorf("create topic %s on cluster %q: %w", spec.Topic, c.conf.Name, err)
		}
	}
	return c.awaitLeaders(ctx, spec)
}

// awaitLeaders waits until brokers know a new topic.
func (c *Cluster) awaitLeaders(ctx context.Context, spec TopicSpec) error {
	wait := c.newBackoff(retryWithin)
	for {
		m, err := c.Metadata(ctx, spec.Topic)
		if err != nil {
			return fmt.Errorf("await topic %s: %w", spec.Topic, err)
		}
		t := m.Topics[spec.Topic]
		if err = ready(t, spec.Partitions); err == nil {
			// Brokers know of a leader before the leader does.
			if _, err = c.Offsets(ctx, t.all(spec.Topic), Earliest); err == nil {
				return nil
			}
		}
		if !wait.next(ctx, err) {
			return fmt.Errorf("topic %s was created on cluster %q but has no leaders yet: %w", spec.Topic, c.conf.Name, err)
		}
	}
}

func (t TopicMeta) all(topic starferry.Topic) []starferry.TopicPartition {
	tps := make([]starferry.TopicPartition, len(t.Partitions))
	for i, p := range t.Partitions {
		tps[i] = starferry.TopicPartition{Topic: topic, Partition: p.Partition}
	}
	return tps
}

func ready(t TopicMeta, partitions int) error {
	if t.Err != nil {
		return t.Err
	}
	if len(t.Partitions) == 0 || len(t.Partitions) < partitions {
		return kafka.UnknownTopicOrPartition
	}
	for _, p := range t.Partitions {
		if p.Leader < 0 {
			return kafka.LeaderNotAvailable
		}
	}
	return nil
}

// DeleteTopics deletes topics. What failed is joined; a topic that is not there
// fails with kafka.UnknownTopicOrPartition.
func (c *Cluster) DeleteTopics(ctx context.Context, topics ...starferry.Topic) error {
	if len(topics) == 0 {
		return nil
	}
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TimeoutMillis = adminMillis
	for _, t := range topics {
		req.TopicNames = append(req.TopicNames, string(t))
	}
	r, err := c.DoController(ctx, req)
	if err != nil {
		return fmt.Errorf("delete topics %v: %w", topics, err)
	}
	var errs []error
	for _, t := range r.(*kmsg.DeleteTopicsResponse).Topics {
		if err := coded(t.ErrorCode, t.ErrorMessage); err != nil && t.Topic != nil {
			err = c.Denied(kmsg.DeleteTopics, err, On{Topic: starferry.Topic(*t.Topic)})
			errs = append(errs, fmt.Errorf("delete topic %s on cluster %q: %w", *t.Topic, c.conf.Name, err))
		}
	}
	c.Forget(topics...)
	return errors.Join(errs...)
}

// TopicConfigs reads the settings of topics. Topics that could not be read are
// left out of the map and told by the error.
func (c *Cluster) TopicConfigs(ctx context.Context, topics ...starferry.Topic) (map[starferry.Topic]map[string]ConfigEntry, error) {
	found := make(map[starferry.Topic]map[string]ConfigEntry, len(topics))
	if len(topics) == 0 {
		return found, nil
	}
	req := kmsg.NewPtrDescribeConfigsRequest()
	for _, t := range topics {
		res := kmsg.NewDescribeConfigsRequestResource()
		res.ResourceType, res.ResourceName = kmsg.ConfigResourceTypeTopic, string(t)
		req.Resources = append(req.Resources, res)
	}
	r, err := c.Do(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("read configs of topics: %w", err)
	}
	var errs []error
	for _, res := range r.(*kmsg.DescribeConfigsResponse).Resources {
		if err := coded(res.ErrorCode, res.ErrorMessage); err != nil {
			err = c.Denied(kmsg.DescribeConfigs, err, On{Topic: starferry.Topic(res.ResourceName)})
			errs = append(errs, fmt.Errorf("read configs of topic %s on cluster %q: %w", res.ResourceName, c.conf.Name, err))
			continue
		}
		entries := make(map[string]ConfigEntry, len(res.Configs))
		for _, e := range res.Configs {
			// Version 0 has only IsDefault, later ones only Source.
			entry := ConfigEntry{Default: e.IsDefault, Sensitive: e.IsSensitive}
			if r.GetVersion() > 0 {
				entry.Default = e.Source != kmsg.ConfigSourceDynamicTopicConfig
			}
			if e.Value != nil {
				entry.Value = *e.Value
			}
			entries[e.Name] = entry
		}
		found[starferry.Topic(res.ResourceName)] = entries
	}
	return found, errors.Join(errs...)
}
