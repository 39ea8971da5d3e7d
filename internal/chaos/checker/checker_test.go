package checker

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/starferry/starferry"
)

var lane0 = starferry.TopicPartition{Topic: "orders", Partition: 0}

// shift is where the target has what the source has at 0: offsets differ.
const shift = 3

// story builds the evidence of one partition, record by record.
type story struct {
	e     Evidence
	now   time.Time
	onNew bool
	cut   starferry.Offset // where the group left the old cluster
}

// produced starts a story with n acknowledged records, copied to the target.
func produced(n int) *story {
	s := &story{now: time.Unix(1000, 0), e: Evidence{
		Source: "old", Target: "new", Copied: true,
		Logs: map[starferry.ClusterName]map[starferry.TopicPartition]Log{"old": {lane0: nil}, "new": {lane0: nil}},
	}}
	for i := range n {
		o := starferry.Offset(i)
		s.e.Produced = append(s.e.Produced, Produced{ID: ID(i), TopicPartition: lane0, Offset: o})
		s.e.Logs["old"][lane0] = append(s.e.Logs["old"][lane0], Stored{ID: ID(i), Offset: o, Sum: uint64(i * 7)})
		s.e.Logs["new"][lane0] = append(s.e.Logs["new"][lane0], Stored{ID: ID(i), Offset: o + shift, Sum: uint64(i * 7)})
	}
	return s
}

// handles lets a boot handle records [from, to) from where the group lives.
func (s *story) handles(boot string, from, to int) *story {
	for i := from; i < to; i++ {
		s.now = s.now.Add(time.Millisecond)
		o := starferry.Offset(i)
		if s.onNew {
			o += shift
		}
		s.e.Handled = append(s.e.Handled, Handling{Boot: boot, At: s.now, TopicPartition: lane0, Offset: o, ID: ID(i)})
	}
	return s
}

// later lets time pass.
func (s *story) later(d time.Duration) *story { s.now = s.now.Add(d); return s }

// stays takes the group back to the source.
func (s *story) stays() *story { s.onNew = false; return s }

// moves takes the group to the target.
func (s *story) moves() *story {
	s.onNew = true
	for _, l := range s.e.Handled {
		s.cut = max(s.cut, l.Offset+1)
	}
	return s
}

// dies kills a boot when all records below next were committed.
func (s *story) dies(boot string, next int) *story { return s.struck(boot, Killed, next, 0) }

// struck strikes a boot, for a while, when all records below next were committed.
func (s *story) struck(boot string, blow Blow, next int, d time.Duration) *story {
	s.now = s.now.Add(time.Millisecond)
	committed := map[starferry.ClusterName]map[starferry.TopicPartition]starferry.Offset{"old": {lane0: starferry.Offset(next)}}
	if s.onNew {
		committed["old"][lane0] = s.cut
		committed["new"] = map[starferry.TopicPartition]starferry.Offset{lane0: starferry.Offset(next + shift)}
	}
	k := Strike{Boot: boot, Blow: blow, From: s.now, Committed: committed}
	if d > 0 {
		s.now = s.now.Add(d)
		k.Until = s.now
	}
	s.e.Strikes = append(s.e.Strikes, k)
	return s
}

// named has the handlings tell their clusters.
func (s *story) named() *story {
	for i, l := range s.e.Handled {
		s.e.Handled[i].Cluster = "old"
		if l.Offset != starferry.Offset(l.ID) {
			s.e.Handled[i].Cluster = "new"
		}
	}
	return s
}

func (s *story) verdict() Verdict { return Check(s.e) }

func TestACleanSwitch(t *testing.T) {
	v := produced(20).handles("a", 0, 8).moves().handles("a", 8, 15).handles("b", 15, 20).verdict()
	assert.True(t, v.OK(), v.Findings)
	assert.Equal(t, 20, v.Produced)
	assert.Zero(t, v.Repeated)
}

func TestAKilledBootMayRepeatWhatItHadNotCommitted(t *testing.T) {
	for name, s := range map[string]*story{
		"on the old cluster": produced(20).handles("a", 0, 10).dies("a", 6).handles("b", 6, 20),
		"on the new cluster": produced(20).handles("a", 0, 5).moves().handles("a", 5, 10).dies("a", 6).handles("b", 6, 20),
		"across the switch":  produced(20).handles("a", 0, 10).dies("a", 6).moves().handles("b", 6, 20),
	} {
		v := s.verdict()
		assert.True(t, v.OK(), "%s: %v", name, v.Findings)
		assert.Equal(t, 4, v.Repeated, name)
	}
}

// What a frozen process had under way, one record a partition, may come when it
// wakes up, and what it had not committed comes again elsewhere.
func TestAFrozenBootMayRepeatWhatItHadNotCommitted(t *testing.T) {
	s := produced(20).handles("a", 0, 10).struck("a", Frozen, 8, time.Minute).handles("b", 8, 14).handles("a", 10, 11).handles("b", 14, 20).named()
	s.e.Moves = 1
	v := s.verdict()
	assert.True(t, v.OK(), v.Findings)
	assert.Equal(t, []int{3, 1}, []int{v.Repeated, v.Late})
}

// A process that was cut off until its membership was gone may be given the very
// same records again.
func TestACutOffBootMayRepeatWhatItHadNotCommitted(t *testing.T) {
	s := produced(20).handles("a", 0, 10).struck("a", CutOff, 8, time.Minute).handles("a", 8, 20).named()
	v := s.verdict()
	assert.True(t, v.OK(), v.Findings)
	assert.Equal(t, 2, v.Repeated)
}

func TestARepeatThatWasReported(t *testing.T) {
	s := produced(20).handles("a", 0, 10).later(2*time.Second).dies("a", 8).handles("b", 8, 20).named()
	require.Equal(t, 2, s.verdict().Unreported)
	s.e.Reported = []Repeat{{"old", lane0, starferry.Range{From: 8, To: 10}}}
	assert.True(t, s.verdict().OK(), s.verdict().Findings)
}

// TestPlantedBugsAreFound: each way to lose, double or reorder records is seen,
// and said in words that lead to it.
func TestPlantedBugsAreFound(t *testing.T) {
	cases := map[string]struct {
		story *story
		want  string
	}{
		"the service commits before it handles, and is killed": {
			produced(20).handles("a", 0, 10).dies("a", 14).handles("b", 14, 20), "lost: record 10"},
		"the switch starts one record late": {
			produced(20).handles("a", 0, 8).moves().handles("a", 9, 20), "lost: record 8"},
		"the switch starts one record early": {
			produced(20).handles("a", 0, 8).moves().handles("b", 7, 20), "nothing had happened to the first process"},
		"the same process hands out a record twice": {
			produced(20).handles("a", 0, 8).moves().handles("a", 7, 20), "the same process handled it again"},
		"a repeat reaches back below the commit": {
			produced(20).handles("a", 0, 10).dies("a", 6).handles("b", 5, 20), "6 was committed when the first process was killed"},
		"a repeat reaches back below the commit on the new cluster": {
			produced(20).moves().handles("a", 0, 10).dies("a", 6).handles("b", 5, 20), "9 was committed when the first process was killed"},
		"two processes own a partition at once, and then one is killed": {
			produced(20).handles("a", 0, 10).handles("b", 6, 20).dies("a", 6), "was killed only at"},
		"a frozen process goes on when it wakes up": {
			produced(20).handles("a", 0, 10).struck("a", Frozen, 8, time.Minute).handles("b", 8, 14).handles("a", 10, 14).named(), "twice: record 11"},
		"a process that was cut off goes on for ever": {
			produced(20).handles("a", 0, 10).struck("a", CutOff, 8, time.Minute).handles("b", 8, 14).named().later(time.Minute).handles("a", 10, 14).named(), "twice: record 10"},
		"two clusters are active": {
			produced(20).handles("a", 0, 8).moves().handles("b", 8, 9).stays().handles("a", 9, 10).named(), "two active"},
		"nobody reports what comes again": {
			produced(20).handles("a", 0, 10).later(2*time.Second).dies("a", 8).handles("b", 8, 20).named(), "unreported: record 8"},

		"a process runs ahead of another": {
			produced(20).handles("a", 0, 5).handles("b", 6, 20).handles("a", 5, 6), "out of order: orders/0"},
		"a process hands out records out of order": {
			produced(4).handles("a", 1, 2).handles("a", 0, 1).handles("a", 2, 4), "out of order: a handled record 0"},
		"a record is handled that nobody sent": {
			produced(3).handles("a", 0, 4), "no such record was produced"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			v := c.story.verdict()
			require.False(t, v.OK(), "the checker found nothing: %s", v)
			assert.Contains(t, strings.Join(v.Findings, "\n"), c.want)
		})
	}
}

// TestABadCopyIsFound: each way in which the target could differ is seen.
func TestABadCopyIsFound(t *testing.T) {
	cases := map[string]struct {
		spoil func(Log) Log
		want  string
	}{
		"missing at the end":  {func(l Log) Log { return l[:8] }, "lacks the last 2 records"},
		"missing in between":  {func(l Log) Log { return append(l[:4:4], l[5:]...) }, "where record 4"},
		"copied twice":        {func(l Log) Log { return append(l[:5:5], l[4:]...) }, "record 4 at offset 7 where record 5"},
		"altered":             {func(l Log) Log { l[3].Sum++; return l }, "record 3 differs"},
		"copied out of order": {func(l Log) Log { l[3], l[4] = l[4], l[3]; return l }, "record 4 at offset 7 where record 3"},
		"more than was there": {func(l Log) Log { return append(l, Stored{ID: 99}) }, "holds 1 records more"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := produced(10).handles("a", 0, 10)
			s.e.Logs["new"][lane0] = c.spoil(s.e.Logs["new"][lane0])
			v := s.verdict()
			require.Positive(t, v.CopiedWrong, "%s", v)
			assert.Contains(t, strings.Join(v.Findings, "\n"), c.want)
		})
	}
}

func TestACopyUnderWayMayBeAPrefix(t *testing.T) {
	s := produced(10).handles("a", 0, 10)
	s.e.Copied = false
	s.e.Logs["new"][lane0] = s.e.Logs["new"][lane0][:6]
	assert.True(t, s.verdict().OK(), s.verdict().Findings)
}

func TestAnUnansweredProduceMayBeMissing(t *testing.T) {
	s := produced(10).handles("a", 0, 10)
	s.e.Produced = append(s.e.Produced, Produced{ID: 77, TopicPartition: lane0, Offset: starferry.NoOffset})
	assert.True(t, s.verdict().OK(), s.verdict().Findings)
}

// TestAnyOneChangeIsFound: of a clean history with a kill and a switch, take
// away, repeat or swap any one handling that nothing explains: the checker must
// notice.
func TestAnyOneChangeIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(6, 40).Draw(t, "records")
		kill := rapid.IntRange(1, n-2).Draw(t, "kill")
		committed := rapid.IntRange(0, kill).Draw(t, "committed")
		move := rapid.IntRange(kill+1, n-1).Draw(t, "move")
		s := produced(n).handles("a", 0, kill).dies("a", committed).handles("b", committed, move).moves().handles("b", move, n)
		require.True(t, s.verdict().OK(), "the clean history: %v", s.verdict().Findings)
		require.Equal(t, kill-committed, s.verdict().Repeated)

		bug := rapid.SampledFrom([]string{"drop", "repeat", "delay"}).Draw(t, "bug")
		var lines []int // those where the change is nobody's right
		for i, l := range s.e.Handled {
			repeated := int(l.ID) >= committed && int(l.ID) < kill
			switch {
			case bug == "drop" && !repeated,
				bug == "repeat" && !(repeated && l.Boot == "a"),
				bug == "delay" && int(l.ID) >= kill && i < len(s.e.Handled)-1:
				lines = append(lines, i)
			}
		}
		i := rapid.SampledFrom(lines).Draw(t, "line")
		switch l := s.e.Handled[i]; bug {
		case "drop":
			s.e.Handled = slices.Delete(s.e.Handled, i, i+1)
		case "repeat":
			l.Boot, l.At = "c", s.now.Add(time.Second)
			s.e.Handled = append(s.e.Handled, l)
		case "delay":
			s.e.Handled[i], s.e.Handled[i+1] = s.e.Handled[i+1], s.e.Handled[i]
		}
		require.False(t, s.verdict().OK(), "line %d", i)
	})
}

func TestTheServiceLogIsRead(t *testing.T) {
	log := "1700000000000000001 orders 3 17 key-9 42\n2026-11-22T15:00:00.5Z orders 3 18 43\n1700000000000000003 orders 3 19 key"
	lines, err := ReadHandled("a/1", strings.NewReader(log))
	require.NoError(t, err)
	require.Len(t, lines, 2, "a line without an end is what a kill leaves")
	assert.Equal(t, Handling{Boot: "a/1", At: time.Unix(0, 1700000000000000001), TopicPartition: starferry.TopicPartition{Topic: "orders", Partition: 3}, Offset: 17, ID: 42}, lines[0])
	assert.Equal(t, ID(43), lines[1].ID)

	for _, bad := range []string{"x", "then orders 3 17 k 42", "1 orders three 17 k 42", "1 orders 3 off k 42", "1 orders 3 17 k value"} {
		_, err := ReadHandled("a/1", strings.NewReader(bad+"\n"))
		assert.ErrorContains(t, err, "read the log of a/1, line 1", bad)
	}
}
