package batch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/starferry/starferry"
)

const limit = 1 << 20

// letters are records at the given offsets, with times, keys, values, headers
// and nulls of all sorts.
func letters(offsets ...starferry.Offset) []Record {
	var out []Record
	for i, o := range offsets {
		r := Record{Offset: o, Time: 1_700_000_000_000 + int64(i)*7 - int64(i%3)*20}
		switch i % 3 {
		case 0:
			r.Key, r.Value = fmt.Appendf(nil, "key %d", o), bytes.Repeat([]byte("abc"), 50)
			r.Headers = []Header{{"trace", []byte("x")}, {"null", nil}, {"", []byte{}}}
		case 1:
			r.Key, r.Value = []byte{}, nil
		case 2:
			r.Value = fmt.Appendf(nil, "value %d", o)
		}
		out = append(out, r)
	}
	return out
}

func span(from, to starferry.Offset) []starferry.Offset {
	var out []starferry.Offset
	for ; from < to; from++ {
		out = append(out, from)
	}
	return out
}

func build(t require.TestingT, records []Record, o Options) Batch {
	b, err := Build(records, o)
	require.NoError(t, err)
	return b
}

func decode(t require.TestingT, b Batch) []Record {
	var out []Record
	for r, err := range Records(b, limit) {
		require.NoError(t, err)
		out = append(out, r)
	}
	return out
}

func codecs() []Codec { return []Codec{None, Gzip, Snappy, LZ4, Zstd} }

func TestBuildAndRecordsAgree(t *testing.T) {
	for _, c := range codecs() {
		t.Run(c.String(), func(t *testing.T) {
			want := letters(40, 41, 45, 46, 50)
			b := build(t, want, Options{Codec: c, Producer: &Producer{77, 3, 900}, LeaderEpoch: 5, Transactional: true, Span: 20})
			got, rest, err := Next(append(slices.Clone(b), 1, 2, 3))
			require.NoError(t, err)
			require.Equal(t, []byte{1, 2, 3}, rest)
			require.NoError(t, got.Verify())
			require.Equal(t, want, decode(t, got))
			require.Equal(t, c, got.Codec())
			require.Equal(t, starferry.Offset(40), got.BaseOffset())
			require.Equal(t, starferry.Offset(59), got.LastOffset())
			require.Equal(t, starferry.Offset(60), got.NextOffset())
			require.Equal(t, 5, got.Count())
			require.False(t, got.Dense())
			require.Equal(t, []any{int64(77), int16(3), int32(900), int32(5)},
				[]any{got.ProducerID(), got.ProducerEpoch(), got.BaseSequence(), got.LeaderEpoch()})
			require.True(t, got.Transactional())
			require.False(t, got.Control() || got.LogAppendTime())
			require.Equal(t, want[0].Time, got.FirstTimestamp())
			require.Equal(t, want[3].Time, got.MaxTimestamp(), "the fifth is older")
			require.Equal(t, len(b), got.Length())
		})
	}
}

func TestNextWalksARecordSet(t *testing.T) {
	var set []byte
	ends := []int{0}
	for o := starferry.Offset(0); o < 30; o += 10 {
		set = append(set, build(t, letters(span(o, o+10)...), Options{})...)
		ends = append(ends, len(set))
	}
	for cut := 0; cut <= len(set); cut++ {
		rest, n := set[:cut], 0
		var b Batch
		var err error
		for {
			if b, rest, err = Next(rest); err != nil {
				break
			}
			require.Equal(t, starferry.Offset(10*n), b.BaseOffset())
			require.True(t, b.Dense())
			n++
		}
		whole := ends[n]
		if want := io.EOF; cut == whole {
			require.Equal(t, want, err)
		} else {
			require.ErrorIs(t, err, ErrTruncated, "cut at %d", cut)
			require.Len(t, rest, cut-whole, "the tail is what is left")
		}
	}
}

func TestGarbageNamesItsField(t *testing.T) {
	for field, spoil := range map[string]func(b Batch){
		"base offset":       func(b Batch) { b[atBaseOffset] = 0x80 },
		"length":            func(b Batch) { copy(b[atLength:], []byte{0, 0, 0, 48}) },
		"magic":             func(b Batch) { b[atMagic] = 3 },
		"attributes":        func(b Batch) { b[atAttributes+1] |= 7 },
		"last offset delta": func(b Batch) { b[atLastOffsetDelta] = 0x80 },
		"record count":      func(b Batch) { b[atCount+3] = 200 },
	} {
		b := build(t, letters(1, 2, 3), Options{})
		spoil(b)
		_, _, err := Next(b)
		var wrong *FieldError
		require.ErrorAs(t, err, &wrong, field)
		require.Equal(t, field, wrong.Field)
		require.ErrorContains(t, err, "field "+field)
	}
	b := build(t, letters(1, 2, 3), Options{})
	b[headerSize], b[headerSize+1] = 0xfe, 0x7f // a record that claims more than there is
	for _, err := range Records(b, limit) {
		require.ErrorContains(t, err, "record 0: length")
	}
	require.ErrorIs(t, b.Verify(), ErrChecksum)
}

func TestStampKeepsTheChecksumTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := anyBatch(t)
		before := slices.Clone(b)
		pid, epoch, seq := rapid.Int64().Draw(t, "pid"), rapid.Int16().Draw(t, "epoch"), rapid.Int32().Draw(t, "sequence")
		Stamp(b, pid, epoch, seq)
		if rapid.Bool().Draw(t, "clear") {
			ClearLogAppendTime(b)
			require.False(t, b.LogAppendTime())
		} else {
			require.Equal(t, before.LogAppendTime(), b.LogAppendTime())
		}
		require.NoError(t, b.Verify(), "the patched checksum is the recomputed one")
		require.Equal(t, []any{starferry.Offset(0), int32(-1), pid, epoch, seq, false},
			[]any{b.BaseOffset(), b.LeaderEpoch(), b.ProducerID(), b.ProducerEpoch(), b.BaseSequence(), b.Transactional()})
		require.Equal(t, before.Codec(), b.Codec())
		require.Equal(t, before.MaxTimestamp(), b.MaxTimestamp())
		require.Equal(t, before.FirstTimestamp(), b.FirstTimestamp())
		require.Equal(t, before[atCount:], b[atCount:], "records are not touched")
	})
}

func anyBatch(t *rapid.T) Batch {
	value := rapid.SliceOfN(rapid.Byte(), 0, 700).Draw(t, "value")
	if rapid.IntRange(0, 9).Draw(t, "big") == 0 {
		value = bytes.Repeat(append(value, 1), rapid.IntRange(1, 300).Draw(t, "times"))
	}
	o := Options{
		Codec:         rapid.SampledFrom([]Codec{None, None, Gzip, LZ4}).Draw(t, "codec"),
		Transactional: rapid.Bool().Draw(t, "transactional"),
		Producer:      &Producer{rapid.Int64().Draw(t, "old pid"), 1, 2},
	}
	if rapid.Bool().Draw(t, "log append time") {
		o.LogAppendTime = 1_700_000_000_001
	}
	base := starferry.Offset(rapid.Int64Range(0, 1<<40).Draw(t, "base"))
	b := build(t, []Record{{Offset: base, Value: value}, {Offset: base + 1, Time: 5}}, o)
	if rapid.Bool().Draw(t, "delete horizon") {
		b[atAttributes+1] |= deleteHorizon
		b.seal()
	}
	return b
}

func TestDamageBeforeStampStaysVisible(t *testing.T) {
	whole := build(t, letters(span(10, 20)...), Options{Transactional: true, Producer: &Producer{1, 2, 3}})
	for bit := atAttributes * 8; bit < len(whole)*8; bit++ {
		at := bit / 8
		if at >= atProducerID && at < atCount {
			continue // Stamp writes these anew
		}
		b := slices.Clone(whole)
		b[at] ^= 1 << (bit % 8)
		if at < atLastOffsetDelta && b.Attributes()&(transactional|deleteHorizon) != whole.Attributes()&(transactional|deleteHorizon) {
			continue // and these
		}
		Stamp(b, 77, 5, 900)
		ClearLogAppendTime(b)
		if at == atAttributes+1 && 1<<(bit%8) == logAppendTime {
			continue
		}
		require.ErrorIs(t, b.Verify(), ErrChecksum, "bit %d of byte %d", bit%8, at)
	}
}

func TestShiftIsZeroBytes(t *testing.T) {
	for _, n := range []int{0, 1, 2, 255, 256, 257, 65535, 65536, 70000, 1 << 24, 1<<24 + 3} {
		zero := make([]byte, n)
		a := build(t, []Record{{Value: []byte("x")}}, Options{})
		long := append(slices.Clone(a), zero...)
		long.seal()
		Stamp(long, 9, 9, 9)
		require.NoError(t, long.Verify(), "%d zero bytes", n)
	}
}

func kept(copies []Copy) (offsets []starferry.Offset) {
	for _, c := range copies {
		for _, r := range c.Offsets {
			offsets = append(offsets, span(r.From, r.To)...)
		}
	}
	return offsets
}

// content is the records without their offsets.
func content(rs []Record) []Record {
	out := slices.Clone(rs)
	for i := range out {
		out[i].Offset = 0
	}
	return out
}

func TestReencodeKeepsAllButTheOffsets(t *testing.T) {
	for _, c := range codecs() {
		t.Run(c.String(), func(t *testing.T) {
			source := letters(100, 101, 104, 105, 106, 109)
			b := build(t, source, Options{Codec: c, Span: 12, Transactional: true})
			copies, err := Reencode(b, nil, Limits{limit, limit})
			require.NoError(t, err)
			require.Len(t, copies, 1)
			got := copies[0].Batch
			require.NoError(t, got.Verify())
			require.True(t, got.Dense())
			require.Equal(t, c, got.Codec())
			require.Equal(t, []starferry.Range{{From: 100, To: 102}, {From: 104, To: 107}, {From: 109, To: 110}}, copies[0].Offsets)
			require.Equal(t, content(source), content(decode(t, got)))

			copies, err = Reencode(b, func(o starferry.Offset) bool { return o%2 == 1 }, Limits{limit, limit})
			require.NoError(t, err)
			require.Equal(t, []starferry.Offset{101, 105, 109}, kept(copies))
			require.Equal(t, content([]Record{source[1], source[3], source[5]}), content(decode(t, copies[0].Batch)))

			copies, err = Reencode(b, func(starferry.Offset) bool { return false }, Limits{limit, limit})
			require.NoError(t, err)
			require.Empty(t, copies)
		})
	}
}

func TestAppendTimeBecomesCreateTime(t *testing.T) {
	b := build(t, letters(1, 2, 3), Options{LogAppendTime: 1234})
	for _, r := range decode(t, b) {
		require.Equal(t, int64(1234), r.Time)
	}
	copies, err := Reencode(b, nil, Limits{limit, limit})
	require.NoError(t, err)
	require.False(t, copies[0].Batch.LogAppendTime())
	for _, r := range decode(t, copies[0].Batch) {
		require.Equal(t, int64(1234), r.Time)
	}
}

func TestMergeWithinTheLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var bs []Batch
		var all []Record
		at, codec := starferry.Offset(0), rapid.SampledFrom(codecs()).Draw(t, "codec")
		for range rapid.IntRange(1, 20).Draw(t, "batches") {
			at += starferry.Offset(rapid.IntRange(0, 2).Draw(t, "gap"))
			rs := letters(span(at, at+starferry.Offset(rapid.IntRange(1, 3).Draw(t, "records")))...)
			bs, all = append(bs, build(t, rs, Options{Codec: codec})), append(all, rs...)
			at = rs[len(rs)-1].Offset + 1
		}
		most := rapid.IntRange(400, 5000).Draw(t, "limit")
		copies, err := Merge(bs, nil, Limits{limit, most})
		require.NoError(t, err)
		var got []Record
		for _, c := range copies {
			require.LessOrEqual(t, c.Batch.Length(), most)
			require.True(t, c.Batch.Dense())
			require.NoError(t, c.Batch.Verify())
			got = append(got, decode(t, c.Batch)...)
		}
		require.Equal(t, content(all), content(got))
		for i, o := range kept(copies) {
			require.Equal(t, all[i].Offset, o)
		}
		if most == 5000 && len(all) < 10 {
			require.Len(t, copies, 1)
		}
	})
}

func TestReencodeRefuses(t *testing.T) {
	good := func() Batch { return build(t, letters(5, 6), Options{Codec: Zstd}) }
	bad := good()
	bad[len(bad)-1] ^= 1
	_, err := Reencode(bad, nil, Limits{limit, limit})
	require.ErrorIs(t, err, ErrChecksum, "damage is not blessed")
	_, err = Reencode(build(t, letters(5), Options{Control: true}), nil, Limits{limit, limit})
	require.ErrorContains(t, err, "control batch")
	_, err = Merge([]Batch{good(), good()}, nil, Limits{limit, limit})
	require.ErrorContains(t, err, "does not ascend")
	_, err = Reencode(good(), nil, Limits{limit, 80})
	require.ErrorIs(t, err, ErrTooLarge)
	require.ErrorContains(t, err, "offset 5")
	require.ErrorContains(t, err, "max.message.bytes")
}

func TestDecompressionIsBounded(t *testing.T) {
	bomb := []Record{{Value: make([]byte, 1<<20)}}
	for _, c := range codecs() {
		b := build(t, bomb, Options{Codec: c})
		for _, err := range Records(b, 100_000) {
			require.ErrorIs(t, err, ErrTooLarge, c.String())
			require.ErrorContains(t, err, "100000 bytes", c.String())
		}
	}
}

func TestSnappyWithoutFrames(t *testing.T) {
	want := letters(1, 2, 3)
	framed := build(t, want, Options{Codec: Snappy})
	c := &coder{limit: limit}
	plain, err := c.decompress(Snappy, framed[headerSize:])
	require.NoError(t, err)
	raw := append(slices.Clone(framed[:headerSize]), rawSnappy(plain)...)
	require.Equal(t, want, decode(t, raw))
}

func marker(t *testing.T, pid int64, o starferry.Offset, m Marker) Batch {
	return build(t, []Record{{Offset: o, Key: []byte{0, 0, 0, byte(m)}, Value: make([]byte, 6)}},
		Options{Producer: &Producer{ID: pid, Sequence: -1}, Transactional: true, Control: true})
}

func TestFilterFollowsTransactions(t *testing.T) {
	tx := func(pid int64, o starferry.Offset) Batch {
		return build(t, letters(o), Options{Producer: &Producer{ID: pid}, Transactional: true})
	}
	f := NewFilter([]AbortedTxn{{8, 14}, {7, 10}})
	for i, step := range []struct {
		b    Batch
		want Class
	}{
		{tx(7, 10), Aborted},
		{tx(8, 11), Data}, // its transaction committed at 12
		{marker(t, 8, 12, CommitMarker), Control},
		{build(t, letters(13), Options{Producer: &Producer{ID: 7}}), Data}, // not transactional
		{tx(8, 14), Aborted},
		{tx(7, 15), Aborted},
		{marker(t, 7, 16, AbortMarker), Control},
		{tx(7, 17), Data}, // the next transaction
		{tx(8, 18), Aborted},
		{marker(t, 8, 19, AbortMarker), Control},
		{build(t, letters(20), Options{}), Data},
	} {
		got, err := f.Class(step.b)
		require.NoError(t, err)
		require.Equal(t, step.want, got, "step %d", i)
	}
	_, err := f.Class(build(t, []Record{{Offset: 21, Key: []byte{1}}}, Options{Control: true}))
	require.ErrorContains(t, err, "control record key")
	_, err = MarkerOf(tx(1, 1))
	require.ErrorContains(t, err, "not a control batch")
}

func FuzzNext(f *testing.F) {
	for _, c := range codecs() {
		b, err := Build(letters(1, 2, 5), Options{Codec: c, Span: 9})
		require.NoError(f, err)
		f.Add([]byte(b))
	}
	f.Add(legacySet(1, 3, wrap(1, Gzip, 9, legacy(1, 0, 5, "k", "v"), legacy(1, 1, 6, "", "w"))))
	f.Fuzz(func(t *testing.T, set []byte) {
		for {
			b, rest, err := Next(set)
			if errors.Is(err, ErrMagic) {
				_, _ = Upgrade(b, 4096)
			} else if err != nil {
				return
			} else {
				read(b)
			}
			set = rest
		}
	})
}

// read does everything that reads a batch.
func read(b Batch) {
	n := 0
	for _, err := range Records(b, 4096) {
		if err == nil {
			n++
		}
	}
	if n > b.Count() {
		panic("more records than the header says")
	}
	b.seal() // else re-encoding stops at the checksum
	_, _ = Reencode(b, nil, Limits{4096, 4096})
	_, _ = NewFilter(nil).Class(b)
	Stamp(b, 1, 2, 3)
	if b.Verify() != nil {
		panic("stamped batch has a wrong checksum")
	}
}
