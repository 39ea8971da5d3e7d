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
	partitions = 8
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
	wrote := s.written(ctx, records*3/4, 1)
	s.cleaned(ctx) // which takes most aborted records with it
	wrote += s.written(ctx, records-records*3/4, 2)
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
	require.Less(t, read, wrote, "the cleaner removed nothing: the test is void")
	s.say("Java's consumer read the same %d records from both sides", read)

	proof := s.verified(ctx)
	require.EqualValues(t, read, proof.Identical)
	require.Positive(t, proof.Holes[starferry.Compacted])
	require.Positive(t, proof.Holes[starferry.Aborted])
	require.Positive(t, proof.Holes[starferry.Control])
	s.translated(ctx, source, target)
	s.targetCleaned(ctx)
}

// written lets Java write records and returns how many were committed.
func (s *story) written(ctx context.Context, records, seed int) int {
	w, err := s.java.Make(ctx, s.old.Brokers[0], s.topic, partitions, records, min(10_000, records/15), seed)
	require.NoError(s.t, err)
	require.Equal(s.t, records, w.Written)
	require.Positive(s.t, w.Aborted)
	s.say("Java wrote %d records in %d batches and %d transactions; %d records were aborted", w.Written, w.Batches, w.Transactions, w.Aborted)
	return w.Committed
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
	s.policy(ctx, s.old, "delete")
	s.say("the cleaner left %d records, aborted ones among them", before)
}

// policy says whether a side's cleaner goes through the topic.
func (s *story) policy(ctx context.Context, c starferry.Cluster, policy string) {
	resp, err := kafkatest.Open(s.t, c).Client().IncrementalAlterConfigs(ctx, &kafka.IncrementalAlterConfigsRequest{Resources: []kafka.IncrementalAlterConfigsRequestResource{{
		ResourceType: kafka.ResourceTypeTopic, ResourceName: string(s.topic),
		Configs: []kafka.IncrementalAlterConfigsRequestConfig{{Name: "cleanup.policy", Value: policy, ConfigOperation: kafka.ConfigOperationSet}},
	}}})
	require.NoError(s.t, err)
	require.NoError(s.t, resp.Resources[0].Error)
}

// targetCleaned lets the target's cleaner go through the copies, in segments
// that natives have closed: what it takes is explained by newer records.
func (s *story) targetCleaned(ctx context.Context) {
	s.policy(ctx, s.new, "compact")
	for p := range partitions {
		for _, key := range []string{"native 1", "native 2", "native 3"} {
			big := kafka.Message{Key: []byte(key), Value: make([]byte, 700_000)}
			kafkatest.Produce(s.t, s.new, s.topic, starferry.Partition(p), big)
		}
	}
	var t replication.LaneProof
	require.Eventually(s.t, func() bool {
		p, err := s.client.Verify(ctx, link, replication.VerifyRequest{})
		t = p.Total()
		return err == nil && t.TargetGone > 0 && p.Verdict() == replication.Identical
	}, 3*time.Minute, time.Second, "%s", &t)
	s.say("after the target's cleaner: %d of %d records identical; %s", t.Identical, t.Compared(), t.Notes())
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
// to that record. A question carries one position of each partition.
func (s *story) translated(ctx context.Context, source, target map[starferry.Partition]*Reading) {
	var tps []starferry.TopicPartition
	for p := range source {
		tps = append(tps, starferry.TopicPartition{Topic: s.topic, Partition: p})
	}
	ends, err := kafkatest.Open(s.t, s.old).Offsets(ctx, tps, wire.Latest)
	require.NoError(s.t, err)
	last, asked := starferry.Offset(0), int64(0)
	for tp, end := range ends {
		require.LessOrEqual(s.t, slices.Max(source[tp.Partition].Positions), end)
		last, asked = max(last, end), asked+int64(end)+1
	}
	next := make(chan starferry.Offset, 100)
	wrong := make(chan string, 1)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for at := range next {
				cut := starferry.Cut{}
				for tp, end := range ends {
					if at <= end {
						cut[tp] = starferry.Place{Next: at}
					}
				}
				if why := s.positions(ctx, cut, source, target); why != "" {
					select {
					case wrong <- why:
					default:
					}
				}
			}
		})
	}
	for at := range last + 1 {
		next <- at
	}
	close(next)
	wg.Wait()
	select {
	case why := <-wrong:
		require.Fail(s.t, why)
	default:
	}
	s.say("%d positions translate there and back exactly", asked)
}

// positions checks a cut and says what is wrong with its translation.
func (s *story) positions(ctx context.Context, cut starferry.Cut, source, target map[starferry.Partition]*Reading) string {
	f, err := s.client.Translate(ctx, link, starferry.Forward, cut)
	if err != nil {
		return err.Error()
	}
	b, err := s.client.Translate(ctx, link, starferry.Back, f.Cut)
	if err != nil {
		return err.Error()
	}
	for tp, place := range cut {
		name := starferry.Position{TopicPartition: tp, Offset: place.Next}.String()
		if why := f.Missing[tp] + b.Missing[tp]; why != "" || f.Behind[tp] > 0 || len(f.Cut[tp].Handled)+len(b.Cut[tp].Handled) > 0 {
			return name + ": its place is not final: " + why
		}
		from, to := source[tp.Partition].Records, target[tp.Partition].Records
		i, exact := slices.BinarySearchFunc(from, place.Next, func(r Seen, at starferry.Offset) int { return int(r.Offset - at) })
		switch {
		case exact && f.Answers[tp].Status != starferry.Exact:
			return name + " is a record and translates as " + string(f.Answers[tp].Status)
		case i < len(to) && f.Cut[tp].Next != to[i].Offset:
			return name + " leads to another record"
		case i < len(from) && b.Cut[tp].Next != from[i].Offset:
			return name + " leads back to another record"
		case i == len(from) && (f.Cut[tp].Next <= to[i-1].Offset || b.Cut[tp].Next <= from[i-1].Offset):
			return name + " lies behind the last record, and its translation does not"
		}
	}
	return ""
}
