package batch

import (
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/starferry/starferry"
)

// Whatever is joined, each record comes out as it went in, one after the other.
func TestJoinedRecordsAreTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var bs []Batch
		var want []Record
		bound := headerSize
		at := starferry.Offset(rapid.Int64Range(0, 1<<40).Draw(t, "base"))
		for range rapid.IntRange(1, 20).Draw(t, "batches") {
			records := letters(span(at, at+starferry.Offset(rapid.IntRange(1, 80).Draw(t, "records")))...)
			shift := rapid.SampledFrom([]int64{0, 1, -1_700_000_000_000, math.MaxInt64 / 2}).Draw(t, "time")
			for i := range records {
				records[i].Time += shift
			}
			b := build(t, records, Options{Transactional: rapid.Bool().Draw(t, "transactional"), Producer: &Producer{7, 1, 9}})
			bs, want, bound = append(bs, b), append(want, records...), bound+b.JoinedSize()
			at = records[len(records)-1].Offset + 1 + starferry.Offset(rapid.IntRange(0, 3).Draw(t, "gap"))
		}
		whole := slices.Concat(bs...)
		got, err := Join(bs)
		require.NoError(t, err)
		require.NoError(t, got.check())
		require.NoError(t, got.Verify())
		require.True(t, got.Dense())
		require.False(t, got.Transactional())
		require.LessOrEqual(t, len(got), bound)
		require.Equal(t, whole, Batch(slices.Concat(bs...)), "the sources stay as they are")
		latest := int64(math.MinInt64)
		for i, r := range decode(t, got) {
			require.Equal(t, want[0].Offset+starferry.Offset(i), r.Offset)
			latest = max(latest, r.Time)
			r.Offset = want[i].Offset
			require.Equal(t, want[i], r)
		}
		require.Equal(t, len(want), got.Count())
		require.Equal(t, latest, got.MaxTimestamp())
	})
}

// Not one flipped bit is blessed by the fresh checksum.
func TestJoinRefusesDamage(t *testing.T) {
	whole := []Batch{build(t, letters(3, 4, 5), Options{}), build(t, letters(9), Options{})}
	_, err := Join(whole)
	require.NoError(t, err)
	for bit := atAttributes * 8; bit < len(whole[0])*8; bit++ {
		b := slices.Clone(whole[0])
		b[bit/8] ^= 1 << (bit % 8)
		_, err := Join([]Batch{b, whole[1]})
		require.Error(t, err, "bit %d", bit)
	}
}

func TestWhatCannotBeJoinedIsRefused(t *testing.T) {
	for name, b := range map[string]Batch{
		"compressed":  build(t, letters(1, 2), Options{Codec: LZ4}),
		"sparse":      build(t, letters(1, 3), Options{}),
		"broker time": build(t, letters(1, 2), Options{LogAppendTime: 5}),
	} {
		_, err := Join([]Batch{b})
		require.ErrorContains(t, err, "cannot be joined", name)
	}
	_, err := Join(nil)
	require.Error(t, err)
}

func BenchmarkJoin(b *testing.B) {
	r := letters(0)[:1]
	r[0].Value = make([]byte, 1000)
	one := build(b, r, Options{})
	bs := slices.Repeat([]Batch{one}, 100)
	b.SetBytes(int64(100 * len(one)))
	for b.Loop() {
		if _, err := Join(bs); err != nil {
			b.Fatal(err)
		}
	}
}
