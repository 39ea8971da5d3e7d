package bench

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/process"
)

// MirrorMaker 2 looks for new topics at intervals. One must be long enough to
// fill the measured topic in between, so that filling and copying don't share the
// processors, on a busy machine as well.
const (
	leastRefresh = 60 * time.Second
	mostRefresh  = 180 * time.Second
	warmUp       = 40 * time.Second // from its start until it has copied the first topic
)

// refreshFor is the interval for a topic that takes so long to fill.
func refreshFor(fill time.Duration) time.Duration {
	return min(max(leastRefresh, warmUp+2*fill), mostRefresh)
}

// mm2Batch is what MirrorMaker 2's producer may gather, whatever the source's
// batches: 100 records of 1 KB.
const mm2Batch = 112_800

// mm2Properties is a configuration that does the job MirrorMaker 2 well: one
// task a partition, large batches, the source's compression, no heartbeats, and
// no checkpoints but where they are what is measured.
func mm2Properties(p *pair, topics []starferry.Topic, l Load, more map[string]string) string {
	names := make([]string, len(topics))
	for i, t := range topics {
		names[i] = string(t)
	}
	props := map[string]string{
		"clusters":                              "src,dst",
		"src.bootstrap.servers":                 p.source.address,
		"dst.bootstrap.servers":                 p.target.address,
		"src->dst.enabled":                      "true",
		"dst->src.enabled":                      "false",
		"src->dst.topics":                       strings.Join(names, ","),
		"tasks.max":                             fmt.Sprint(l.Partitions),
		"refresh.topics.interval.seconds":       fmt.Sprint(int(leastRefresh.Seconds())),
		"replication.factor":                    "1",
		"checkpoints.topic.replication.factor":  "1",
		"heartbeats.topic.replication.factor":   "1",
		"offset-syncs.topic.replication.factor": "1",
		"config.storage.replication.factor":     "1",
		"offset.storage.replication.factor":     "1",
		"status.storage.replication.factor":     "1",
		"emit.heartbeats.enabled":               "false",
		"emit.checkpoints.enabled":              "false",
		"sync.topic.acls.enabled":               "false",
		"dst.producer.batch.size":               fmt.Sprint(mm2Batch),
		"dst.producer.linger.ms":                "5",
		"dst.producer.compression.type":         l.Codec.String(),
		"src.consumer.max.poll.records":         "5000",
		"src.consumer.auto.offset.reset":        "earliest",
	}
	maps.Copy(props, more)
	var text strings.Builder
	for _, k := range slices.Sorted(maps.Keys(props)) {
		fmt.Fprintf(&text, "%s=%s\n", k, props[k])
	}
	return text.String()
}

// startMM2 starts MirrorMaker 2. It takes 15 to 20 s to its first record.
func (b *bench) startMM2(dir, properties string) (*process.Process, error) {
	conf := filepath.Join(dir, "mm2.properties")
	if err := os.WriteFile(conf, []byte(properties), 0o644); err != nil {
		return nil, fmt.Errorf("configure MirrorMaker 2: %w", err)
	}
	return b.processes.Start(process.Spec{Name: "mm2-" + filepath.Base(dir), Path: "java", Args: []string{
		"-Xms1g", "-Xmx1g", "-cp", filepath.Join(b.Jars, b.Kafka, "*"),
		"org.apache.kafka.connect.mirror.MirrorMaker", conf,
	}})
}

// runMM2 warms MirrorMaker 2 up on one topic and measures it on another, which
// is filled between two of its looks for new topics, refresh apart.
func (b *bench) runMM2(ctx context.Context, dir string, p *pair, warm, load Load, refresh time.Duration) (Copy, error) {
	started := time.Now()
	mm2, err := b.startMM2(dir, mm2Properties(p, []starferry.Topic{warm.Topic, load.Topic}, load,
		map[string]string{"refresh.topics.interval.seconds": fmt.Sprint(int(refresh.Seconds()))}))
	if err != nil {
		return Copy{}, err
	}
	defer mm2.Stop()
	if _, err := watch(ctx, "MirrorMaker 2", p.target, mirrored(warm), warm, mm2); err != nil {
		return Copy{}, fmt.Errorf("warm up: %w", err)
	}
	b.say("MirrorMaker 2 is warm after %.0f s; filling %s", time.Since(started).Seconds(), load.Topic)
	if err := load.Fill(ctx, p.source.cluster); err != nil {
		return Copy{}, err
	}
	if early, err := ends(ctx, p.target.cluster, mirrored(load)); err == nil && early > 0 {
		return Copy{}, fmt.Errorf("measure MirrorMaker 2: it began before %s was full, so the comparison is void; try again on a quieter machine or with fewer -records", load.Topic)
	}
	b.say("waiting for MirrorMaker 2 to find the topic (it looks every %s)", refresh.Round(time.Second))
	return watch(ctx, "MirrorMaker 2", p.target, mirrored(load), load, mm2)
}

// mirrored is what MirrorMaker 2 calls the load's partitions on the target.
func mirrored(l Load) []starferry.TopicPartition { return l.lanes("src." + l.Topic) }
