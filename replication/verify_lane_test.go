package replication

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/offsetmap"
)

// sides are two partitions written by hand, and a map between them.
type sides struct {
	t        *testing.T
	source   starferry.Cluster
	src, tgt *wire.Cluster
	from, to starferry.TopicPartition
	m        offsetmap.Map
	own      map[int64]bool
	compact  bool
	hash     bool
	contents bool
}

func newSides(t *testing.T) *sides {
	src, tgt := kafkatest.Pair(t)
	return sidesOf(t, src, tgt, nil)
}

func sidesOf(t *testing.T, src, tgt starferry.Cluster, configs map[string]string) *sides {
	s := &sides{
		t: t, source: src, src: kafkatest.Open(t, src), tgt: kafkatest.Open(t, tgt), own: map[int64]bool{},
		from: starferry.TopicPartition{Topic: kafkatest.Topic(t, src, 1, configs)},
		to:   starferry.TopicPartition{Topic: kafkatest.Topic(t, tgt, 1, configs)},
	}
	require.NoError(t, s.m.Reset(0, 0))
	return s
}

// write writes one batch to each side.
func (s *sides) write(source, target []kafka.Message) *sides {
	for c, records := range map[*wire.Cluster][]kafka.Message{s.src: source, s.tgt: target} {
		if len(records) == 0 {
			continue
		}
		tp := s.from
		if c == s.tgt {
			tp = s.to
		}
		_, err := kafkatest.ProduceBatch(c, tp, "", kafkatest.Batch(records, wire.Producer{ID: -1, Epoch: -1}, -1, false))
		require.NoError(s.t, err)
	}
	return s
}

// both writes the same records to both sides.
func (s *sides) both(records []kafka.Message) *sides { return s.write(records, records) }

func (s *sides) run(source, target starferry.Offset, n int64) *sides {
	require.NoError(s.t, s.m.Append(offsetmap.Run{Source: source, Target: target, Count: n}))
	return s
}

func (s *sides) hole(from, to starferry.Offset, why starferry.Reason) *sides {
	require.NoError(s.t, s.m.Hole(from, to, why))
	return s
}

// prove compares both sides in the smallest steps there are.
func (s *sides) prove() LaneProof {
	p := &proof{src: newLogReader(s.src, s.from, true), tgt: newLogReader(s.tgt, s.to, false), m: &s.m, own: s.own, contents: s.contents}
	if s.compact {
		p.keys = newKeyWatch()
	}
	if s.hash {
		p.digests, _ = newDigests(nil, nil)
	}
	require.NoError(s.t, p.begin(0))
	p.extend(math.MaxInt64)
	total := LaneProof{Partition: s.from, To: p.to}
	for done := false; !done; {
		p.found = LaneProof{}
		var err error
		done, err = p.step(s.t.Context(), 0)
		require.NoError(s.t, err)
		total.add(p.found)
	}
	total.Next = p.at
	if s.hash {
		_, sums, err := p.digests.save()
		require.NoError(s.t, err)
		total.SourceHash, total.TargetHash = sums[0], sums[1]
	}
	return total
}

// changed returns the records with one of them changed.
func changed(records []kafka.Message, i int, f func(*kafka.Message)) []kafka.Message {
	out := slices.Clone(records)
	out[i].Key, out[i].Value = slices.Clone(out[i].Key), slices.Clone(out[i].Value)
	out[i].Headers = slices.Clone(out[i].Headers)
	f(&out[i])
	return out
}

func swapped(records []kafka.Message, i int) []kafka.Message {
	out := slices.Clone(records)
	out[i], out[i+1] = out[i+1], out[i]
	return out
}

func TestEqualLogsAreIdentical(t *testing.T) {
	s := newSides(t).both(numbered(0, 10)).both(numbered(10, 5))
	s.write(numbered(15, 4), numbered(15, 2)).write(nil, numbered(17, 2)) // batches of other sizes
	s.run(0, 0, 19)
	got := s.prove()
	require.Equal(t, Identical, got.Verdict(), got)
	require.EqualValues(t, 19, got.Identical)
	s.hash = true
	hashed := s.prove()
	require.EqualValues(t, 19, hashed.Identical)
	require.Equal(t, hashed.SourceHash, hashed.TargetHash)
	require.Len(t, hashed.SourceHash, 64)
}

// Each bug a copy could have is found where it is.
func TestPlantedBugsAreFound(t *testing.T) {
	records := numbered(0, 10)
	records[3].Headers = []kafka.Header{{Key: "a", Value: []byte("1")}, {Key: "a", Value: nil}, {Key: "a", Value: []byte("1")}}
	lost := func(ms []kafka.Message, i int) []kafka.Message { return slices.Delete(slices.Clone(ms), i, i+1) }
	for name, bug := range map[string]struct {
		target []kafka.Message
		at     starferry.Offset
		field  string
	}{
		"flipped value byte": {changed(records, 3, func(m *kafka.Message) { m.Value[1] ^= 1 }), 3, "value"},
		"flipped key byte":   {changed(records, 9, func(m *kafka.Message) { m.Key[0] ^= 0x80 }), 9, "key"},
		"null value":         {changed(records, 0, func(m *kafka.Message) { m.Value = nil }), 0, "value"},
		"dropped header":     {changed(records, 3, func(m *kafka.Message) { m.Headers = m.Headers[:2] }), 3, "headers"},
		"swapped headers":    {changed(records, 3, func(m *kafka.Message) { m.Headers[0], m.Headers[1] = m.Headers[1], m.Headers[0] }), 3, "value of header 0"},
		"empty, not null":    {changed(records, 3, func(m *kafka.Message) { m.Headers[1].Value = []byte{} }), 3, "value of header 1"},
		"changed time":       {changed(records, 7, func(m *kafka.Message) { m.Time = m.Time.Add(1e6) }), 7, "time"},
		"changed first time": {changed(records, 0, func(m *kafka.Message) { m.Time = m.Time.Add(1e6) }), 0, "time"},
		"swapped records":    {swapped(records, 4), 4, "key"},
		"doubled record":     {slices.Insert(slices.Clone(records), 6, records[5]), 6, "key"},
		"lost record":        {lost(records, 2), 2, "key"},
		"lost last record":   {lost(records, 9), 9, "record"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSides(t).write(records, bug.target).run(0, 0, 10)
			got := s.prove()
			require.Equal(t, Different, got.Verdict())
			require.NotNil(t, got.First)
			require.Equal(t, bug.at, got.First.Source, got.First)
			require.Equal(t, bug.field, got.First.Field)
			t.Log(got)
			s.hash = true
			hashed := s.prove()
			require.Equal(t, got.First, hashed.First)
			if bug.field != "record" {
				require.NotEqual(t, hashed.SourceHash, hashed.TargetHash)
			}
		})
	}
}

// motley is a lane with some of each: copies, natives, transactions, records left out.
func motley(t *testing.T) *sides {
	s := newSides(t)
	s.both(numbered(0, 5))         // 0–4 → 0–4
	s.write(nil, numbered(900, 3)) // natives, 5–7
	s.txn(false, numbered(100, 4)) // 5–8, marker 9
	s.txn(true, numbered(5, 2))    // 10–11, marker 12
	s.write(nil, numbered(5, 2))   // → 8–9
	s.write(numbered(50, 3), nil)  // 13–15, left out
	s.both(numbered(7, 2))         // 16–17 → 10–11
	s.write(nil, numbered(950, 2)) // natives, 12–13
	return s
}

func (s *sides) txn(commit bool, ms []kafka.Message) {
	kafkatest.ProduceTxn(s.t, s.source, s.from.Topic, 0, commit, ms...)
}

// Holes are looked at on the source, and natives of the target passed over.
func TestHolesAndNativesAreCounted(t *testing.T) {
	s := motley(t)
	s.run(0, 0, 5).hole(5, 9, starferry.Aborted).hole(9, 10, starferry.Control).run(10, 8, 2).hole(12, 13, starferry.Control)
	s.hole(13, 16, starferry.Filtered).run(16, 10, 2)
	require.NoError(t, s.m.Pass(14))
	got := s.prove()
	require.Equal(t, Identical, got.Verdict(), got)
	require.EqualValues(t, 9, got.Identical)
	require.EqualValues(t, 5, got.Foreign)
	require.Equal(t, map[starferry.Reason]int64{starferry.Aborted: 4, starferry.Control: 2, starferry.Filtered: 3}, got.Holes)
	require.Contains(t, got.String(), "9 of 9 records identical; 4 aborted, 2 control, 3 filtered, 5 foreign")
}

// A map that is wrong about a hole is found out by the records around it.
func TestWrongMapsAreFound(t *testing.T) {
	s := motley(t)
	for name, bug := range map[string]struct {
		plant  func()
		source starferry.Offset
		field  string
	}{
		"a committed record in a hole": {func() {
			s.run(0, 0, 5).hole(5, 10, starferry.Aborted).run(10, 8, 2).hole(12, 16, starferry.Compacted).run(16, 10, 2)
		}, 13, "record"},
		"off by one in front of a hole": {func() {
			s.run(0, 0, 4).hole(4, 9, starferry.Aborted).hole(9, 10, starferry.Control).run(10, 8, 2).hole(12, 16, starferry.Filtered).run(16, 10, 2)
		}, 4, "record"},
		"off by one behind a hole": {func() {
			s.run(0, 0, 5).hole(5, 9, starferry.Aborted).run(9, 7, 3).hole(12, 16, starferry.Filtered).run(16, 10, 2)
		}, 9, "map"},
		"an aborted record as a copy": {func() {
			s.run(0, 0, 6).hole(6, 10, starferry.Aborted).run(10, 8, 2).hole(12, 16, starferry.Filtered).run(16, 10, 2)
		}, 5, "map"},
		"off by one on the target": {func() {
			s.run(0, 0, 5).hole(5, 10, starferry.Aborted).run(10, 9, 2).hole(12, 16, starferry.Filtered).run(16, 11, 2)
		}, 10, "key"},
		"a run into a native": {func() {
			s.run(0, 0, 5).hole(5, 10, starferry.Aborted).run(10, 5, 2).hole(12, 16, starferry.Filtered).run(16, 10, 2)
		}, 10, "key"},
		"beyond the source's end": {func() {
			s.run(0, 0, 5).hole(5, 10, starferry.Aborted).run(10, 8, 2).hole(12, 16, starferry.Filtered).run(16, 10, 4)
		}, 18, "log"},
	} {
		t.Run(name, func(t *testing.T) {
			s.m = offsetmap.Map{}
			require.NoError(t, s.m.Reset(0, 0))
			bug.plant()
			got := s.prove()
			require.Equal(t, Different, got.Verdict(), got)
			require.Equal(t, bug.source, got.First.Source, got.First)
			require.Equal(t, bug.field, got.First.Field)
			t.Log(got)
		})
	}
}

// A record that the link itself wrote, and that no source record stands for.
func TestACopyThatTheMapDoesNotKnowIsFound(t *testing.T) {
	s := newSides(t).both(numbered(0, 3))
	var p wire.Producer
	err := again(t.Context(), func() (err error) { // a broker just started is loading still
		p, err = s.tgt.InitProducer(t.Context(), kafkatest.TxID(t), time.Minute, wire.Producer{ID: -1, Epoch: -1})
		return err
	})
	require.NoError(t, err)
	_, err = kafkatest.ProduceBatch(s.tgt, s.to, "", kafkatest.Batch(numbered(2, 1), p, 0, false))
	require.NoError(t, err)
	s.both(numbered(3, 2))
	s.run(0, 0, 3).run(3, 4, 2)
	require.EqualValues(t, 1, s.prove().Foreign)
	s.own[p.ID] = true
	got := s.prove()
	require.EqualValues(t, 1, got.Differences, got)
	require.Equal(t, starferry.Offset(3), got.First.Target)
	require.Contains(t, got.String(), "copied twice?")
}

// What the map does not know is not proven, whatever is there.
func TestUnknownStretchesAreNotProven(t *testing.T) {
	s := newSides(t).both(numbered(0, 6)).run(0, 0, 2)
	require.NoError(t, s.m.MarkUnknown(2, 4))
	s.own[-1] = true
	got := s.run(4, 4, 2).prove()
	require.Equal(t, Unproven, got.Verdict(), got)
	require.EqualValues(t, 2, got.Unknown)
	require.EqualValues(t, 4, got.Identical)
	require.Zero(t, got.Foreign)
}

// Contents are shown only if asked for, shortened, and in letters that are safe
// to print.
func TestContentsAreSecretUnlessAskedFor(t *testing.T) {
	records := numbered(0, 2)
	records[1].Value = []byte("\x1b[31msecret" + strings.Repeat("x", 100))
	s := newSides(t).write(records, changed(records, 1, func(m *kafka.Message) { m.Value[110] ^= 1 })).run(0, 0, 2)
	got := s.prove()
	require.NotContains(t, got.String(), "secret")
	require.Contains(t, got.First.SourceHas, "111 bytes (sha256 ")
	require.NotEqual(t, got.First.SourceHas, got.First.TargetHas)
	s.contents = true
	got = s.prove()
	require.Contains(t, got.String(), `111 bytes "\x1b[31msecretxxx`)
	require.Less(t, len(got.First.SourceHas), 100)
}

// The cleaners of both sides run on their own: what one has and the other has
// not is explained by newer records of its key, or it is lost.
func TestCompactedLogs(t *testing.T) {
	compacted := map[string]string{"cleanup.policy": "compact", "retention.ms": "-1"}
	record := func(key, value string) kafka.Message {
		m := kafka.Message{Key: []byte(key), Time: time.UnixMilli(1_700_000_000_000)}
		if value != "" {
			m.Value = []byte(value)
		}
		return m
	}
	first := []kafka.Message{record("a", "1"), record("b", "1"), record("c", "1"), record("d", "1")}
	second := []kafka.Message{record("a", "2"), record("b", ""), record("c", "2")}
	last := []kafka.Message{record("y", "1")} // the cleaner leaves the last batch alone
	world := func(t *testing.T) (s *sides, src, tgt *kfake.Cluster) {
		src, from := kafkatest.Fake(t, "old")
		tgt, to := kafkatest.Fake(t, "new")
		s = sidesOf(t, from, to, compacted)
		s.compact = true
		return s, src, tgt
	}
	t.Run("target cleaned", func(t *testing.T) {
		s, _, tgt := world(t)
		s.both(first).both(second).both(last).run(0, 0, 8)
		tgt.Compact()
		got := s.prove()
		require.Equal(t, Identical, got.Verdict(), got)
		require.Positive(t, got.TargetGone)
		require.EqualValues(t, 8, got.TargetGone+got.Identical)
	})
	t.Run("source cleaned", func(t *testing.T) {
		s, src, _ := world(t)
		s.both(first).both(second).both(last).run(0, 0, 8)
		src.Compact()
		got := s.prove()
		require.Equal(t, Identical, got.Verdict(), got)
		require.Positive(t, got.SourceGone)
		require.EqualValues(t, 8, got.SourceGone+got.Identical)
	})
	t.Run("native of the same key behind the range", func(t *testing.T) {
		s, _, tgt := world(t)
		s.both(first).run(0, 0, 4)
		s.write(nil, []kafka.Message{record("d", "native")}).write(nil, last)
		tgt.Compact()
		got := s.prove()
		require.Equal(t, Identical, got.Verdict(), got)
		require.EqualValues(t, 1, got.TargetGone)
	})
	t.Run("newest lost", func(t *testing.T) {
		s, _, _ := world(t)
		s.both(first).write(second, []kafka.Message{second[0], second[1]}).write(nil, []kafka.Message{record("z", "native")})
		got := s.run(0, 0, 6).run(6, 8, 1).prove()
		require.Equal(t, Different, got.Verdict(), got)
		require.Equal(t, starferry.Offset(6), got.First.Source)
		require.Contains(t, got.String(), "nor a newer one of its key")
	})
	t.Run("too many keys", func(t *testing.T) {
		k := newKeyWatch()
		k.limit = 2
		require.NoError(t, k.lacks([]byte("a"), []byte("v"), 1, 1))
		require.NoError(t, k.lacks([]byte("b"), []byte("v"), 2, 2))
		require.NoError(t, k.lacks([]byte("a"), []byte("v"), 3, 3))
		require.ErrorContains(t, k.lacks([]byte("c"), []byte("v"), 4, 4), "verify a smaller range")
	})
}
