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

func TestEveryRecordComesThroughTheSidecar(t *testing.T) {
	k, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(k.Close)
	s := &side{address: strings.Join(k.ListenAddrs(), ",")}
	s.cluster, err = wire.Open(starferry.Cluster{Name: "old", Brokers: k.ListenAddrs()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.cluster.Close()) })
	l := Load{Topic: "sidecar", Partitions: 4, Records: 2000, Size: 100, Batch: 50, Codec: batch.None}
	require.NoError(t, l.Fill(t.Context(), s.cluster))
	b := &bench{Options: Options{Log: io.Discard}}
	_, _, err = b.timed(t.Context(), contestant{"_sidecar", readSidecar}, s, l, 0)
	require.NoError(t, err)
}

func TestAllFiguresOfTheSidecarAreInTheCatalogue(t *testing.T) {
	values := Values{}
	for _, sh := range sidecarShapes() {
		values["sidecar_rps"+sh.suffix], values["sidecar_rps"+sh.suffix+"_library"], values["sidecar_rps_ratio_library"+sh.suffix] = 1, 1, 1
	}
	figures, err := assemble(values)
	require.NoError(t, err)
	require.Len(t, figures, len(sidecarFigures()))
}
