package batch

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"

	"github.com/klauspost/compress/snappy"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
)

func rawSnappy(data []byte) []byte { return snappy.Encode(nil, data) }

// legacy encodes a message of magic 0 or 1; an empty key is null.
func legacy(magic byte, o starferry.Offset, time int64, key, value string) []byte {
	return legacyWith(magic, 0, o, time, key, value)
}

func legacyWith(magic, attributes byte, o starferry.Offset, time int64, key, value string) []byte {
	body := []byte{magic, attributes}
	if magic == 1 {
		body = binary.BigEndian.AppendUint64(body, uint64(time))
	}
	if key == "" {
		body = binary.BigEndian.AppendUint32(body, ^uint32(0))
	} else {
		body = append(binary.BigEndian.AppendUint32(body, uint32(len(key))), key...)
	}
	body = append(binary.BigEndian.AppendUint32(body, uint32(len(value))), value...)
	out := binary.BigEndian.AppendUint64(nil, uint64(o))
	out = binary.BigEndian.AppendUint32(out, uint32(4+len(body)))
	out = binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(body))
	return append(out, body...)
}

// wrap compresses messages into one at the offset of the last.
func wrap(magic byte, c Codec, last starferry.Offset, inner ...[]byte) []byte {
	var set []byte
	for _, m := range inner {
		set = append(set, m...)
	}
	packed, err := (&coder{}).compress(c, set)
	if err != nil {
		panic(err)
	}
	if magic == 0 && c == LZ4 {
		// Old clients computed this over the frame's magic as well.
		packed[6]++
	}
	return legacyWith(magic, byte(c), last, 99, "", string(packed))
}

// legacySet is a plain message at an offset, and another behind it.
func legacySet(magic byte, o starferry.Offset, next []byte) []byte {
	return append(legacy(magic, o, 11, "key", "value"), next...)
}

func upgradeAll(t *testing.T, set []byte) (bs []Batch) {
	t.Helper()
	for len(set) > 0 {
		old, rest, err := Next(set)
		require.ErrorIs(t, err, ErrMagic)
		b, err := Upgrade(old, limit)
		require.NoError(t, err)
		require.NoError(t, b.Verify())
		bs, set = append(bs, b), rest
	}
	return bs
}

func TestUpgradeOfOldMessages(t *testing.T) {
	for _, c := range []Codec{Gzip, Snappy, LZ4} {
		one := legacySet(1, 3, wrap(1, c, 9, legacy(1, 0, 5, "k", "v"), legacy(1, 2, 6, "", "w")))
		bs := upgradeAll(t, one)
		require.Len(t, bs, 2)
		require.Equal(t, []Record{{Offset: 3, Time: 11, Key: []byte("key"), Value: []byte("value")}}, decode(t, bs[0]))
		require.Equal(t, []Record{
			{Offset: 7, Time: 5, Key: []byte("k"), Value: []byte("v")}, // inner offsets are relative
			{Offset: 9, Time: 6, Value: []byte("w")},
		}, decode(t, bs[1]))
		require.Equal(t, c, bs[1].Codec())
		require.False(t, bs[1].Dense(), "the cleaner took offset 8")

		zero := legacySet(0, 3, wrap(0, c, 9, legacy(0, 7, 0, "k", "v"), legacy(0, 9, 0, "", "w")))
		bs = upgradeAll(t, zero)
		require.Equal(t, []Record{
			{Offset: 7, Time: -1, Key: []byte("k"), Value: []byte("v")},
			{Offset: 9, Time: -1, Value: []byte("w")},
		}, decode(t, bs[1]), c.String())
	}
}

func TestUpgradeKeepsAppendTime(t *testing.T) {
	b, err := Upgrade(legacyWith(1, logAppendTime, 3, 77, "k", "v"), limit)
	require.NoError(t, err)
	require.True(t, b.LogAppendTime())
	require.Equal(t, int64(77), decode(t, b)[0].Time)
}

func TestUpgradeRefuses(t *testing.T) {
	whole := legacySet(1, 3, nil)
	for i := atMagic; i < len(whole); i++ {
		bad := append([]byte(nil), whole...)
		bad[i] ^= 4
		_, err := Upgrade(bad, limit)
		var wrong *FieldError
		require.True(t, errors.Is(err, ErrChecksum) || errors.As(err, &wrong), "byte %d: %v", i, err)
	}
	_, err := Upgrade(wrap(1, Gzip, 9), limit)
	require.ErrorContains(t, err, "empty")
	_, err = Upgrade(wrap(1, Gzip, 9, wrap(1, Gzip, 0, legacy(1, 0, 0, "", ""))), limit)
	require.ErrorContains(t, err, "inside of a compressed one")
	_, err = Upgrade(wrap(1, Gzip, 9, legacy(1, 0, 0, "", "a long value")), 10)
	require.ErrorIs(t, err, ErrTooLarge)
}
