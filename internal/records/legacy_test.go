package records_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/segmentio/kafka-go/compress"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry/internal/records"
)

// message makes one message of an old format.
func message(magic byte, attributes byte, offset, time int64, key, value []byte) []byte {
	b := []byte{magic, attributes}
	if magic == 1 {
		b = binary.BigEndian.AppendUint64(b, uint64(time))
	}
	for _, f := range [][]byte{key, value} {
		if f == nil {
			b = binary.BigEndian.AppendUint32(b, ^uint32(0))
			continue
		}
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(f))), f...)
	}
	out := binary.BigEndian.AppendUint64(nil, uint64(offset))
	out = binary.BigEndian.AppendUint32(out, uint32(len(b)+4))
	out = binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(b))
	return append(out, b...)
}

func packed(t testing.TB, codec compress.Compression, b []byte) []byte {
	var out bytes.Buffer
	w := codec.Codec().NewWriter(&out)
	_, err := w.Write(b)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return out.Bytes()
}

func TestMessagesOfOldFormatsAreRead(t *testing.T) {
	for _, magic := range []byte{0, 1} {
		time := int64(-1)
		if magic == 1 {
			time = 77
		}
		for _, codec := range []compress.Compression{0, compress.Gzip, compress.Snappy, compress.Lz4} {
			var raw []byte
			if codec == 0 {
				raw = append(message(magic, 0, 10, time, []byte("k"), []byte("a")), message(magic, 0, 12, time, nil, []byte("b"))...)
			} else { // the second message was compacted away
				first := int64(10)
				if magic == 1 {
					first = 0 // relative
				}
				set := append(message(magic, 0, first, time, []byte("k"), []byte("a")), message(magic, 0, first+2, time, nil, []byte("b"))...)
				raw = message(magic, byte(codec), 12, 99, nil, packed(t, codec, set))
			}
			raw = append(raw, message(magic, 0, 13, time, []byte("k"), nil)...)
			recs, next, err := records.Decode(raw, 10, nil)
			require.NoError(t, err)
			require.EqualValues(t, 14, next)
			require.Equal(t, []records.Record{
				{Offset: 10, Timestamp: time, Key: []byte("k"), Value: []byte("a")}, {Offset: 12, Timestamp: time, Value: []byte("b")},
				{Offset: 13, Timestamp: time, Key: []byte("k")},
			}, recs, "magic %d, compression %d", magic, codec)
			recs, _, err = records.Decode(raw, 12, nil)
			require.NoError(t, err)
			require.Len(t, recs, 2, "what lies before the place is not handed out again")
		}
	}
}

func TestTheBrokersTimeCounts(t *testing.T) {
	set := message(1, 0, 0, 5, nil, []byte("a"))
	raw := message(1, byte(compress.Gzip)|8, 3, 99, nil, packed(t, compress.Gzip, set))
	recs, _, err := records.Decode(raw, 0, nil)
	require.NoError(t, err)
	require.Equal(t, []records.Record{{Offset: 3, Timestamp: 99, Value: []byte("a")}}, recs)
}

// An old message is followed by batches where a topic was upgraded; a damaged
// one is named, and what lies before it is handed out.
func TestOldMessagesBesideBatches(t *testing.T) {
	raw := append(message(1, 0, 4, 1, nil, []byte("old")), batch(t, 5, compress.Zstd, -1, false, "new")...)
	recs, next, err := records.Decode(raw, 0, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"old", "new"}, values(recs))
	require.EqualValues(t, 6, next)

	bad := message(1, 0, 6, 1, nil, []byte("bad"))
	bad[len(bad)-1]++
	recs, next, err = records.Decode(append(raw, bad...), 0, nil)
	require.ErrorContains(t, err, "message of format 1 at offset 6: checksum")
	require.Len(t, recs, 2)
	require.EqualValues(t, 6, next)
}
