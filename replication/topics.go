package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// copiedConfigs are the settings a target topic takes over from the source's,
// where they are set on the topic itself. What speaks of brokers, replicas,
// disks or throttles belongs to a cluster and stays there.
func copiedConfigs() []string {
	return []string{
		"cleanup.policy", "compression.type", "delete.retention.ms", "max.compaction.lag.ms", "max.message.bytes",
		"message.timestamp.type", "message.timestamp.after.max.ms", "message.timestamp.before.max.ms",
		"min.cleanable.dirty.ratio", "min.compaction.lag.ms", "retention.bytes", "retention.ms", "segment.bytes", "segment.ms",
	}
}

// makeTopics creates the target topics that are missing. One that exists with
// another number of partitions is an error.
func makeTopics(ctx context.Context, src, tgt *wire.Cluster, spec LinkSpec) error {
	topics := spec.Topics
	targets := spec.targets()
	from, err := src.Metadata(ctx, topics...)
	if err != nil {
		return fmt.Errorf("look up topics on %s: %w", src.Name(), err)
	}
	to, err := tgt.Metadata(ctx, targets...)
	if err != nil {
		return fmt.Errorf("look up topics on %s: %w", tgt.Name(), err)
	}
	for _, t := range topics {
		if len(from.Topics[t].Partitions) == 0 {
			return fmt.Errorf("topic %s of %s: %w; check its name, and that the principal may describe it", t, src.Name(), orUnknown(from.Topics[t].Err))
		}
	}
	confs, unread := src.TopicConfigs(ctx, topics...)
	for i, t := range topics {
		copied := targets[i]
		n := len(from.Topics[t].Partitions)
		have := len(to.Topics[copied].Partitions)
		if have == 0 {
			if confs[t] == nil {
				return fmt.Errorf("read settings of topic %s on %s, which its copy takes over: %w", t, src.Name(), cmp.Or(unread, error(wire.ErrFrame)))
			}
			err = makeTopic(ctx, tgt, copied, n, confs[t])
			if !errors.Is(err, kafka.TopicAlreadyExists) {
				if err != nil {
					return err
				}
				continue
			}
			if have, err = partitionsOf(ctx, tgt, copied); err != nil {
				return err
			}
		}
		if have != n {
			as := ""
			if copied != t {
				as = ", as " + string(copied) + ","
			}
			return fmt.Errorf("topic %s has %d partitions on %s and%s %d on %s: a link copies partition to partition; delete the topic on %s, or give it %d partitions, then ask again",
				t, n, src.Name(), as, have, tgt.Name(), tgt.Name(), n)
		}
	}
	return nil
}

// knownWithin is how long a topic that the controller has may be unknown to the
// brokers, which follow its log.
const knownWithin = 10 * time.Second

// partitionsOf counts the partitions of a topic that exists. Brokers that do not
// know it yet are asked again.
func partitionsOf(ctx context.Context, c *wire.Cluster, t starferry.Topic) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, knownWithin)
	defer cancel()
	for {
		m, err := c.Metadata(ctx, t)
		if err != nil {
			return 0, fmt.Errorf("look up topic %s on %s: %w", t, c.Name(), err)
		}
		if n := len(m.Topics[t].Partitions); n > 0 {
			return n, nil
		}
		if wait(ctx, 20*time.Millisecond) != nil {
			return 0, fmt.Errorf("topic %s of %s exists, and its brokers do not know it: %w; is it being deleted? Ask again later", t, c.Name(), orUnknown(m.Topics[t].Err))
		}
	}
}

func orUnknown(err error) error {
	if err == nil {
		return kafka.UnknownTopicOrPartition
	}
	return err
}

func makeTopic(ctx context.Context, tgt *wire.Cluster, t starferry.Topic, n int, conf map[string]wire.ConfigEntry) error {
	spec := wire.TopicSpec{Topic: t, Partitions: n, Replication: -1, Configs: map[string]string{}}
	for _, k := range copiedConfigs() {
		if e, ok := conf[k]; ok && !e.Default && !e.Sensitive {
			spec.Configs[k] = e.Value
		}
	}
	err := tgt.CreateTopic(ctx, spec)
	if err != nil && !errors.Is(err, kafka.TopicAlreadyExists) {
		return fmt.Errorf("create topic %s on %s: %w; create it there with %d partitions, or allow the principal to", t, tgt.Name(), err, n)
	}
	return err
}

// follow gives the target topic the partitions its source has grown.
func follow(ctx context.Context, tgt *wire.Cluster, t starferry.Topic, have, want int) error {
	if have >= want {
		return nil
	}
	req := kmsg.NewPtrCreatePartitionsRequest()
	rt := kmsg.NewCreatePartitionsRequestTopic()
	rt.Topic, rt.Count = string(t), int32(want)
	req.Topics = append(req.Topics, rt)
	req.TimeoutMillis = 10_000
	resp, err := tgt.DoController(ctx, req)
	if err == nil {
		if r, ok := resp.(*kmsg.CreatePartitionsResponse); ok && len(r.Topics) == 1 {
			err = tgt.Code(kmsg.CreatePartitions, r.Topics[0].ErrorCode, wire.On{Topic: t})
		}
	}
	if err != nil && !errors.Is(err, kafka.InvalidPartitionNumber) {
		return fmt.Errorf("give topic %s of %s its %d partitions: %w", t, tgt.Name(), want, err)
	}
	tgt.Forget(t)
	return settled(ctx, tgt, t, want)
}

// settled waits until a topic's partitions have leaders.
func settled(ctx context.Context, c *wire.Cluster, t starferry.Topic, want int) error {
	for {
		m, err := c.Metadata(ctx, t)
		if err != nil {
			return err
		}
		led := 0
		for _, p := range m.Topics[t].Partitions {
			if p.Leader >= 0 && p.Err == nil {
				led++
			}
		}
		if led >= want {
			return nil
		}
		if err := wait(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("topic %s of %s has leaders for %d of %d partitions: %w", t, c.Name(), led, want, err)
		}
	}
}
