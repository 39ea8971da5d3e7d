package replication

import (
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
)

// fetches notes the fetch requests of sessions that a fake gets.
type fetches struct {
	mu          sync.Mutex
	full, short int
	named       map[int32]bool // partitions of short requests, since the last look
}

func (f *fetches) watch(c *kfake.Cluster) {
	c.ControlKey(int16(kmsg.Fetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := r.(*kmsg.FetchRequest)
		f.mu.Lock()
		defer f.mu.Unlock()
		switch {
		case req.SessionEpoch == 0:
			f.full++
		case req.SessionEpoch > 0:
			f.short++
			for _, t := range req.Topics {
				for _, p := range t.Partitions {
					f.named[p.Partition] = true
				}
			}
		}
		return nil, nil, false
	})
}

func (f *fetches) counts() (full, short int, named []int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	named = slices.Sorted(maps.Keys(f.named))
	f.named = map[int32]bool{}
	return f.full, f.short, named
}

// A request names only the lanes that have moved: what idles costs nothing.
func TestIdleLanesAreNotAskedForAgain(t *testing.T) {
	w, src, _ := faulty(t)
	topic := w.topic(40, nil)
	f := fetches{named: map[int32]bool{}}
	s := w.shard("s", t.TempDir())
	w.link(topic)
	w.caughtUp()
	f.watch(src)
	next := 0
	for {
		_, were, _ := f.counts()
		require.Eventually(t, func() bool { _, short, _ := f.counts(); return short >= were+5 }, patience, tick)
		w.caughtUp()
		before := w.terms(s)
		full0, _, _ := f.counts()
		w.put(topic, 7, numbered(next, 3)...)
		w.put(topic, 8, numbered(next, 3)...)
		next += 3
		w.caughtUp()
		full, _, named := f.counts()
		if !maps.Equal(before, w.terms(s)) {
			continue // lanes began anew meanwhile: a slow machine loses its lease
		}
		require.Zero(t, full-full0)
		require.Subset(t, []int32{7, 8}, named, "partitions that were named")
		break
	}
	w.everythingIsThere(topic, 40)
}

// terms are those of a shard's lanes.
func (w *world) terms(s *Shard) map[*lane]uint64 {
	out := map[*lane]uint64{}
	c, _ := s.link(w.name())
	for _, l := range c.all() {
		l.mu.Lock()
		out[l] = l.term
		l.mu.Unlock()
	}
	return out
}

// A broker that has thrown a session out is asked anew, and no lane counts it
// as a failure.
func TestASessionThatWasThrownOutBeginsAnew(t *testing.T) {
	for _, err := range []*kerr.Error{kerr.FetchSessionIDNotFound, kerr.InvalidFetchSessionEpoch} {
		t.Run(err.Message, func(t *testing.T) {
			w, src, _ := faulty(t)
			topic := w.topic(3, nil)
			s := w.shard("s", t.TempDir())
			w.link(topic)
			stop := w.traffic(topic, 3)
			w.caughtUpTo(topic, 3)
			thrown := 0
			src.ControlKey(int16(kmsg.Fetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
				src.KeepControl()
				if r.(*kmsg.FetchRequest).SessionEpoch <= 0 || thrown == 20 {
					return nil, nil, false
				}
				thrown++
				resp := r.ResponseKind().(*kmsg.FetchResponse)
				resp.ErrorCode = err.Code
				return resp, nil, true
			})
			w.caughtUpTo(topic, 30)
			stop()
			w.everythingIsThere(topic, 3)
			c, _ := s.link(w.name())
			for _, l := range c.all() {
				l.mu.Lock()
				require.Zero(t, l.failures)
				l.mu.Unlock()
			}
		})
	}
}

// Brokers without sessions, or without room for one, are asked for all lanes
// each time.
func TestBrokersWithoutSessionsAreCopiedFrom(t *testing.T) {
	for name, opts := range map[string][]kfake.Opt{
		"Kafka 1.0": {kfake.MaxVersions(kversion.V1_0_0())},
		"no room":   {kfake.BrokerConfigs(map[string]string{"max.incremental.fetch.session.cache.slots": "1"})},
	} {
		t.Run(name, func(t *testing.T) {
			_, src := kafkatest.Fake(t, "old", opts...)
			_, tgt := kafkatest.Fake(t, "new")
			w := worldOf(t, src, tgt)
			topic := w.topic(5, nil)
			w.shard("s", t.TempDir())
			w.link(topic)
			stop := w.traffic(topic, 5)
			w.caughtUpTo(topic, 20)
			stop()
			w.everythingIsThere(topic, 5)
		})
	}
}

// A batch larger than a partition's share of an answer comes only with the first
// partition that has any: who was left out is asked for first.
func TestALaneThatWasLeftOutIsAskedForFirst(t *testing.T) {
	s := newSession(newFetcher(testCopier(), 0))
	for p := range starferry.Partition(3) {
		tp := starferry.TopicPartition{Topic: "t", Partition: p}
		s.members[tp] = &member{asked: asked{l: &lane{tp: tp}}, hungry: p == 2}
	}
	var order []int32
	for _, p := range s.request(true).Topics[0].Partitions {
		order = append(order, p.Partition)
	}
	require.Equal(t, []int32{2, 0, 1}, order)
}

// testCopier has what a session asks of it.
func testCopier() *copier {
	return &copier{budget: newBudget(1 << 20), limits: newLimits(0, 0)}
}

// A lane that a request leaves out is still in the session, so it is forgotten
// by name; one that comes back in the same breath is not.
func TestALaneThatPausesIsForgottenByName(t *testing.T) {
	s := newSession(newFetcher(testCopier(), 0))
	s.id, s.epoch = 9, 4
	lanes := make([]*lane, 3)
	for p := range lanes {
		tp := starferry.TopicPartition{Topic: "t", Partition: starferry.Partition(p)}
		lanes[p] = &lane{tp: tp, c: s.f.c, active: true, session: s, fetching: true}
		s.members[tp] = &member{asked: asked{l: lanes[p]}}
	}
	s.forget(lanes[1].tp)
	s.forget(lanes[2].tp)
	s.offer(lanes[2])
	s.gather()
	req := s.request(false)
	require.Equal(t, []int32{1}, req.ForgottenTopics[0].Partitions)
	require.Len(t, req.Topics[0].Partitions, 1)
	require.EqualValues(t, 2, req.Topics[0].Partitions[0].Partition)
	s.agreed(9)
	require.EqualValues(t, 5, s.epoch)
	require.Empty(t, s.request(false).ForgottenTopics)
}
