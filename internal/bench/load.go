package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication/batch"
)

// Load is a topic full of records.
type Load struct {
	Topic      starferry.Topic
	Partitions int
	Records    int // in all
	Size       int // bytes of a record's value, at least stampSize
	Batch      int // records in a batch
	Codec      batch.Codec
}

// A value begins with the record's number in its partition and the time it was
// made, nanoseconds since the load began; both big-endian. The time is 0 where
// nobody asks for it.
const stampSize = 16

func stamp(value []byte, number int64, at time.Duration) {
	binary.BigEndian.PutUint64(value, uint64(number))
	binary.BigEndian.PutUint64(value[8:], uint64(at))
}

func stampOf(value []byte) (number int64, at time.Duration, ok bool) {
	if len(value) < stampSize {
		return 0, 0, false
	}
	return int64(binary.BigEndian.Uint64(value)), time.Duration(binary.BigEndian.Uint64(value[8:])), true
}

// lanes lists the partitions under a topic's name: MirrorMaker 2 puts the
// source's name in front.
func (l Load) lanes(topic starferry.Topic) []starferry.TopicPartition {
	var tps []starferry.TopicPartition
	for p := range l.Partitions {
		tps = append(tps, starferry.TopicPartition{Topic: topic, Partition: starferry.Partition(p)})
	}
	return tps
}

// share is how many of the records a partition gets.
func (l Load) share(p int) int {
	n := l.Records / l.Partitions
	if p < l.Records%l.Partitions {
		n++
	}
	return n
}

// Make creates the empty topic.
func (l Load) Make(ctx context.Context, c *wire.Cluster) error {
	// The copy keeps the topic's settings, so a broker that would compress does not.
	spec := wire.TopicSpec{Topic: l.Topic, Partitions: l.Partitions, Replication: 1}
	if err := c.CreateTopic(ctx, spec); err != nil {
		return fmt.Errorf("make topic %s: %w", l.Topic, err)
	}
	return nil
}

// Fill makes the topic and writes its records, some partitions at once.
func (l Load) Fill(ctx context.Context, c *wire.Cluster) error {
	if err := l.Make(ctx, c); err != nil {
		return err
	}
	return l.Write(ctx, c, 0)
}

// writers is how many connections write at the same time.
const writers = 4

// Write adds the load's records to the topic, numbered from first on in each
// partition.
func (l Load) Write(ctx context.Context, c *wire.Cluster, first int64) error {
	g, ctx := errgroup.WithContext(ctx)
	for w := range min(writers, l.Partitions) {
		g.Go(func() (err error) {
			f, err := newFeed(ctx, c)
			if err != nil {
				return fmt.Errorf("fill %s: %w", l.Topic, err)
			}
			defer func() { err = errors.Join(err, f.Close(ctx)) }()
			for p := w; p < l.Partitions; p += writers {
				tp := starferry.TopicPartition{Topic: l.Topic, Partition: starferry.Partition(p)}
				if err := l.writePartition(ctx, f, tp, first, l.share(p)); err != nil {
					return fmt.Errorf("fill %s: %w", tp, err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func (l Load) writePartition(ctx context.Context, f *feed, tp starferry.TopicPartition, first int64, n int) error {
	m := l.maker(tp.Partition)
	for done := 0; done < n; done += l.Batch {
		b, err := m.batch(first+int64(done), min(l.Batch, n-done), 0)
		if err != nil {
			return err
		}
		if err := f.Send(ctx, tp, b, nil); err != nil {
			return err
		}
	}
	return nil
}

// maker makes a partition's batches.
type maker struct {
	codec   batch.Codec
	size    int
	noise   []byte
	records []batch.Record
}

// maker's values are the same in every batch but for number and time. Those that
// are to be copied as they are do not compress; those to be compressed are words.
func (l Load) maker(p starferry.Partition) *maker {
	m := &maker{codec: l.Codec, size: l.Size}
	random := rand.New(rand.NewChaCha8([32]byte{byte(p)}))
	if l.Codec == batch.None {
		m.noise = make([]byte, l.Batch*l.Size)
		for i := range m.noise {
			m.noise[i] = byte(random.Uint32())
		}
		return m
	}
	words := strings.Fields("order customer street total currency created shipped returned amount invoice country language warehouse")
	for len(m.noise) < l.Batch*l.Size {
		m.noise = fmt.Appendf(m.noise, `{"%s":%d,"%s":"%x"}`, words[random.IntN(len(words))], random.IntN(1e6), words[random.IntN(len(words))], random.Uint64())
	}
	return m
}

// batch makes one of n records, numbered from first on.
func (m *maker) batch(first int64, n int, at time.Duration) (batch.Batch, error) {
	now := time.Now().UnixMilli()
	m.records = m.records[:0]
	for i := range n {
		value := m.noise[i*m.size : (i+1)*m.size]
		stamp(value, first+int64(i), at)
		m.records = append(m.records, batch.Record{Offset: starferry.Offset(i), Time: now, Value: value})
	}
	return batch.Build(m.records, batch.Options{Codec: m.codec, LeaderEpoch: -1})
}
