package bench

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
)

// These tests prove that what parts count can be counted wrong: a record lost,
// doubled or read again shows.

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// oneSide is a target with a topic of two partitions, and what a test does to it.
type oneSide struct {
	t   *testing.T
	ctx context.Context
	p   *pair
	l   Load
}

func newSide(t *testing.T) *oneSide {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	_, c := kafkatest.Fake(t, "new", kfake.NumBrokers(1))
	topic := kafkatest.Topic(t, c, 2, nil)
	return &oneSide{t, ctx, &pair{target: &side{cluster: kafkatest.Open(t, c)}}, Load{Topic: topic, Partitions: 2, Records: 40, Size: 50, Batch: 10}}
}

// has adds records [from, to) to a partition.
func (s *oneSide) has(p starferry.Partition, from, to int64) {
	f, err := newFeed(s.ctx, s.p.target.cluster)
	require.NoError(s.t, err)
	require.NoError(s.t, s.l.writePartition(s.ctx, f, starferry.TopicPartition{Topic: s.l.Topic, Partition: p}, from, int(to-from)))
	require.NoError(s.t, f.Close(s.ctx))
}

// counted is what the check after an outage says: 20 records and one batch of 10
// were written to each partition.
func (s *oneSide) counted() (lost, doubled int64) {
	lost, doubled, err := (&outage{p: s.p}).compare(s.ctx, s.l)
	require.NoError(s.t, err)
	return lost, doubled
}

func TestACompleteCopyHasNothingLostOrDoubled(t *testing.T) {
	s := newSide(t)
	s.has(0, 0, 30)
	s.has(1, 0, 30)
	lost, doubled := s.counted()
	require.Equal(t, []int64{0, 0}, []int64{lost, doubled})
}

func TestLostRecordsAreCountedInTheMiddleAndAtTheEnd(t *testing.T) {
	s := newSide(t)
	s.has(0, 0, 10)
	s.has(0, 13, 30)
	s.has(1, 0, 25)
	lost, doubled := s.counted()
	require.Equal(t, []int64{3 + 5, 0}, []int64{lost, doubled})
}

func TestRecordsThatComeAgainAreDoubled(t *testing.T) {
	s := newSide(t)
	s.has(0, 0, 20)
	s.has(0, 15, 30)
	s.has(1, 0, 30)
	lost, doubled := s.counted()
	require.Equal(t, []int64{0, 5}, []int64{lost, doubled})
}

// moved is two partitions of 30 records each and a group that has read 20 of each.
func moved(s *oneSide) *move {
	s.has(0, 0, 30)
	s.has(1, 0, 30)
	cut := func(n starferry.Offset) starferry.Cut {
		return starferry.Cut{{Topic: s.l.Topic, Partition: 0}: {Next: n}, {Topic: s.l.Topic, Partition: 1}: {Next: n}}
	}
	return &move{p: s.p, load: s.l, places: map[starferry.Group]starferry.Cut{behind: cut(20), caughtUp: cut(30)}}
}

func (s *oneSide) putAt(a, b starferry.Offset) map[starferry.TopicPartition]starferry.Offset {
	return map[starferry.TopicPartition]starferry.Offset{{Topic: s.l.Topic, Partition: 0}: a, {Topic: s.l.Topic, Partition: 1}: b}
}

func TestWhatAGroupReadsAgainIsCounted(t *testing.T) {
	s := newSide(t)
	m := moved(s)
	for _, c := range []struct {
		group starferry.Group
		a, b  starferry.Offset
		again float64
	}{{behind, 20, 20, 0}, {behind, 12, 20, 4}, {behind, 0, 0, 20}, {caughtUp, 30, 30, 0}, {caughtUp, 29, 27, 2}} {
		again, err := m.readAgain(s.ctx, c.group, s.putAt(c.a, c.b), s.l.Topic)
		require.NoError(t, err)
		require.Equal(t, c.again, again, "%+v", c)
	}
}

func TestAGroupPutTooFarFailsThePart(t *testing.T) {
	s := newSide(t)
	m := moved(s)
	for _, at := range []starferry.Offset{21, 30} {
		_, err := m.readAgain(s.ctx, behind, s.putAt(20, at), s.l.Topic)
		require.ErrorContains(t, err, "was put behind record 20", at)
	}
	_, err := m.readAgain(s.ctx, behind, nil, s.l.Topic)
	require.ErrorContains(t, err, "0 partitions of 2")
}
