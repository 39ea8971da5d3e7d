package wire_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
)

// newOwner asks for a producer as one who takes over.
func newOwner() wire.Producer { return wire.Producer{ID: -1, Epoch: -1} }

func begin(t *testing.T) (context.Context, *wire.Cluster, starferry.Cluster) {
	t.Helper()
	conf := kafkatest.One(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx, kafkatest.Open(t, conf), conf
}

func partitions(topic starferry.Topic, n int) (tps []starferry.TopicPartition) {
	for p := range n {
		tps = append(tps, starferry.TopicPartition{Topic: topic, Partition: starferry.Partition(p)})
	}
	return tps
}

func TestMetadataTellsBrokersAndNamedTopicsOnly(t *testing.T) {
	ctx, c, conf := begin(t)
	topic := kafkatest.Topic(t, conf, 3, nil)

	m, err := c.Metadata(ctx)
	require.NoError(t, err)
	require.NotEmpty(t, m.ClusterID)
	require.NotEmpty(t, m.Brokers)
	require.Empty(t, m.Topics, "asking for no topics must not list all")

	m, err = c.Metadata(ctx, topic, "no-such-topic")
	require.NoError(t, err)
	require.Len(t, m.Topics[topic].Partitions, 3)
	require.NotZero(t, m.Topics[topic].ID)
	require.ErrorIs(t, m.Topics["no-such-topic"].Err, kafka.UnknownTopicOrPartition)
}

func TestLeaderOfMissingPartitionIsToldAtOnce(t *testing.T) {
	ctx, c, conf := begin(t)
	topic := kafkatest.Topic(t, conf, 1, nil)

	_, _, err := c.Leader(ctx, starferry.TopicPartition{Topic: topic, Partition: 0})
	require.NoError(t, err)
	_, _, err = c.Leader(ctx, starferry.TopicPartition{Topic: topic, Partition: 7})
	require.ErrorIs(t, err, kafka.UnknownTopicOrPartition)
	require.ErrorContains(t, err, "has 1 partitions")
	_, _, err = c.Leader(ctx, starferry.TopicPartition{Topic: "no-such-topic"})
	require.ErrorIs(t, err, kafka.UnknownTopicOrPartition)
}

func TestOffsets(t *testing.T) {
	ctx, c, conf := begin(t)
	topic := kafkatest.Topic(t, conf, 2, nil)
	tps := partitions(topic, 2)
	at := time.UnixMilli(1_700_000_000_000)
	kafkatest.Produce(t, conf, topic, 0, kafka.Message{Value: []byte("a"), Time: at}, kafka.Message{Value: []byte("b"), Time: at.Add(time.Second)})

	for _, x := range []struct {
		at   wire.At
		want starferry.Offset
	}{{wire.Earliest, 0}, {wire.Latest, 2}, {wire.LatestStable, 2}, {wire.Time(at.UnixMilli() + 1), 1}, {wire.Time(at.UnixMilli() + 5000), starferry.NoOffset}} {
		got, err := c.Offsets(ctx, tps, x.at)
		require.NoError(t, err)
		require.Equal(t, x.want, got[tps[0]], "at %d", x.at)
	}

	missing := starferry.TopicPartition{Topic: "no-such-topic", Partition: 3}
	got, err := c.Offsets(ctx, append(tps, missing), wire.Latest)
	var pe *wire.PartitionError
	require.ErrorAs(t, err, &pe)
	require.Equal(t, missing, pe.TopicPartition)
	require.ErrorIs(t, err, kafka.UnknownTopicOrPartition)
	require.Equal(t, starferry.Offset(2), got[tps[0]], "what is known is given")
}

func TestStableEndStopsAtOpenTransaction(t *testing.T) {
	ctx, c, conf := begin(t)
	topic := kafkatest.Topic(t, conf, 1, nil)
	tp := partitions(topic, 1)[0]
	kafkatest.Produce(t, conf, topic, 0, kafkatest.Values("plain", 3)...)
	txid := kafkatest.TxID(t)
	p, err := c.InitProducer(ctx, txid, time.Minute, newOwner())
	require.NoError(t, err)
	require.NoError(t, c.AddPartitionsToTxn(ctx, txid, p, []starferry.TopicPartition{tp}))
	_, err = kafkatest.ProduceBatch(c, tp, txid, kafkatest.Batch(kafkatest.Values("tx", 2), p, 0, true))
	require.NoError(t, err)

	stable, err := c.Offsets(ctx, []starferry.TopicPartition{tp}, wire.LatestStable)
	require.NoError(t, err)
	require.Equal(t, starferry.Offset(3), stable[tp])
	end, err := c.Offsets(ctx, []starferry.TopicPartition{tp}, wire.Latest)
	require.NoError(t, err)
	require.Equal(t, starferry.Offset(5), end[tp])

	require.NoError(t, c.EndTxn(ctx, txid, p, true))
	require.Eventually(t, func() bool {
		stable, err = c.Offsets(ctx, []starferry.TopicPartition{tp}, wire.LatestStable)
		return err == nil && stable[tp] == 6
	}, 10*time.Second, 10*time.Millisecond)
	require.Len(t, kafkatest.Records(t, conf, topic, 0), 5)
}

func TestTopicsAndTheirConfigs(t *testing.T) {
	ctx, c, conf := begin(t)
	topic := kafkatest.Topic(t, conf, 2, map[string]string{"retention.ms": "3600000"})

	err := c.CreateTopic(ctx, wire.TopicSpec{Topic: topic, Partitions: 2, Replication: -1})
	require.ErrorIs(t, err, kafka.TopicAlreadyExists)
	if kafkatest.Real() { // a fake takes any name
		err = c.CreateTopic(ctx, wire.TopicSpec{Topic: "not/a/name", Partitions: 2, Replication: -1})
		require.ErrorIs(t, err, kafka.InvalidTopic)
	}

	configs, err := c.TopicConfigs(ctx, topic)
	require.NoError(t, err)
	require.Equal(t, wire.ConfigEntry{Value: "3600000"}, configs[topic]["retention.ms"])
	require.True(t, configs[topic]["cleanup.policy"].Default)

	require.NoError(t, c.DeleteTopics(ctx, topic))
	require.ErrorIs(t, c.DeleteTopics(ctx, topic), kafka.UnknownTopicOrPartition)
}

// join makes the only member of a group and returns its id and generation.
func join(t *testing.T, ctx context.Context, c *wire.Cluster, g starferry.Group, topic starferry.Topic, member string) (string, starferry.Generation) {
	t.Helper()
	for {
		r, err := c.DoGroup(ctx, g, joinRequest(g, topic, member))
		require.NoError(t, err)
		resp := r.(*kmsg.JoinGroupResponse)
		if member = resp.MemberID; errors.Is(wire.Code(resp.ErrorCode), kafka.MemberIDRequired) {
			continue
		}
		require.NoError(t, wire.Code(resp.ErrorCode))
		sync(t, ctx, c, g, topic, resp)
		return member, starferry.Generation(resp.Generation)
	}
}

func joinRequest(g starferry.Group, topic starferry.Topic, member string) *kmsg.JoinGroupRequest {
	meta := kmsg.NewConsumerMemberMetadata()
	meta.Version, meta.Topics, meta.UserData = 1, []string{string(topic)}, []byte("user data")
	req := kmsg.NewPtrJoinGroupRequest()
	req.Group, req.MemberID, req.ProtocolType = string(g), member, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 10_000, 10_000
	proto := kmsg.NewJoinGroupRequestProtocol()
	proto.Name, proto.Metadata = "range", meta.AppendTo(nil)
	req.Protocols = append(req.Protocols, proto)
	return req
}

func sync(t *testing.T, ctx context.Context, c *wire.Cluster, g starferry.Group, topic starferry.Topic, joined *kmsg.JoinGroupResponse) {
	t.Helper()
	require.Equal(t, joined.LeaderID, joined.MemberID)
	require.Len(t, joined.Members, 1)
	var meta kmsg.ConsumerMemberMetadata
	require.NoError(t, meta.ReadFrom(joined.Members[0].ProtocolMetadata))
	require.Equal(t, "user data", string(meta.UserData), "the leader sees what members put beside their subscription")
	given := kmsg.NewConsumerMemberAssignment()
	given.Topics = []kmsg.ConsumerMemberAssignmentTopic{{Topic: string(topic), Partitions: []int32{0, 1}}}
	req := kmsg.NewPtrSyncGroupRequest()
	req.Group, req.MemberID, req.Generation = string(g), joined.MemberID, joined.Generation
	req.ProtocolType, req.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
	req.GroupAssignment = []kmsg.SyncGroupRequestGroupAssignment{{MemberID: joined.MemberID, MemberAssignment: given.AppendTo(nil)}}
	r, err := c.DoGroup(ctx, g, req)
	require.NoError(t, err)
	require.NoError(t, wire.Code(r.(*kmsg.SyncGroupResponse).ErrorCode))
}

func TestCommitsAreFencedByMemberAndGeneration(t *testing.T) {
	ctx, c, conf := begin(t)
	topic := kafkatest.Topic(t, conf, 2, nil)
	tps := partitions(topic, 2)
	g := kafkatest.Group(t)
	member, gen := join(t, ctx, c, g, topic, "")

	offsets := map[starferry.TopicPartition]wire.Committed{
		tps[0]: {Offset: 7, LeaderEpoch: -1, Metadata: `{"epoch":3}`}, tps[1]: {Offset: 0, LeaderEpoch: 0},
	}
	require.NoError(t, c.Commit(ctx, wire.Commit{Group: g, Member: member, Generation: gen, Offsets: offsets}))
	require.ErrorIs(t, c.Commit(ctx, wire.Commit{Group: g, Member: member, Generation: gen + 1, Offsets: offsets}), kafka.IllegalGeneration)
	require.ErrorIs(t, c.Commit(ctx, wire.Commit{Group: g, Member: "stranger", Generation: gen, Offsets: offsets}), kafka.UnknownMemberId)
	require.ErrorIs(t, c.Commit(ctx, wire.Commit{Group: g, Generation: -1, Offsets: offsets}), kafka.UnknownMemberId, "a group with members refuses commits of nobody")
	require.ErrorIs(t, c.Commit(ctx, wire.Commit{Group: g, Member: member, Generation: gen}), wire.ErrNotSent)

	got, err := c.Committed(ctx, g, nil)
	require.NoError(t, err)
	require.Equal(t, offsets, got)
	got, err = c.Committed(ctx, g, tps[:1])
	require.NoError(t, err)
	require.Len(t, got, 1)
	got, err = c.Committed(ctx, kafkatest.Group(t), tps)
	require.NoError(t, err)
	require.Empty(t, got, "no commit is no entry")

	_, newer := join(t, ctx, c, g, topic, member)
	require.Greater(t, newer, gen)
	require.ErrorIs(t, c.Commit(ctx, wire.Commit{Group: g, Member: member, Generation: gen, Offsets: offsets}), kafka.IllegalGeneration)

	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Group, leave.Members = string(g), []kmsg.LeaveGroupRequestMember{{MemberID: member}}
	_, err = c.DoGroup(ctx, g, leave)
	require.NoError(t, err)
	err = c.Commit(ctx, wire.Commit{Group: g, Member: member, Generation: newer, Offsets: offsets})
	if kafkatest.Real() {
		require.ErrorIs(t, err, kafka.UnknownMemberId)
	} else {
		require.ErrorIs(t, err, kafka.IllegalGeneration) // a fake looks at the generation first
	}
	require.NoError(t, c.Commit(ctx, wire.Commit{Group: g, Generation: -1, Offsets: offsets}), "an empty group takes commits of nobody")
}

func TestGroupsAreDescribed(t *testing.T) {
	ctx, c, conf := begin(t)
	topic := kafkatest.Topic(t, conf, 2, nil)
	g := kafkatest.Group(t)
	d, err := c.DescribeGroup(ctx, g)
	require.NoError(t, err)
	require.Equal(t, "Dead", d.State)

	member, _ := join(t, ctx, c, g, topic, "")
	d, err = c.DescribeGroup(ctx, g)
	require.NoError(t, err)
	require.Equal(t, "Stable", d.State)
	require.Equal(t, "consumer", d.ProtocolType)
	require.Equal(t, "range", d.Protocol)
	require.Len(t, d.Members, 1)
	m := d.Members[0]
	require.Equal(t, member, m.ID)
	require.Equal(t, "starferry", m.ClientID)
	require.Equal(t, []starferry.Topic{topic}, m.Topics)
	require.Equal(t, partitions(topic, 2), m.Assigned)
	require.Equal(t, "user data", string(m.UserData))

	all, err := c.Groups(ctx)
	require.NoError(t, err)
	require.Contains(t, all, wire.ListedGroup{Group: g, ProtocolType: "consumer", State: "Stable", Kind: "classic"})
}

// A new owner of a transactional id shuts out the old owner's plain idempotent
// batches with an empty aborted transaction.
func TestEmptyAbortedTransactionFencesOldOwner(t *testing.T) {
	ctx, c, conf := begin(t)
	topic := kafkatest.Topic(t, conf, 1, nil)
	tp := partitions(topic, 1)[0]
	txid := kafkatest.TxID(t)
	send := func(p wire.Producer, seq int32) (starferry.Offset, error) {
		return kafkatest.ProduceBatch(c, tp, "", kafkatest.Batch(kafkatest.Values(fmt.Sprint(p), 3), p, seq, false))
	}

	old, err := c.InitProducer(ctx, txid, time.Minute, newOwner())
	require.NoError(t, err)
	first, err := send(old, 0)
	require.NoError(t, err)
	again, err := send(old, 0)
	require.NoError(t, err)
	require.Equal(t, first, again, "a repeated batch is not written twice")
	_, err = send(old, 9)
	require.ErrorIs(t, err, kafka.OutOfOrderSequenceNumber)

	fresh, err := c.InitProducer(ctx, txid, time.Minute, newOwner())
	require.NoError(t, err)
	require.Equal(t, old.ID, fresh.ID)
	require.Greater(t, fresh.Epoch, old.Epoch)
	require.NoError(t, c.AddPartitionsToTxn(ctx, txid, fresh, []starferry.TopicPartition{tp}))
	require.NoError(t, c.EndTxn(ctx, txid, fresh, false))
	require.Eventually(t, func() bool {
		end, err := c.Offsets(ctx, []starferry.TopicPartition{tp}, wire.LatestStable)
		return err == nil && end[tp] == 4
	}, 10*time.Second, 10*time.Millisecond, "the abort marker takes one offset")

	_, err = send(old, 3)
	require.ErrorIs(t, err, kafka.InvalidProducerEpoch)
	at, err := send(fresh, 0)
	require.NoError(t, err)
	require.Equal(t, starferry.Offset(4), at)
	require.Error(t, c.AddPartitionsToTxn(ctx, txid, old, []starferry.TopicPartition{tp}))
	if kafkatest.Real() { // a fake takes older epochs back
		_, err = c.InitProducer(ctx, txid, time.Minute, old)
		require.Error(t, err, "an owner that was followed cannot continue")
	}
}

func TestReadCommittedFetchListsAborted(t *testing.T) {
	ctx, c, conf := begin(t)
	topic := kafkatest.Topic(t, conf, 1, nil)
	tp := partitions(topic, 1)[0]
	kafkatest.ProduceTxn(t, conf, topic, 0, false, kafkatest.Values("aborted", 2)...)
	kafkatest.ProduceTxn(t, conf, topic, 0, true, kafkatest.Values("kept", 2)...)
	broker, _, err := c.Leader(ctx, tp)
	require.NoError(t, err)

	req := fetchRequest(tp, 0)
	req.IsolationLevel = 1
	r, err := c.DoOn(ctx, broker, req)
	require.NoError(t, err)
	got := r.(*kmsg.FetchResponse).Topics[0].Partitions[0]
	require.Len(t, got.AbortedTransactions, 1)
	require.Equal(t, int64(0), got.AbortedTransactions[0].FirstOffset)
	require.Equal(t, int64(6), got.LastStableOffset)
}

func fetchRequest(tp starferry.TopicPartition, from int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 500, 1, 8<<20, -1
	t := kmsg.NewFetchRequestTopic()
	t.Topic = string(tp.Topic)
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = int32(tp.Partition), from, 8<<20
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

func TestFetchSessionsPassThrough(t *testing.T) {
	ctx, c, conf := begin(t)
	topic := kafkatest.Topic(t, conf, 1, nil)
	tp := partitions(topic, 1)[0]
	kafkatest.Produce(t, conf, topic, 0, kafkatest.Values("a", 1)...)
	broker, _, err := c.Leader(ctx, tp)
	require.NoError(t, err)
	conn, err := c.Dial(ctx, broker)
	require.NoError(t, err)
	defer conn.Close()

	req := fetchRequest(tp, 0)
	req.SessionEpoch = 0
	r, err := conn.Do(ctx, req)
	require.NoError(t, err)
	id := r.(*kmsg.FetchResponse).SessionID
	require.NotZero(t, id)
	require.NotEmpty(t, r.(*kmsg.FetchResponse).Topics[0].Partitions[0].RecordBatches)

	req = fetchRequest(tp, 1)
	req.SessionID, req.SessionEpoch = id, 1
	_, err = conn.Do(ctx, req)
	require.NoError(t, err)
	kafkatest.Produce(t, conf, topic, 0, kafkatest.Values("b", 1)...)
	more := fetchRequest(tp, 1)
	more.SessionID, more.SessionEpoch, more.Topics = id, 2, nil
	r, err = conn.Do(ctx, more)
	require.NoError(t, err)
	require.Len(t, r.(*kmsg.FetchResponse).Topics, 1, "a session remembers its partitions")
}

func TestKafkaGoClientWorksOnTheSameSettings(t *testing.T) {
	ctx, c, conf := begin(t)
	topic := kafkatest.Topic(t, conf, 2, nil)
	r, err := c.Client().CreatePartitions(ctx, &kafka.CreatePartitionsRequest{Topics: []kafka.TopicPartitionsConfig{{Name: string(topic), Count: 3}}})
	require.NoError(t, err)
	require.NoError(t, r.Errors[string(topic)])
	require.Eventually(t, func() bool {
		m, err := c.Metadata(ctx, topic)
		return err == nil && len(m.Topics[topic].Partitions) == 3
	}, 10*time.Second, 10*time.Millisecond)
}

// Members of one process share a Cluster; a join that the broker holds back
// must not hold back another member's.
func TestJoinsDoNotWaitForEachOther(t *testing.T) {
	ctx, c, conf := begin(t)
	topic := kafkatest.Topic(t, conf, 2, nil)
	g := kafkatest.Group(t)
	one, _ := join(t, ctx, c, g, topic, "")

	two := make(chan kmsg.Response, 1)
	go func() {
		r, err := c.DoGroup(ctx, g, joinRequest(g, topic, ""))
		if j, ok := r.(*kmsg.JoinGroupResponse); ok && errors.Is(wire.Code(j.ErrorCode), kafka.MemberIDRequired) {
			r, err = c.DoGroup(ctx, g, joinRequest(g, topic, j.MemberID))
		}
		if err != nil {
			r = nil
		}
		two <- r
	}()
	beat := kmsg.NewPtrHeartbeatRequest()
	require.Eventually(t, func() bool { // the second join has arrived
		d, err := c.DescribeGroup(ctx, g)
		return err == nil && d.State == "PreparingRebalance"
	}, 10*time.Second, 5*time.Millisecond)
	beat.Group, beat.MemberID, beat.Generation = string(g), one, 1
	r, err := c.DoGroup(ctx, g, beat)
	require.NoError(t, err)
	require.ErrorIs(t, wire.Code(r.(*kmsg.HeartbeatResponse).ErrorCode), kafka.RebalanceInProgress)

	r, err = c.DoGroup(ctx, g, joinRequest(g, topic, one))
	require.NoError(t, err)
	require.NoError(t, wire.Code(r.(*kmsg.JoinGroupResponse).ErrorCode))
	joined, ok := (<-two).(*kmsg.JoinGroupResponse)
	require.True(t, ok)
	require.NoError(t, wire.Code(joined.ErrorCode))
	require.Equal(t, r.(*kmsg.JoinGroupResponse).Generation, joined.Generation)
}
