package offsetmap

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/starferry/starferry"
)

func snapshot(t require.TestingT, s *Store, k LaneKey) []byte {
	var b bytes.Buffer
	_, err := s.Snapshot(k, &b)
	require.NoError(t, err)
	return b.Bytes()
}

// What a snapshot brings to another store agrees with the slice as it was, and
// goes on growing as the first does.
func TestARestoredLaneAgreesWithASlice(t *testing.T) {
	here, there := openStore(t, t.TempDir()), openStore(t, t.TempDir())
	lanes := starferry.Partition(0)
	rapid.Check(t, func(t *rapid.T) {
		lanes++
		k := key(lanes)
		l := openLane(t, here, k)
		defer func() { _ = l.Close() }()
		o := begin(t)
		require.NoError(t, l.Reset(o.first, o.end))
		for range rapid.IntRange(0, 4).Draw(t, "rounds") {
			grow(t, o, l)
		}
		require.NoError(t, l.Flush())
		b := snapshot(t, here, k)
		other := openLane(t, there, k)
		defer func() { _ = other.Close() }()
		require.NoError(t, other.Restore(bytes.NewReader(b)))
		agrees(t, o, other)
		for range rapid.IntRange(0, 2).Draw(t, "more rounds") {
			grow(t, o, other)
		}
		require.NoError(t, other.Close())
		other = openLane(t, there, k)
		agrees(t, o, other)
		require.ErrorIs(t, other.Restore(bytes.NewReader(b)), ErrOrder, "only a lane without a start is filled")
	})
}

func TestSnapshotOfNothing(t *testing.T) {
	s := openStore(t, t.TempDir())
	_, err := s.Snapshot(key(1), &bytes.Buffer{})
	require.ErrorIs(t, err, ErrNotBegun)
	l := openLane(t, s, key(1))
	require.NoError(t, l.Reset(7, 9))
	b := snapshot(t, s, key(1))
	other := openLane(t, openStore(t, t.TempDir()), key(1))
	require.NoError(t, other.Restore(bytes.NewReader(b)))
	source, target := other.Next()
	require.Equal(t, []starferry.Offset{7, 9}, []starferry.Offset{source, target})
}

// A snapshot that is cut off, changed, or of another lane or life is refused,
// and the lane is as empty as before.
func TestDamagedSnapshotsAreRefused(t *testing.T) {
	s := openStore(t, t.TempDir())
	l := openLane(t, s, key(1))
	require.NoError(t, l.Reset(0, 0))
	compacted(t, l, 400)
	require.NoError(t, l.Flush())
	whole := snapshot(t, s, key(1))
	there := openStore(t, t.TempDir())
	refused := func(what string, k LaneKey, b []byte) {
		t.Helper()
		l := openLane(t, there, k)
		require.ErrorIs(t, l.Restore(bytes.NewReader(b)), ErrDamaged, what)
		require.False(t, l.Begun(), what)
		require.NoError(t, l.Close())
		require.Empty(t, stored(t, there, k), what)
	}
	for i := range whole {
		bad := bytes.Clone(whole)
		bad[i] ^= 1 << (i % 8)
		if i >= 4 && i <= 6 { // zstd's frame header: may say the same in another way
			continue
		}
		refused("a flipped bit", key(1), bad)
		refused("cut off", key(1), whole[:i])
	}
	refused("more behind it", key(1), append(bytes.Clone(whole), whole...))
	refused("another partition", key(2), whole)
	other := key(1)
	other.Incarnation = "id2"
	refused("another life of the topic", other, whole)
	require.NoError(t, openLane(t, there, key(1)).Restore(bytes.NewReader(whole)))
}

// A store that is damaged gives no snapshot.
func TestADamagedLaneIsNotSnapshotted(t *testing.T) {
	s := openStore(t, t.TempDir())
	l := openLane(t, s, key(1))
	require.NoError(t, l.Reset(0, 0))
	compacted(t, l, 200)
	require.NoError(t, l.Flush())
	entries := stored(t, s, key(1))
	require.NoError(t, s.write([]entry{{entries[1].key, entries[2].value}}))
	_, err := s.Snapshot(key(1), &bytes.Buffer{})
	require.ErrorIs(t, err, ErrDamaged)
}

// Trim takes whole blocks that nobody can read on either side, and nothing else.
func TestTrimKeepsWhatEitherLogStillHas(t *testing.T) {
	s := openStore(t, t.TempDir())
	l := openLane(t, s, key(1))
	require.NoError(t, l.Reset(0, 0))
	compacted(t, l, 1000) // 2000 segments: 128 in a block, of 64 runs
	for _, c := range []struct{ source, target, from starferry.Offset }{
		{0, 0, 0}, {127, 64, 0}, {2000, 63, 0}, {128, 1000, 128}, {1000, 300, 512}, {600, 1000, 512}, {5000, 5000, 1920},
	} {
		from, err := l.Trim(c.source, c.target)
		require.NoError(t, err)
		require.Equal(t, c.from, from, "%+v", c)
		start, _ := l.Start()
		require.Equal(t, c.from, start)
		a, err := l.Forward(c.from)
		require.NoError(t, err)
		require.Equal(t, starferry.Answer{Offset: c.from / 2, Status: starferry.Exact}, a)
	}
	require.NoError(t, l.Close())
	l = openLane(t, s, key(1))
	require.Equal(t, 0, l.Blocks())
	there := openLane(t, openStore(t, t.TempDir()), key(1))
	require.NoError(t, there.Restore(bytes.NewReader(snapshot(t, s, key(1)))))
	start, _ := there.Start()
	require.Equal(t, starferry.Offset(1920), start)
}

func FuzzRestore(f *testing.F) {
	s := openStore(f, f.TempDir())
	l := openLane(f, s, key(1))
	require.NoError(f, l.Reset(0, 0))
	compacted(f, l, 150)
	require.NoError(f, l.Flush())
	f.Add(snapshot(f, s, key(1)))
	f.Add([]byte(snapshotMagic))
	there := openStore(f, f.TempDir())
	f.Fuzz(func(t *testing.T, b []byte) {
		l := openLane(t, there, key(1))
		err := l.Restore(bytes.NewReader(b))
		require.Equal(t, err == nil, l.Begun())
		if err == nil {
			next, _ := l.Next()
			require.GreaterOrEqual(t, next, starferry.Offset(0))
		}
		require.NoError(t, l.Close())
		require.NoError(t, there.Remove(key(1)))
	})
}
