package batch

import (
	"encoding/binary"
	"hash/crc32"
	"math"
)

// castagnoli is CRC32-C, reflected, as Kafka uses it.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Stamp makes a batch ours, in place: base offset 0, leader epoch −1, our
// producer id, epoch and base sequence; the bits transactional and delete
// horizon (KIP-534; the target's cleaner sets its own) are cleared. Records,
// timestamps and compression stay as they are.
//
// The checksum is patched by what the header's change does to it, without
// reading the records: damage done before stays visible to the target's broker.
// Read source offsets before stamping.
func Stamp(b Batch, pid int64, epoch int16, seq int32) {
	binary.BigEndian.PutUint64(b[atBaseOffset:], 0)
	binary.BigEndian.PutUint32(b[atLeaderEpoch:], math.MaxUint32)
	b.patch(func(h []byte) {
		attributes := binary.BigEndian.Uint16(h) &^ (transactional | deleteHorizon)
		binary.BigEndian.PutUint16(h, attributes)
		binary.BigEndian.PutUint64(h[atProducerID-atAttributes:], uint64(pid))
		binary.BigEndian.PutUint16(h[atProducerEpoch-atAttributes:], uint16(epoch))
		binary.BigEndian.PutUint32(h[atBaseSequence-atAttributes:], uint32(seq))
	})
}

// ClearLogAppendTime clears the LogAppendTime bit, in place, for a target topic
// that stamps its own append time. Records then claim their creation times.
func ClearLogAppendTime(b Batch) {
	b.patch(func(h []byte) {
		binary.BigEndian.PutUint16(h, binary.BigEndian.Uint16(h)&^logAppendTime)
	})
}

// patch changes the checksummed part of the header, attributes to base
// sequence, and the checksum with it.
//
// CRC is linear over GF(2): crc(a) ⊕ crc(b) = L(a ⊕ b) for equally long a and b,
// where L is the register's run from 0 without the final inversion. The
// difference is zero behind the header, and running over n zero bytes
// multiplies the register by x^8n modulo the polynomial.
func (b Batch) patch(change func(h []byte)) {
	const size = atCount - atAttributes
	var difference [size]byte
	h := b[atAttributes:atCount]
	copy(difference[:], h)
	change(h)
	for i := range difference {
		difference[i] ^= h[i]
	}
	l := ^crc32.Update(math.MaxUint32, castagnoli, difference[:])
	crc := b.CRC() ^ shift(l, len(b)-atCount)
	binary.BigEndian.PutUint32(b[atCRC:], crc)
}

// polynomial is Castagnoli's, reflected: the highest bit is x^0.
const polynomial = crc32.Castagnoli

// one is x^0 in that order of bits.
const one = uint32(1) << 31

// zeros[i][n] is x^(8·n·256^i) modulo the polynomial: what n·256^i zero bytes
// do to a register. It is computed once and never changes.
var zeros = zeroOperators()

// shift runs a register over n zero bytes, in one multiplication for each byte
// of n that is not 0.
func shift(register uint32, n int) uint32 {
	for i := 0; n > 0; i, n = i+1, n>>8 {
		if low := n & 0xff; low != 0 {
			register = multiply(register, zeros[i][low])
		}
	}
	return register
}

// multiply is the product of two polynomials modulo the polynomial.
func multiply(a, b uint32) uint32 {
	var product uint32
	for ; a != 0; a <<= 1 {
		// Branches on these bits would be mispredicted half the time.
		product ^= b & -(a >> 31)
		b = b>>1 ^ polynomial&-(b&1)
	}
	return product
}

func zeroOperators() *[4][256]uint32 {
	step := one >> 8 // x^8: one zero byte
	var t [4][256]uint32
	for i := range t {
		t[i][0] = one
		for n := 1; n < 256; n++ {
			t[i][n] = multiply(t[i][n-1], step)
		}
		step = multiply(t[i][255], step)
	}
	return &t
}
