package javatopic

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/kafkatest"
	"github.com/starferry/starferry/internal/wire"
	"github.com/starferry/starferry/replication"
)

func TestMain(m *testing.M) { kafkatest.Main(m) }

const (
	partitions = 2
	patience   = 25 * time.Minute
	link       = starferry.LinkName("java")
)

// story is a topic that Java wrote and starferry copied.
type story struct {
	t        *testing.T
	java     Java
	old, new starferry.Cluster
	topic    starferry.Topic
	client   *replication.Client
	began    time.Time
}

// Guarantee 1: A copied record is on the target exactly once, in source order
// per partition, byte for byte; what is not copied is listed with its reason.
//
// Guarantee 2: The offset map is exact in both directions or says that it does
// not know.
func TestATopicMadeByJavaIsCopiedExactly(t *testing.T) {
	if !kafkatest.Real() {
		t.Skip("Java's client needs real brokers; make test-kafka and make proof run this")
	}
	records := 20_000
	if n := os.Getenv("STARFERRY_JAVA_RECORDS"); n != "" {
		var err error
		records, err = strconv.Atoi(n)
		require.NoError(t, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s := begin(t)
	wrote, err := s.java.Make(ctx, s.old.Brokers[0], s.topic, partitions, records, min(10_000, records/20))
	require.NoError(t, err)
	s.say("Java wrote %d records in %d batches and %d transactions, %d of them aborted", wrote.Written, wrote.Batches, wrote.Transactions, wrote.Aborted)
	require.Equal(t, records, wrote.Written)
	require.Positive(t, wrote.Aborted)
	s.cleaned(ctx)
	s.copied(ctx)

	source, err := s.java.Read(ctx, s.old.Brokers[0], s.topic)
	require.NoError(t, err)
	target, err := s.java.Read(ctx, s.new.Brokers[0], s.topic)
	require.NoError(t, err)
	read := 0
	for p, want := range source {
		require.Equal(t, hashes(want), hashes(target[p]), "partition %d: Java's consumer reads other records on the target", p)
		read += len(want.Records)
	}
	require.Less(t, read, wrote.Committed, "the cleaner removed nothing: the test is void")
	s.say("Java's consumer read the same %d records from both sides", read)

	proof := s.verified(ctx)
	require.EqualValues(t, read, proof.Identical)
	require.Positive(t, proof.Holes[starferry.Compacted])
	require.Positive(t, proof.Holes[starferry.Aborted])
	require.Positive(t, proof.Holes[starferry.Control])
	asked := 0
	for p, r := range source {
		asked += s.translated(ctx, p, r, target[p])
	}
	s.say("%d positions translate there and back exactly", asked)
}

func begin(t *testing.T) *story {
	old, new := kafkatest.Pair(t)
	s := &story{t: t, old: old, new: new, began: time.Now(), java: Java{Jars: jars(t), Dir: t.TempDir()}}
	s.topic = kafkatest.Topic(t, old, partitions, map[string]string{
		"cleanup.policy": "compact", "segment.bytes": "1048576", "min.cleanable.dirty.ratio": "0.01", "max.message.bytes": "1048588",
		"retention.ms": "-1",
	})
	nc, _ := kafkatest.NATS(t)
	clusters := map[starferry.ClusterName]starferry.Cluster{old.Name: old, new.Name: new}
	shard, err := replication.OpenShard(context.Background(), replication.ShardConfig{ID: "java", Clusters: clusters, NATS: nc, Dir: t.TempDir()})
	require.NoError(t, err)
	s.client = replication.NewClient(nc, clusters, nil)
	t.Cleanup(func() {
		_ = s.client.Close()
		require.NoError(t, shard.Close())
		_ = kafkatest.Open(t, new).DeleteTopics(context.Background(), s.topic)
	})
	return s
}

// jars finds the Kafka client of the source's version.
func jars(t *testing.T) string {
	root, err := kafkatest.ModuleRoot()
	require.NoError(t, err)
	version, _, _ := strings.Cut(os.Getenv("STARFERRY_KAFKA"), ",")
	if version == "" {
		version = "4.3.1"
	}
	require.True(t, kafkatest.Fetched(version, filepath.Join(root, ".kafka")), "no jars of Kafka %s: make kafka fetches them", version)
	return filepath.Join(root, ".kafka", version)
}

func (s *story) say(format string, args ...any) {
	s.t.Logf("%5.1f s  "+format, append([]any{time.Since(s.began).Seconds()}, args...)...)
}

func hashes(r *Reading) []string {
	if r == nil {
		return nil
	}
	out := make([]string, len(r.Records))
	for i, x := range r.Records {
		out[i] = x.Hash
	}
	return out
}

// cleaned waits until the cleaner has been through the source and is done, and
// lets it be: both sides are to be the same.
func (s *story) cleaned(ctx context.Context) {
	w := kafkatest.Open(s.t, s.old)
	before, still := -1, 0
	require.Eventually(s.t, func() bool {
		n := 0
		for p := range partitions {
			n += len(kafkatest.Records(s.t, s.old, s.topic, starferry.Partition(p)))
		}
		if n != before {
			before, still = n, 0
		} else {
			still++
		}
		return still == 2
	}, patience, 3*time.Second)
	resp, err := w.Client().IncrementalAlterConfigs(ctx, &kafka.IncrementalAlterConfigsRequest{Resources: []kafka.IncrementalAlterConfigsRequestResource{{
		ResourceType: kafka.ResourceTypeTopic, ResourceName: string(s.topic),
		Configs: []kafka.IncrementalAlterConfigsRequestConfig{{Name: "cleanup.policy", Value: "delete", ConfigOperation: kafka.ConfigOperationSet}},
	}}})
	require.NoError(s.t, err)
	require.NoError(s.t, resp.Resources[0].Error)
	s.say("the cleaner left %d records, aborted ones among them", before)
}

func (s *story) copied(ctx context.Context) {
	began := time.Now()
	_, err := s.client.Ensure(ctx, replication.LinkSpec{Name: link, Source: s.old.Name, Target: s.new.Name, Topics: []starferry.Topic{s.topic}, Buckets: 4})
	require.NoError(s.t, err)
	require.Eventually(s.t, func() bool {
		st, err := s.client.Status(ctx, link)
		return err == nil && len(st.Lanes) == partitions && !slices.ContainsFunc(st.Lanes, func(l replication.LaneStatus) bool { return l.Lag != 0 })
	}, patience, 50*time.Millisecond)
	s.say("copied in %.1f s", time.Since(began).Seconds())
}

func (s *story) verified(ctx context.Context) replication.LaneProof {
	began := time.Now()
	p, err := s.client.Verify(ctx, link, replication.VerifyRequest{Hash: true})
	require.NoError(s.t, err)
	for _, l := range p.Lanes {
		s.say("verify --hash: %s", l)
		require.Equal(s.t, l.SourceHash, l.TargetHash)
	}
	require.Equal(s.t, replication.Identical, p.Verdict())
	hashed := time.Since(began)
	began = time.Now()
	p, err = s.client.Verify(ctx, link, replication.VerifyRequest{})
	require.NoError(s.t, err)
	require.Equal(s.t, replication.Identical, p.Verdict())
	t := p.Total()
	s.say("verify: %d of %d records identical, %d MB read in %.2f s (%.2f s with hashes)", t.Identical, t.Compared(), t.Bytes>>20, time.Since(began).Seconds(), hashed.Seconds())
	return t
}

// translated demands that every position of the source, from its first offset
// to its end, leads to the copy of the record that is read next there, and back
// to that record.
func (s *story) translated(ctx context.Context, p starferry.Partition, source, target *Reading) int {
	tp := starferry.TopicPartition{Topic: s.topic, Partition: p}
	w := kafkatest.Open(s.t, s.old)
	bounds, err := w.Offsets(ctx, []starferry.TopicPartition{tp}, wire.Latest)
	require.NoError(s.t, err)
	end := bounds[tp]
	require.LessOrEqual(s.t, slices.Max(source.Positions), end)
	next := make(chan starferry.Offset, 100)
	wrong := make(chan string, 1)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for at := range next {
				if why := s.position(ctx, tp, at, source, target); why != "" {
					select {
					case wrong <- why:
					default:
					}
				}
			}
		})
	}
	for at := range end + 1 {
		next <- at
	}
	close(next)
	wg.Wait()
	select {
	case why := <-wrong:
		require.Fail(s.t, why)
	default:
	}
	return int(end) + 1
}

// position checks one position and says what is wrong with its translation.
func (s *story) position(ctx context.Context, tp starferry.TopicPartition, at starferry.Offset, source, target *Reading) string {
	i, exact := slices.BinarySearchFunc(source.Records, at, func(r Seen, at starferry.Offset) int { return int(r.Offset - at) })
	f, err := s.client.Translate(ctx, link, starferry.Forward, starferry.Cut{tp: {Next: at}})
	name := starferry.Position{TopicPartition: tp, Offset: at}.String()
	switch {
	case err != nil:
		return name + ": " + err.Error()
	case !f.Final() || len(f.Cut[tp].Handled) > 0:
		return name + ": its place is not final: " + f.Missing[tp]
	case exact && f.Answers[tp].Status != starferry.Exact:
		return name + " is a record and translates as " + string(f.Answers[tp].Status)
	case i < len(target.Records) && f.Cut[tp].Next != target.Records[i].Offset:
		return name + " leads to another record"
	case i == len(target.Records) && f.Cut[tp].Next <= target.Records[i-1].Offset:
		return name + " lies behind the last record, and its translation does not"
	}
	b, err := s.client.Translate(ctx, link, starferry.Back, f.Cut)
	switch {
	case err != nil:
		return name + ", back: " + err.Error()
	case i < len(source.Records) && b.Cut[tp].Next != source.Records[i].Offset:
		return name + " leads back to another record"
	case i == len(source.Records) && b.Cut[tp].Next <= source.Records[i-1].Offset:
		return name + " lies behind the last record, and its way back does not"
	}
	return ""
}
