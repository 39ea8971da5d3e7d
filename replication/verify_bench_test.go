package replication

import (
	"fmt"
	"math"
	"testing"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/batch"
	"github.com/starferry/starferry/replication/offsetmap"
)

// BenchmarkVerify measures what comparing costs without the clusters: batches
// that passed unopened as bytes, and the same ones record by record.
func BenchmarkVerify(b *testing.B) {
	records := make([]kafka.Message, 100)
	for i := range records {
		records[i] = kafka.Message{Key: fmt.Append(nil, "key", i), Value: make([]byte, 1000)}
	}
	raw := batch.Batch(kafkatest.Batch(records, wire.Producer{ID: -1, Epoch: -1}, -1, false))
	for name, hash := range map[string]bool{"bytes": false, "records": true} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(2 * int64(len(raw)))
			var m offsetmap.Map
			require.NoError(b, m.Reset(0, 0))
			require.NoError(b, m.Append(offsetmap.Run{Count: 1 << 40}))
			page := []logBatch{{raw, batch.Data}}
			p := &proof{src: newLogReader(nil, starferry.TopicPartition{}, true), tgt: newLogReader(nil, starferry.TopicPartition{}, false), m: &m}
			p.stop = func() bool { return false }
			if hash {
				p.digests, _ = newDigests(nil, nil)
			}
			for b.Loop() {
				p.src.page, p.tgt.page = page, page
				require.NoError(b, p.begin(0))
				p.extend(math.MaxInt64)
				require.NoError(b, p.advance(b.Context()))
				require.EqualValues(b, 100, p.at)
			}
		})
	}
}
