package offsetmap

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/starferry/starferry"
)

// A stored block is
//
//	version, source, target, passed, uncertain, count, segments,
//	checksum of the block before (4 bytes), checksum (4 bytes)
//
// with uvarints but for the checksums. A segment is one uvarint, its count << 4
// with its kind below; a run behind a gap adds the size of the gap. Its source
// and target follow from what is before it. The checksum is CRC32-C over key
// and value, and by the chain over all that is before it.
const (
	storeVersion = 1
	kindBits     = 4
	sumSize      = 4
)

// castagnoli is CRC32-C.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func updateSum(sum uint32, b []byte) uint32 { return crc32.Update(sum, castagnoli, b) }

// encode returns the stored form of a block and its checksum.
func (b *block) encode(key []byte, before uint32) ([]byte, uint32) {
	out := make([]byte, 0, 64+4*len(b.segments))
	out = append(out, storeVersion)
	out = binary.AppendUvarint(out, uint64(b.source))
	out = binary.AppendUvarint(out, uint64(b.target))
	out = binary.AppendUvarint(out, uint64(b.passed))
	out = binary.AppendUvarint(out, truth(b.uncertain))
	out = binary.AppendUvarint(out, uint64(len(b.segments)))
	target := b.target
	for _, s := range b.segments {
		k, gap := s.kind, s.target-target
		if gap > 0 {
			k = copiedBehindGap
		}
		out = binary.AppendUvarint(out, uint64(s.count)<<kindBits|uint64(k))
		if gap > 0 {
			out = binary.AppendUvarint(out, uint64(gap))
		}
		target = s.targetEnd()
	}
	return sealed(key, binary.BigEndian.AppendUint32(out, before))
}

func truth(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// sealed appends the checksum of key and value to the value.
func sealed(key, value []byte) ([]byte, uint32) {
	sum := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
	return binary.BigEndian.AppendUint32(value, sum), sum
}

// unsealed checks the checksum and takes it off.
func unsealed(key, value []byte) ([]byte, uint32, error) {
	if len(value) < 1+sumSize {
		return nil, 0, fmt.Errorf("%d bytes are too few", len(value))
	}
	content, claim := value[:len(value)-sumSize], binary.BigEndian.Uint32(value[len(value)-sumSize:])
	if sum := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, content); sum != claim {
		return nil, 0, fmt.Errorf("checksum is %08x, stored is %08x", sum, claim)
	}
	if content[0] != storeVersion {
		return nil, 0, fmt.Errorf("version %d, this program knows %d", content[0], storeVersion)
	}
	return content[1:], claim, nil
}

// reader takes numbers off stored bytes; after the first failure all are 0.
type reader struct {
	data []byte
	bad  bool
}

func (r *reader) number() uint64 {
	v, n := binary.Uvarint(r.data)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.data = r.data[n:]
	return v
}

// offset is a number that may be an offset.
func (r *reader) offset() starferry.Offset {
	v := r.number()
	if v > uint64(maxOffset) {
		r.bad = true
		return 0
	}
	return starferry.Offset(v)
}

// decodeBlock reads a stored block. It returns its checksum and that of the
// block before it.
func decodeBlock(key, value []byte) (b *block, before, sum uint32, err error) {
	content, sum, err := unsealed(key, value)
	if err != nil {
		return nil, 0, 0, err
	}
	if len(content) < sumSize {
		return nil, 0, 0, fmt.Errorf("it is cut off")
	}
	r := reader{data: content[:len(content)-sumSize]}
	before = binary.BigEndian.Uint32(content[len(content)-sumSize:])
	b = &block{source: r.offset(), target: r.offset(), passed: r.offset(), uncertain: r.number() == 1}
	n := r.number()
	if n > blockSize {
		return nil, 0, 0, fmt.Errorf("%d segments are too many", n)
	}
	b.segments = make([]segment, 0, n)
	for range n {
		b.segments = append(b.segments, r.segment(b))
	}
	if r.bad || len(r.data) > 0 || b.sourceEnd() > maxOffset || b.targetEnd() > maxOffset || b.passed < b.targetEnd() {
		return nil, 0, 0, fmt.Errorf("its content makes no sense")
	}
	return b, before, sum, nil
}

// segment reads the next segment of a block.
func (r *reader) segment(b *block) segment {
	packed := r.number()
	s := segment{source: b.sourceEnd(), target: b.targetEnd(), count: int64(packed >> kindBits), kind: kind(packed & (1<<kindBits - 1))}
	if s.kind == copiedBehindGap {
		s.kind = copied
		s.target += r.offset()
	}
	if s.kind > unknown && s.kind != holeReturned || s.count <= 0 || s.count > int64(maxOffset) || s.source > maxOffset || s.target > maxOffset {
		r.bad = true
	}
	return s
}

// header is what a store keeps of a lane beside its blocks.
type header struct {
	generation uint32 // grows with every Reset; blocks of others are void
	// startSource and startTarget are where the map begins, first and base the
	// front of its first block, before the checksum in front of that.
	startSource, startTarget starferry.Offset
	first, base              starferry.Offset
	uncertain                bool
	before                   uint32
}

func (h header) encode(key []byte) []byte {
	out := []byte{storeVersion}
	for _, v := range []uint64{uint64(h.generation), uint64(h.startSource), uint64(h.startTarget), uint64(h.first), uint64(h.base),
		truth(h.uncertain), uint64(h.before)} {
		out = binary.AppendUvarint(out, v)
	}
	out, _ = sealed(key, out)
	return out
}

func decodeHeader(key, value []byte) (header, error) {
	content, _, err := unsealed(key, value)
	if err != nil {
		return header{}, err
	}
	r := reader{data: content}
	h := header{generation: uint32(r.number()), startSource: r.offset(), startTarget: r.offset(), first: r.offset(), base: r.offset(),
		uncertain: r.number() == 1, before: uint32(r.number())}
	if r.bad || len(r.data) > 0 || h.startSource < h.first || h.startTarget < h.base {
		return header{}, fmt.Errorf("its content makes no sense")
	}
	return h, nil
}
