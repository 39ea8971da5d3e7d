package checker

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/starferry/starferry"
)

// The stories below are of two keys in one partition, of which records 1 to 6
// were written on old and copied to new.
var lane7 = starferry.TopicPartition{Topic: "orders", Partition: 7}

func handStory() HandEvidence {
	e := HandEvidence{Ended: true}
	e.Source, e.Target = "old", "new"
	e.Logs = map[starferry.ClusterName]map[starferry.TopicPartition]Log{"old": {}, "new": {}}
	for i := range 6 {
		id, o := ID(i+1), starferry.Offset(i)
		e.Written = append(e.Written, Written{ID: id, TopicPartition: lane7, Key: []string{"a", "b"}[i%2], Cluster: "old", Offset: o})
		for _, logs := range e.Logs {
			logs[lane7] = append(logs[lane7], Stored{ID: id, Offset: o})
		}
		e.Handled = append(e.Handled, Handling{Boot: "x/1", At: second(i), Cluster: "old", TopicPartition: lane7, Offset: o, ID: id})
	}
	return e
}

func second(n int) time.Time { return time.Unix(1000+int64(n), 0) }

func (e *HandEvidence) skip(acked, until time.Time) {
	e.Skips = append(e.Skips, Skip{Cluster: "old", TopicPartition: lane7, Range: starferry.Range{From: 4, To: 5}, Acked: acked, Until: until})
}

func (e *HandEvidence) redistribute(loose bool) {
	e.Stretches = append(e.Stretches, Stretch{Cluster: "old", TopicPartition: lane7, Range: starferry.Range{From: 0, To: 4}, Loose: loose})
	e.Spilled = map[starferry.ClusterName]map[ID]Spill{"old": {1: {TopicPartition: spill7, Offset: 9}}}
}

var spill7 = starferry.TopicPartition{Topic: "orders.overflow-x", Partition: 0}

// again lets another boot handle record 1 once more, after the first was killed
// when the group had committed this.
func (e *HandEvidence) again(committed map[starferry.TopicPartition]starferry.Offset) {
	e.Strikes = append(e.Strikes, Strike{Boot: "x/1", Blow: Killed, From: second(20), Silent: true, Committed: map[starferry.ClusterName]map[starferry.TopicPartition]starferry.Offset{"old": committed}})
	e.Handled = append(e.Handled, Handling{Boot: "y/1", At: second(30), Cluster: "old", TopicPartition: lane7, Offset: 0, ID: 1})
}

func TestHandsLaidOnAGroup(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*HandEvidence)
		want   HandVerdict // counts that are not zero
	}{
		"all is well":                  {func(e *HandEvidence) {}, HandVerdict{}},
		"nobody handled it":            {func(e *HandEvidence) { e.Handled = e.Handled[:5] }, HandVerdict{Verdict: Verdict{Lost: 1}}},
		"not acknowledged":             {func(e *HandEvidence) { e.Handled, e.Written[5].Cluster = e.Handled[:5], "" }, HandVerdict{}},
		"skipped and kept":             {func(e *HandEvidence) { e.skip(second(1), time.Time{}); e.drop(5); e.Kept = map[ID]bool{5: true} }, HandVerdict{Skipped: 1}},
		"skipped and not kept":         {func(e *HandEvidence) { e.skip(second(1), time.Time{}); e.drop(5) }, HandVerdict{Verdict: Verdict{Lost: 1}}},
		"handled after its skip":       {func(e *HandEvidence) { e.skip(second(1), time.Time{}) }, HandVerdict{Passed: 1}},
		"handled before its skip":      {func(e *HandEvidence) { e.skip(second(9), time.Time{}) }, HandVerdict{}},
		"handled after the skip's end": {func(e *HandEvidence) { e.skip(second(1), second(2)) }, HandVerdict{}},
		"never acknowledged skip":      {func(e *HandEvidence) { e.skip(time.Time{}, time.Time{}) }, HandVerdict{}},
		"a key out of order":           {func(e *HandEvidence) { e.Handled[0].At = second(3) }, HandVerdict{Verdict: Verdict{OutOfOrder: 1}}},
		"two keys out of order":        {func(e *HandEvidence) { e.Handled[0].At = second(1).Add(time.Millisecond) }, HandVerdict{}},
		"out of order in a backlog":    {func(e *HandEvidence) { e.redistribute(true); e.Handled[0].At = second(3) }, HandVerdict{}},
		"the same, by key":             {func(e *HandEvidence) { e.redistribute(false); e.Handled[0].At = second(3) }, HandVerdict{Verdict: Verdict{OutOfOrder: 1}}},
		"missing on a cluster":         {func(e *HandEvidence) { e.Logs["new"][lane7] = e.Logs["new"][lane7][:5] }, HandVerdict{Verdict: Verdict{CopiedWrong: 1}}},
		"not copied yet":               {func(e *HandEvidence) { e.Ended = false; e.Logs["new"][lane7] = e.Logs["new"][lane7][:5] }, HandVerdict{}},
		"reordered on a cluster":       {func(e *HandEvidence) { l := e.Logs["new"][lane7]; l[2], l[4] = l[4], l[2] }, HandVerdict{Verdict: Verdict{CopiedWrong: 1}}},
		"twice on a cluster":           {func(e *HandEvidence) { e.Logs["new"][lane7][5].ID = 4 }, HandVerdict{Verdict: Verdict{CopiedWrong: 2}}},
		"too fast":                     {func(e *HandEvidence) { e.crowd(60); e.Limits = []Limit{{Rate: 10, From: second(50), To: second(60)}} }, HandVerdict{TooFast: 13}},
		"as fast as it may":            {func(e *HandEvidence) { e.crowd(40); e.Limits = []Limit{{Rate: 10, From: second(50), To: second(60)}} }, HandVerdict{}},
		"too fast for no limit":        {func(e *HandEvidence) { e.crowd(60) }, HandVerdict{}},
		"moved, handled, not committed": {func(e *HandEvidence) {
			e.redistribute(false)
			e.again(map[starferry.TopicPartition]starferry.Offset{lane7: 4, spill7: 9})
		}, HandVerdict{Verdict: Verdict{Repeated: 1}}},
		"moved, handled, committed": {func(e *HandEvidence) {
			e.redistribute(false)
			e.again(map[starferry.TopicPartition]starferry.Offset{lane7: 4, spill7: 10})
		}, HandVerdict{Verdict: Verdict{Doubled: 1}}},
		"not moved, committed": {func(e *HandEvidence) { e.again(map[starferry.TopicPartition]starferry.Offset{lane7: 4}) },
			HandVerdict{Verdict: Verdict{Doubled: 1}}},
	} {
		e := handStory()
		c.change(&e)
		got := CheckHand(e)
		want := c.want.OK()
		assert.Equal(t, want, got.OK(), "%s: %s", name, got)
		got.Findings, got.spelt, got.Produced, got.Handled = nil, nil, 0, 0
		assert.Equal(t, c.want, got, name)
	}
}

// drop forgets that a record was handled.
func (e *HandEvidence) drop(id ID) {
	e.Handled = append(e.Handled[:id-1], e.Handled[id:]...)
}

// crowd lets so many records be handled in one second.
func (e *HandEvidence) crowd(n int) {
	for i := range n {
		id := ID(100 + i)
		e.Written = append(e.Written, Written{ID: id, TopicPartition: lane7, Key: "c"})
		e.Handled = append(e.Handled, Handling{Boot: "x/1", At: second(55).Add(time.Duration(i) * time.Millisecond), Cluster: "old", TopicPartition: lane7, Offset: starferry.Offset(i + 100), ID: id})
	}
}
