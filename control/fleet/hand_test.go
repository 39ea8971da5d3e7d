package fleet_test

import (
	"context"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/internal/kafkatest"
)

// trail is what the audit trail says of the group, in order.
func (w *world) trail() (what []string) {
	events, err := w.store.AuditLog(w.t.Context(), desired.AuditFilter{Group: w.group})
	require.NoError(w.t, err)
	for _, e := range events {
		what = append(what, e.What)
	}
	return what
}

// handles waits until n different records were handled, and holds that it is no
// more of them.
func (w *world) handles(n int) {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return w.seen() >= n }, patience, 10*time.Millisecond, "handled %d of %d", w.seen(), n)
	require.Equal(w.t, n, w.seen())
}

// stands waits until the group has committed an offset in every partition.
func (w *world) stands(at starferry.Offset) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		got, err := w.oldW.Committed(w.t.Context(), w.group, nil)
		if err != nil || len(got) != w.partitions {
			return false
		}
		for _, c := range got {
			if c.Offset != at {
				return false
			}
		}
		return true
	}, patience, 10*time.Millisecond)
}

func (w *world) times(value string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.handled[value]
}

func TestAPauseHoldsUntilItIsResumed(t *testing.T) {
	w := newWorld(t, 2)
	w.instance("i1")
	w.produce()
	w.handles(2)
	one := starferry.Partition(1)
	r, err := w.fleet.Pause(t.Context(), fleet.PauseOrder{Group: w.group, Topic: w.topic, Partition: &one, By: "ann", Why: "INC-1", Token: "p"})
	require.NoError(t, err)
	require.Equal(t, []string{"i1"}, r.Instances)
	w.produce()
	w.handles(3)
	all, err := w.fleet.Pause(t.Context(), fleet.PauseOrder{Group: w.group, For: time.Hour, By: "ann", Token: "all"})
	require.NoError(t, err)
	require.Len(t, all.Before.Holds, 1)
	w.produce()
	_, err = w.fleet.Resume(t.Context(), fleet.ResumeOrder{Group: w.group, Topic: w.topic, Partition: &one, By: "ann"})
	require.NoError(t, err)
	w.handles(3) // the other one still holds
	_, err = w.fleet.Resume(t.Context(), fleet.ResumeOrder{Group: w.group, By: "ann"})
	require.NoError(t, err)
	w.handles(6)
	require.Equal(t, []string{"pause", "pause acknowledged", "pause", "pause acknowledged", "resume", "resume acknowledged", "resume", "resume acknowledged"}, w.trail())
}

func TestARewindIsCommittedByItsOwnersAndDoneOnce(t *testing.T) {
	w := newWorld(t, 3)
	w.instance("i1")
	w.instance("i2")
	for range 10 {
		w.produce()
	}
	w.handles(30)
	w.stands(10)
	places := map[starferry.TopicPartition]starferry.Offset{w.tp(0): 4, w.tp(2): 0}
	o := fleet.RewindOrder{Group: w.group, Places: places, By: "ann", Why: "INC-1", Token: "r", Within: patience}
	r, err := w.fleet.Rewind(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, map[starferry.TopicPartition]starferry.Offset{w.tp(0): 10, w.tp(2): 10}, r.Before)
	require.Eventually(t, func() bool { return w.times("0/9") == 2 && w.times("2/9") == 2 }, patience, 10*time.Millisecond)
	require.Equal(t, []int{1, 2, 1, 2}, []int{w.times("0/3"), w.times("0/4"), w.times("1/0"), w.times("2/0")})
	again, err := w.fleet.Rewind(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, r.Before, again.Before, "the same token finds what was done")
	v, _, err := w.fleet.Settings(t.Context(), w.group)
	require.NoError(t, err)
	require.Empty(t, v.Rewinds)
	require.Equal(t, 2, w.times("2/0"))

	o.Token, o.Places = "far", map[starferry.TopicPartition]starferry.Offset{w.tp(0): 11}
	_, err = w.fleet.Rewind(t.Context(), o)
	require.ErrorContains(t, err, "ends at 10; 11 is not in it")
}

// An order whose agent dies is carried out, holds its partitions, and ends by
// itself.
func TestARewindWithoutItsAgentEndsByItself(t *testing.T) {
	w := newWorld(t, 1)
	for range 4 {
		w.produce()
	}
	w.instance("i1")
	w.handles(4)
	_, err := w.store.PutSettings(t.Context(), control.Settings{Group: w.group, Rewinds: []control.Rewind{{
		ID: "r", Cluster: w.old.Name, Places: map[starferry.TopicPartition]starferry.Offset{w.tp(0): 2}, Until: time.Now().Add(3 * time.Second).UnixMilli(),
	}}}, 0)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return w.times("0/2") == 2 && w.times("0/3") == 2 }, patience, 10*time.Millisecond)
	require.Equal(t, 1, w.times("0/1"))
}

func TestPeekShowsWhatConsumersWouldSee(t *testing.T) {
	w := newWorld(t, 1)
	for range 5 {
		w.produce()
	}
	got, err := w.fleet.Peek(t.Context(), w.old.Name, w.tp(0), 1, 0, 3)
	require.NoError(t, err)
	require.Len(t, got, 3)
	for i, p := range got {
		require.Equal(t, int64(i+1), p.Offset)
		require.Equal(t, []string{"0/1", "0/2", "0/3"}[i], string(p.Value))
	}
	require.Len(t, got[0].Digest(), 16)
	require.NotEqual(t, got[0].Digest(), got[1].Digest())
	got, err = w.fleet.Peek(t.Context(), w.old.Name, w.tp(0), 4, 0, 3)
	require.NoError(t, err)
	require.Len(t, got, 1, "there is no more")
	got, err = w.fleet.Peek(t.Context(), w.old.Name, w.tp(0), 0, 2, 3)
	require.NoError(t, err)
	require.Len(t, got, 2)
}

// Guarantee 7: No record is skipped without an audit entry
func TestWhatIsSkippedComesBackToItsGroupAlone(t *testing.T) {
	w := newWorld(t, 1)
	retry := kafkatest.Topic(t, w.old, 2, nil)
	kafkatest.MakeTopic(t, w.new, retry, 2, nil)
	dead := starferry.Topic(kafkatest.Group(t) + "-dead")
	var got []consumer.Record
	c, err := consumer.Open(t.Context(), consumer.Config{
		Group: w.group, Topics: []starferry.Topic{w.topic}, Clusters: []starferry.Cluster{w.old, w.new}, Home: w.old.Name,
		NATS: w.nc, Instance: "i1", Start: consumer.Earliest, CommitInterval: 20 * time.Millisecond,
		SessionTimeout: 6 * time.Second, HeartbeatInterval: 100 * time.Millisecond, Logger: logger("i1"),
		Failure: consumer.Failure{Attempts: 100, Retries: []consumer.Retry{{Topic: retry}}, DeadLetter: dead},
	}, func(ctx context.Context, r consumer.Record) error {
		w.mu.Lock()
		got = append(got, r)
		w.mu.Unlock()
		return w.handle(ctx, r)
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, c.Close(ctx))
	})
	w.produce()
	w.handles(1)
	r, err := w.fleet.Skip(t.Context(), fleet.SkipOrder{Group: w.group, Partition: w.tp(0), Range: starferry.Range{From: 1, To: 3}, By: "ann", Why: "INC-1", Token: "s"})
	require.NoError(t, err)
	require.Equal(t, dead, r.Keep, "the group's own dead-letter topic, made where it was missing")
	for range 4 {
		w.produce()
	}
	w.handles(3)
	require.Zero(t, w.times("0/1")+w.times("0/2"))
	kept := kafkatest.Records(t, w.old, dead, 0)
	require.Len(t, kept, 2)

	o := fleet.ReplayOrder{Group: w.group, Skip: r.ID, By: "ann", Token: "again"}
	report, err := w.fleet.Replay(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, []any{2, retry, 0}, []any{report.Records, report.To, report.Repeated})
	w.handles(5)
	w.mu.Lock()
	last := got[len(got)-1]
	w.mu.Unlock()
	require.Equal(t, w.topic, last.Topic, "handlers see it as it was")
	same, err := w.fleet.Replay(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, report, same, "the same token puts nothing back again")
	o.Token = "another"
	report, err = w.fleet.Replay(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, []int{0, 2}, []int{report.Records, report.Before})
	o.Token, o.Again, o.To = "to the topic", true, w.topic
	report, err = w.fleet.Replay(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, 2, report.Records)
	all := kafkatest.Records(t, w.old, w.topic, 0)
	require.Equal(t, "0/2", string(all[len(all)-1].Value))
	require.Equal(t, []kafka.Header{{Key: "starferry.replayed", Value: []byte("2")}}, all[len(all)-1].Headers)
}

// A topic that keeps what is skipped is made on the new cluster too.
func TestWhatIsSkippedIsKeptBehindASwitch(t *testing.T) {
	w, stop := running(t)
	stop()
	w.settled()
	next := starferry.Offset(w.wrote)
	w.produce()
	w.produce()
	_, err := w.fleet.Pause(t.Context(), fleet.PauseOrder{Group: w.group, By: "ann"})
	require.NoError(t, err)
	for range 3 { // the first is held, so that the skip behind it is not passed on the old cluster
		w.produce()
	}
	r, err := w.fleet.Skip(t.Context(), fleet.SkipOrder{Group: w.group, Partition: w.tp(1), Range: starferry.Range{From: next + 3, To: next + 5}, By: "ann", Token: "s"})
	require.NoError(t, err)
	w.switched(w.old, w.new, "run-1")
	_, err = w.fleet.Resume(t.Context(), fleet.ResumeOrder{Group: w.group, By: "ann"})
	require.NoError(t, err)
	w.handles(w.wrote*w.partitions - 2)
	require.Eventually(t, func() bool {
		n := 0
		for p := range w.partitions {
			n += len(kafkatest.Records(t, w.new, r.Keep, starferry.Partition(p)))
		}
		return n == 2
	}, patience, 50*time.Millisecond)
}
