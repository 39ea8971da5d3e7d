package offsetmap

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/dgraph-io/badger/v4"
	"github.com/klauspost/compress/zstd"

	"github.com/starferry/starferry"
)

// A snapshot is the stored form of one lane, so that another store can go on
// where this one was: zstd over
//
//	"sfmap" version, then each stored entry in order: header first, then blocks,
//	  as length of the key behind the lane's prefix, that key, length of the value, value,
//	then 0, the number of entries, CRC32-C of all before
//
// with uvarints but for the checksum. The entries carry their own checksums, in
// which the lane's whole name takes part: the snapshot of another lane, or of
// another life of the topic, is refused like a damaged one.
const (
	snapshotMagic   = "sfmap"
	snapshotVersion = 1
	// maxEntry bounds a stored value: a block's 128 segments of two uvarints.
	maxEntry = 8 << 10
	// restoreBatch entries are written at once.
	restoreBatch = 256
)

// Snapshotted says what a snapshot holds.
type Snapshotted struct {
	// Source and Target are where its map ends; see Map.Next.
	Source, Target starferry.Offset
	Blocks         int
}

// Snapshot writes what the store has of a lane, as of now and verified: what is
// gathered and not flushed is left out. The lane may be open, and is not held up.
// A lane that is not stored, or has no start, is ErrNotBegun.
func (s *Store) Snapshot(key LaneKey, w io.Writer) (Snapshotted, error) {
	fail := func(err error) (Snapshotted, error) {
		return Snapshotted{}, fmt.Errorf("snapshot lane %s of %s: %w", key, s.dir, err)
	}
	prefix, err := key.prefix()
	if err != nil {
		return fail(err)
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return fail(err)
	}
	out := snapshotWriter{w: z}
	out.write(append([]byte(snapshotMagic), snapshotVersion))
	var r restorer
	err = s.db.View(func(txn *badger.Txn) error { return r.all(txn, prefix, out.entry) })
	if err == nil && !r.begun {
		err = ErrNotBegun
	}
	if err == nil {
		err = out.end()
	}
	if err := errors.Join(err, z.Close()); err != nil {
		return fail(err)
	}
	m := r.finish(nil)
	info := Snapshotted{Blocks: out.entries - 1}
	info.Source, info.Target = m.Next()
	return info, nil
}

// snapshotWriter frames entries; its first error stays.
type snapshotWriter struct {
	w       io.Writer
	sum     uint32
	entries int
	err     error
}

func (s *snapshotWriter) write(b []byte) {
	if s.err == nil {
		s.sum = updateSum(s.sum, b)
		_, s.err = s.w.Write(b)
	}
}

func (s *snapshotWriter) entry(tail, value []byte) error {
	s.entries++
	s.write(binary.AppendUvarint(nil, uint64(len(tail))))
	s.write(tail)
	s.write(binary.AppendUvarint(nil, uint64(len(value))))
	s.write(value)
	return s.err
}

func (s *snapshotWriter) end() error {
	s.write(binary.AppendUvarint([]byte{0}, uint64(s.entries)))
	s.write(binary.BigEndian.AppendUint32(nil, s.sum))
	return s.err
}

// Restore fills a lane that has no start from a snapshot of a lane of the same
// name. One that is damaged, cut off or another lane's is ErrDamaged, and leaves
// the lane without a start.
func (l *Lane) Restore(from io.Reader) error {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.usable()
	if err == nil && l.m.begun {
		err = fmt.Errorf("it has a start already: %w", ErrOrder)
	}
	if err == nil {
		err = l.restoreFrom(from)
	}
	if err != nil {
		return fmt.Errorf("restore lane %s: %w", l.key, err)
	}
	return nil
}

// restoreFrom writes blocks as they come and the header last: a crash in between
// leaves blocks without a header, which is damage, never a shorter map.
func (l *Lane) restoreFrom(from io.Reader) error {
	var r restorer
	var head, blocks []entry
	err := r.snapshot(from, l.prefix, func(e entry) error {
		if head == nil {
			head = []entry{e}
			return nil
		}
		if blocks = append(blocks, e); len(blocks) < restoreBatch {
			return nil
		}
		err := l.store.write(blocks)
		blocks = nil
		return err
	})
	if err == nil {
		err = l.store.write(append(blocks, head...))
	}
	if err != nil {
		return errors.Join(err, l.discard())
	}
	l.adopt(&r)
	return nil
}

// snapshot reads and verifies a whole snapshot, and shows its entries.
func (r *restorer) snapshot(from io.Reader, prefix []byte, show func(entry) error) error {
	z, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	defer z.Close()
	in := snapshotReader{r: bufio.NewReader(z)}
	err = in.each(func(tail, value []byte) error {
		e := entry{append(bytes.Clone(prefix), tail...), value}
		if err := r.entry(prefix, e.key, value); err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if !r.kept {
			return fmt.Errorf("%w: a block that its header does not cover", ErrDamaged)
		}
		return show(e)
	})
	if err == nil && !r.begun {
		err = fmt.Errorf("%w: it holds no map", ErrDamaged)
	}
	if err == nil {
		err = r.whole()
	}
	return err
}

// discard deletes the blocks of a restore that failed.
func (l *Lane) discard() error {
	keys, err := l.store.keys(append(bytes.Clone(l.prefix), kindBlock), nil)
	if err != nil || len(keys) == 0 {
		return err
	}
	return l.store.write(deletions(keys))
}

// snapshotReader takes a snapshot apart.
type snapshotReader struct {
	r   *bufio.Reader
	sum uint32
}

// each visits the entries, and fails unless the snapshot is whole.
func (s *snapshotReader) each(visit func(tail, value []byte) error) error {
	start, err := s.bytes(len(snapshotMagic) + 1)
	if err != nil {
		return err
	}
	if string(start[:len(snapshotMagic)]) != snapshotMagic || start[len(snapshotMagic)] != snapshotVersion {
		return fmt.Errorf("%w: it is no snapshot of version %d", ErrDamaged, snapshotVersion)
	}
	for n := uint64(0); ; n++ {
		tail, err := s.framed()
		if err != nil {
			return err
		}
		if len(tail) == 0 {
			return s.end(n)
		}
		value, err := s.framed()
		if err != nil {
			return err
		}
		if err := visit(tail, value); err != nil {
			return err
		}
	}
}

// end checks what stands behind the last of n entries.
func (s *snapshotReader) end(n uint64) error {
	count, err := s.number()
	if err != nil {
		return err
	}
	sum := s.sum
	claim, err := s.bytes(sumSize)
	if err != nil {
		return err
	}
	if count != n || binary.BigEndian.Uint32(claim) != sum {
		return fmt.Errorf("%w: %d entries with checksum %08x, it claims %d with %08x", ErrDamaged, n, sum, count, binary.BigEndian.Uint32(claim))
	}
	if _, err := s.r.ReadByte(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something stands behind its end", ErrDamaged)
	}
	return nil
}

func (s *snapshotReader) framed() ([]byte, error) {
	n, err := s.number()
	if err != nil {
		return nil, err
	}
	if n > maxEntry {
		return nil, fmt.Errorf("%w: an entry of %d bytes", ErrDamaged, n)
	}
	return s.bytes(int(n))
}

func (s *snapshotReader) bytes(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(s.r, b); err != nil {
		return nil, fmt.Errorf("%w: it is cut off: %w", ErrDamaged, err)
	}
	s.sum = updateSum(s.sum, b)
	return b, nil
}

func (s *snapshotReader) number() (uint64, error) {
	var b []byte
	for len(b) < binary.MaxVarintLen64 {
		c, err := s.r.ReadByte()
		if err != nil {
			return 0, fmt.Errorf("%w: it is cut off: %w", ErrDamaged, err)
		}
		if b = append(b, c); c < 0x80 {
			break
		}
	}
	s.sum = updateSum(s.sum, b)
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, fmt.Errorf("%w: a number without an end", ErrDamaged)
	}
	return v, nil
}

// Verify reads a whole snapshot of a lane and says what it holds, without
// keeping it.
func Verify(key LaneKey, from io.Reader) (Snapshotted, error) {
	fail := func(err error) (Snapshotted, error) {
		return Snapshotted{}, fmt.Errorf("verify snapshot of lane %s: %w", key, err)
	}
	prefix, err := key.prefix()
	if err != nil {
		return fail(err)
	}
	var r restorer
	blocks := 0
	if err := r.snapshot(from, prefix, func(entry) error { blocks++; return nil }); err != nil {
		return fail(err)
	}
	m := r.finish(nil)
	info := Snapshotted{Blocks: blocks - 1}
	info.Source, info.Target = m.Next()
	return info, nil
}
