package crossing

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/chaos/checker"
	"github.com/starferry/starferry/internal/chaos/plant"
	"github.com/starferry/starferry/internal/chaos/proxy"
	"github.com/starferry/starferry/internal/kafkatest"
)

// Every variant still finds the lines that it changes.
func TestVariantsFitTheSource(t *testing.T) {
	root, err := kafkatest.ModuleRoot()
	require.NoError(t, err)
	for name, v := range Variants() {
		assert.NoError(t, plant.Check(root, v.edits), name)
		assert.Equal(t, name, v.Name)
	}
	err = plant.Check(root, []plant.Edit{{Dir: "replication", Old: "no such line"}})
	require.ErrorContains(t, err, "adapt the edit")
}

// What the load was promised is what the readers find, aborted records told from
// committed ones; a second reading goes on where the first ended.
func TestLoadAndReadersAgree(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": "100"}))
	require.NoError(t, err)
	defer cluster.Close()
	var some []cargo
	for _, c := range cargoes(true) {
		if c.txn || c.compacted || c.sparse {
			some = append(some, c)
			require.NoError(t, cluster.CreateTopic(string(c.topic), int32(c.partitions), c.configs))
		}
	}
	address := cluster.ListenAddrs()[0]
	all, err := openReader(address, lanesOf(some), false)
	require.NoError(t, err)
	defer all.client.Close()
	committed, err := openReader(address, lanesOf(some), true)
	require.NoError(t, err)
	defer committed.client.Close()
	l := newLoad(address)
	for _, c := range some {
		if c.sparse {
			require.NoError(t, l.prelude(t.Context(), c))
		}
	}
	l.start(some)
	defer l.close()
	for range 2 {
		before := l.acked.Load()
		require.Eventually(t, func() bool { return l.acked.Load() > before+400 }, 20*time.Second, 10*time.Millisecond)
		l.pause()
		require.NoError(t, all.read(t.Context()))
		require.NoError(t, committed.read(t.Context()))
		kinds := map[checker.Kind]int{}
		for _, c := range some {
			for _, tp := range lanesOf([]cargo{c}) {
				assert.LessOrEqual(t, len(all.logs[tp]), int(all.next[tp]))
				markAborted(all.logs[tp], committed.logs[tp])
				for _, e := range all.logs[tp] {
					if c.txn {
						kinds[e.Kind]++
					}
				}
				if c.compacted {
					assert.NotEmpty(t, l.sentTo(tp))
				}
			}
		}
		assert.Positive(t, kinds[checker.Data])
		assert.Positive(t, kinds[checker.Marker])
		l.resume()
	}
	assert.Empty(t, l.trouble())
}

// A seed deals the same again, and all of the deck.
func TestFaultsAreDealtFairly(t *testing.T) {
	w := &World{}
	deck := w.deck()
	cards := 0
	for _, f := range deck {
		cards += f.weight
	}
	names := func(seed uint64) (out []string) {
		d := newDeal(seed, deck)
		for range cards {
			f, what, long := d.next()
			require.Contains(t, f.takes, what)
			require.True(t, long > 0 && long <= 1)
			out = append(out, f.name)
		}
		return out
	}
	count := map[string]int{}
	for _, n := range names(7) {
		count[n]++
	}
	for _, f := range deck {
		assert.Equal(t, f.weight, count[f.name], f.name)
	}
	assert.Equal(t, names(7), names(7))
	assert.NotEqual(t, names(7), names(8))
}

// A fault has what it strikes for itself.
func TestAFaultHasItsVictimForItself(t *testing.T) {
	w := &World{busy: map[string]bool{}}
	for i := range w.proxies {
		p, err := proxy.Open()
		require.NoError(t, err)
		defer p.Close()
		w.proxies[i] = p
	}
	d := newDeal(1, []fault{{name: "one", weight: 1, takes: []string{"it"}, run: func(ctx context.Context, w *World, _ string, _ float64) error {
		require.False(t, w.take("it"))
		return nil
	}}})
	done, err := w.storm(t.Context(), d, 300*time.Millisecond)
	require.NoError(t, err)
	assert.Positive(t, done["one"])
	assert.True(t, w.take("it"))
	assert.Equal(t, starferry.LinkName("crossing"), link)
}

// What grows is told from what is flat.
func TestAFlatSeries(t *testing.T) {
	series := make([]sample, 12)
	for i := range series {
		series[i] = sample{rss: 200 << 20, files: 100, threads: 40, disk: int64(i%3) << 20}
	}
	require.NoError(t, flat(series))
	for i := range series {
		series[i].files = int64(100 + 20*i)
	}
	require.ErrorContains(t, flat(series), "open files grows")
	require.Error(t, flat(series[:5]))
}
