package records_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/compress"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/records"
	"github.com/starferry/starferry/internal/wire"
)

const header = 61

// batch makes a batch of records at an offset, compressed if codec is not 0.
func batch(t testing.TB, base int64, codec compress.Compression, producer int64, txn bool, values ...string) []byte {
	var msgs []kafka.Message
	for _, v := range values {
		msgs = append(msgs, kafka.Message{Key: []byte("k"), Value: []byte(v), Headers: []kafka.Header{{Key: "h", Value: []byte(v)}}})
	}
	b := kafkatest.Batch(msgs, wire.Producer{ID: producer, Epoch: 0}, 0, txn)
	if codec != 0 {
		var body bytes.Buffer
		w := codec.Codec().NewWriter(&body)
		_, err := w.Write(b[header:])
		require.NoError(t, err)
		require.NoError(t, w.Close())
		b = append(b[:header:header], body.Bytes()...)
		b[22] |= byte(codec)
	}
	return sealed(b, base)
}

// sealed puts base offset, length and checksum right.
func sealed(b []byte, base int64) []byte {
	binary.BigEndian.PutUint64(b, uint64(base))
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// marker makes the control batch that ends a transaction.
func marker(t testing.TB, base, producer int64, kind byte) []byte {
	b := kafkatest.Batch([]kafka.Message{{Key: []byte{0, 0, 0, kind}, Value: make([]byte, 6)}}, wire.Producer{ID: producer}, 0, true)
	b[22] |= 0x20
	return sealed(b, base)
}

func values(recs []records.Record) (out []string) {
	for _, r := range recs {
		out = append(out, string(r.Value))
	}
	return out
}

func TestEveryCodecGivesTheSameRecords(t *testing.T) {
	for _, codec := range []compress.Compression{compress.None, compress.Gzip, compress.Snappy, compress.Lz4, compress.Zstd} {
		recs, next, err := records.Decode(batch(t, 40, codec, -1, false, "a", "b", "c"), 41, nil)
		require.NoError(t, err, codec)
		require.Equal(t, int64(43), next, codec)
		require.Equal(t, []string{"b", "c"}, values(recs), codec)
		require.Equal(t, int64(41), recs[0].Offset)
		require.Equal(t, []records.Header{{Key: "h", Value: []byte("b")}}, recs[0].Headers)
	}
}

func TestAbortedRecordsAndMarkersAreLeftOutAndPassed(t *testing.T) {
	raw := bytes.Join([][]byte{
		batch(t, 0, 0, 7, true, "lost"), batch(t, 1, 0, 8, true, "kept"), marker(t, 2, 7, 0),
		batch(t, 3, 0, 7, true, "later"), marker(t, 4, 8, 1), marker(t, 5, 7, 1),
	}, nil)
	recs, next, err := records.Decode(raw, 0, []records.Aborted{{Producer: 7, First: 0}})
	require.NoError(t, err)
	require.Equal(t, []string{"kept", "later"}, values(recs))
	require.Equal(t, int64(6), next)
}

func TestABatchCutOffIsLeftForTheNextFetch(t *testing.T) {
	whole := batch(t, 0, 0, -1, false, "a")
	raw := append(bytes.Clone(whole), batch(t, 1, 0, -1, false, "b")[:30]...)
	recs, next, err := records.Decode(raw, 0, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, values(recs))
	require.Equal(t, int64(1), next)
}

func TestDamageIsNamed(t *testing.T) {
	b := batch(t, 12, 0, -1, false, "a")
	b[len(b)-1] ^= 1
	_, _, err := records.Decode(b, 12, nil)
	require.ErrorContains(t, err, "offset 12: checksum")
	b = batch(t, 12, 0, -1, false, "a")
	binary.BigEndian.PutUint32(b[57:], 9)
	_, _, err = records.Decode(sealed(b, 12), 12, nil)
	require.ErrorContains(t, err, "record 1 of 9: record is cut off")
}

func TestNothingPassesADamagedBatch(t *testing.T) {
	broken := batch(t, 1, 0, -1, false, "b", "c", "d")
	binary.BigEndian.PutUint32(broken[57:], 9)
	squeezed := batch(t, 1, compress.Gzip, -1, false, "b", "c", "d")
	squeezed = sealed(squeezed[:len(squeezed)-6], 1)
	for name, bad := range map[string][]byte{"cut off": sealed(broken, 1), "compressed": squeezed} {
		raw := bytes.Join([][]byte{batch(t, 0, 0, -1, false, "a"), bad, batch(t, 4, 0, -1, false, "e")}, nil)
		recs, next, err := records.Decode(raw, 0, nil)
		require.ErrorContains(t, err, "offset 1", name)
		require.Equal(t, []string{"a"}, values(recs), name)
		require.Equal(t, int64(1), next, name)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(batch(f, 0, 0, -1, false, "a", "b"))
	f.Add(batch(f, 0, compress.Gzip, -1, false, "a", "b"))
	f.Add(message(1, 0, 3, 5, []byte("k"), []byte("v")))
	f.Add(message(0, byte(compress.Gzip), 3, 0, nil, packed(f, compress.Gzip, message(0, 0, 3, 0, nil, []byte("v")))))
	f.Fuzz(func(_ *testing.T, raw []byte) {
		if len(raw) > 16 && raw[16] < 2 {
			if end := int(int32(binary.BigEndian.Uint32(raw[8:]))) + 12; end > 16 && end <= len(raw) {
				binary.BigEndian.PutUint32(raw[12:], crc32.ChecksumIEEE(raw[16:end]))
			}
		} else if len(raw) >= header { // let damage get past the checksum
			binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
		}
		records.Decode(raw, 0, []records.Aborted{{Producer: 1}}) //nolint:errcheck // must not panic
	})
}

// What is encoded is decoded as it was, nulls and empty values apart.
func TestEncodeIsDecodedAgain(t *testing.T) {
	in := []records.Record{
		{Timestamp: 1_700_000_000_000, Key: []byte("k"), Value: []byte("v"), Headers: []records.Header{{Key: "a", Value: []byte("1")}, {Key: "a", Value: []byte{}}, {Key: "b"}}},
		{Timestamp: 1_600_000_000_000},
		{Timestamp: 1_800_000_000_000, Key: []byte{}, Value: []byte{}},
	}
	out, next, err := records.Decode(records.Encode(in), 0, nil)
	require.NoError(t, err)
	require.EqualValues(t, 3, next)
	require.Len(t, out, 3)
	for i := range in {
		in[i].Offset = int64(i)
		require.Equal(t, in[i], out[i])
	}
	require.Empty(t, records.Encode(nil))
}
