package offsetmap

import (
	"bytes"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/starferry/starferry"
)

// restore reads and verifies the whole lane; only its last block stays.
func (l *Lane) restore() error {
	var r restorer
	err := l.store.db.View(func(txn *badger.Txn) error { return r.all(txn, l.prefix, nil) })
	if err == nil && r.begun {
		err = r.whole()
	}
	if err != nil {
		return fmt.Errorf("%w; remove the lane, it is rebuilt from the target log", err)
	}
	if r.begun {
		l.adopt(&r)
	}
	return nil
}

// adopt makes the lane what was restored.
func (l *Lane) adopt(r *restorer) {
	l.generation = r.header.generation
	l.m = r.finish(l.m.load)
	l.sum = r.before
	if r.last == nil {
		l.sum = r.header.before
	}
}

// restorer checks a lane's entries in the order of their keys.
type restorer struct {
	begun  bool
	header header
	refs   []ref
	last   *block // becomes the open one
	before uint32 // checksum in front of it
	sum    uint32 // its own
	kept   bool   // whether the entry before was one that counts
}

// all reads a lane's entries as the transaction sees them, and shows those that
// count, with their keys behind the prefix.
func (r *restorer) all(txn *badger.Txn, prefix []byte, show func(tail, value []byte) error) error {
	options := badger.DefaultIteratorOptions
	options.Prefix = prefix
	it := txn.NewIterator(options)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		item := it.Item()
		key := item.KeyCopy(nil)
		var failed error // show's
		err := item.Value(func(value []byte) error {
			err := r.entry(prefix, key, value)
			if err == nil && r.kept && show != nil {
				failed = show(key[len(prefix):], value)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if failed != nil {
			return failed
		}
	}
	return nil
}

// whole reports what is wrong with the lane as a whole.
func (r *restorer) whole() error {
	m := r.finish(nil)
	// A lost tail may be the one that Forget had in sight.
	if next, _ := m.Next(); next < m.startSource {
		return fmt.Errorf("%w: it begins at source %d and ends at %d", ErrDamaged, m.startSource, next)
	}
	return nil
}

// finish is the map of what was read.
func (r *restorer) finish(load func(ref) (*block, error)) Map {
	h := r.header
	m := Map{begun: r.begun, startSource: h.startSource, startTarget: h.startTarget,
		refs: r.refs, full: map[starferry.Offset]*block{}, open: r.last, load: load}
	if m.open == nil {
		m.open = &block{source: h.first, target: h.base, uncertain: h.uncertain, passed: max(h.base, h.startTarget)}
	}
	return m
}

func (r *restorer) entry(prefix, key, value []byte) error {
	if bytes.Equal(key, headerKey(prefix)) {
		h, err := decodeHeader(key, value)
		if err != nil {
			return fmt.Errorf("its header: %w", err)
		}
		r.begun, r.kept, r.header = true, true, h
		return nil
	}
	r.kept = false
	generation, source, ok := parseBlockKey(prefix, key)
	switch {
	case !ok:
		return fmt.Errorf("a key that is no block's")
	case !r.begun:
		return fmt.Errorf("its header is missing")
	case generation > r.header.generation:
		return fmt.Errorf("a block of generation %d under a header of %d", generation, r.header.generation)
	case generation < r.header.generation || source < r.header.first:
		return nil // void, the next sweep takes it
	}
	b, before, sum, err := decodeBlock(key, value)
	if err != nil {
		return fmt.Errorf("its block at source %d: %w", source, err)
	}
	return r.block(source, b, before, sum)
}

// block checks that a block continues the one before it, or the header.
func (r *restorer) block(source starferry.Offset, b *block, before, sum uint32) error {
	h := r.header
	want, wantTarget, wantUncertain, wantBefore := h.first, h.base, h.uncertain, h.before
	if r.last != nil {
		want, wantTarget, wantBefore = r.last.sourceEnd(), r.last.targetEnd(), r.sum
		wantUncertain = r.last.uncertainAt(len(r.last.segments))
		r.refs = append(r.refs, r.last.ref())
	}
	if b.source != source || source != want || b.target != wantTarget || b.uncertain != wantUncertain || before != wantBefore {
		return fmt.Errorf("its block at source %d does not continue what is before it, up to source %d", source, want)
	}
	r.last, r.before, r.sum, r.kept = b, before, sum, true
	return nil
}
