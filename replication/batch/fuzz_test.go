package batch

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
)

// realSets are record sets as Kafka 3.9.2 and 4.3.1 have sent them: plain, of
// every codec, of a committed and an aborted transaction, and compacted.
func realSets(t testing.TB) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob("testdata/real/*.bin")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	out := map[string][]byte{}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		require.NoError(t, err)
		out[filepath.Base(p)] = b
	}
	return out
}

// What brokers send passes all entry points, and comes back as it was.
func TestRealSetsAreRead(t *testing.T) {
	for name, set := range realSets(t) {
		records := 0
		for len(set) > 0 {
			b, rest, err := Next(set)
			require.NoError(t, err, name)
			set = rest
			require.NoError(t, b.Verify(), name)
			if b.Control() {
				_, err := MarkerOf(b)
				require.NoError(t, err, name)
				continue
			}
			for _, err := range Records(b, 1<<20) {
				require.NoError(t, err, name)
				records++
			}
		}
		require.GreaterOrEqual(t, records, 8, name)
	}
}

// fuzzLimits keep what a spoiled batch may cost small.
func fuzzLimits() Limits { return Limits{Decompressed: 1 << 20, Batch: 1 << 20} }

// Whatever stands in a record set, each entry point answers or says what is
// wrong. With repair the checksums are set right first, so that what lies behind
// them is reached.
func FuzzSet(f *testing.F) {
	for _, set := range realSets(f) {
		f.Add(set, int64(1), int64(0), false)
		f.Add(set, int64(0), int64(3), true)
	}
	f.Fuzz(func(t *testing.T, set []byte, pid, first int64, repair bool) {
		set = slices.Clone(set) // Stamp writes into it
		filter := NewFilter([]AbortedTxn{{ProducerID: pid, FirstOffset: starferry.Offset(first)}})
		var joinable []Batch
		for {
			b, rest, err := Next(set)
			old := errors.Is(err, ErrMagic)
			if err != nil && !old {
				break
			}
			if old {
				if b, err = Upgrade(b, 1<<20); err == nil {
					require.NoError(t, b.Verify(), "an upgraded message is a sound batch")
				}
			}
			require.Less(t, len(rest), len(set), "no progress")
			set = rest
			if err != nil {
				continue
			}
			if repair {
				b.seal()
			}
			checkBatch(t, filter, b)
			if b.Joinable() {
				joinable = append(joinable, slices.Clone(b))
			}
		}
		if len(joinable) > 0 {
			joined, err := Join(joinable)
			if err == nil {
				require.NoError(t, joined.Verify())
				require.True(t, joined.Dense())
			}
			_, _ = Merge(joinable, nil, fuzzLimits()) // they may overlap
		}
	})
}

func checkBatch(t *testing.T, filter *Filter, b Batch) {
	_, _ = filter.Class(b)
	_, _ = MarkerOf(b)
	sound := b.Verify() == nil
	n := 0
	var bad error
	for _, err := range Records(b, 1<<20) {
		if bad = err; bad == nil {
			n++
		}
	}
	if bad == nil {
		require.Equal(t, b.Count(), n, "records without an error are all records")
	}
	copies, err := Reencode(slices.Clone(b), nil, fuzzLimits())
	if err == nil {
		require.True(t, sound, "what is re-encoded gets a fresh checksum, and had a right one")
		kept := 0
		for _, c := range copies {
			require.NoError(t, c.Batch.Verify())
			require.True(t, c.Batch.Dense())
			for _, r := range c.Offsets {
				kept += int(r.To - r.From)
			}
		}
		require.Equal(t, n, kept, "every record has its place")
	}
	Stamp(b, 7, 3, 11)
	require.Equal(t, sound, b.Verify() == nil, "stamping neither breaks nor mends a checksum")
	require.EqualValues(t, 7, b.ProducerID())
	require.EqualValues(t, 11, b.BaseSequence())
}

// Old messages, whose sets have no real broker in reach: a wrapper and what is in it.
func FuzzUpgrade(f *testing.F) {
	message := func(offset int64, magic, attributes byte, value []byte) []byte {
		body := []byte{0, 0, 0, 0, magic, attributes}
		if magic == 1 {
			body = binary.BigEndian.AppendUint64(body, 1_700_000_000_000)
		}
		body = binary.BigEndian.AppendUint32(body, 0xffffffff) // no key
		body = append(binary.BigEndian.AppendUint32(body, uint32(len(value))), value...)
		out := binary.BigEndian.AppendUint64(nil, uint64(offset))
		return append(binary.BigEndian.AppendUint32(out, uint32(len(body))), body...)
	}
	f.Add(message(5, 0, 0, []byte("old")))
	f.Add(message(5, 1, 0, []byte("newer")))
	f.Add(message(7, 1, 1, message(1, 1, 0, []byte("inside"))))
	f.Fuzz(func(t *testing.T, b []byte) {
		old, _, err := Next(b)
		if !errors.Is(err, ErrMagic) {
			return
		}
		for _, repair := range []bool{false, true} {
			old := slices.Clone(old)
			if repair && len(old) > 16 {
				binary.BigEndian.PutUint32(old[prefixSize:], crc32.ChecksumIEEE(old[atMagic:]))
			}
			if up, err := Upgrade(old, 1<<20); err == nil {
				require.NoError(t, up.Verify())
			}
		}
	})
}
