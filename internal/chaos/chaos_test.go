package chaos

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/chaos/checker"
	"github.com/starferry/starferry/internal/kafkatest"
)

// TestLoadAndReaderAgree: what the load was promised is what the reader finds,
// each record once and in order, also when it reads in two goes.
func TestLoadAndReaderAgree(t *testing.T) {
	parts := []starferry.TopicPartition{{Topic: "orders", Partition: 0}, {Topic: "orders", Partition: 1}}
	cluster, err := kfake.NewCluster(kfake.SeedTopics(2, "orders"))
	require.NoError(t, err)
	defer cluster.Close()
	address := cluster.ListenAddrs()[0]
	load, err := StartLoad(address, parts, 2000)
	require.NoError(t, err)
	reader, err := OpenReader("old", address, parts)
	require.NoError(t, err)
	defer reader.Close()

	require.Eventually(t, func() bool { return len(load.Sent()) > 100 }, 10*time.Second, 10*time.Millisecond)
	some := read(t, reader)
	require.NoError(t, load.Close())
	all := read(t, reader)

	assert.NotEmpty(t, some)
	require.Len(t, all, len(load.Sent()))
	for _, p := range load.Sent() {
		assert.Equal(t, p.Offset, all[p.ID], "record %d", p.ID)
	}
	commits, err := reader.Committed(t.Context(), "nobody")
	require.NoError(t, err)
	assert.Empty(t, commits)
}

func read(t *testing.T, r *Reader) map[checker.ID]starferry.Offset {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	logs, err := r.Logs(ctx)
	require.NoError(t, err)
	found := map[checker.ID]starferry.Offset{}
	for tp, log := range logs {
		for i, s := range log {
			found[s.ID] = s.Offset
			assert.EqualValues(t, i, s.Offset, "%s", tp)
		}
	}
	return found
}

func TestALogIsReadAsItGrows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	write := func(s string) {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		require.NoError(t, err)
		_, err = f.WriteString(s)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	var h history
	h.add("orders-1/1", path)
	write("1000 orders 0 0 k 1\n2000 orders 0 1 k")
	require.NoError(t, h.update())
	require.Len(t, h.tails[0].handled, 1)
	write(" 2\n3000 orders 1 0 k 3\n")
	require.NoError(t, h.update())
	require.Len(t, h.tails[0].handled, 3)
	assert.Equal(t, checker.ID(2), h.tails[0].handled[1].ID)
	assert.Equal(t, 2, h.count(time.Unix(0, 1500)))
	assert.Len(t, h.since(time.Unix(0, 2500)), 1)
}

// TestFaultsAreFair: before any deed comes twice as often as it should, all have
// come; agent and NATS go for good at every step; and a seed can be repeated.
func TestFaultsAreFair(t *testing.T) {
	for _, real := range []bool{false, true} {
		all := 0
		for _, d := range deck(real) {
			all += d.weight
		}
		for seed := range uint64(10) {
			faults, err := NewFaults(seed, real, "", newCrews())
			require.NoError(t, err)
			deeds, alone := map[string]int{}, map[Aim]int{}
			for range all {
				f, d := faults.Next()
				deeds[d.name]++
				if d.name == gone {
					alone[f.At]++
				}
			}
			for _, d := range deck(real) {
				assert.Positive(t, deeds[d.name], "seed %d never does %q", seed, d.name)
			}
			assert.Len(t, alone, len(aims()), "seed %d", seed)
		}
	}
	first := func() Fault {
		faults, err := NewFaults(7, false, "", newCrews())
		require.NoError(t, err)
		f, _ := faults.Next()
		return f
	}
	assert.Equal(t, first(), first())
	_, err := NewFaults(7, false, "no such thing", newCrews())
	require.ErrorContains(t, err, "no such thing")
}

// TestPlantsFitTheSource: what is changed to plant a bug stands in the product
// exactly once, and the deeds that show it exist.
func TestPlantsFitTheSource(t *testing.T) {
	root, err := kafkatest.ModuleRoot()
	require.NoError(t, err)
	for _, p := range Plants() {
		assert.NoError(t, p.Check(root))
		if p.Act != "" {
			_, err = Hand{Only: p.Only, Act: p.Act}.deals(false, handCrew()[0])
		} else {
			_, err = NewFaults(1, false, p.Only, newCrews())
		}
		assert.NoError(t, err, p.Name)
	}
}
