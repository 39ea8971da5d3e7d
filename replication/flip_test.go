package replication

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/replication/batch"
)

// A bit that flips in what was fetched never changes what is copied or left out:
// it is found here, or the target refuses it, or the bytes are fetched again.
// Data, an aborted transaction, markers, and what a cleaner has thinned out.
func TestAFlippedBitIsNeverCopiedNorLeavesAnythingOut(t *testing.T) {
	data := func(from, to starferry.Offset, o batch.Options) []byte {
		var records []batch.Record
		for ; from < to; from++ {
			records = append(records, batch.Record{Offset: from, Time: 1_700_000_000_000 + int64(from), Value: []byte{byte(from)}})
		}
		b, err := batch.Build(records, o)
		require.NoError(t, err)
		return b
	}
	marker := func(at starferry.Offset, pid int64) []byte {
		b, err := batch.Build([]batch.Record{{Offset: at, Key: []byte{0, 0, 0, 0}, Value: []byte{0, 0, 0, 0, 0, 0}}},
			batch.Options{Control: true, Transactional: true, Producer: &batch.Producer{ID: pid, Epoch: 1}})
		require.NoError(t, err)
		return b
	}
	tx := batch.Options{Transactional: true, Producer: &batch.Producer{ID: 7, Epoch: 1}}
	set := slices.Concat(data(10, 13, batch.Options{}), data(13, 15, tx), marker(15, 7), data(16, 18, batch.Options{Span: 4}), data(20, 22, batch.Options{}))
	answer := func(set []byte) *kmsg.FetchResponseTopicPartition {
		p := kmsg.NewFetchResponseTopicPartition()
		p.RecordBatches = slices.Clone(set)
		p.AbortedTransactions = []kmsg.FetchResponseTopicPartitionAbortedTransaction{{ProducerID: 7, FirstOffset: 13}}
		return &p
	}
	for _, compacted := range []bool{false, true} {
		flipEach(t, set, answer, rules{limits: batch.Limits{Decompressed: 1 << 20, Batch: 1 << 20}, compacted: compacted})
	}
}

func flipEach(t *testing.T, set []byte, answer func([]byte) *kmsg.FetchResponseTopicPartition, r rules) {
	clean, err := classify(answer(set), 10, r)
	require.NoError(t, err)
	found := map[string]int{}
	for bit := range 8 * len(set) {
		bad := slices.Clone(set)
		bad[bit/8] ^= 1 << (bit % 8)
		es, err := classify(answer(bad), 10, r)
		if err != nil {
			found["here"]++
			continue
		}
		l := &lane{}
		sure := l.sure(es)
		if len(sure) < len(es) {
			found["as odd"]++
		}
		found[verdict(t, clean, sure)]++
	}
	t.Log(found)
	require.Positive(t, found["here"])
	require.Positive(t, found["as odd"])
	require.Positive(t, found["by the target"])
}

// verdict says who finds the difference, and fails the test if nobody does.
func verdict(t *testing.T, clean, got []*entry) string {
	for i, e := range got {
		require.Less(t, i, len(clean))
		if e.batch != nil {
			b := batch.Batch(slices.Clone(e.batch))
			batch.Stamp(b, 99, 1, 0)
			if b.Verify() != nil {
				return "by the target"
			}
			want := batch.Batch(slices.Clone(clean[i].batch))
			batch.Stamp(want, 99, 1, 0)
			require.Equal(t, want, b)
		}
		require.Equal(t, clean[i].pieces, e.pieces)
	}
	if len(got) < len(clean) {
		return "by fetching the rest again"
	}
	return "nowhere: it makes no difference"
}
