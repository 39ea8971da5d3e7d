package producer

import (
	"fmt"
	"math/rand/v2"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry"
)

// partitioner chooses partitions as the Java client does.
type partitioner struct {
	all    []int // 0 … n−1
	sticky int   // where records without a key go until a batch is full or sent
}

func newPartitioner(n int) partitioner {
	p := partitioner{all: make([]int, n)}
	for i := range p.all {
		p.all[i] = i
	}
	p.move()
	return p
}

// move chooses another partition for records without a key.
func (p *partitioner) move() {
	if n := len(p.all); n > 1 {
		p.sticky = (p.sticky + 1 + rand.N(n-1)) % n
	}
}

func (p *partitioner) of(r Record) (int, error) {
	switch {
	case r.Partition != nil && (*r.Partition < 0 || int(*r.Partition) >= len(p.all)):
		return 0, fmt.Errorf("partition %s/%d: the topic has %d partitions", r.Topic, *r.Partition, len(p.all))
	case r.Partition != nil:
		return int(*r.Partition), nil
	case r.Key == nil:
		return p.sticky, nil
	}
	return kafka.Murmur2Balancer{Consistent: true}.Balance(kafka.Message{Key: r.Key}, p.all...), nil
}

func (l *line) tp(partition int) starferry.TopicPartition {
	return starferry.TopicPartition{Topic: l.topic, Partition: starferry.Partition(partition)}
}
