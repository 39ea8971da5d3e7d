package house

import (
	"errors"
	"strings"
	"sync/atomic"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/internal/kafkatest"
)

// refuseProduce has the in-process target answer as brokers do whose replicas
// are away.
func refuseProduce(h *house, topic starferry.Topic) (release func()) {
	target := kafkatest.Open(h.t, h.new)
	meta, err := target.Metadata(h.t.Context(), topic)
	if err != nil {
		h.t.Fatal(err)
	}
	id := meta.Topics[topic].ID
	var open atomic.Bool
	fake := h.fakes[h.new.Name]
	fake.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		req := r.(*kmsg.ProduceRequest)
		if open.Load() {
			return nil, nil, false
		}
		fake.KeepControl()
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		ours := true
		for _, t := range req.Topics {
			ours = ours && (t.Topic == string(topic) || t.TopicID == id)
			rt := kmsg.NewProduceResponseTopic()
			rt.Topic, rt.TopicID = t.Topic, t.TopicID
			for _, p := range t.Partitions {
				rp := kmsg.NewProduceResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, int16(kafka.NotEnoughReplicas)
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		if !ours {
			return nil, nil, false
		}
		return resp, nil, true
	})
	return func() { open.Store(true) }
}

// holdCommits lets no commit with a mark in a state arrive at an in-process
// cluster until release: the connection breaks instead, so that whoever commits
// cannot know. On real brokers it does nothing.
func holdCommits(h *house, c starferry.Cluster, state control.State) (release func()) {
	var open atomic.Bool
	fake := h.fakes[c.Name]
	if fake == nil {
		return func() {}
	}
	fake.ControlKey(int16(kmsg.OffsetCommit), func(r kmsg.Request) (kmsg.Response, error, bool) {
		if open.Load() {
			return nil, nil, false
		}
		fake.KeepControl()
		for _, t := range r.(*kmsg.OffsetCommitRequest).Topics {
			for _, p := range t.Partitions {
				if p.Metadata != nil && strings.Contains(*p.Metadata, " "+string(state)+" ") {
					return nil, errors.New("held"), true
				}
			}
		}
		return nil, nil, false
	})
	return func() { open.Store(true) }
}
