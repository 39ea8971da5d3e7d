package bench

import (
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/batch"
)

func TestEachContestantReadsEveryRecord(t *testing.T) {
	k, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(k.Close)
	s := &side{address: strings.Join(k.ListenAddrs(), ",")}
	s.cluster, err = wire.Open(starferry.Cluster{Name: "old", Brokers: k.ListenAddrs()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.cluster.Close()) })
	l := Load{Topic: "contest", Partitions: 4, Records: 2000, Size: 100, Batch: 50, Codec: batch.LZ4}
	require.NoError(t, l.Fill(t.Context(), s.cluster))
	b := &bench{Options: Options{Log: io.Discard}}
	for _, c := range contestants() {
		t.Run("ours"+c.name, func(t *testing.T) {
			_, _, err := b.timed(t.Context(), c, s, l, 0)
			require.NoError(t, err)
		})
	}
}

func TestAllFiguresOfTheConsumerAreInTheCatalogue(t *testing.T) {
	values := Values{"instance_idle_cpu_ms_per_s": 1}
	for _, sh := range shapes() {
		for _, c := range contestants() {
			values["consumer_rps"+sh.suffix+c.name] = 1
			if c.name != "" {
				values["consumer_rps_ratio"+c.name+sh.suffix], values["consumer_cpu_ratio"+c.name+sh.suffix] = 1, 1
			}
		}
	}
	figures, err := assemble(values)
	require.NoError(t, err)
	require.Len(t, figures, len(consumerFigures()))
}
