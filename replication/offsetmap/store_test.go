package offsetmap

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/starferry/starferry"
)

func TestMain(m *testing.M) {
	// Badger leaves these behind when it fails to open a damaged directory; a
	// store that is not closed shows by its others.
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/dgraph-io/badger/v4.(*DB).monitorCache"),
		goleak.IgnoreTopFunction("github.com/dgraph-io/ristretto/v2/z.(*AllocatorPool).freeupAllocators"))
}

func key(partition starferry.Partition) LaneKey {
	return LaneKey{"link", starferry.TopicPartition{Topic: "orders", Partition: partition}, "id1"}
}

func openStore(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := OpenStore(dir, Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func openLane(t require.TestingT, s *Store, k LaneKey) *Lane {
	l, err := s.Lane(k)
	require.NoError(t, err)
	return l
}

// compacted appends runs of one record with a hole behind each.
func compacted(t testing.TB, l *Lane, runs int) {
	t.Helper()
	for range runs {
		source, target := l.Next()
		require.NoError(t, l.Append(Run{source, target, 1}))
		require.NoError(t, l.Hole(source+1, source+2, starferry.Compacted))
	}
}

// agrees compares a lane with the slice, up to where the lane goes.
func agrees(t require.TestingT, o *oracle, l *Lane) {
	for s := starferry.Offset(0); s < o.next()+2; s++ {
		a, err := l.Forward(s)
		require.NoError(t, err)
		require.Equal(t, o.forward(s), a, "forward %d", s)
	}
	for p := starferry.Offset(0); p < o.passed+2; p++ {
		a, err := l.Back(p)
		require.NoError(t, err)
		require.Equal(t, o.back(p), a, "back %d", p)
	}
}

func TestLaneAgreesWithASliceAcrossReopening(t *testing.T) {
	s := openStore(t, t.TempDir())
	lanes := starferry.Partition(0)
	rapid.Check(t, func(t *rapid.T) {
		lanes++
		k := key(lanes)
		l := openLane(t, s, k)
		defer func() { _ = l.Close() }()
		for range rapid.IntRange(1, 2).Draw(t, "lives") {
			o := begin(t)
			require.NoError(t, l.Reset(o.first, o.end))
			for range rapid.IntRange(0, 6).Draw(t, "rounds") {
				grow(t, o, l)
				switch rapid.IntRange(0, 3).Draw(t, "then") {
				case 0:
					require.NoError(t, l.Flush())
				case 1:
					require.NoError(t, l.Close())
					l = openLane(t, s, k)
				}
			}
			agrees(t, o, l)
		}
	})
}

func TestStoreSurvivesReopening(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenStore(dir, Options{})
	require.NoError(t, err)
	for p := range starferry.Partition(5) {
		l := openLane(t, s, key(p))
		require.False(t, l.Begun())
		require.NoError(t, l.Reset(1000, 7))
		compacted(t, l, 100*int(p))
	}
	require.NoError(t, s.Close())
	require.NoError(t, s.Close(), "closing again is no error")

	s = openStore(t, dir)
	keys, err := s.Lanes("link")
	require.NoError(t, err)
	require.Equal(t, []LaneKey{key(0), key(1), key(2), key(3), key(4)}, keys)
	none, err := s.Lanes("lin")
	require.NoError(t, err)
	require.Empty(t, none)
	for p := range starferry.Partition(5) {
		l := openLane(t, s, key(p))
		source, target := l.Next()
		require.Equal(t, starferry.Offset(1000+200*int(p)), source)
		require.Equal(t, starferry.Offset(7+100*int(p)), target)
	}
	other := key(3)
	other.Incarnation = "id2"
	require.False(t, openLane(t, s, other).Begun(), "another life of the topic is another lane")
}

func TestOneOwner(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	l := openLane(t, s, key(1))
	_, err := s.Lane(key(1))
	require.ErrorIs(t, err, ErrInUse)
	require.ErrorIs(t, s.Remove(key(1)), ErrInUse)
	_, err = OpenStore(dir, Options{})
	require.ErrorIs(t, err, ErrInUse)
	require.NotErrorIs(t, err, ErrDamaged, "it must not be deleted")
	require.NoError(t, l.Close())
	require.ErrorIs(t, l.Append(Run{0, 0, 1}), ErrClosed)
	_, err = l.Forward(0)
	require.ErrorIs(t, err, ErrClosed)
	_, err = s.Lane(LaneKey{Link: "a\x00b"})
	require.ErrorContains(t, err, "zero bytes")
	openLane(t, s, key(1))
}

// stored is what the store has of a lane: header first, then blocks.
func stored(t testing.TB, s *Store, k LaneKey) []entry {
	t.Helper()
	return storedOf(t, s, k)
}

func storedOf(t require.TestingT, s *Store, k LaneKey) []entry {
	prefix, err := k.prefix()
	require.NoError(t, err)
	var entries []entry
	require.NoError(t, s.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			value, err := it.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			entries = append(entries, entry{it.Item().KeyCopy(nil), value})
		}
		return nil
	}))
	return entries
}

func TestDamageIsRefused(t *testing.T) {
	s := openStore(t, t.TempDir())
	l := openLane(t, s, key(1))
	require.NoError(t, l.Reset(0, 0))
	compacted(t, l, 100)
	require.NoError(t, l.Flush())
	young := stored(t, s, key(1))
	compacted(t, l, 200)
	require.NoError(t, l.Close())
	whole := stored(t, s, key(1))
	require.Len(t, whole, 1+5, "a header, and 600 segments in blocks of 128")

	refused := func(what string, damage ...entry) {
		t.Helper()
		require.NoError(t, s.write(damage))
		_, err := s.Lane(key(1))
		require.ErrorIs(t, err, ErrDamaged, what)
		require.ErrorContains(t, err, "remove the lane", what)
		require.NoError(t, s.write(whole))
	}
	for _, e := range whole {
		for i := range e.value {
			bad := append([]byte(nil), e.value...)
			bad[i] ^= 1 << (i % 8)
			refused("a flipped bit", entry{e.key, bad})
		}
		refused("a short value", entry{e.key, e.value[:len(e.value)/2]})
		refused("an empty value", entry{e.key, []byte{}})
	}
	for _, e := range whole[:5] {
		refused("a missing entry", entry{e.key, nil})
	}
	refused("a block as it once was", young[len(young)-1])
	refused("a block in another's place", entry{whole[2].key, whole[3].value})

	require.NoError(t, s.write([]entry{{whole[5].key, nil}}))
	l = openLane(t, s, key(1))
	source, _ := l.Next()
	require.Equal(t, starferry.Offset(512), source, "only the newest writes may be missing")
	require.NoError(t, l.Close())

	refused("for removal", entry{whole[0].key, nil})
	require.NoError(t, s.write([]entry{{whole[0].key, nil}}))
	require.NoError(t, s.Remove(key(1)))
	require.Empty(t, stored(t, s, key(1)))
	l = openLane(t, s, key(1))
	require.False(t, l.Begun())
	require.NoError(t, l.Reset(0, 0))
}

// A block that is whole in itself, and covers the same offsets, but is of
// another history: only the chain can tell.
func TestForeignBlockIsRefused(t *testing.T) {
	history := func(why starferry.Reason) (*Store, []entry) {
		s := openStore(t, t.TempDir())
		l := openLane(t, s, key(1))
		require.NoError(t, l.Reset(0, 0))
		compacted(t, l, 100)
		source, _ := l.Next()
		require.NoError(t, l.Append(Run{source, 100, 1}))
		require.NoError(t, l.Hole(source+1, source+2, why))
		compacted(t, l, 100)
		require.NoError(t, l.Close())
		return s, stored(t, s, key(1))
	}
	s, ours := history(starferry.Control)
	_, theirs := history(starferry.Aborted)
	require.Equal(t, ours[2].key, theirs[2].key)
	require.NotEqual(t, ours[2].value, theirs[2].value)
	require.NoError(t, s.write(theirs[2:3]))
	_, err := s.Lane(key(1))
	require.ErrorIs(t, err, ErrDamaged)
	require.ErrorContains(t, err, "does not continue")
}

func TestDamageWhileOpenIsUnknown(t *testing.T) {
	s := openStore(t, t.TempDir())
	l := openLane(t, s, key(1))
	require.NoError(t, l.Reset(0, 0))
	compacted(t, l, 200)
	require.NoError(t, l.Flush())
	entries := stored(t, s, key(1))
	require.NoError(t, s.write([]entry{{entries[1].key, entries[2].value}}))
	a, err := l.Forward(2)
	require.ErrorIs(t, err, ErrDamaged)
	require.Equal(t, dontKnow(), a)
	place, err := l.TranslateBack(starferry.Place{Next: 2})
	require.ErrorIs(t, err, ErrDamaged)
	require.False(t, place.Final())
	require.Equal(t, starferry.NoOffset, place.Place.Next)
}

// copyFiles copies a store's files as they are, as a killed process leaves them.
func copyFiles(t testing.TB, from, to string) {
	t.Helper()
	files, err := os.ReadDir(from)
	require.NoError(t, err)
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(from, f.Name()))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(to, f.Name()), data, 0o600))
	}
}

// memtable is the file that has the newest writes.
func memtable(t testing.TB, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	return files[len(files)-1]
}

func TestLostTailIsShorterAndRight(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	l := openLane(t, s, key(1))
	require.NoError(t, l.Reset(0, 0))
	o := &oracle{}
	for range 150 {
		source, target := l.Next()
		require.NoError(t, l.Append(Run{source, target, 2}))
		o.add(copied, target, 2)
		require.NoError(t, l.Hole(source+2, source+3, starferry.Filtered))
		o.add(holeFiltered, 0, 1)
		require.NoError(t, l.Flush())
	}
	end, err := os.ReadFile(memtable(t, dir))
	require.NoError(t, err)
	used := len(end)
	for used > 0 && end[used-1] == 0 {
		used--
	}
	shorter := 0
	for cut := used; cut > 0; cut -= used/9 + 1 {
		killed := t.TempDir()
		copyFiles(t, dir, killed)
		mem := append([]byte(nil), end[:cut]...)
		require.NoError(t, os.WriteFile(memtable(t, killed), append(mem, make([]byte, len(end)-cut)...), 0o600))
		next := lostTail(t, killed, o)
		if next < o.next() {
			shorter++
		}
		if cut == used {
			require.Equal(t, o.next(), next, "a killed process loses nothing that was flushed")
		}
	}
	require.Greater(t, shorter, 5)
}

// lostTail opens a store and checks that its lane is right as far as it goes.
func lostTail(t *testing.T, dir string, o *oracle) starferry.Offset {
	t.Helper()
	s, err := OpenStore(dir, Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	l := openLane(t, s, key(1))
	next, _ := l.Next()
	front := &oracle{}
	for _, e := range o.entries[:next] {
		front.add(e.kind, e.target, 1)
	}
	agrees(t, front, l)
	return next
}

func TestDamagedDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenStore(dir, Options{})
	require.NoError(t, err)
	l := openLane(t, s, key(1))
	require.NoError(t, l.Reset(0, 0))
	compacted(t, l, 1000)
	require.NoError(t, s.Close())
	whole := t.TempDir()
	copyFiles(t, dir, whole)
	files, err := os.ReadDir(whole)
	require.NoError(t, err)
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(whole, f.Name()))
		require.NoError(t, err)
		if len(data) == 0 || filepath.Ext(f.Name()) == ".vlog" {
			continue // holds nothing of ours
		}
		for _, at := range []int{0, len(data) / 3, len(data) - 1} {
			bad := t.TempDir()
			copyFiles(t, whole, bad)
			broken := append([]byte(nil), data...)
			broken[at] ^= 0x55
			require.NoError(t, os.WriteFile(filepath.Join(bad, f.Name()), broken, 0o600))
			refusedOrWhole(t, bad, f.Name())
		}
	}
	require.NoError(t, os.WriteFile(filepath.Join(whole, "MANIFEST"), []byte("nonsense"), 0o600))
	_, err = OpenStore(whole, Options{})
	require.ErrorIs(t, err, ErrDamaged)
	require.ErrorContains(t, err, "delete it")
}

// refusedOrWhole: damage shows on opening, or it hit bytes that do not matter;
// what opens may have lost its end but is right.
func refusedOrWhole(t *testing.T, dir, file string) {
	t.Helper()
	s, err := OpenStore(dir, Options{})
	if err != nil {
		require.ErrorIs(t, err, ErrDamaged, file)
		return
	}
	defer func() { _ = s.Close() }()
	l, err := s.Lane(key(1))
	if err != nil {
		require.ErrorIs(t, err, ErrDamaged, file)
		return
	}
	for o := starferry.Offset(0); ; o += 2 {
		if next, _ := l.Next(); o >= next {
			return
		}
		a, err := l.Forward(o)
		require.True(t, errors.Is(err, ErrDamaged) || a == starferry.Answer{Offset: o / 2, Status: starferry.Exact}, "%s: %d is %+v %v", file, o, a, err)
	}
}

func TestReadersBesideTheWriter(t *testing.T) {
	s := openStore(t, t.TempDir())
	l := openLane(t, s, key(1))
	require.NoError(t, l.Reset(0, 0))
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				next, _ := l.Next()
				if next == 0 {
					continue
				}
				o := (next - 1) / 4 * 2
				a, err := l.Forward(o)
				if err != nil || a != (starferry.Answer{Offset: o / 2, Status: starferry.Exact}) {
					t.Errorf("forward %d: %+v %v", o, a, err)
					return
				}
			}
		})
	}
	readers.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				if err := s.Flush(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	compacted(t, l, 5000)
	close(done)
	readers.Wait()
}

func TestForgetKeepsTheRest(t *testing.T) {
	s := openStore(t, t.TempDir())
	l := openLane(t, s, key(1))
	require.NoError(t, l.Reset(0, 0))
	compacted(t, l, 500)
	require.NoError(t, l.Flush())
	require.Len(t, stored(t, s, key(1)), 1+8, "a header, and 1000 segments in blocks of 128")
	require.NoError(t, l.Forget(601))
	require.NoError(t, l.Close())
	require.Len(t, stored(t, s, key(1)), 1+4, "whole blocks below are deleted")
	l = openLane(t, s, key(1))
	source, target := l.Start()
	require.Equal(t, []starferry.Offset{601, 301}, []starferry.Offset{source, target})
	a, err := l.Forward(10)
	require.NoError(t, err)
	require.Equal(t, starferry.Answer{Offset: 301, Status: starferry.BeforeStart}, a)
	a, err = l.Back(400)
	require.NoError(t, err)
	require.Equal(t, starferry.Answer{Offset: 800, Status: starferry.Exact}, a)
}

func FuzzDecodeBlock(f *testing.F) {
	b := &block{source: 5, target: 7, passed: 20, segments: []segment{{5, 8, 3, copied}, {8, 11, 2, holeControl}}}
	value, _ := b.encode([]byte("k"), 17)
	f.Add(value[:len(value)-sumSize])
	f.Fuzz(func(t *testing.T, content []byte) {
		value, sum := sealed([]byte("k"), content)
		b, before, got, err := decodeBlock([]byte("k"), value)
		if err != nil {
			return
		}
		require.Equal(t, sum, got)
		again, _ := b.encode([]byte("k"), before)
		back, _, _, err := decodeBlock([]byte("k"), again)
		require.NoError(t, err)
		require.Equal(t, b, back)
	})
}

func TestAdditionsDuringAFlushAreNotLost(t *testing.T) {
	s := openStore(t, t.TempDir())
	l := openLane(t, s, key(1))
	require.NoError(t, l.Reset(0, 0))
	compacted(t, l, 200)
	require.NoError(t, s.write(l.gather()))
	compacted(t, l, 200)
	l.flushed()
	require.NoError(t, l.Close())
	source, target := openLane(t, s, key(1)).Next()
	require.Equal(t, []starferry.Offset{800, 400}, []starferry.Offset{source, target})
}

// A flush touches what has changed and nothing else: of 10,000 lanes that rest
// it costs nothing. What was not written is not forgotten either: not what came
// during a flush, not what a failed one left.
func TestOnlyWhatHasChangedIsFlushed(t *testing.T) {
	s := openStore(t, t.TempDir())
	busy, idle := openLane(t, s, key(1)), openLane(t, s, key(2))
	for _, l := range []*Lane{busy, idle} {
		require.NoError(t, l.Reset(0, 0))
	}
	require.Empty(t, s.changed, "a reset is written at once")
	compacted(t, busy, 1)
	require.Equal(t, map[*Lane]bool{busy: true}, s.changed)
	idle.mu.Lock() // whoever visits it waits
	done := make(chan error, 1)
	go func() { done <- s.Flush() }()
	require.Eventually(t, func() bool { return len(done) == 1 }, 10*time.Second, time.Millisecond, "a lane that rests was visited")
	idle.mu.Unlock()
	require.NoError(t, <-done)
	require.Empty(t, s.changed)
	compacted(t, busy, 1)
	busy.gather()
	require.Equal(t, map[*Lane]bool{busy: true}, s.changed, "gathered is not written")
	compacted(t, busy, 1)
	busy.flushed()
	require.Equal(t, map[*Lane]bool{busy: true}, s.changed, "something came meanwhile")
	require.NoError(t, busy.Flush())
	require.Empty(t, s.changed)
	compacted(t, busy, 1)
	require.NoError(t, busy.Close())
	require.Empty(t, s.changed)
}

func TestResetForgetsWhatWasRead(t *testing.T) {
	s := openStore(t, t.TempDir())
	l := openLane(t, s, key(1))
	for _, target := range []starferry.Offset{0, 5000} {
		require.NoError(t, l.Reset(0, target))
		compacted(t, l, 200)
		require.NoError(t, l.Flush())
		a, err := l.Forward(2)
		require.NoError(t, err)
		require.Equal(t, starferry.Answer{Offset: target + 1, Status: starferry.Exact}, a)
	}
}
