package records

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/segmentio/kafka-go/compress"
)

// Message sets are what Kafka kept before record batches (magic 0 and 1, KIP-31
// and KIP-32; written until 0.11, up to 3.x by topics that were told to). They
// know neither transactions nor headers. A compressed message holds a message
// set of its own.
const (
	entrySize   = 12 // offset and length
	messageSize = 14 // the least that follows: crc, magic, attributes, two lengths
)

// decodeMessage reads one message, with those inside it, at and above from.
// Next is the offset after it.
func decodeMessage(out []Record, b []byte, from int64) (more []Record, next int64, err error) {
	offset := int64(binary.BigEndian.Uint64(b))
	m, err := readMessage(b[entrySize:])
	if err != nil {
		return out, from, err
	}
	if m.codec == 0 {
		if offset >= from {
			out = append(out, Record{Offset: offset, Timestamp: m.time, Key: m.key, Value: m.value})
		}
		return out, offset + 1, nil
	}
	inner, offsets, err := m.unpack()
	if err != nil {
		return out, from, err
	}
	shift := int64(0)
	if m.magic == 1 && len(offsets) > 0 { // relative ones; the wrapper has the last
		shift = offset - offsets[len(offsets)-1]
	}
	for i, in := range inner {
		at := offsets[i] + shift
		if at < from {
			continue
		}
		if m.appended {
			in.time = m.time
		}
		out = append(out, Record{Offset: at, Timestamp: in.time, Key: in.key, Value: in.value})
	}
	return out, offset + 1, nil
}

type message struct {
	magic    byte
	codec    compress.Compression
	appended bool  // the broker's time counts, which the wrapper has
	time     int64 // −1 in magic 0
	key      []byte
	value    []byte
}

func readMessage(b []byte) (m message, err error) {
	if len(b) < messageSize {
		return m, errShort
	}
	if want, got := binary.BigEndian.Uint32(b), crc32.ChecksumIEEE(b[4:]); want != got {
		return m, fmt.Errorf("checksum is %08x, want %08x", got, want)
	}
	m.magic, m.codec, m.appended, m.time = b[4], compress.Compression(b[5]&7), b[5]&8 != 0, -1
	b = b[6:]
	switch m.magic {
	case 0:
	case 1:
		if len(b) < 16 {
			return m, errShort
		}
		m.time = int64(binary.BigEndian.Uint64(b))
		b = b[8:]
	default:
		return m, fmt.Errorf("message format %d inside an older one", m.magic)
	}
	if m.key, b, err = sized(b); err != nil {
		return m, err
	}
	m.value, _, err = sized(b)
	return m, err
}

// sized reads a length and so many bytes; −1 is nil.
func sized(b []byte) (v, rest []byte, err error) {
	if len(b) < 4 {
		return nil, nil, errShort
	}
	n := int32(binary.BigEndian.Uint32(b))
	b = b[4:]
	switch {
	case n == -1:
		return nil, b, nil
	case n < 0 || int(n) > len(b):
		return nil, nil, errShort
	}
	return b[:n:n], b[n:], nil
}

// unpack reads the messages inside a compressed one, with their offsets as they
// stand there.
func (m message) unpack() (inner []message, offsets []int64, err error) {
	plain, err := decompress(m.codec, m.value)
	if err != nil {
		return nil, nil, err
	}
	for len(plain) > 0 {
		if len(plain) < entrySize {
			return nil, nil, errShort
		}
		size := int(int32(binary.BigEndian.Uint32(plain[8:])))
		if size < messageSize || size > len(plain)-entrySize {
			return nil, nil, errShort
		}
		in, err := readMessage(plain[entrySize : entrySize+size])
		if err == nil && in.codec != 0 {
			err = errors.New("a compressed message inside a compressed one")
		}
		if err != nil {
			return nil, nil, err
		}
		inner, offsets = append(inner, in), append(offsets, int64(binary.BigEndian.Uint64(plain)))
		plain = plain[entrySize+size:]
	}
	return inner, offsets, nil
}

// decompress bounds what it makes.
func decompress(codec compress.Compression, b []byte) ([]byte, error) {
	c := codec.Codec()
	if c == nil {
		return nil, fmt.Errorf("unknown compression %d", codec)
	}
	r := c.NewReader(bytes.NewReader(b))
	plain, err := io.ReadAll(io.LimitReader(r, maxBatch+1))
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	if len(plain) > maxBatch {
		return nil, fmt.Errorf("decompress: more than %d bytes", maxBatch)
	}
	return plain, nil
}
