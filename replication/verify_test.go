package replication

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
)

func (w *world) verify(q VerifyRequest) Proof {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p, err := w.client.Verify(ctx, w.name(), q)
	require.NoError(w.t, err)
	return p
}

// Guarantee 1: A copied record is on the target exactly once, in source order
// per partition, byte for byte; what is not copied is listed with its reason.
func TestVerifyProvesACopy(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(2, nil)
	w.put(topic, 0, numbered(0, 5)...)
	kafkatest.ProduceTxn(t, w.src, topic, 0, true, numbered(5, 5)...)
	kafkatest.ProduceTxn(t, w.src, topic, 0, false, numbered(100, 5)...)
	w.put(topic, 0, numbered(10, 5)...)
	w.put(topic, 1, numbered(0, 20)...)
	w.shard("s", t.TempDir())
	w.link(topic)
	w.caughtUp()
	native := kafkatest.Produce(t, w.tgt, topic, 1, numbered(900, 3)...)
	w.put(topic, 1, numbered(20, 3)...)
	w.caughtUp()

	told := 0
	p := w.verify(VerifyRequest{Hash: true, Progress: func(Proof) { told++ }})
	require.Equal(t, Identical, p.Verdict(), p.Lanes)
	require.Len(t, p.Lanes, 2)
	require.Positive(t, told)
	require.EqualValues(t, 15, p.Lanes[0].Identical)
	require.Equal(t, map[starferry.Reason]int64{starferry.Aborted: 5, starferry.Control: 2}, p.Lanes[0].Holes)
	require.EqualValues(t, 23, p.Lanes[1].Identical)
	require.EqualValues(t, 3, p.Lanes[1].Foreign)
	for _, l := range p.Lanes {
		require.Equal(t, l.SourceHash, l.TargetHash)
		require.NotEmpty(t, l.SourceHash)
	}
	require.NotEqual(t, p.Lanes[0].SourceHash, p.Lanes[1].SourceHash)

	part := w.verify(VerifyRequest{Partitions: []starferry.Partition{1}, Range: starferry.Range{From: 7, To: 12}})
	require.Len(t, part.Lanes, 1)
	require.EqualValues(t, 5, part.Lanes[0].Identical)
	require.Equal(t, Identical, part.Verdict())
	require.Equal(t, starferry.Offset(20), native-starferry.Offset(p.Lanes[1].Holes[starferry.Control])-1, "the fence's marker stands in front")

	ctx := t.Context()
	_, err := w.client.Verify(ctx, w.name(), VerifyRequest{Topics: []starferry.Topic{"other"}})
	require.ErrorContains(t, err, "topic other is not on it")
	_, err = w.client.Verify(ctx, w.name(), VerifyRequest{Partitions: []starferry.Partition{9}})
	require.ErrorContains(t, err, "no partition")
	_, err = w.client.Verify(ctx, w.name(), VerifyRequest{Range: starferry.Range{From: 7, To: 3}})
	require.ErrorContains(t, err, "offsets that ascend")
	_, err = w.client.Verify(ctx, "none", VerifyRequest{})
	require.ErrorIs(t, err, ErrNoLink)
}

// A proof goes on when its lane changes hands, and comes to the same counts.
func TestVerifyOutlivesItsShard(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	for i := range 8 { // pages of their own, because a batch fills one
		records := numbered(10*i, 5)
		for j := range records {
			records[j].Value = make([]byte, 190_000)
			records[j].Value[0] = byte(j)
		}
		w.put(topic, 0, records...)
	}
	first := w.shard("first", t.TempDir())
	w.link(topic)
	w.caughtUp()
	w.shard("second", t.TempDir())
	killed := false
	p := w.verify(VerifyRequest{Rate: 4 << 20, Progress: func(p Proof) {
		if l := p.Lanes[0]; !killed && l.Next > 0 && l.Next < 40 {
			killed = true
			go first.Kill()
		}
	}})
	require.True(t, killed, "the proof was done before the shard was killed: the test is void")
	require.Equal(t, Identical, p.Verdict(), p.Lanes)
	require.EqualValues(t, 40, p.Lanes[0].Identical)
	first.Kill() // waits
}

// A link's own proof follows the copy, and its status says how far it is.
func TestContinuousProofFollowsTheCopy(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	w.put(topic, 0, numbered(0, 10)...)
	w.shard("s", t.TempDir())
	w.link(topic)
	require.Nil(t, w.status().Lanes[0].Proof)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := w.client.Ensure(ctx, LinkSpec{
		Name: w.name(), Source: w.src.Name, Target: w.tgt.Name, Topics: []starferry.Topic{topic}, Buckets: 4, Token: "t1", VerifyBytes: 1 << 20,
	})
	require.NoError(t, err)
	upTo := func(n int64) func() bool {
		return func() bool {
			p := w.status().Lanes[0].Proof
			return p != nil && p.Identical == n && p.Verdict() == Identical
		}
	}
	require.Eventually(t, upTo(10), patience, 20*time.Millisecond)
	w.put(topic, 0, numbered(10, 5)...)
	require.Eventually(t, upTo(15), patience, 20*time.Millisecond)
	require.Equal(t, starferry.Offset(15), w.status().Lanes[0].Proof.Next)
}

// A client's continuous proof ends with its context.
func TestContinuousVerify(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	w.put(topic, 0, numbered(0, 10)...)
	w.shard("s", t.TempDir())
	w.link(topic)
	w.caughtUp()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	more := false
	p, err := w.client.Verify(ctx, w.name(), VerifyRequest{Continuous: true, Progress: func(p Proof) {
		switch l := p.Lanes[0]; {
		case l.Identical == 10 && !more:
			more = true
			w.put(topic, 0, numbered(10, 5)...)
		case l.Identical == 15:
			cancel()
		}
	}})
	require.NoError(t, err)
	require.EqualValues(t, 15, p.Lanes[0].Identical)
	require.Greater(t, p.Lanes[0].Rounds, int64(1))
}

// Copies under other names are compared with what they are copies of.
func TestVerifyFollowsOtherNames(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	w.put(topic, 0, numbered(0, 10)...)
	w.shard("s", t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := w.client.Ensure(ctx, LinkSpec{
		Name: w.name(), Source: w.src.Name, Target: w.tgt.Name, Topics: []starferry.Topic{topic}, Rename: Rename{EveryTopic: "copy.{topic}"}, Buckets: 4, Token: "t1",
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = kafkatest.Open(t, w.tgt).DeleteTopics(context.Background(), "copy."+topic) })
	w.caughtUp()
	kafkatest.Produce(t, w.src, topic, 0, numbered(10, 1)...)
	p := w.verify(VerifyRequest{Topics: []starferry.Topic{topic}, Range: starferry.Range{To: 10}})
	require.Equal(t, Identical, p.Verdict(), p.Lanes)
	require.EqualValues(t, 10, p.Lanes[0].Identical)
}
