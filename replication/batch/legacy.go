package batch

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"
)

// Sizes of messages of magic 0 and 1 with null key and value, without offset
// and size: checksum, magic, attributes, from magic 1 on a timestamp (KIP-32),
// and the lengths of key and value.
const (
	messageSizeV0 = 4 + 1 + 1 + 4 + 4
	messageSizeV1 = messageSizeV0 + 8

	atMessageAttributes = atMagic + 1
	atMessageBody       = atMessageAttributes + 1
)

// message is a decoded message of magic 0 or 1.
type message struct {
	Record
	magic byte
	codec Codec
	log   bool // the broker set its time
}

// Upgrade verifies a message of magic 0 or 1, as Next returns it with ErrMagic,
// and rewrites it as a batch of magic 2 at the same offsets, with the same
// compression. A compressed wrapper becomes one batch of its messages,
// decompressed to at most limit bytes. Messages of magic 0 have no time: −1.
func Upgrade(old Batch, limit int) (Batch, error) {
	outer, err := readMessage(old)
	if err != nil {
		return nil, err
	}
	records, options := []Record{outer.Record}, Options{Codec: outer.codec, LeaderEpoch: -1}
	if outer.codec != None {
		if records, err = outer.unwrap(limit); err != nil {
			return nil, fmt.Errorf("upgrade message at offset %d: %w", old.BaseOffset(), err)
		}
	}
	if outer.log {
		options.LogAppendTime = outer.Time
	}
	return Build(records, options)
}

// readMessage reads a message with its offset and size before it.
func readMessage(old Batch) (message, error) {
	var m message
	// Inside of a wrapper the bytes have not been through Next.
	if len(old) <= atMessageBody {
		return m, old.wrong("length", "%d bytes are no message", len(old))
	}
	m.magic, m.Offset, m.Time = old[atMagic], old.BaseOffset(), -1
	if least, ok := leastLength(m.magic); !ok || m.magic > 1 || int64(len(old)) < prefixSize+least {
		return m, old.wrong("magic", "%d is no message of %d bytes", m.magic, len(old))
	}
	if claim, sum := binary.BigEndian.Uint32(old[prefixSize:]), crc32.ChecksumIEEE(old[atMagic:]); claim != sum {
		return m, fmt.Errorf("read message at offset %d: %w: header says %08x, content is %08x", m.Offset, ErrChecksum, claim, sum)
	}
	m.codec = Codec(old[atMessageAttributes] & codecMask)
	if m.codec > LZ4 {
		return m, old.wrong("attributes", "%d is no codec of magic %d", m.codec, m.magic)
	}
	data := old[atMessageBody:]
	if m.magic == 1 {
		m.log = old[atMessageAttributes]&logAppendTime != 0
		m.Time = int64(binary.BigEndian.Uint64(data))
		data = data[8:]
	}
	var ok bool
	if m.Key, data, ok = nullable32(data); !ok {
		return m, old.wrong("key length", "does not fit the message")
	}
	if m.Value, data, ok = nullable32(data); !ok || len(data) > 0 {
		return m, old.wrong("value length", "does not fill the message")
	}
	return m, nil
}

// unwrap returns the messages inside of a wrapper, at their own offsets.
func (m message) unwrap(limit int) ([]Record, error) {
	value := m.Value
	if m.magic == 0 && m.codec == LZ4 {
		value = mendLZ4(value)
	}
	c := &coder{limit: limit}
	defer c.close()
	data, err := c.decompress(m.codec, value)
	if err != nil {
		return nil, err
	}
	var records []Record
	for len(data) > 0 {
		b := Batch(data)
		if len(data) < prefixSize {
			return nil, fmt.Errorf("inner message %d: %w", len(records), ErrTruncated)
		}
		size := int64(int32(binary.BigEndian.Uint32(data[atLength:]))) + prefixSize
		if size < prefixSize || size > int64(len(data)) {
			return nil, fmt.Errorf("inner message %d: %w", len(records), ErrTruncated)
		}
		inner, err := readMessage(b[:size])
		if err == nil && (inner.codec != None || inner.magic != m.magic) {
			err = b.wrong("attributes", "a compressed message inside of a compressed one")
		}
		if err != nil {
			return nil, fmt.Errorf("inner message %d: %w", len(records), err)
		}
		records, data = append(records, inner.Record), data[size:]
	}
	if len(records) == 0 {
		return nil, fmt.Errorf("compressed message is empty")
	}
	if m.magic == 1 {
		// The wrapper has the offset of the last one; inner ones count from 0.
		shift := m.Offset - records[len(records)-1].Offset
		for i := range records {
			records[i].Offset += shift
		}
	}
	if records[0].Offset < 0 {
		return nil, fmt.Errorf("inner offsets begin at %d, below 0", records[0].Offset)
	}
	return records, nil
}

// nullable32 takes bytes with four bytes of length before them off data.
func nullable32(data []byte) (b, rest []byte, ok bool) {
	if len(data) < 4 {
		return nil, data, false
	}
	n, data := int64(int32(binary.BigEndian.Uint32(data))), data[4:]
	if n < -1 || n > int64(len(data)) {
		return nil, data, false
	}
	if n == -1 {
		return nil, data, true
	}
	return data[:n:n], data[n:], true
}

// mendLZ4 corrects the header checksum of a frame in a message of magic 0,
// which old clients computed over the frame's magic as well (KAFKA-3160).
func mendLZ4(frame []byte) []byte {
	const atFlags, atChecksum = 4, 6 // of a frame without content size
	const sizeOrDictionary = 1<<3 | 1
	if len(frame) <= atChecksum || frame[atFlags]&sizeOrDictionary != 0 {
		return frame
	}
	mended := append([]byte(nil), frame...)
	mended[atChecksum] = byte(xxh32(frame[atFlags:atChecksum]) >> 8)
	return mended
}

// xxh32 is xxHash32 with seed 0 of fewer than four bytes.
func xxh32(b []byte) uint32 {
	const p1, p2, p3, p5 = 2654435761, 2246822519, 3266489917, 374761393
	h := uint32(p5) + uint32(len(b))
	for _, c := range b {
		h = bits.RotateLeft32(h+uint32(c)*p5, 11) * p1
	}
	h = (h ^ h>>15) * p2
	h = (h ^ h>>13) * p3
	return h ^ h>>16
}
