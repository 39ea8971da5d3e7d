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
	err := l.store.db.View(func(txn *badger.Txn) error {
		options := badger.DefaultIteratorOptions
		options.Prefix = l.prefix
		it := txn.NewIterator(options)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			item := it.Item()
			key := item.KeyCopy(nil)
			if err := item.Value(func(value []byte) error { return r.entry(l.prefix, key, value) }); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w: %w; remove the lane, it is rebuilt from the target log", ErrDamaged, err)
	}
	if !r.begun {
		return nil
	}
	l.generation, l.sum = r.header.generation, r.before
	l.m = Map{begun: true, startSource: r.header.startSource, startTarget: r.header.startTarget,
		refs: r.refs, full: map[starferry.Offset]*block{}, open: r.last, load: l.m.load}
	if l.m.open == nil {
		h := r.header
		l.m.open = &block{source: h.first, target: h.base, uncertain: h.uncertain, passed: max(h.base, h.startTarget)}
		l.sum = h.before
	}
	// A lost tail may be the one that Forget had in sight.
	if next := l.m.open.sourceEnd(); next < l.m.startSource {
		return fmt.Errorf("%w: it begins at source %d and ends at %d; remove the lane, it is rebuilt from the target log",
			ErrDamaged, l.m.startSource, next)
	}
	return nil
}

// restorer checks a lane's entries in the order of their keys.
type restorer struct {
	begun  bool
	header header
	refs   []ref
	last   *block // becomes the open one
	before uint32 // checksum in front of it
	sum    uint32 // its own
}

func (r *restorer) entry(prefix, key, value []byte) error {
	if bytes.Equal(key, headerKey(prefix)) {
		h, err := decodeHeader(key, value)
		if err != nil {
			return fmt.Errorf("its header: %w", err)
		}
		r.begun, r.header = true, h
		return nil
	}
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
	r.last, r.before, r.sum = b, before, sum
	return nil
}
