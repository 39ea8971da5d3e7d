package offsetmap

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"sort"
	"sync"

	"github.com/dgraph-io/badger/v4"

	"github.com/starferry/starferry"
)

// Lane is the map of one lane in a store: for many readers and one writer at a
// time. In memory it has its open block, and a few bytes for each full one.
//
// Reading fails only if the store does; the answer is Unknown then.
type Lane struct {
	store  *Store
	key    LaneKey
	prefix []byte

	// flushing is held while the lane is written, and taken before mu.
	flushing sync.Mutex

	mu         sync.RWMutex
	m          Map
	id         uint64 // new with every Reset, so that the cache forgets
	generation uint32
	sum        uint32 // checksum of the last full block that is written
	changes    uint64 // counts what was added
	written    uint64 // changes that are written
	listed     bool   // the store knows that they differ
	taken      taken
	closed     bool
}

// taken is what the flush under way carries.
type taken struct {
	blocks  int
	sum     uint32
	changes uint64
}

// maxFresh full blocks in memory make an addition write them.
const maxFresh = 64

// Key is the lane's name.
func (l *Lane) Key() LaneKey { return l.key }

// Begun reports whether the lane has a start.
func (l *Lane) Begun() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.m.begun
}

// Start is the first position the map remembers.
func (l *Lane) Start() (source, target starferry.Offset) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.m.Start()
}

// Front is the first position the map remembers; see Map.Front.
func (l *Lane) Front() (source, target starferry.Offset, unsure bool, err error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.m.Front()
}

// Next is where the copy stands; see Map.Next. After opening it says how far
// the stored map goes: the shard reads the target back from there.
func (l *Lane) Next() (source, target starferry.Offset) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.m.Next()
}

// Append adds copied records; see Map.Append.
func (l *Lane) Append(r Run) error { return l.change(func(m *Map) error { return m.Append(r) }) }

// Hole adds source offsets [from, to) that have no copy; see Map.Hole.
func (l *Lane) Hole(from, to starferry.Offset, why starferry.Reason) error {
	return l.change(func(m *Map) error { return m.Hole(from, to, why) })
}

// MarkUnknown adds source offsets [from, to) of which nothing can be proven.
func (l *Lane) MarkUnknown(from, to starferry.Offset) error {
	return l.change(func(m *Map) error { return m.MarkUnknown(from, to) })
}

// Pass notes target offsets without copies; see Map.Pass.
func (l *Lane) Pass(target starferry.Offset) error {
	return l.change(func(m *Map) error { return m.Pass(target) })
}

// change adds to the map in memory. Only a lane that grows by thousands of
// segments between flushes writes here; if that fails, the addition stands.
func (l *Lane) change(add func(*Map) error) error {
	l.mu.Lock()
	err := l.usable()
	if err == nil {
		err = add(&l.m)
	}
	if err == nil {
		l.changes++
		l.list()
	}
	full := len(l.m.fresh) >= maxFresh
	l.mu.Unlock()
	if err != nil {
		return fmt.Errorf("lane %s: %w", l.key, err)
	}
	if full {
		return l.Flush()
	}
	return nil
}

// list tells the store when the lane comes to have something to be written, or
// has nothing any more. The lane is locked.
func (l *Lane) list() {
	if changed := l.changes != l.written && !l.closed; changed != l.listed {
		l.listed = changed
		l.store.list(l, changed)
	}
}

func (l *Lane) usable() error {
	if l.closed {
		return ErrClosed
	}
	return nil
}

// Forward says where the copy of the record at a source offset is.
func (l *Lane) Forward(o starferry.Offset) (starferry.Answer, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if err := l.usable(); err != nil {
		return dontKnow(), fmt.Errorf("lane %s: %w", l.key, err)
	}
	return l.m.forward(o)
}

// Back says of which source record the target record is the copy.
func (l *Lane) Back(o starferry.Offset) (starferry.Answer, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if err := l.usable(); err != nil {
		return dontKnow(), fmt.Errorf("lane %s: %w", l.key, err)
	}
	return l.m.back(o)
}

// TranslateForward translates a place on the source; see Map.TranslateForward.
func (l *Lane) TranslateForward(p starferry.Place) (Translated, error) {
	return l.translate(p, (*Map).TranslateForward)
}

// TranslateBack translates a place on the target; see Map.TranslateBack.
func (l *Lane) TranslateBack(p starferry.Place) (Translated, error) {
	return l.translate(p, (*Map).TranslateBack)
}

func (l *Lane) translate(p starferry.Place, way func(*Map, starferry.Place) (Translated, error)) (Translated, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	t, err := Translated{Place: starferry.Place{Next: starferry.NoOffset}, Answer: dontKnow()}, l.usable()
	if err == nil {
		t, err = way(&l.m, p)
	}
	if err != nil {
		return t, fmt.Errorf("lane %s: %w", l.key, err)
	}
	return t, nil
}

// Segments walks the map in source order; see Map.Segments. The lane's writer
// waits meanwhile, and the loop must not call the lane.
func (l *Lane) Segments(from starferry.Offset) iter.Seq2[Segment, error] {
	return func(yield func(Segment, error) bool) {
		l.mu.RLock()
		defer l.mu.RUnlock()
		if err := l.usable(); err != nil {
			yield(Segment{}, fmt.Errorf("lane %s: %w", l.key, err))
			return
		}
		l.m.Segments(from)(yield)
	}
}

// Reset empties the lane and begins it; see Map.Reset. It is written at once.
func (l *Lane) Reset(source, target starferry.Offset) error {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	l.mu.Lock()
	err := l.usable()
	if err == nil {
		err = l.m.Reset(source, target)
	}
	if err == nil {
		l.generation++
		l.sum, l.changes, l.written = 0, 0, 0
		l.id = l.store.ids.Add(1)
		l.list()
	}
	h := l.header(0)
	l.mu.Unlock()
	if err == nil {
		// The header makes the old blocks void; deleting them is only tidy.
		key := headerKey(l.prefix)
		err = l.store.write([]entry{{key, h.encode(key)}})
	}
	if err == nil {
		err = l.sweep(h)
	}
	if err != nil {
		return fmt.Errorf("reset lane %s: %w", l.key, err)
	}
	return nil
}

// Forget makes the map begin at a source offset; see Map.Forget. Stored blocks
// that lie below it as a whole are deleted.
func (l *Lane) Forget(below starferry.Offset) error {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	h, err := l.forget(below)
	if err == nil {
		key := headerKey(l.prefix)
		err = l.store.write([]entry{{key, h.encode(key)}})
	}
	if err == nil {
		err = l.sweep(h)
	}
	if err != nil {
		return fmt.Errorf("lane %s: %w", l.key, err)
	}
	return nil
}

// Trim forgets the blocks that lie below a source offset and below a target
// offset as a whole, such as the starts of both logs: nobody can read there any
// more. It returns from which source offset on the map remembers.
func (l *Lane) Trim(source, target starferry.Offset) (starferry.Offset, error) {
	l.mu.RLock()
	from, _ := l.m.Start()
	below := from
	if !l.m.begun {
		l.mu.RUnlock()
		return from, nil
	}
	j := sort.Search(len(l.m.refs), func(j int) bool { return l.m.refs[j].source > source || l.m.refs[j].target > target })
	switch open := l.m.open; {
	case open.source <= source && open.target <= target:
		below = max(below, open.source)
	case j > 0:
		below = max(below, l.m.refs[j-1].source)
	}
	l.mu.RUnlock()
	if below == from {
		return from, nil
	}
	return below, l.Forget(below)
}

// Blocks is how many full blocks the lane has.
func (l *Lane) Blocks() int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.m.refs)
}

// forget writes what is gathered, so that the new first block is stored before
// the header that names it, and makes the map shorter.
func (l *Lane) forget(below starferry.Offset) (header, error) {
	if err := l.store.write(l.gather()); err != nil {
		return header{}, err
	}
	l.flushed()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return header{}, err
	}
	if len(l.m.fresh) > 0 {
		return header{}, fmt.Errorf("forget below source %d: another owner adds to the lane", below)
	}
	if err := l.m.Forget(below); err != nil {
		return header{}, err
	}
	if len(l.m.refs) == 0 {
		return l.header(l.sum), nil
	}
	_, before, _, err := l.read(l.m.refs[0].source)
	return l.header(before), err
}

// header is what is stored of the map beside its blocks, with the checksum in
// front of the first block.
func (l *Lane) header(before uint32) header {
	h := header{generation: l.generation, startSource: l.m.startSource, startTarget: l.m.startTarget, before: before}
	first := l.m.open
	if first == nil {
		return h
	}
	h.first, h.base, h.uncertain = first.source, first.target, first.uncertain
	if len(l.m.refs) > 0 {
		h.first, h.base, h.uncertain = l.m.refs[0].source, l.m.refs[0].target, l.m.refs[0].uncertain
	}
	return h
}

// sweep deletes blocks that the header made void.
func (l *Lane) sweep(h header) error {
	keys, err := l.store.keys(append(bytes.Clone(l.prefix), kindBlock), func(key []byte) bool {
		generation, source, ok := parseBlockKey(l.prefix, key)
		return ok && (generation < h.generation || generation == h.generation && source < h.first)
	})
	if err != nil || len(keys) == 0 {
		return err
	}
	return l.store.write(deletions(keys))
}

// Flush writes what was gathered. A failed one is made up by the next.
func (l *Lane) Flush() error {
	if err := l.store.flush([]*Lane{l}); err != nil {
		return fmt.Errorf("lane %s: %w", l.key, err)
	}
	return nil
}

// gather encodes what is not written: full blocks, then the open one.
func (l *Lane) gather() []entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken = taken{sum: l.sum, changes: l.written}
	if l.changes == l.written || l.closed {
		return nil
	}
	l.taken = taken{blocks: len(l.m.fresh), sum: l.sum, changes: l.changes}
	var entries []entry
	put := func(b *block, before uint32) uint32 {
		key := blockKey(l.prefix, l.generation, b.source)
		value, sum := b.encode(key, before)
		entries = append(entries, entry{key, value})
		return sum
	}
	for _, b := range l.m.fresh {
		l.taken.sum = put(b, l.taken.sum)
	}
	put(l.m.open, l.taken.sum)
	return entries
}

// flushed notes that what was gathered is written.
func (l *Lane) flushed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.m.fresh[:l.taken.blocks] {
		delete(l.m.full, b.source)
	}
	l.m.fresh = append([]*block(nil), l.m.fresh[l.taken.blocks:]...)
	l.sum, l.written = l.taken.sum, l.taken.changes
	l.list()
}

// Close flushes and closes the lane.
func (l *Lane) Close() error {
	err := l.Flush()
	l.end()
	return err
}

// end makes the lane unusable.
func (l *Lane) end() {
	l.store.mu.Lock()
	if l.store.lanes[string(l.prefix)] == l {
		delete(l.store.lanes, string(l.prefix))
	}
	l.store.mu.Unlock()
	l.mu.Lock()
	l.closed = true
	l.list()
	l.mu.Unlock()
}

// load finds a full block that is not in memory. The map is locked.
func (l *Lane) load(r ref) (*block, error) {
	place := l.store.place(l.id, r.source)
	if c := place.Load(); c != nil && c.lane == l.id && c.source == r.source {
		return c.block, nil
	}
	b, _, _, err := l.read(r.source)
	if err != nil {
		return nil, err
	}
	place.Store(&cached{l.id, r.source, b})
	return b, nil
}

// read reads a stored block with its checksums.
func (l *Lane) read(source starferry.Offset) (b *block, before, sum uint32, err error) {
	key := blockKey(l.prefix, l.generation, source)
	err = l.store.db.View(func(txn *badger.Txn) error {
		item, err := txn.Get(key)
		if err != nil {
			return err
		}
		return item.Value(func(value []byte) error {
			if b, before, sum, err = decodeBlock(key, value); err == nil && b.source != source {
				err = fmt.Errorf("it is the block of source %d", b.source)
			}
			if err != nil {
				return fmt.Errorf("%w: %w", ErrDamaged, err)
			}
			return nil
		})
	})
	if errors.Is(err, badger.ErrKeyNotFound) {
		err = ErrDamaged
	}
	if err != nil {
		return nil, 0, 0, fmt.Errorf("read block at source %d of lane %s: %w", source, l.key, err)
	}
	return b, before, sum, nil
}
