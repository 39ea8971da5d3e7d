package batch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Codec is a compression of records, as in the attributes.
type Codec int8

// The codecs of Kafka. Zstd is KIP-110.
const (
	None Codec = iota
	Gzip
	Snappy
	LZ4
	Zstd
)

// String is the codec's name in Kafka's compression.type.
func (c Codec) String() string {
	switch c {
	case None:
		return "none"
	case Gzip:
		return "gzip"
	case Snappy:
		return "snappy"
	case LZ4:
		return "lz4"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("codec %d", int8(c))
}

// xerial is the header of snappy-java's stream: magic, version 1, compatible
// with 1. Blocks with their size before them follow.
const (
	xerial          = "\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01"
	xerialMagic     = "\x82SNAPPY\x00"
	xerialBlockSize = 32 << 10
)

// coder compresses and decompresses for one call, so that many small batches
// share what is dear to make.
type coder struct {
	limit   int // of decompressed bytes a batch
	zreader *zstd.Decoder
	zwriter *zstd.Encoder
}

func (c *coder) close() {
	if c.zreader != nil {
		c.zreader.Close()
	}
}

// decompress returns at most limit bytes; more is ErrTooLarge. Without
// compression the result aliases the argument.
func (c *coder) decompress(codec Codec, data []byte) ([]byte, error) {
	var out []byte
	var err error
	switch codec {
	case None:
		out = data
	case Gzip:
		var r *gzip.Reader
		if r, err = gzip.NewReader(bytes.NewReader(data)); err == nil {
			out, err = c.readAll(r)
		}
	case Snappy:
		out, err = c.snappy(data)
	case LZ4:
		out, err = c.readAll(lz4.NewReader(bytes.NewReader(data)))
	case Zstd:
		out, err = c.zstd(data)
	default:
		err = fmt.Errorf("no such codec")
	}
	if err == nil && len(out) > c.limit {
		err = c.tooLarge()
	}
	if err != nil {
		return nil, fmt.Errorf("decompress %s: %w", codec, err)
	}
	return out, nil
}

func (c *coder) tooLarge() error {
	return fmt.Errorf("%w: more than the %d bytes allowed for the records of one batch", ErrTooLarge, c.limit)
}

func (c *coder) readAll(r io.Reader) ([]byte, error) {
	return io.ReadAll(io.LimitReader(r, int64(c.limit)+1))
}

func (c *coder) zstd(data []byte) ([]byte, error) {
	if c.zreader == nil {
		var err error
		// The decoder's own limit keeps a bomb from being unpacked first.
		c.zreader, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(uint64(c.limit)+1))
		if err != nil {
			return nil, err
		}
	}
	out, err := c.zreader.DecodeAll(data, nil)
	if err == zstd.ErrDecoderSizeExceeded || err == zstd.ErrWindowSizeExceeded {
		err = c.tooLarge()
	}
	return out, err
}

// snappy reads one raw block, as librdkafka and others write, or snappy-java's
// stream, as Java writes.
func (c *coder) snappy(data []byte) ([]byte, error) {
	if !bytes.HasPrefix(data, []byte(xerialMagic)) {
		return c.snappyBlock(nil, data)
	}
	if len(data) < len(xerial) {
		return nil, io.ErrUnexpectedEOF
	}
	var out []byte
	for data = data[len(xerial):]; len(data) > 0; {
		if len(data) < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		size := binary.BigEndian.Uint32(data)
		if data = data[4:]; uint64(size) > uint64(len(data)) {
			return nil, io.ErrUnexpectedEOF
		}
		var err error
		if out, err = c.snappyBlock(out, data[:size]); err != nil {
			return nil, err
		}
		data = data[size:]
	}
	return out, nil
}

// snappyBlock appends a decoded block to out.
func (c *coder) snappyBlock(out, block []byte) ([]byte, error) {
	n, err := snappy.DecodedLen(block)
	if err != nil {
		return nil, err
	}
	if n > c.limit-len(out) {
		return nil, c.tooLarge()
	}
	decoded, err := snappy.Decode(nil, block)
	if err != nil {
		return nil, err
	}
	return append(out, decoded...), nil
}

// compress writes what Java's client writes and reads.
func (c *coder) compress(codec Codec, data []byte) ([]byte, error) {
	var out bytes.Buffer
	var err error
	switch codec {
	case None:
		return data, nil
	case Gzip:
		w := gzip.NewWriter(&out)
		err = writeAll(w, data)
	case Snappy:
		return snappyJava(data), nil
	case LZ4:
		w := lz4.NewWriter(&out)
		// Java's reader knows independent blocks only, and no concurrency is
		// worth its goroutines here.
		err = w.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.ChecksumOption(false), lz4.ConcurrencyOption(1))
		if err == nil {
			err = writeAll(w, data)
		}
	case Zstd:
		if c.zwriter == nil {
			c.zwriter, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
		}
		if err == nil {
			return c.zwriter.EncodeAll(data, nil), nil
		}
	default:
		err = fmt.Errorf("no such codec")
	}
	if err != nil {
		return nil, fmt.Errorf("compress %s: %w", codec, err)
	}
	return out.Bytes(), nil
}

func writeAll(w io.WriteCloser, data []byte) error {
	if _, err := w.Write(data); err != nil {
		return err
	}
	return w.Close()
}

func snappyJava(data []byte) []byte {
	out := []byte(xerial)
	for len(data) > 0 {
		n := min(len(data), xerialBlockSize)
		block := snappy.Encode(nil, data[:n])
		out = binary.BigEndian.AppendUint32(out, uint32(len(block)))
		out = append(out, block...)
		data = data[n:]
	}
	return out
}
