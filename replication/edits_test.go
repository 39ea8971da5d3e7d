package replication

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/batch"
)

// A sample takes its share, all records of a key or none, and the same ones
// whenever it is asked.
func TestASampleIsTheSameEachTime(t *testing.T) {
	e := LinkSpec{Name: "l", Sample: 0.1}.edits(starferry.TopicPartition{Topic: "t"})
	other := LinkSpec{Name: "m", Sample: 0.1}.edits(starferry.TopicPartition{Topic: "u", Partition: 3})
	keyed, bare := 0, 0
	for i := range 20_000 {
		r := &batch.Record{Offset: starferry.Offset(i), Key: fmt.Append(nil, "customer-", i)}
		in := e.sampled(r)
		r.Offset += 7
		require.Equal(t, in, e.sampled(r), "the key alone decides")
		require.Equal(t, in, other.sampled(r), "in all topics")
		r.Key = nil
		if in {
			keyed++
		}
		if e.sampled(r) {
			bare++
		}
	}
	require.InDelta(t, 2000, keyed, 200)
	require.InDelta(t, 2000, bare, 200)
}

// Whatever is left out, entries cover the offsets without a break up to the end
// of the copy, records stand for records, and holes say why.
func TestEditedEntriesCoverEachOffsetOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := starferry.Offset(rapid.IntRange(0, 50).Draw(t, "base"))
		var set []byte
		there := map[starferry.Offset]bool{}
		for range rapid.IntRange(1, 5).Draw(t, "batches") {
			base := at
			var records []batch.Record
			for range rapid.IntRange(1, 12).Draw(t, "records") {
				if rapid.IntRange(0, 3).Draw(t, "compacted") > 0 {
					there[at] = true
					records = append(records, batch.Record{Offset: at, Key: fmt.Append(nil, at), Value: []byte("v"), Time: 1})
				}
				at++
			}
			b, err := batch.Build(records, batch.Options{Base: &base, Span: int32(at - base)})
			require.NoError(t, err)
			set = append(set, b...)
		}
		from := starferry.Offset(rapid.IntRange(0, int(at)-1).Draw(t, "from"))
		s := LinkSpec{Name: "l", Sample: rapid.SampledFrom([]float64{0, 0.3, 0.7}).Draw(t, "sample")}
		tp := starferry.TopicPartition{Topic: "t"}
		end := at
		if rapid.Bool().Draw(t, "ends") {
			s.Until, s.Ends = Listed, map[starferry.TopicPartition]starferry.Offset{tp: starferry.Offset(rapid.IntRange(0, int(at)+5).Draw(t, "until"))}
			end = min(end, s.Ends[tp])
		}
		if rapid.Bool().Draw(t, "scrub") {
			s.Scrub = []string{ScrubValue}
		}
		r := rules{limits: batch.Limits{Decompressed: 1 << 20, Batch: 1 << 20}, edits: s.edits(tp)}
		p := kmsg.NewFetchResponseTopicPartition()
		p.RecordBatches = set
		es, err := classify(&p, from, r)
		require.NoError(t, err)
		next := from
		for _, e := range es {
			n := int64(0)
			for _, pc := range e.pieces {
				require.Equal(t, next, pc.source, "%+v", e.pieces)
				require.Positive(t, pc.count)
				for o := pc.source; o < pc.end(); o++ {
					in := there[o] && r.edits.sampled(&batch.Record{Offset: o, Key: fmt.Append(nil, o)})
					want := map[bool]starferry.Reason{true: starferry.Filtered, false: starferry.Compacted}[there[o]]
					if in {
						want = ""
						n++
					}
					require.Equal(t, want, pc.hole, "offset %d", o)
				}
				next = pc.end()
			}
			require.Equal(t, n, int64(e.records))
			if e.batch != nil {
				require.NoError(t, batch.Batch(e.batch).Verify())
				require.Equal(t, int(n), batch.Batch(e.batch).Count())
			}
		}
		require.Equal(t, max(from, end), next)
	})
}

// Scrubbed records keep their sizes, times and places, and show nothing.
func TestScrubbedRecordsShowNothing(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	secret := []byte("4111-1111-1111-1111")
	sent := []kafka.Message{
		{Key: []byte("ann@example.org"), Value: secret, Headers: []kafka.Header{{Key: "trace", Value: secret}}, Time: time.UnixMilli(1_700_000_000_001)},
		{Key: []byte("bob@example.org"), Value: secret, Time: time.UnixMilli(1_700_000_000_002)},
		{Key: []byte("ann@example.org"), Value: nil, Time: time.UnixMilli(1_700_000_000_003)},
	}
	w.put(topic, 0, sent...)
	w.asks.Scrub = []string{ScrubValue, ScrubKey, ScrubHeaders}
	w.shard("s1", t.TempDir())
	w.link(topic)
	w.caughtUp()
	got := kafkatest.Records(t, w.tgt, topic, 0)
	require.Len(t, got, 3)
	for i, m := range got {
		require.NotContains(t, string(m.Key), "example")
		require.Len(t, m.Value, len(sent[i].Value))
		require.Empty(t, bytes.Trim(m.Value, "\x00"))
		require.Equal(t, sent[i].Time.UnixMilli(), m.Time.UnixMilli())
	}
	require.Equal(t, got[0].Key, got[2].Key, "equal keys stay equal")
	require.NotEqual(t, got[0].Key, got[1].Key)
	require.Nil(t, got[2].Value, "a tombstone stays one")
	require.Equal(t, "trace", got[0].Headers[0].Key)
	require.Len(t, got[0].Headers[0].Value, len(secret))
	require.NotContains(t, string(got[0].Headers[0].Value), "4111")
	w.exactMap(topic, 0, kafkatest.Records(t, w.src, topic, 0), got)
	_, err := w.client.Verify(t.Context(), w.name(), VerifyRequest{})
	require.ErrorContains(t, err, "differ from their source on purpose")
}

// A sample's map is rebuilt from the target's log alone, with the same records
// left out.
func TestASampledLaneIsRecovered(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	w.asks.Sample = 0.4
	for b := range 10 {
		w.put(topic, 0, numbered(30*b, 30)...)
	}
	s := w.shard("s1", t.TempDir())
	w.link(topic)
	w.caughtUp()
	require.NoError(t, s.Close())
	for b := range 5 {
		w.put(topic, 0, numbered(300+30*b, 30)...)
	}
	w.shard("s2", t.TempDir()) // knows nothing
	w.caughtUp()
	e := w.asks
	e.Name = w.name()
	tp := starferry.TopicPartition{Topic: topic}
	var in []kafka.Message
	var out starferry.Offset
	for _, m := range kafkatest.Records(t, w.src, topic, 0) {
		if e.edits(tp).sampled(&batch.Record{Key: m.Key, Offset: starferry.Offset(m.Offset)}) {
			in = append(in, m)
		} else {
			out = starferry.Offset(m.Offset)
		}
	}
	require.Greater(t, len(in), 100)
	require.Less(t, len(in), 260)
	w.exactMap(topic, 0, in, w.sameRecords(topic, 0, in))
	a := w.translate(starferry.Forward, starferry.Cut{tp: {Next: out}}).Answers[tp]
	require.Equal(t, starferry.Filtered, a.Reason)

	w.asks.Sample = 0.5
	_, err := w.ensure(topic)
	require.ErrorContains(t, err, "made with sample 0.4, and 0.5 is asked for")
	require.NoError(t, w.client.Stop(t.Context(), w.name()))
	_, err = w.ensure(topic)
	require.ErrorContains(t, err, "was copied by a link of this name with sample 0.4, and this one has sample 0.5")
}

// A copy begins where it was asked to, and ends there.
func TestACopyBeginsAndEndsWhereItIsAskedTo(t *testing.T) {
	at := func(p starferry.Partition) starferry.TopicPartition { return starferry.TopicPartition{Partition: p} }
	for name, c := range map[string]struct {
		ask  func(*LinkSpec, starferry.Topic)
		want [][]kafka.Message // by partition
		done bool
	}{
		"latest": {func(s *LinkSpec, _ starferry.Topic) { s.From = Latest }, [][]kafka.Message{numbered(40, 10), numbered(40, 10)}, false},
		"a time": {func(s *LinkSpec, _ starferry.Topic) { s.From = numbered(20, 1)[0].Time.UTC().Format(time.RFC3339Nano) },
			[][]kafka.Message{numbered(20, 30), numbered(20, 30)}, false},
		"offsets": {func(s *LinkSpec, topic starferry.Topic) {
			s.From, s.Begin = Listed, map[starferry.TopicPartition]starferry.Offset{}
			for p, o := range []starferry.Offset{5, 40} {
				tp := at(starferry.Partition(p))
				tp.Topic = topic
				s.Begin[tp] = o
			}
		}, [][]kafka.Message{numbered(5, 45), numbered(40, 10)}, false},
		"up to now": {func(s *LinkSpec, _ starferry.Topic) { s.Until = Latest }, [][]kafka.Message{numbered(0, 40), numbered(0, 40)}, true},
		"up to a time": {func(s *LinkSpec, _ starferry.Topic) { s.Until = numbered(25, 1)[0].Time.UTC().Format(time.RFC3339Nano) },
			[][]kafka.Message{numbered(0, 25), numbered(0, 25)}, true},
		"up to offsets": {func(s *LinkSpec, topic starferry.Topic) {
			s.Until, s.Ends = Listed, map[starferry.TopicPartition]starferry.Offset{{Topic: topic}: 7, {Topic: topic, Partition: 1}: 45}
		}, [][]kafka.Message{numbered(0, 7), numbered(0, 45)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			topic := w.topic(2, nil)
			for p := range starferry.Partition(2) {
				w.put(topic, p, numbered(0, 10)...)
				w.put(topic, p, numbered(10, 30)...)
			}
			w.shard("s1", t.TempDir())
			c.ask(&w.asks, topic)
			w.link(topic)
			for p := range starferry.Partition(2) {
				w.put(topic, p, numbered(40, 10)...)
			}
			state := map[bool]LaneState{true: Done, false: Copying}[c.done]
			s := w.settled(func(s LinkStatus) bool {
				for _, l := range s.Lanes {
					if l.State != state || l.Lag != 0 || l.SourceEnd != 50 {
						return false
					}
				}
				return true
			})
			for p, want := range c.want {
				source := kafkatest.Records(t, w.src, topic, starferry.Partition(p))
				first := starferry.Offset(50)
				for _, m := range source {
					if bytes.Equal(m.Key, want[0].Key) {
						first = starferry.Offset(m.Offset)
					}
				}
				w.exactMap(topic, starferry.Partition(p), source[first:int(first)+len(want)], w.sameRecords(topic, starferry.Partition(p), want))
				require.Equal(t, first+starferry.Offset(len(want)), s.Lanes[p].SourceNext)
			}
			e := w.link(topic) // a repeated request says the same
			got, _ := e.State()
			require.Equal(t, state, got)
		})
	}
}

// Offsets that cannot be are refused in words.
func TestPlacesThatCannotBeAreRefused(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(2, nil)
	w.put(topic, 0, numbered(0, 5)...)
	one, two := starferry.TopicPartition{Topic: topic}, starferry.TopicPartition{Topic: topic, Partition: 1}
	type offsets = map[starferry.TopicPartition]starferry.Offset
	for want, ask := range map[string]LinkSpec{
		"name one for each partition":         {From: Listed, Begin: offsets{one: 3}},
		"its log on old has offsets 0 to 5":   {From: Listed, Begin: offsets{one: 6, two: 0}},
		"want 0 or more":                      {From: Listed, Begin: offsets{one: -6, two: 0}},
		"before it begins":                    {From: Listed, Begin: offsets{one: 4, two: 0}, Until: Listed, Ends: offsets{one: 3, two: 0}},
		`from "yesterday"`:                    {From: "yesterday"},
		`until "earliest"`:                    {Until: Earliest},
		"until lists no offset":               {Until: Listed, Ends: offsets{one: 3}},
		"sample 1.5":                          {Sample: 1.5},
		`scrub "values": want "key", "value"`: {Scrub: []string{"values"}},
		`on_loss "ignore"`:                    {OnLoss: "ignore"},
	} {
		w.asks = ask
		_, err := w.ensure(topic)
		require.ErrorContains(t, err, want)
	}
}

// Offsets that retention took before they were copied stop the lane, which names
// them; asked to continue, it leaves them out, counts them and goes on, and a
// rebuilt map says the same.
func TestLostOffsetsAreLeftOutOnlyIfAsked(t *testing.T) {
	w := newWorld(t)
	topic := w.topic(1, nil)
	tp := starferry.TopicPartition{Topic: topic}
	w.put(topic, 0, numbered(0, 10)...)
	s := w.shard("s1", t.TempDir())
	w.link(topic)
	w.caughtUp()
	_, err := w.client.Pause(t.Context(), w.name())
	require.NoError(t, err)
	w.put(topic, 0, numbered(10, 20)...)
	w.deleteBefore(tp, 25)
	_, _ = w.client.Resume(t.Context(), w.name())
	status := w.settled(func(s LinkStatus) bool { return s.Lanes[0].State == Stopped })
	require.Contains(t, status.Lanes[0].Reason, "offsets 10 to 24 are gone before they were copied")
	require.Contains(t, status.Lanes[0].Reason, `on_loss="continue"`)

	w.asks.OnLoss = ContinueOnLoss
	w.link(topic)
	w.put(topic, 0, numbered(30, 5)...)
	exact := func() {
		status = w.caughtUp()
		require.Equal(t, int64(15), status.Lanes[0].Lost)
		want := append(numbered(0, 10), numbered(25, 10)...)
		target := w.sameRecords(topic, 0, want)
		w.exactMap(topic, 0, kafkatest.Records(t, w.src, topic, 0), target[10:])
		a := w.translate(starferry.Forward, starferry.Cut{tp: {Next: 12}}).Answers[tp]
		require.Equal(t, starferry.Answer{Offset: starferry.Offset(target[10].Offset), Status: starferry.InHole, Reason: starferry.Deleted}, a)
	}
	exact()
	require.NoError(t, s.Close())
	w.shard("s2", t.TempDir())
	exact()
}

// deleteBefore removes the source's records below an offset, as retention does.
func (w *world) deleteBefore(tp starferry.TopicPartition, at starferry.Offset) {
	c := kafkatest.Open(w.t, w.src)
	leader, _, err := c.Leader(w.t.Context(), tp)
	require.NoError(w.t, err)
	req := kmsg.NewPtrDeleteRecordsRequest()
	topic := kmsg.NewDeleteRecordsRequestTopic()
	topic.Topic = string(tp.Topic)
	part := kmsg.NewDeleteRecordsRequestTopicPartition()
	part.Partition, part.Offset = int32(tp.Partition), int64(at)
	topic.Partitions = append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	req.TimeoutMillis = 10_000
	resp, err := c.DoOn(w.t.Context(), leader, req)
	require.NoError(w.t, err)
	require.NoError(w.t, wire.Code(resp.(*kmsg.DeleteRecordsResponse).Topics[0].Partitions[0].ErrorCode))
}

// Retention that overtakes a lane under way: what is in flight arrives first,
// then the copy goes on behind the gap, and lanes beside it are not touched.
func TestALaneUnderWayGoesOnBehindLostOffsets(t *testing.T) {
	w, src, _ := faulty(t)
	topic := w.topic(1, nil)
	tp := starferry.TopicPartition{Topic: topic}
	w.asks.OnLoss = ContinueOnLoss
	w.shard("s", t.TempDir())
	w.link(topic)
	w.put(topic, 0, numbered(0, 10)...)
	w.caughtUp()
	h := src.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: string(topic), Err: kerr.NotLeaderForPartition, Count: -1})
	require.Eventually(t, func() bool { return h.Hits() > 0 }, patience, 5*time.Millisecond)
	w.put(topic, 0, numbered(10, 10)...)
	w.put(topic, 0, numbered(20, 10)...)
	require.NoError(t, src.DeleteRecords(string(topic), 0, 20))
	h.Remove()
	s := w.caughtUp()
	require.Equal(t, int64(10), s.Lanes[0].Lost)
	target := w.sameRecords(topic, 0, append(numbered(0, 10), numbered(20, 10)...))
	w.exactMap(topic, 0, kafkatest.Records(t, w.src, topic, 0), target[10:])
	a := w.translate(starferry.Forward, starferry.Cut{tp: {Next: 15}}).Answers[tp]
	require.Equal(t, starferry.Deleted, a.Reason)
}
