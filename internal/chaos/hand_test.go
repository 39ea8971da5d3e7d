package chaos

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/chaos/checker"
)

// TestHandsAreFair: all acts come before one comes again, each phase of them is
// struck, and a seed can be repeated.
func TestHandsAreFair(t *testing.T) {
	of := func(seed uint64, n int) []string {
		d, err := Hand{Seed: seed}.deals(true, handCrew()[0])
		require.NoError(t, err)
		var all []string
		for range n {
			x := d.next()
			all = append(all, x.String())
			assert.Contains(t, append([]string{""}, acts()[x.act].phases...), x.phase)
			assert.NotEqual(t, x.act, x.beside)
		}
		return all
	}
	assert.Equal(t, of(7, 50), of(7, 50))
	assert.NotEqual(t, of(7, 50), of(8, 50))
	d, err := Hand{Seed: 3}.deals(false, handCrew()[0])
	require.NoError(t, err)
	main, phases := map[string]int{}, map[string]bool{}
	for range 400 {
		x := d.next()
		main[x.act]++
		phases[x.act+x.phase] = true
	}
	assert.Equal(t, map[string]int{"redistribute": 100, "redistribute by key": 100, "switch": 100, "producers": 100}, main)
	assert.Len(t, phases, 4*4)
	for _, bad := range []Hand{{Only: "no such thing"}, {Act: "no such thing"}} {
		_, err := bad.deals(false, handCrew()[0])
		require.ErrorContains(t, err, "no such thing")
	}
}

// TestWhatAWriterNotesIsReadAsItGrows, with the half line that kill −9 leaves.
func TestWhatAWriterNotesIsReadAsItGrows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w")
	note := func(text string) {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		require.NoError(t, err)
		_, err = f.WriteString(text)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	w := &written{topic: "orders", path: path, first: 500}
	note("sent 500 3 w-1\nsent 501 4 w-2\nacked 500 old 77\nsent 50")
	require.NoError(t, w.update())
	require.Len(t, w.all, 2)
	note("2 5 w-3\nfailed 501 not in time\nacked 502 new 78\n")
	require.NoError(t, w.update())
	at := func(p starferry.Partition) starferry.TopicPartition {
		return starferry.TopicPartition{Topic: "orders", Partition: p}
	}
	require.Equal(t, []checker.Written{
		{ID: 500, TopicPartition: at(3), Key: "w-1", Cluster: "old", Offset: 77},
		{ID: 501, TopicPartition: at(4), Key: "w-2", Offset: starferry.NoOffset},
		{ID: 502, TopicPartition: at(5), Key: "w-3", Cluster: "new", Offset: 78},
	}, w.all)
	require.Equal(t, 1, w.failed)
	note("sent 510 3 w-1\n")
	require.ErrorContains(t, w.update(), "out of place")
}
