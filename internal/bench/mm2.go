package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/process"
	"github.com/starferry/starferry/internal/wire"
)

// refresh is how often MirrorMaker 2 looks for new topics. It must be long
// enough to fill the measured topic in between, so that filling and copying
// don't share the processors.
const refresh = 60 * time.Second

// mm2Properties is a configuration that does the job MirrorMaker 2 well: one
// task a partition, batches as large as the source's, no heartbeats, no
// checkpoints.
func mm2Properties(source, target string, topics []string, l Load) string {
	lines := []string{
		"clusters=src,dst",
		"src.bootstrap.servers=" + source,
		"dst.bootstrap.servers=" + target,
		"src->dst.enabled=true",
		"dst->src.enabled=false",
		"src->dst.topics=" + strings.Join(topics, ","),
		fmt.Sprintf("tasks.max=%d", l.Partitions),
		fmt.Sprintf("refresh.topics.interval.seconds=%d", int(refresh.Seconds())),
		"replication.factor=1",
		"checkpoints.topic.replication.factor=1",
		"heartbeats.topic.replication.factor=1",
		"offset-syncs.topic.replication.factor=1",
		"config.storage.replication.factor=1",
		"offset.storage.replication.factor=1",
		"status.storage.replication.factor=1",
		"emit.heartbeats.enabled=false",
		"emit.checkpoints.enabled=false",
		"sync.topic.acls.enabled=false",
		fmt.Sprintf("dst.producer.batch.size=%d", l.Batch*(l.Size+128)),
		"dst.producer.linger.ms=5",
		"src.consumer.max.poll.records=5000",
		"src.consumer.auto.offset.reset=earliest",
	}
	return strings.Join(lines, "\n") + "\n"
}

// runMM2 warms MirrorMaker 2 up on one topic and measures it on another, which
// fill writes meanwhile.
func (b *bench) runMM2(ctx context.Context, warm, load Load, fill func(context.Context) error) (Copy, error) {
	conf := filepath.Join(b.dir, "mm2.properties")
	text := mm2Properties(b.source.address, b.target.address, []string{string(warm.Topic), string(load.Topic)}, load)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return Copy{}, fmt.Errorf("configure MirrorMaker 2: %w", err)
	}
	started := time.Now()
	p, err := b.processes.Start(process.Spec{Name: "mm2", Path: "java", Args: []string{
		"-Xms1g", "-Xmx1g", "-cp", filepath.Join(b.Jars, b.Kafka, "*"),
		"org.apache.kafka.connect.mirror.MirrorMaker", conf,
	}})
	if err != nil {
		return Copy{}, err
	}
	defer p.Stop()
	if _, err := watch(ctx, "MirrorMaker 2", b.target.cluster, mirrored(warm), warm, p); err != nil {
		return Copy{}, fmt.Errorf("warm up: %w", err)
	}
	b.say("MirrorMaker 2 is warm after %.0f s; filling %s", time.Since(started).Seconds(), load.Topic)
	if err := fill(ctx); err != nil {
		return Copy{}, err
	}
	if early, err := ends(ctx, b.target.cluster, mirrored(load)); err == nil && early > 0 {
		return Copy{}, fmt.Errorf("measure MirrorMaker 2: it began before %s was full, so the comparison is void; try again on a quieter machine or with fewer -records", load.Topic)
	}
	b.say("waiting for MirrorMaker 2 to find the topic (it looks every %s)", refresh)
	return watch(ctx, "MirrorMaker 2", b.target.cluster, mirrored(load), load, p)
}

// mirrored is what MirrorMaker 2 calls the load's partitions on the target.
func mirrored(l Load) []starferry.TopicPartition { return l.lanes("src." + l.Topic) }

// side is one cluster of the comparison.
type side struct {
	address string
	cluster *wire.Cluster
}
