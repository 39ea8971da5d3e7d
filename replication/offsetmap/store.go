package offsetmap

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"github.com/starferry/starferry"
)

// Options of a store.
type Options struct {
	Logger *slog.Logger // nil: discard
}

// Store keeps the maps of many lanes in one Badger directory. It is safe for
// concurrent use.
//
// Writes reach the operating system with Flush and the disk some time later:
// a killed process loses what it had not flushed, a machine that loses power
// some of what it had. Both are read back from the target log.
type Store struct {
	db   *badger.DB
	dir  string
	seed maphash.Seed
	// cache holds blocks that were read, whoever hashes to a place last.
	cache [cacheSize]atomic.Pointer[cached]

	// flushing is held while several lanes are, so that two callers cannot wait
	// for each other.
	flushing sync.Mutex
	ids      atomic.Uint64 // lanes ever opened or reset

	mu      sync.Mutex
	lanes   map[string]*Lane // by prefix
	opening map[string]bool
	closed  bool

	// changing is held for a moment, with a lane's mu.
	changing sync.Mutex
	changed  map[*Lane]bool // those that have something to be written
}

// cacheSize blocks of about 4 KB are at most 4 MB for all lanes together.
const cacheSize = 1024

type cached struct {
	lane   uint64
	source starferry.Offset
	block  *block
}

// Badger's own sizes, small because 10,000 lanes that copy in order have little
// to say: bytes.
const (
	memTableSize   = 8 << 20
	valueLogSize   = 16 << 20
	valueThreshold = 64 << 10
)

// OpenStore opens or creates a store. A directory that cannot be read is
// ErrDamaged, one that another process has open ErrInUse.
func OpenStore(dir string, o Options) (*Store, error) {
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	db, err := openBadger(badgerOptions(dir, log))
	if err != nil && strings.Contains(err.Error(), "directory lock") {
		return nil, fmt.Errorf("open offset store %s: %w by another process; stop that shard or give this one its own directory: %w", dir, ErrInUse, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open offset store %s: %w: %w; if the directory's disk and rights are in order, delete it: its maps are rebuilt from the target log",
			dir, ErrDamaged, err)
	}
	return &Store{db: db, dir: dir, seed: maphash.MakeSeed(), lanes: map[string]*Lane{}, opening: map[string]bool{}, changed: map[*Lane]bool{}}, nil
}

func badgerOptions(dir string, log *slog.Logger) badger.Options {
	return badger.DefaultOptions(dir).
		WithLogger(bridge{log.With("store", dir)}).
		WithSyncWrites(false).
		WithDetectConflicts(false).
		WithMetricsEnabled(false).
		WithNumVersionsToKeep(1).
		WithMemTableSize(memTableSize).
		WithNumMemtables(2).
		WithNumLevelZeroTables(2).
		WithNumLevelZeroTablesStall(6).
		WithNumCompactors(2).
		WithNumGoroutines(1).
		WithValueLogFileSize(valueLogSize).
		WithValueThreshold(valueThreshold).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithChecksumVerificationMode(options.OnTableAndBlockRead)
}

// openBadger turns the panics that Badger has for some damaged directories
// into errors.
func openBadger(o badger.Options) (db *badger.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			db, err = nil, fmt.Errorf("badger: %v", p)
		}
	}()
	return badger.Open(o)
}

// bridge hands Badger's log on; what it calls information is for debugging.
type bridge struct{ log *slog.Logger }

func (b bridge) Errorf(f string, a ...any)   { b.log.Error(strings.TrimSpace(fmt.Sprintf(f, a...))) }
func (b bridge) Warningf(f string, a ...any) { b.log.Warn(strings.TrimSpace(fmt.Sprintf(f, a...))) }
func (b bridge) Infof(f string, a ...any)    { b.log.Debug(strings.TrimSpace(fmt.Sprintf(f, a...))) }
func (b bridge) Debugf(f string, a ...any)   { b.log.Debug(strings.TrimSpace(fmt.Sprintf(f, a...))) }

// Lane opens a lane and verifies all of it. One that is new has no start:
// Begun is false until Reset. One that is damaged is ErrDamaged; Remove it, open
// it again, and rebuild it. A lane has one owner at a time: a second one is
// ErrInUse.
func (s *Store) Lane(key LaneKey) (*Lane, error) {
	prefix, err := key.prefix()
	if err != nil {
		return nil, fmt.Errorf("open lane: %w", err)
	}
	if err := s.reserve(prefix); err != nil {
		return nil, fmt.Errorf("open lane %s in %s: %w", key, s.dir, err)
	}
	l := &Lane{store: s, key: key, prefix: prefix, id: s.ids.Add(1)}
	l.m.load = l.load
	err = l.restore()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.opening, string(prefix))
	if err == nil && s.closed {
		err = ErrClosed
	}
	if err != nil {
		return nil, fmt.Errorf("open lane %s in %s: %w", key, s.dir, err)
	}
	s.lanes[string(prefix)] = l
	return l, nil
}

// reserve keeps others from a lane while it is opened, which may take a while.
func (s *Store) reserve(prefix []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.free(prefix); err != nil {
		return err
	}
	s.opening[string(prefix)] = true
	return nil
}

func (s *Store) free(prefix []byte) error {
	switch {
	case s.closed:
		return ErrClosed
	case s.opening[string(prefix)] || s.lanes[string(prefix)] != nil:
		return ErrInUse
	}
	return nil
}

// Lanes lists the stored lanes of a link in order, or of all links for "".
func (s *Store) Lanes(link starferry.LinkName) ([]LaneKey, error) {
	var keys []LaneKey
	var want []byte
	if link != "" {
		want = append([]byte(link), 0)
	}
	err := s.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: want})
		defer it.Close()
		for it.Seek(want); it.Valid(); {
			key, prefix, ok := parsePrefix(it.Item().KeyCopy(nil))
			if !ok {
				return fmt.Errorf("%w: a key of no lane", ErrDamaged)
			}
			keys = append(keys, key)
			it.Seek(append(prefix, kindEnd))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list lanes in %s: %w", s.dir, err)
	}
	return keys, nil
}

// Remove deletes a lane that is not open. Removing an unknown one is no error.
func (s *Store) Remove(key LaneKey) error {
	prefix, err := key.prefix()
	if err != nil {
		return fmt.Errorf("remove lane: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.free(prefix); err != nil {
		return fmt.Errorf("remove lane %s: close it first: %w", key, err)
	}
	// Blocks go first: without its header a rest of them is damage, never a
	// shorter map.
	blocks, err := s.keys(append(bytes.Clone(prefix), kindBlock), nil)
	if err == nil {
		err = s.write(deletions(append(blocks, headerKey(prefix))))
	}
	if err != nil {
		return fmt.Errorf("remove lane %s in %s: %w", key, s.dir, err)
	}
	return nil
}

// Flush writes what all open lanes have gathered. It is what a shard calls with
// each batch of acknowledgements. Lanes that have nothing to be written cost
// nothing.
func (s *Store) Flush() error {
	s.changing.Lock()
	lanes := slices.Collect(maps.Keys(s.changed))
	s.changing.Unlock()
	return s.flush(lanes)
}

// list notes whether a lane has something to be written.
func (s *Store) list(l *Lane, changed bool) {
	s.changing.Lock()
	defer s.changing.Unlock()
	if changed {
		s.changed[l] = true
	} else {
		delete(s.changed, l)
	}
}

// flush writes several lanes at once.
func (s *Store) flush(lanes []*Lane) error {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	var all []entry
	var taken []*Lane
	for _, l := range lanes {
		// The lane's writes keep their order: nobody else flushes it meanwhile.
		l.flushing.Lock()
		defer l.flushing.Unlock()
		if entries := l.gather(); len(entries) > 0 {
			all, taken = append(all, entries...), append(taken, l)
		}
	}
	if len(all) == 0 {
		return nil
	}
	if err := s.write(all); err != nil {
		return fmt.Errorf("flush %d lanes to %s: %w", len(taken), s.dir, err)
	}
	for _, l := range taken {
		l.flushed()
	}
	return nil
}

// Close flushes and closes all lanes and the store.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	lanes := slices.Collect(maps.Values(s.lanes))
	s.mu.Unlock()
	err := s.flush(lanes)
	for _, l := range lanes {
		l.end()
	}
	if err := errors.Join(err, s.db.Close()); err != nil {
		return fmt.Errorf("close offset store %s: %w", s.dir, err)
	}
	return nil
}

// entry is a write; no value deletes.
type entry struct{ key, value []byte }

func deletions(keys [][]byte) []entry {
	entries := make([]entry, len(keys))
	for i, k := range keys {
		entries[i].key = k
	}
	return entries
}

// write writes in order: what a crash leaves of it is a front part.
func (s *Store) write(entries []entry) error {
	txn := s.db.NewTransaction(true)
	defer func() { txn.Discard() }()
	put := func(e entry) error {
		if e.value == nil {
			return txn.Delete(e.key)
		}
		return txn.Set(e.key, e.value)
	}
	for _, e := range entries {
		err := put(e)
		if errors.Is(err, badger.ErrTxnTooBig) {
			if err := txn.Commit(); err != nil {
				return err
			}
			txn = s.db.NewTransaction(true)
			err = put(e)
		}
		if err != nil {
			return err
		}
	}
	return txn.Commit()
}

// keys lists the keys with a prefix that match; nil matches all.
func (s *Store) keys(prefix []byte, match func(key []byte) bool) ([][]byte, error) {
	var keys [][]byte
	err := s.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			if key := it.Item().KeyCopy(nil); match == nil || match(key) {
				keys = append(keys, key)
			}
		}
		return nil
	})
	return keys, err
}

// place is where the cache keeps a block.
func (s *Store) place(lane uint64, source starferry.Offset) *atomic.Pointer[cached] {
	return &s.cache[maphash.Comparable(s.seed, [2]uint64{lane, uint64(source)})%cacheSize]
}
