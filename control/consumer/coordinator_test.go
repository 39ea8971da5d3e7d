package consumer_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

// coordinator is the broker that coordinates a group.
func coordinator(t *testing.T, w *wire.Cluster, g starferry.Group) int32 {
	t.Helper()
	var node int32
	require.Eventually(t, func() bool {
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.CoordinatorKey = string(g)
		resp, err := w.Do(context.Background(), req)
		if err != nil {
			return false
		}
		found := resp.(*kmsg.FindCoordinatorResponse)
		node = found.NodeID
		return found.ErrorCode == 0
	}, patience, 50*time.Millisecond)
	return node
}

// The coordinator and the leaders move to other brokers while theirs restarts:
// members find them again and stay who they are.
func TestMembersFollowTheCoordinator(t *testing.T) {
	if !kafkatest.Real() {
		t.Skip("a fake's coordinators keep their groups wherever they are; make test-kafka runs this on three real brokers")
	}
	brokers := kafkatest.RealBrokers(t, "old", 3, map[string]string{
		"offsets.topic.replication.factor": "3", "default.replication.factor": "3", "min.insync.replicas": "1",
	})
	e := &estate{t: t, old: brokers.Cluster, group: kafkatest.Group(t), seen: newLedger()}
	e.new = starferry.Cluster{Name: "new", Brokers: brokers.Cluster.Brokers} // never looked at
	e.topic = kafkatest.Topic(t, e.old, 6, nil)
	w := kafkatest.Open(t, e.old)
	total := 0
	feed := func() {
		for p := range 6 {
			e.produce(p, 10, e.old)
		}
		total += 60
	}
	a, b := e.open("a"), e.open("b")
	feed()
	e.settled(total)
	was := e.members(e.old, 2)
	e.standing(a, e.old)
	e.standing(b, e.old)
	node := brokers.Nodes[coordinator(t, w, e.group)-1]
	require.NoError(t, node.Stop())
	feed()
	e.settled(total)
	require.NoError(t, node.Start(t.Context()))
	feed()
	e.settled(total)
	require.ElementsMatch(t, was, e.members(e.old, 2))
}

// What a coordinator says while it is moving, loading or not there yet is
// waited out, whatever it was asked: the member stays who it is, and nothing is
// handled twice.
func TestErrorsOfAMovingCoordinatorAreWaitedOut(t *testing.T) {
	e, fake := faulty(t, 2)
	codes := []kafka.Error{kafka.NotCoordinatorForGroup, kafka.GroupLoadInProgress, kafka.GroupCoordinatorNotAvailable}
	var mu sync.Mutex
	due := map[kmsg.Key]int{}
	for _, key := range []kmsg.Key{kmsg.JoinGroup, kmsg.SyncGroup, kmsg.Heartbeat, kmsg.OffsetCommit, kmsg.OffsetFetch, kmsg.LeaveGroup} {
		due[key] = len(codes)
		intercept(fake, key, func(req kmsg.Request) (kmsg.Response, error, bool) {
			mu.Lock()
			defer mu.Unlock()
			if due[key] == 0 {
				return nil, nil, false
			}
			due[key]--
			return answered(req, int16(codes[due[key]])), nil, true
		})
	}
	a := e.open("a")
	e.produce(0, 10, e.old)
	e.produce(1, 10, e.old)
	e.settled(20)
	e.members(e.old, 1)
	e.committed(e.old, 1, 10)
	closeIn(t, a)
	e.members(e.old, 0)
	mu.Lock()
	defer mu.Unlock()
	for key, n := range due {
		require.Zero(t, n, "%s was not refused as often as it should", key.Name())
	}
}

// answered is an answer with an error code wherever such an answer has it.
func answered(req kmsg.Request, code int16) kmsg.Response {
	switch r := req.(type) {
	case *kmsg.JoinGroupRequest:
		resp := r.ResponseKind().(*kmsg.JoinGroupResponse)
		resp.ErrorCode = code
		return resp
	case *kmsg.SyncGroupRequest:
		resp := r.ResponseKind().(*kmsg.SyncGroupResponse)
		resp.ErrorCode = code
		return resp
	case *kmsg.HeartbeatRequest:
		resp := r.ResponseKind().(*kmsg.HeartbeatResponse)
		resp.ErrorCode = code
		return resp
	case *kmsg.LeaveGroupRequest:
		resp := r.ResponseKind().(*kmsg.LeaveGroupResponse)
		resp.ErrorCode = code
		return resp
	case *kmsg.OffsetFetchRequest:
		resp := r.ResponseKind().(*kmsg.OffsetFetchResponse)
		resp.ErrorCode = code
		return resp
	case *kmsg.OffsetCommitRequest:
		resp := r.ResponseKind().(*kmsg.OffsetCommitResponse)
		for _, t := range r.Topics {
			rt := kmsg.NewOffsetCommitResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewOffsetCommitResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, code
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp
	}
	panic(errors.New("no answer for " + kmsg.NameForKey(req.Key())))
}
