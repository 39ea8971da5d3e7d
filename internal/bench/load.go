package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
)

// Load is a topic full of records.
type Load struct {
	Topic      starferry.Topic
	Partitions int
	Records    int // in all
	Size       int // bytes of a record's value
	Batch      int // records in a batch
}

// lanes lists the partitions under another topic's name: MirrorMaker 2 puts the
// source's name in front.
func (l Load) lanes(topic starferry.Topic) []starferry.TopicPartition {
	var tps []starferry.TopicPartition
	for p := range l.Partitions {
		tps = append(tps, starferry.TopicPartition{Topic: topic, Partition: starferry.Partition(p)})
	}
	return tps
}

// Fill makes the topic and writes its records, uncompressed, all partitions at
// once.
func (l Load) Fill(ctx context.Context, c *wire.Cluster, address string) error {
	spec := wire.TopicSpec{Topic: l.Topic, Partitions: l.Partitions, Replication: 1}
	if err := c.CreateTopic(ctx, spec); err != nil {
		return fmt.Errorf("fill %s: %w", l.Topic, err)
	}
	g, ctx := errgroup.WithContext(ctx)
	for p := range l.Partitions {
		n := l.Records / l.Partitions
		if p < l.Records%l.Partitions {
			n++
		}
		g.Go(func() error {
			if err := l.fillPartition(ctx, address, int32(p), n); err != nil {
				return fmt.Errorf("fill %s/%d: %w", l.Topic, p, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// fillPartition writes one batch at a time, so that each has the wanted number
// of records.
func (l Load) fillPartition(ctx context.Context, address string, partition int32, n int) error {
	c, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ManualFlushing(),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(int32(l.Batch*(l.Size+128)+1024)))
	if err != nil {
		return err
	}
	defer c.Close()
	// Random bytes, the same in every batch but for a number: what matters is
	// that they do not compress and that no two records are equal.
	noise := make([]byte, l.Batch*l.Size)
	random := rand.NewChaCha8([32]byte{byte(partition)})
	if _, err := random.Read(noise); err != nil {
		return err
	}
	var failed error
	for done := 0; done < n && failed == nil; done += l.Batch {
		for i := range min(l.Batch, n-done) {
			value := noise[i*l.Size : (i+1)*l.Size]
			binary.BigEndian.PutUint64(value, uint64(done+i))
			c.Produce(ctx, &kgo.Record{Topic: string(l.Topic), Partition: partition, Value: value}, func(_ *kgo.Record, err error) {
				if err != nil {
					failed = err
				}
			})
		}
		if err := c.Flush(ctx); err != nil {
			return err
		}
	}
	return failed
}

// ends is the sum of the partitions' end offsets; a topic that does not exist
// yet has none.
func ends(ctx context.Context, c *wire.Cluster, tps []starferry.TopicPartition) (int64, error) {
	at, err := c.Offsets(ctx, tps, wire.Latest)
	if err != nil && len(at) == 0 {
		return 0, err
	}
	var sum int64
	for _, o := range at {
		sum += int64(o)
	}
	return sum, nil
}
